"""host:port as URLs and gRPC targets write it."""

from __future__ import annotations


def authority(host: str, port: int) -> str:
    """`127.0.0.1:8080`, `[::1]:8080`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
