"""What a client shows at a door, and whom it believes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from contracts.errors import InvalidInput


@dataclass(frozen=True)
class Credentials:
    """api_key: of the door's role. ca_file: who signed the door's certificate, None = the system's
    authorities; cert_file, key_file: this client's, where the door asks for one. PEM files."""

    api_key: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise InvalidInput("cert_file", self.cert_file, "a certificate and its key go together")

    @property
    def headers(self) -> dict[str, str]:
        """Of every request, and metadata of every call."""
        return {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}

    def context(self) -> ssl.SSLContext:
        """For https:// URLs. InvalidInput where a file cannot be used."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
            if self.cert_file is not None and self.key_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: "")
        except OSError as error:  # ssl.SSLError is one
            raise InvalidInput("credentials", "PEM files", f"cannot be used: {error}") from None
        return context

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For gRPC over TLS. InvalidInput where a file cannot be read."""
        try:
            ca, key, cert = (
                None if file is None else file.read_bytes()
                for file in (self.ca_file, self.key_file, self.cert_file)
            )
        except OSError as error:
            raise InvalidInput("credentials", "PEM files", f"cannot be read: {error.strerror}") from None
        return grpc.ssl_channel_credentials(ca, key, cert)
