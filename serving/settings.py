"""Every knob of the scorer. Environment: REPCENTER_<FIELD>, e.g. REPCENTER_HTTP_PORT=8080."""

from __future__ import annotations

import os
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.onnx_model import Device
from contracts.request import MAX_BEHAVIOURS, MAX_CANDIDATES, MAX_CONTENTS, MAX_REQUESTS


class ScorerSettings(BaseSettings):
    """How one scorer process listens, computes and refuses."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address that both doors listen on.")
    http_port: int = Field(
        default=8080, ge=0, le=65535, description="Port of the HTTP door; 0 takes a free one."
    )
    grpc_port: int = Field(
        default=50051, ge=0, le=65535, description="Port of the gRPC door; 0 takes a free one."
    )
    scenes: list[str] = Field(
        default=["default"],
        min_length=1,
        max_length=64,
        description="Scenes to serve (JSON list). Ready means that each of them has a loaded generation.",
    )
    device: Device = Field(
        default="cpu", description="Where graphs run. A device that is not there stops the start."
    )
    threads: int = Field(default=1, ge=1, le=256, description="Threads of one graph run on the CPU.")
    kernels: bool = Field(
        default=True,
        description="Compile the graphs' kernels for this processor at the first start, into "
        "<var_dir>/kernels, and run them on the CPU. Without a C compiler, or with false, the same scores "
        "come slower.",
    )
    shape_buckets: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Pad requests to few shapes and run them through buffers kept for each (docs/gpu.md); "
        "auto: on a GPU. On the CPU it costs time.",
    )
    cuda_graphs: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Capture a CUDA graph per shape and replay it; auto: where ONNX Runtime allows it, else "
        "a warning; on: a generation that cannot be captured is refused. Needs a GPU and shape buckets.",
    )
    workers: int = Field(
        default_factory=lambda: max(1, os.cpu_count() or 1),
        ge=1,
        le=256,
        description="Graph runs at the same time; workers x threads should not exceed the cores.",
    )
    max_candidates: int = Field(
        default=MAX_CANDIDATES, ge=1, le=100_000, description="Candidates of one request; more is 413."
    )
    max_behaviours: int = Field(
        default=MAX_BEHAVIOURS, ge=0, le=100_000, description="Behaviours of one request; more is 413."
    )
    max_requests: int = Field(
        default=MAX_REQUESTS, ge=1, le=1_024, description="Score requests in one call; more is 413."
    )
    max_contents: int = Field(
        default=MAX_CONTENTS,
        ge=0,
        le=1_024,
        description="Items whose content one request may bring to be encoded; more is 413. At most the "
        "encoder's REPCENTER_MAX_ENCODE_REQUEST.",
    )
    max_calls: int = Field(
        default=1_000,
        ge=1,
        le=100_000,
        description="Calls in flight at each door, their bodies read or not; more are refused with 429.",
    )
    max_concurrent_rows: int = Field(
        default=20_000,
        ge=1,
        description="Candidates plus behaviours in flight, at least those of one request. More is refused "
        "with 429 so that admitted requests stay fast. Low priority gets half of them, high a quarter more.",
    )
    max_wait_ms: float = Field(
        default=250,
        gt=0,
        le=60_000,
        description="Longest predicted wait for the event loop and a worker. While it is longer, requests "
        "are refused with 429 before they are parsed; less keeps the slowest answers faster and refuses "
        "bursts sooner. Low priority waits half as long at most.",
    )
    batch_rows: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Candidates of one graph run, padding included, up to which requests share it; 0: each "
        "request has its own. Unset: 0 on a CPU, where sharing pays for small requests only "
        "(docs/benchmarks/serve.md), 4,096 on a GPU.",
    )
    batch_window_ms: float | None = Field(
        default=None,
        ge=0,
        le=1_000,
        description="Where runs are shared: how long a free worker waits for company, in milliseconds, less "
        "where a deadline is near; 0: only what waits already is shared. Unset: 0 on a CPU, 1 on a GPU.",
    )
    stored_behaviours: bool = Field(
        default=True,
        description="Read the stored behaviours of a user whom a request names without giving behaviours: "
        "one more round trip. With false such a request is scored without a history.",
    )
    default_deadline_ms: float = Field(
        default=1_000, gt=0, le=60_000, description="Deadline of a request that names none, in milliseconds."
    )
    cache_bytes: int = Field(
        default=256 << 20,
        ge=0,
        le=1 << 40,
        description="Memory for rows of the tables in this process, index included; 0 reads every row from "
        "the tables.",
    )
    cache_bound_s: float = Field(
        default=2.0,
        ge=0.1,
        le=600,
        description="How far cached content may be behind the window stream, in seconds. While the stream's "
        "server is silent for longer, content is read from the tables.",
    )
    cache_stale: Literal["refuse", "flagged"] = Field(
        default="refuse",
        description="What a request gets whose rows are not cached, or too old, while the tables are gone: "
        "an error (503), or scores from what is cached, marked as stale.",
    )
    cache_patience_ms: float = Field(
        default=250,
        gt=0,
        le=60_000,
        description="With `flagged`: how long a request waits for the tables before it is scored from what "
        "is cached, in milliseconds.",
    )
    cache_warm_ids: int = Field(
        default=20_000,
        ge=0,
        le=5_000_000,
        description="Rows asked for most that are read before a generation serves; their ids are kept in "
        "<var_dir>/cache. 0: none.",
    )
    cache_warm_s: float = Field(default=5.0, gt=0, le=600, description="Longest time for that, in seconds.")
    user_state_bytes: int = Field(
        default=0,
        ge=0,
        le=1 << 40,
        description="Memory for what users' behaviours alone give to a graph, kept while the same behaviours "
        "come again (docs/benchmarks/user-states.md); 0: it is computed with each request. For the CPU.",
    )
    poll_s: float = Field(
        default=1.0, gt=0, le=60, description="How often the scenes' active pointers are read, in seconds."
    )
    drift_requests: int = Field(
        default=64,
        ge=0,
        le=10_000,
        description="Newest requests of each scene kept in memory; a generation is tried on them beside the "
        "one that serves before it takes over. 0: none, and nothing is tried.",
    )
    drift_max_logit: float | None = Field(
        default=None,
        ge=0,
        description="Largest mean difference of logits on them; beyond it the generation is refused here and "
        "the old one keeps serving. Unset: told, not held to anything.",
    )
    drift_min_rank: float | None = Field(
        default=None,
        ge=-1,
        le=1,
        description="Least mean rank correlation (Spearman) of candidates on them; likewise.",
    )
    drift_max_lost: float | None = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Largest share of candidates that have a score now and would be missing; likewise.",
    )
    score_log: str | None = Field(
        default=None,
        description="Directory or fsspec URL of the score log (docs/score-log.md); unset: nothing is logged.",
    )
    score_log_share: float = Field(
        default=1.0, ge=0, le=1, description="Share of requests that are logged, chosen by their ids."
    )
    score_log_roll_s: float = Field(
        default=60.0,
        gt=0,
        le=3_600,
        description="How long a file of the score log is in the making, in seconds.",
    )
    score_log_rows: int = Field(
        default=1_000_000,
        ge=10_000,
        le=100_000_000,
        description="Candidates and behaviours that may wait to be written (about 100 bytes each); requests "
        "beyond it are left out of the log and counted.",
    )
    capture_slow_ms: float | None = Field(
        default=None,
        ge=0,
        description="Requests that take at least so many milliseconds are kept in <var_dir>/slow with their "
        "record bytes, for `repcenter replay`; unset: none.",
    )
    capture_bytes: int = Field(
        default=64 << 20, ge=1 << 20, le=1 << 40, description="Disk for them; the oldest go first."
    )
    capture_per_minute: float = Field(
        default=30.0, gt=0, le=60_000, description="How many of them are kept in a minute at most."
    )
    max_body_bytes: int = Field(
        default=4 << 20,
        ge=1024,
        le=256 << 20,
        description="Largest request body, refused with 413 before parsing.",
    )
    drain_s: float = Field(
        default=1.0,
        ge=0,
        le=300,
        description="After SIGTERM: seconds for which a scorer that is no longer ready still answers, so "
        "that balancers notice first.",
    )
    stop_s: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="After draining: the longest wait for requests in flight, in seconds.",
    )

    @property
    def shared_rows(self) -> int:
        """batch_rows, or what it is on this device."""
        return (4_096 if self.device == "cuda" else 0) if self.batch_rows is None else self.batch_rows

    @property
    def shared_window_s(self) -> float:
        """batch_window_ms in seconds, or what it is on this device."""
        default_ms = 1.0 if self.device == "cuda" else 0.0
        return (default_ms if self.batch_window_ms is None else self.batch_window_ms) / 1e3

    @model_validator(mode="after")
    def _captures_need_fixed_shapes(self) -> Self:
        if self.cuda_graphs == "on" and (self.device != "cuda" or self.shape_buckets == "off"):
            raise ValueError(
                f"cuda_graphs on needs the device cuda and shape buckets, not {self.device} with "
                f"shape_buckets {self.shape_buckets}"
            )
        return self

    @model_validator(mode="after")
    def _states_are_on_the_cpu(self) -> Self:
        if self.user_state_bytes and self.device != "cpu":
            raise ValueError(
                f"user_state_bytes {self.user_state_bytes} needs the device cpu, not {self.device}"
            )
        return self

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.max_concurrent_rows < self.max_candidates + self.max_behaviours:
            raise ValueError(
                f"max_concurrent_rows {self.max_concurrent_rows} is below max_candidates + max_behaviours = "
                f"{self.max_candidates + self.max_behaviours}: a largest request would never be admitted"
            )
        return self
