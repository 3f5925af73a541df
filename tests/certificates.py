"""Certificates made for a test, with the openssl command: an authority, a server's, a client's."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificates:
    """PEM files of one authority. The server's certificate is of localhost and 127.0.0.1, elsewhere's of
    another host."""

    ca: Path
    server: Path
    server_key: Path
    elsewhere: Path
    elsewhere_key: Path
    client: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """Into a new folder; the test is skipped where there is no openssl."""
    folder.mkdir()
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    _openssl(
        *("req", "-x509", "-subj", "/CN=test authority", "-keyout", str(ca_key), "-out", str(ca), *_KEY),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    for name, extension in (
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("elsewhere", "subjectAltName=DNS:elsewhere.example"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        request = str(folder / f"{name}.csr")
        _openssl(
            "req", "-subj", f"/CN={name}", "-keyout", str(folder / f"{name}.key"), "-out", request, *_KEY
        )
        (folder / "extension").write_text(extension)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", str(ca), "-CAkey", str(ca_key), "-days", "2"),
            *("-extfile", str(folder / "extension"), "-out", str(folder / f"{name}.pem")),
        )
    pairs = [
        folder / f"{name}.{kind}" for name in ("server", "elsewhere", "client") for kind in ("pem", "key")
    ]
    return Certificates(ca, *pairs)


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    done = subprocess.run([openssl, *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
