"""What stands before a door: API keys of one role, a certificate, or nothing."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from contracts.errors import InvalidInput
from doors.api_keys import ApiKeys, Role
from doors.settings import DoorSettings

_ASK = "a PEM file that this process can read"


@dataclass(frozen=True)
class Tls:
    """Checked files of a door. client_ca: clients must show a certificate that it signed."""

    cert: Path
    key: Path
    client_ca: Path | None

    def grpc_credentials(self) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.cert.read_bytes())],
            None if self.client_ca is None else self.client_ca.read_bytes(),
            require_client_auth=self.client_ca is not None,
        )


@dataclass(frozen=True)
class Protection:
    """role: that a key must have; keys: None = none is asked for; tls: None = spoken plainly."""

    role: Role
    keys: ApiKeys | None
    tls: Tls | None
    max_connection_age_s: float


def protection(settings: DoorSettings, role: Role) -> Protection:
    """Of a door of this role. InvalidInput names the setting whose keys or files cannot be used."""
    given = None if settings.api_keys is None else settings.api_keys.get_secret_value()
    asked = given is not None or settings.api_keys_file is not None
    keys = ApiKeys(given, settings.api_keys_file) if asked else None
    return Protection(role, keys, _tls(settings), settings.grpc_max_connection_age_s)


def _tls(settings: DoorSettings) -> Tls | None:
    cert, key = settings.door_tls_cert_file, settings.door_tls_key_file
    if (cert is None) != (key is None):
        field = "door_tls_key_file" if key is None else "door_tls_cert_file"
        raise InvalidInput(field, None, "a certificate and its key go together")
    if cert is None or key is None:
        if settings.door_tls_client_ca_file is not None:
            raise InvalidInput("door_tls_cert_file", None, "is needed where clients show certificates")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # a password is given, or the library would ask for one on the terminal
    _load("door_tls_key_file", lambda: context.load_cert_chain(cert, key, password=lambda: ""))
    client_ca = settings.door_tls_client_ca_file
    if client_ca is not None:
        _load("door_tls_client_ca_file", lambda: context.load_verify_locations(cafile=str(client_ca)))
    return Tls(cert, key, client_ca)


def _load(field: str, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        reason = error.reason or "not PEM, or the key needs a passphrase or is not the certificate's"
        raise InvalidInput(field, "a path", f"cannot be used ({reason}); it must be {_ASK}") from None
    except OSError as error:
        raise InvalidInput(field, "a path", f"cannot be read: {error.strerror}; it must be {_ASK}") from None
