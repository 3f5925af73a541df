"""What the commands show at the doors that they ask. Environment: REPCENTER_<FIELD>."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.client import Credentials


class ClientSettings(BaseSettings):
    """Of `repcenter score, push, status, delete, events`."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", extra="ignore", frozen=True)

    api_key: SecretStr | None = Field(default=None, description="API key that the door asks for.")
    client_tls_ca_file: Path | None = Field(
        default=None,
        description="https:// doors: PEM file of the authority that signed their certificate; unset: the "
        "system's authorities.",
    )
    client_tls_cert_file: Path | None = Field(
        default=None, description="PEM file of this client's certificate, where a door asks for one."
    )
    client_tls_key_file: Path | None = Field(
        default=None, description="PEM file of that certificate's key, without a passphrase."
    )

    def credentials(self) -> Credentials:
        """Raises InvalidInput where a certificate has no key."""
        key = None if self.api_key is None else self.api_key.get_secret_value()
        return Credentials(key, self.client_tls_ca_file, self.client_tls_cert_file, self.client_tls_key_file)
