"""`repcenter bench freshness`: how soon a pushed item scores, and how many a worker takes.

Real processes over a server of their own: write door, one or two workers, scorer. Twice: with an encoder
whose graphs cost nothing (what the queue takes), and with the demo's.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cli.progress import Advance
from cli.stack import Stack, running_stack
from contracts.bundle import MANIFEST, Bundle, open_bundle
from contracts.codec import ID_INT8
from contracts.encoder_spec import encoder_spec_from_json
from contracts.errors import InvalidInput
from contracts.items import Item
from contracts.manifest import Generation, IdTable
from contracts.ranker_spec import ranker_spec_from_json
from loadtests.freshness import Freshness, push_and_watch
from param_server.embedded import EmbeddedServer
from param_server.generations import Generations
from param_server.id_rows import read_id_rows
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.bare_loop import BareLoop, BareRates
from realtime_infer.clients import clients
from realtime_infer.infinity_process import INFINITY, TextRates, text_rates
from realtime_infer.ingest import Ingest
from realtime_infer.settings import EncoderSettings
from serving.client import GrpcClient
from training.data.catalogue import load_catalogue
from training.data.world import draw_world
from training.freshness_bundles import TEXT_FIELD, demo_encoder, trivial_encoder, trivial_ranker
from training.recipes.text_tower import text_model

TARGETS = {
    "p99_ms": 1_000,
    "overhead_p99_ms": 100,
    "queue_items_per_s": 2_000,
    "encode_rate_of_bare_loop": 0.9,
}
_AT_ONCE = 64  # pushes in flight while a backlog is made
_SAMPLE_S = 0.01
_SCENE = "default"


@dataclass(frozen=True)
class FreshnessOptions:
    """data: a directory of docs/data.md whose items have pictures, None draws some; var: everything written;
    overhead_rate: pushes per second with the trivial encoder; infinity: measured beside."""

    data: Path | None
    image_tower: Path | None
    var: Path
    quick: bool
    overhead_rate: float
    infinity: bool

    @property
    def pictures(self) -> int:
        """Different items."""
        return 128 if self.quick else 512

    @property
    def backlog(self) -> int:
        """Items whose encoding is timed."""
        return 160 if self.quick else 800

    @property
    def queue(self) -> int:
        """The same with the trivial encoder."""
        return 4_000 if self.quick else 20_000

    @property
    def seconds(self) -> float:
        """Of an open loop."""
        return 8.0 if self.quick else 40.0


@dataclass(frozen=True)
class FreshnessReport:
    """fresh, overhead: open loops with the demo's and the trivial encoder; capacity: items per second of one
    and of two workers; queue: of one with the trivial encoder; bare: before and after, meaned;
    texts: titles alone, beside infinity."""

    rate: float
    fresh: Freshness
    overhead_rate: float
    overhead: Freshness
    capacity: float
    capacity_2: float
    queue: float
    bare: BareRates
    texts: TextRates

    def to_json(self) -> dict[str, object]:
        """The last line of `--json`."""
        fresh, overhead = percentiles(self.fresh), percentiles(self.overhead)
        return {
            "p50_ms": fresh[0],
            "p99_ms": fresh[1],
            "items_per_s": round(self.rate, 1),
            "capacity_items_per_s": round(self.capacity, 1),
            "capacity_2_workers_items_per_s": round(self.capacity_2, 1),
            "overhead_p50_ms": overhead[0],
            "overhead_p99_ms": overhead[1],
            "overhead_items_per_s": round(self.overhead_rate, 1),
            "queue_items_per_s": round(self.queue, 1),
            "bare_loop_items_per_s": round(self.bare.whole, 1),
            "bare_graphs_items_per_s": round(self.bare.graphs, 1),
            "encode_rate_of_bare_loop": round(self.capacity / self.bare.whole, 3),
            "encode_rate_of_bare_graphs": round(self.capacity / self.bare.graphs, 3),
            "bare_loop_texts_per_s": round(self.texts.bare, 1),
            "infinity_texts_per_s": round(self.texts.infinity, 1) if self.texts.infinity else None,
            "infinity": INFINITY if self.texts.infinity else None,
            "infinity_why": self.texts.why,
            "late_p99_ms": _percentile(self.fresh.late_ms, 99),
            "receipt_p50_ms": _percentile(self.fresh.receipt_ms, 50),
            "items": len(self.fresh.latencies_ms),
            "errors": dict(self.fresh.errors + self.overhead.errors),
            "unseen": self.fresh.unseen + self.overhead.unseen,
            "targets": TARGETS,
        }


def percentiles(run: Freshness) -> tuple[float | None, float | None]:
    """p50 and p99 of the times to score, in milliseconds; None where nothing scored."""
    return _percentile(run.latencies_ms, 50), _percentile(run.latencies_ms, 99)


def _percentile(values: Sequence[float], share: float) -> float | None:
    return round(float(np.percentile(values, share)), 2) if values else None


def run_freshness(options: FreshnessOptions, advance: Advance) -> FreshnessReport:
    """All of it: about five minutes, `quick` one and a half."""
    root = options.var / "bench" / "freshness"
    root.mkdir(parents=True, exist_ok=True)
    items = _items(options, root, advance)
    encoder = _demo_encoder(options, root, items, advance)
    for name in ("trivial", "trivial-ranker"):
        shutil.rmtree(root / name, ignore_errors=True)
    texts = [Item(str(n), {TEXT_FIELD: f"{n % 97} {n % 89}"}) for n in range(64)]
    with _served(root, trivial_encoder(root / "trivial"), workers=1) as stack:
        queue = asyncio.run(_capacity(stack, _fresh("queue", texts), options.queue, 1, advance))
        count = round(options.overhead_rate * options.seconds)
        advance.note("pushes that cost nothing to encode")
        overhead = asyncio.run(
            _freshness(stack, itertools.islice(_fresh("light", texts), count), options.overhead_rate, advance)
        )
    loop = BareLoop(encoder, items)
    advance.note("bare loop")
    before = loop.measure(advance)
    with _served(root, encoder, workers=1) as stack:
        capacity = asyncio.run(_capacity(stack, _fresh("first", items), options.backlog, 1, advance))
        rate = capacity / 2
        count = max(50, round(rate * options.seconds))
        advance.note(f"pushes, {rate:.0f} per second")
        fresh = asyncio.run(_freshness(stack, itertools.islice(_fresh("new", items), count), rate, advance))
    advance.note("bare loop again")
    after = loop.measure(advance)
    peer = options.var / "bench" / "infinity" if options.infinity else None
    advance.note("titles, beside infinity (installed the first time)" if peer else "titles")
    titles = text_rates(loop, peer, text_model(), root / "infinity.log", advance)
    with _served(root, encoder, workers=2) as stack:
        both = asyncio.run(_capacity(stack, _fresh("both", items), options.backlog, 2, advance))
    bare = BareRates((before.whole + after.whole) / 2, (before.graphs + after.graphs) / 2)
    return FreshnessReport(rate, fresh, options.overhead_rate, overhead, capacity, both, queue, bare, titles)


def _items(options: FreshnessOptions, root: Path, advance: Advance) -> list[Item]:
    """Items with a title and a picture each."""
    data = options.data
    if data is None:
        advance.note("drawing items")
        data = root / "world"
        if not (data / "items.parquet").is_file():
            draw_world(data, items=600, users=50, impressions=1_000, progress=advance)
    catalogue = load_catalogue(data)
    found: list[Item] = []
    for row in range(len(catalogue)):
        item = catalogue.item(row)
        if item.image and item.text.get(TEXT_FIELD):
            found.append(Item(item.item_id, {TEXT_FIELD: item.text[TEXT_FIELD]}, image=item.image))
        if len(found) == options.pictures:
            return found
    if not found:
        raise InvalidInput("--data", str(data), "has no item with a title and a picture")
    return found


def _fresh(name: str, items: Sequence[Item]) -> Iterator[Item]:
    """The items round and round, each under an id that was never used."""
    stamp = time.time_ns()
    for n, item in enumerate(itertools.cycle(items)):
        yield replace(item, item_id=f"{name}-{stamp}-{n}")


def _demo_encoder(options: FreshnessOptions, root: Path, items: Sequence[Item], advance: Advance) -> Bundle:
    """Made once for an image tower and a set of items."""
    tower = options.image_tower.read_bytes() if options.image_tower else b""
    key = hashlib.sha256(tower + b"".join(item.image or b"" for item in items)).hexdigest()[:16]
    directory = root / f"encoder-{key}"
    if (directory / MANIFEST).is_file():
        return open_bundle(str(directory))
    shutil.rmtree(directory, ignore_errors=True)

    def progress(stage: str, done: int, total: int) -> None:
        advance.note(f"encoder: {stage}")
        advance(done, total)

    return demo_encoder(directory, items, options.image_tower, options.var / "cache", progress)


@contextmanager
def _served(root: Path, encoder: Bundle, workers: int) -> Iterator[Stack]:
    """Processes over an empty server, with a generation of this encoder and the trivial ranker."""
    for name in ("valkey", "offline", "cache", "logs", "ranker"):
        shutil.rmtree(root / name, ignore_errors=True)
    space = encoder_spec_from_json(dict(encoder.manifest.content)).space(encoder.digest)
    ranker = trivial_ranker(root / "ranker", space)
    spec = ranker_spec_from_json(dict(ranker.manifest.content))
    table = IdTable("nobody", ID_INT8, spec.schema.id_dim, spec.id_row_count)
    generation = Generation(
        time.time_ns() // 1_000_000,
        str(encoder.path.resolve()),
        encoder.digest,
        space,
        str(ranker.path.resolve()),
        ranker.digest,
        table,
    )
    rows = read_id_rows(ranker.file(spec.id_rows), table.codec, table.dim)

    async def publish(url: str) -> None:
        async with clients(_settings(url)) as (redis, _):
            store, generations = Store(redis), Generations(redis)
            await store.create_space(space)
            await store.load_id_rows(table, *rows)
            await store.seal_id_table(table)
            await generations.activate(_SCENE, await generations.publish(generation))

    with EmbeddedServer.start(root / "valkey") as server:
        asyncio.run(publish(server.url))
        own = {"REPCENTER_STREAM_URL": server.url, "REPCENTER_SCENE": _SCENE, "REPCENTER_KERNELS": "false"}
        with running_stack(root, server.url, workers=workers, settings=own) as stack:
            stack.wait_ready(("door", "scorer", *_workers(workers)))
            yield stack


def _workers(count: int) -> list[str]:
    return ["worker", *(f"worker-{n}" for n in range(2, count + 1))]


def _settings(url: str) -> StoreSettings:
    return StoreSettings(redis_url=url, stream_url=None)


async def _capacity(stack: Stack, items: Iterator[Item], count: int, workers: int, advance: Advance) -> float:
    """Items per second while a backlog lasts, from its first tenth to its last, warmed by a smaller one."""
    async with clients(_settings(stack.endpoints.redis_url)) as (_, stream):
        ingest = Ingest(stream, EncoderSettings(max_in_flight=2 * _AT_ONCE))
        for size in (count // 4, count):
            for name in _workers(workers):
                stack.pause(name)
            advance.note(f"backlog for {workers} worker{'s'[: workers - 1]}")
            await _fill(ingest, itertools.islice(items, size), size, advance)
            for name in _workers(workers):
                stack.resume(name)
            advance.note("until it is done")
            rate = await _drained(stack, ingest, size, advance)
    return rate


async def _fill(ingest: Ingest, items: Iterator[Item], count: int, advance: Advance) -> None:
    done = 0

    async def pusher() -> None:
        nonlocal done
        for item in items:
            await ingest.push(item)
            done += 1
            advance(done, count)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(pusher())


async def _drained(stack: Stack, ingest: Ingest, count: int, advance: Advance) -> float:
    first: tuple[float, int] | None = None
    while True:
        left, now = (await ingest.backlog()).entries, time.perf_counter()
        advance(count - left, count)
        if first is None and left <= 0.9 * count:
            first = now, left
        if first is not None and left <= 0.1 * count:
            break
        stack.check()
        await asyncio.sleep(_SAMPLE_S)
    rate = (first[1] - left) / (now - first[0])
    while left:
        left = (await ingest.backlog()).entries
        await asyncio.sleep(_SAMPLE_S)
    return rate


async def _freshness(stack: Stack, items: Iterator[Item], rate: float, advance: Advance) -> Freshness:
    """An open loop over the gRPC doors, after a second of warming."""
    endpoints = stack.endpoints
    async with GrpcClient(endpoints.door_grpc) as door, GrpcClient(endpoints.scorer_grpc) as scorer:
        chosen = list(items)
        warm = [replace(item, item_id=f"{item.item_id}-warm") for item in chosen[: max(20, round(rate))]]
        await push_and_watch(door, scorer, warm, rate, 1, lambda done, total: None)
        return await push_and_watch(door, scorer, chosen, rate, 0, advance)
