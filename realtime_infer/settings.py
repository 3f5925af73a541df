"""Every knob of the write door and the encoder worker. Environment: REPCENTER_<FIELD>."""

from __future__ import annotations

import os
import socket

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.onnx_model import Device
from contracts.request import MAX_BEHAVIOURS
from contracts.space import DEFAULT_BUCKETS, MAX_BUCKETS
from param_server.behaviours import DEFAULT_BEHAVIOURS
from realtime_infer.decode_pool import DecodeLimits
from realtime_infer.fetch import FetchLimits


class EncoderSettings(BaseSettings):
    """How a write door accepts, how a worker encodes, and what bounds both. Each is a process of its own."""

    model_config = SettingsConfigDict(env_prefix="REPCENTER_", extra="ignore", frozen=True)

    scene: str = Field(
        "default", min_length=1, description="Scene whose active generation says which encoder runs."
    )
    encoder_uri: str | None = Field(
        None, description="Encoder bundle to use whatever the scene serves (a directory or fsspec URI)."
    )
    encoder_digest: str | None = Field(None, description="Digest that the bundle at encoder_uri must have.")
    encoder_buckets: int = Field(
        DEFAULT_BUCKETS,
        ge=1,
        le=MAX_BUCKETS,
        description="Hash buckets of the space that encoder_uri fills; the scene's encoder brings its own.",
    )
    device: Device = Field(
        "cpu", description="Where the encoder runs. A device that is not there stops the start."
    )
    threads: int = Field(1, ge=1, le=256, description="Threads of one encoder run on the CPU.")
    scene_poll_s: float = Field(
        2.0, gt=0, le=60, description="How often the scene's active pointer is read, in seconds."
    )

    host: str = Field("127.0.0.1", description="Address that this process listens on.")
    http_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="HTTP port of this process; 0 takes a free one; unset: 8081 for a write door, 8082 for "
        "an encoder, 9090 for a worker.",
    )
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="gRPC port of this process; 0 takes a free one; unset: 50052 for a write door, 50053 for "
        "an encoder.",
    )
    max_body_bytes: int = Field(
        24 << 20,
        ge=1024,
        le=256 << 20,
        description="Largest request body; beyond it 413 before parsing. Base64 adds a third to a picture.",
    )
    max_in_flight: int = Field(
        64,
        ge=1,
        le=10_000,
        description="Pushes and deletes that one door holds at a time; more are refused with 429.",
    )
    max_waits: int = Field(
        256, ge=1, le=10_000, description="Status requests that may wait (wait_ms) on one door at a time."
    )
    stop_s: float = Field(
        10.0, gt=0, le=300, description="After SIGTERM: the longest wait for requests in flight, in seconds."
    )

    stream_partitions: int | None = Field(
        None,
        ge=1,
        le=1_024,
        description="Partitions of a push stream that is new (8 if unset). One that is there keeps its "
        "number, and another is refused.",
    )
    max_backlog: int = Field(
        100_000,
        ge=1,
        description="Entries in the push stream; beyond it a push is refused with 429. Each partition holds "
        "its share.",
    )
    max_backlog_bytes: int = Field(
        2 << 30, ge=64 << 20, description="Payload bytes in the push stream, pictures included; likewise."
    )
    idempotency_ttl_s: float = Field(
        86_400.0, gt=0, le=30 * 86_400, description="How long an idempotency key is known, in seconds."
    )
    max_idempotency_keys: int = Field(
        100_000,
        ge=1,
        description="Idempotency keys known at a time, about 150 bytes each; the oldest go first.",
    )
    max_bulks: int = Field(
        8,
        ge=1,
        le=1_000,
        description="Uploads of many items (NDJSON, PushMany) that one door takes at a time.",
    )
    max_bulk_items: int = Field(100_000, ge=1, le=10_000_000, description="Most items of one such upload.")
    bulk_wait_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="How long such an upload waits, unread, for room in the backlog; then items are refused.",
    )
    retry_after_s: float = Field(
        1.0, gt=0, le=3600, description="When a refused push should be tried again, in seconds."
    )
    fsync_timeout_s: float = Field(
        1.5, gt=0, le=60, description="Longest wait for the stream's append-only file to reach the disk."
    )
    push_status_ttl_s: int = Field(
        7 * 86_400, ge=1, description="How long the status of a finished push is kept, in seconds."
    )
    max_dead_letters: int = Field(
        2_000,
        ge=1,
        description="Dead letters kept, each with its payload; the oldest go first, counted and logged. Each "
        "partition keeps its share.",
    )
    max_dead_bytes: int = Field(
        256 << 20, ge=1 << 20, description="Payload bytes of the dead letters kept; likewise."
    )
    max_windows: int = Field(
        2_000,
        ge=1,
        description="Window messages kept in a window stream; more where a sink has not written them yet.",
    )
    max_window_bytes: int = Field(
        1 << 30,
        ge=1 << 20,
        description="Bytes of messages in a window stream, whatever the sink has written; what it then has "
        "missed it takes from the table.",
    )

    max_behaviours: int = Field(
        DEFAULT_BEHAVIOURS, ge=1, le=MAX_BEHAVIOURS, description="Behaviours kept of a user; the newest stay."
    )
    event_kinds: list[str] = Field(
        [],
        max_length=64,
        description="Kinds of events that are behaviours (JSON list); others are left out. Empty: all.",
    )

    image_url_origins: list[str] = Field(
        [],
        max_length=256,
        description="Where image_url may fetch from (JSON list): `cdn.example.com` (https), `*.example.com` "
        "(hosts below it), `http://host:8080`. Empty: no URLs.",
    )
    image_url_networks: list[str] = Field(
        [],
        max_length=64,
        description="Networks that are not public in which those origins may be (JSON list of CIDR).",
    )
    image_roots: list[str] = Field(
        [],
        max_length=64,
        description="Below what image_url names objects (JSON list): `s3://bucket/prefix`, `/data/pictures`. "
        "Empty: no paths.",
    )
    image_fetch_s: float = Field(
        5.0, gt=0, le=60, description="Longest try to fetch a picture, redirects included, in seconds."
    )
    image_fetch_attempts: int = Field(
        3, ge=1, le=10, description="Tries to fetch a picture where the failure may pass; then a dead letter."
    )
    image_fetches: int = Field(16, ge=1, le=256, description="Pictures that one worker fetches at a time.")
    decode_processes: int | None = Field(
        None,
        ge=0,
        le=64,
        description="Processes that decode a worker's pictures; 0: the worker itself, which one may crash; "
        "unset: half of the cores, at most 4.",
    )
    decode_memory_mb: int = Field(
        1024, ge=64, le=65_536, description="Memory that one picture may take in its decoder, in MiB."
    )
    decode_cpu_s: float = Field(
        5.0, gt=0, le=300, description="Processor time that one picture may take in its decoder, in seconds."
    )
    decode_wall_s: float = Field(
        12.0, gt=0, le=600, description="Time that one picture may take in its decoder in all, in seconds."
    )

    backfill_backlog: int = Field(
        64, ge=0, description="A backfill waits while more pushes than this are being worked on."
    )
    backfill_wait_s: float = Field(
        10.0, ge=0, description="Longest such wait before one batch, in seconds; then the batch goes first."
    )

    canary_s: float = Field(
        60.0,
        gt=0,
        le=86_400,
        description="How often workers and encoders replay golden inputs, in seconds.",
    )
    canary_failures: int = Field(
        3,
        ge=0,
        description="Replays in a row that do not match, after which the process ends with an error; after "
        "the first it is not ready and encodes nothing. 0: it never ends for that.",
    )

    encode_batch: int = Field(
        32, ge=1, le=1_024, description="Most items that an encoder (`repcenter encoder`) runs at a time."
    )
    encode_window_ms: float = Field(
        2.0, ge=0, le=1_000, description="How long an encoder that is idle waits for company of a request."
    )
    max_encode_items: int = Field(
        256, ge=1, le=100_000, description="Items that wait or run in an encoder; more are refused with 429."
    )
    max_encode_bytes: int = Field(128 << 20, ge=1 << 20, description="Bytes of their pictures; likewise.")
    max_encode_request: int = Field(64, ge=1, le=4_096, description="Items of one request to encode.")
    encode_deadline_s: float = Field(
        1.0, gt=0, le=60, description="How long a request to encode may take that names no deadline."
    )

    consumer: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        max_length=256,
        description="Stable name of this worker in the consumer group. Each worker needs one of its own.",
    )
    batch_size: int = Field(
        256,
        ge=1,
        le=4096,
        description="Most entries of one micro-batch; how many it takes now follows from batch_ms.",
    )
    batch_ms: int = Field(
        200,
        ge=1,
        le=60_000,
        description="How long the graphs may take for one micro-batch: its size adapts to it.",
    )
    batch_tokens: int = Field(
        32_768, ge=1, description="Most tokens of one run of the text tower, its texts padded to the longest."
    )
    batch_pixels: int = Field(
        64 << 20, ge=1, description="Most pixels of one run of the image tower, after pictures were resized."
    )
    batch_bytes: int = Field(
        32 << 20,
        ge=1,
        description="Most payload bytes of one micro-batch; a larger push is a batch of its own.",
    )
    window_ms: int = Field(
        20,
        ge=0,
        le=10_000,
        description="How long a micro-batch waits to fill after its first entry while another is worked on; "
        "an idle worker begins at once.",
    )
    max_deliveries: int = Field(
        5, ge=1, le=1000, description="An entry delivered this often without an end becomes a dead letter."
    )
    reclaim_idle_ms: int = Field(
        30_000,
        ge=50,
        description="An entry that its worker has held this long is taken over. More than any encode takes.",
    )

    def fetch_limits(self) -> FetchLimits:
        """Which pictures are fetched, and how."""
        return FetchLimits(
            self.image_url_origins,
            self.image_url_networks,
            self.image_roots,
            self.image_fetch_s,
            self.image_fetch_attempts,
            self.image_fetches,
        )

    def decode_limits(self) -> DecodeLimits:
        """What one picture may take in its decoder."""
        return DecodeLimits(self.decode_memory_mb, self.decode_cpu_s, self.decode_wall_s)

    def decoders(self) -> int:
        """How many processes decode."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(4, cores // 2)) if self.decode_processes is None else self.decode_processes
