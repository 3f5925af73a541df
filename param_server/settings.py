"""Where the shelf is and how it is reached. Environment prefix REPCENTER_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class StoreSettings(BaseSettings):
    """How to reach the tables and the streams; URLs are kept out of reprs, they may hold a password."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", extra="ignore", frozen=True)

    redis_url: str | None = Field(
        default=None,
        repr=False,
        description="redis://, rediss:// or unix:// URL of the table server; unset: an embedded one is used",
    )
    stream_url: str | None = Field(
        default=None,
        repr=False,
        description="URL of the server of pushes and windows; unset: the same server as redis_url",
    )
    var_dir: Path = Field(
        default=Path("var"), description="directory of the embedded server's files and of offline tables"
    )
    socket_timeout_s: float = Field(
        default=2.0,
        gt=0,
        le=600,
        description="seconds to wait for a connection or for a reply; blocking reads must wait less",
    )
    max_connections: int = Field(
        default=64, ge=1, le=10_000, description="connections per process; further callers wait their turn"
    )
