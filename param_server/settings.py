"""Where the shelf is and how it is reached. Environment prefix REPCENTER_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class StoreSettings(BaseSettings):
    """How to reach the tables and the streams; URLs are kept out of reprs, they may hold a password."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", extra="ignore", frozen=True)

    redis_url: str | None = Field(
        default=None,
        repr=False,
        description="redis://, rediss:// or unix:// URL of the table server, or of a cluster "
        "redis+cluster://host:port,host:port (rediss+cluster:// for TLS); unset: an embedded one is used",
    )
    stream_url: str | None = Field(
        default=None,
        repr=False,
        description="URL of the server or cluster of pushes and windows; unset: the same as redis_url",
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
        default=64,
        ge=1,
        le=10_000,
        description="connections per process and server; further callers wait their turn",
    )
    pool_wait_s: float = Field(
        default=2.0,
        gt=0,
        le=600,
        description="longest wait for a connection while all are busy; the caller's deadline ends it sooner",
    )
    redis_retries: int = Field(
        default=1, ge=0, le=5, description="how often a call whose connection was lost is made again"
    )
    redis_retry_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of calls that may be made again, beside ten saved up: an outage does not "
        "multiply the load",
    )
    breaker_failures: int = Field(
        default=10,
        ge=1,
        description="failed calls in a row after which a server is not asked for a while; calls then fail "
        "at once",
    )
    breaker_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="likewise where this share of at least 20 calls failed within breaker_window_s",
    )
    breaker_window_s: float = Field(
        default=10.0, gt=0, le=600, description="seconds over which that share is counted"
    )
    breaker_silence_s: float = Field(
        default=0.1,
        gt=0,
        le=60,
        description="a call that its caller gave up is a failed one where no call had a reply for so long",
    )
    breaker_open_s: float = Field(
        default=0.5, gt=0, le=600, description="seconds until one call may try the server again"
    )
    breaker_longest_open_s: float = Field(
        default=5.0, gt=0, le=600, description="most that breaker_open_s doubles to while such tries fail"
    )
    redis_tls_ca_file: Path | None = Field(
        default=None,
        repr=False,
        description="rediss:// URLs: PEM file of the authority that signed the servers' certificates; unset: "
        "the system's authorities",
    )
    redis_tls_cert_file: Path | None = Field(
        default=None,
        repr=False,
        description="PEM file of this process's certificate, where servers ask for one",
    )
    redis_tls_key_file: Path | None = Field(
        default=None, repr=False, description="PEM file of that certificate's key, without a passphrase"
    )
    redis_tls_check_hostname: bool = Field(
        default=True, description="whether a server's certificate must be of the URL's host"
    )
    cluster_retry_s: float = Field(
        default=5.0,
        ge=0,
        le=600,
        description="seconds to send commands again while a cluster moves slots or replaces a node",
    )
    wait_replicas: int = Field(
        default=0,
        ge=0,
        le=100,
        description="replicas that must have a commit before it counts as done (WAIT); 0: none",
    )
    wait_timeout_ms: int = Field(
        default=1_000,
        ge=1,
        le=600_000,
        description="milliseconds to wait for them; less than socket_timeout_s",
    )


class GenerationSettings(BaseSettings):
    """What a generation must show before it serves, and when what serves no more is collected."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", extra="ignore", frozen=True)

    min_coverage: float = Field(
        default=0.99,
        ge=0,
        le=1,
        description="least share of the live catalogue that must have a content record before activation",
    )
    min_id_coverage: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="least share of the live catalogue that must have a trained ID row before activation",
    )
    coverage_sample: int = Field(
        default=100_000, ge=0, description="items of the live catalogue that are looked at; 0: all"
    )
    golden_tolerance: float | None = Field(
        default=None, ge=0, description="largest difference of golden outputs; unset: what the bundle says"
    )
    collect_keep: int = Field(
        default=10, ge=0, le=10, description="earlier generations of each scene that can be rolled back to"
    )
    collect_grace_s: float = Field(
        default=600, ge=0, description="seconds since its last use before a generation or table is collected"
    )
    collect_unpublished_s: float = Field(
        default=604_800,
        ge=0,
        description="the same for a space or ID table that no generation ever named, or that is being loaded",
    )


class AccessSettings(BaseSettings):
    """Passwords of the servers' users, for `repcenter table acl`; a process has its own in its URLs."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", extra="ignore", frozen=True)

    acl_scorer_password: SecretStr | None = Field(
        default=None, description="password of the user repcenter-scorer, 16 characters or more"
    )
    acl_encoder_password: SecretStr | None = Field(
        default=None, description="password of the user repcenter-encoder, likewise"
    )
    acl_admin_password: SecretStr | None = Field(
        default=None, description="password of the user repcenter-admin, likewise"
    )
