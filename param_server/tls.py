"""TLS to a rediss:// server: the files that settings name, checked when the client is made, and its errors
in words that name the setting. No message holds the path or the content of a key."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from contracts.errors import InvalidInput
from param_server.settings import StoreSettings

_ASK = "a PEM file that this process can read"
_REASONS = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "redis_tls_ca_file does not vouch for the server's certificate (REPCENTER_REDIS_TLS_CA_FILE)",
    ),
    (
        "CERTIFICATE_REQUIRED",
        "the server asks for a client's certificate: set redis_tls_cert_file and redis_tls_key_file "
        "(REPCENTER_REDIS_TLS_CERT_FILE, REPCENTER_REDIS_TLS_KEY_FILE)",
    ),
    (
        "UNKNOWN_CA",
        "the server does not know the CA of the client's certificate (REPCENTER_REDIS_TLS_CERT_FILE)",
    ),
    ("WRONG_VERSION_NUMBER", "the server does not speak TLS there: is the port right, or is redis:// meant?"),
)


def tls_options(settings: StoreSettings) -> dict[str, Any]:
    """How the client library is told to speak TLS. Raises InvalidInput where a file cannot be used."""
    ca, cert, key = (
        None if path is None else str(path)
        for path in (settings.redis_tls_ca_file, settings.redis_tls_cert_file, settings.redis_tls_key_file)
    )
    if (cert is None) != (key is None):
        field = "redis_tls_key_file" if key is None else "redis_tls_cert_file"
        raise InvalidInput(field, None, "a client's certificate and its key go together")
    context = ssl.create_default_context()
    if ca is not None:
        _load("redis_tls_ca_file", lambda: context.load_verify_locations(cafile=ca))
    if cert is not None and key is not None:
        _readable("redis_tls_cert_file", cert)
        _readable("redis_tls_key_file", key)
        _load(
            "redis_tls_key_file",
            # a password is given, or the library would ask for one on the terminal
            lambda: context.load_cert_chain(cert, key, password=lambda: ""),
        )
    return {
        "ssl_ca_certs": ca,
        "ssl_certfile": cert,
        "ssl_keyfile": key,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": settings.redis_tls_check_hostname,
    }


def tls_reason(error: BaseException) -> str | None:
    """Why TLS failed, with the setting that mends it; None where it is not known, or TLS did not fail."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        if "Hostname mismatch" in text or "IP address mismatch" in text:
            return (
                "the server's certificate is of another host than the URL's "
                "(REPCENTER_REDIS_TLS_CHECK_HOSTNAME=false leaves that unchecked)"
            )
        for sign, reason in _REASONS:
            if sign in text.upper().replace(" ", "_"):
                return reason
        seen = seen.__cause__ or seen.__context__
    return None


def _readable(field: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise InvalidInput(field, "a path", f"cannot be read: {error.strerror}; it must be {_ASK}") from None


def _load(field: str, load: Any) -> None:
    try:
        load()
    except ssl.SSLError as error:
        reason = error.reason or "not PEM, or the key needs a passphrase or is not the certificate's"
        raise InvalidInput(field, "a path", f"cannot be used ({reason}); it must be {_ASK}") from None
    except OSError as error:
        raise InvalidInput(field, "a path", f"cannot be read: {error.strerror}; it must be {_ASK}") from None
