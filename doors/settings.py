"""Who may use a door, and its TLS: the same for every process. Environment: REPCENTER_<FIELD>."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class DoorSettings(BaseSettings):
    """Unset, doors are open to whoever reaches them and speak plainly: for one machine, or behind a mesh."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", extra="ignore", frozen=True)

    api_keys: SecretStr | None = Field(
        default=None,
        description="API keys, `role key` pairs between commas: `score <key>, push <key>`. A key is 16 "
        "characters or more, or `sha256:<hex>` of one. Roles: score, push, admin (both). Health and metrics "
        "need none.",
    )
    api_keys_file: Path | None = Field(
        default=None,
        repr=False,
        description="A file of such pairs, one per line, # begins a comment; read again when it changes.",
    )
    door_tls_cert_file: Path | None = Field(
        default=None,
        repr=False,
        description="PEM file of the doors' certificate chain; with its key all doors speak TLS alone.",
    )
    door_tls_key_file: Path | None = Field(
        default=None, repr=False, description="PEM file of that certificate's key, without a passphrase."
    )
    door_tls_client_ca_file: Path | None = Field(
        default=None,
        repr=False,
        description="PEM file of the authority that signed clients' certificates; who shows none is not "
        "let in.",
    )
    grpc_max_connection_age_s: float = Field(
        default=1_800,
        ge=1,
        le=86_400,
        description="Age at which a gRPC connection is closed in good order, so that clients spread over new "
        "processes, in seconds.",
    )


class LogSettings(BaseSettings):
    """What a process says on standard error."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", extra="ignore", frozen=True)

    log_format: Literal["text", "json"] = Field(
        default="text", description="Lines for people, or a JSON object per line (time, level, logger, …)."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is written."
    )


class TraceSettings(BaseSettings):
    """OpenTelemetry; where spans go is said by its own variables (OTEL_EXPORTER_OTLP_ENDPOINT, …)."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", extra="ignore", frozen=True)

    trace: bool = Field(
        default=False,
        description="Spans of HTTP requests, gRPC calls and what they ask of Redis (scorer; extra `otel`).",
    )
