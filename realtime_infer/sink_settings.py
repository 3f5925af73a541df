"""Every knob of the sink. Environment: REPCENTER_<FIELD>."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from param_server.compaction import DEFAULT_BYTES
from param_server.settings import StoreSettings


class SinkSettings(BaseSettings):
    """Where the offline table lies, and how the sink writes live windows to it."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", extra="ignore", frozen=True)

    offline_uri: str | None = Field(
        None, description="Root of the offline table (a directory or fsspec URI); unset: <var_dir>/offline."
    )
    sink_roll_s: float = Field(
        60.0, gt=0, le=86_400, description="A file is written when its first window is this old, in seconds."
    )
    sink_roll_bytes: int = Field(
        64 << 20, ge=1, le=4 << 30, description="Or when its windows have this many bytes: so much of memory."
    )
    sink_poll_s: float = Field(
        2.0, gt=0, le=60, description="How often the sink looks for new spaces, in seconds."
    )
    sink_lease_s: float = Field(
        15.0, ge=0.1, le=3600, description="A sink that is silent this long gives its spaces to another."
    )
    sink_hold_s: int = Field(
        86_400,
        ge=1,
        description="How long windows are kept for a sink that has stopped, in seconds (max_window_bytes "
        "bounds them before).",
    )
    sink_compact_s: float = Field(
        3600.0, ge=0, description="How often the sink compacts each space, in seconds; 0: never."
    )
    sink_compact_bytes: int = Field(
        DEFAULT_BYTES,
        ge=1,
        description="Files below half of this are compacted into ones of about this size.",
    )
    sink_keep_versions_s: int | None = Field(
        None,
        ge=0,
        description="Versions that were replaced longer ago than this go when the sink compacts; unset: all "
        "are kept, as training needs them.",
    )

    host: str = Field("127.0.0.1", description="Address of health and metrics.")
    http_port: int | None = Field(
        None, ge=0, le=65535, description="Port of health and metrics; 0 takes a free one; unset: 9091."
    )
    stop_s: float = Field(10.0, gt=0, le=300, description="After SIGTERM: the longest wait for requests.")

    def root(self, store: StoreSettings) -> str:
        """Root of the offline table."""
        return self.offline_uri or str((store.var_dir / "offline").resolve())
