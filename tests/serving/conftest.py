"""A small published world on a real server, and a scorer over it with both doors open."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.codec import ID_INT8, encode_records, id_row_dtype
from contracts.features import assemble
from contracts.items import AttributeField, attribute_slots
from contracts.manifest import Generation, IdTable
from contracts.onnx_model import OnnxModel
from contracts.request import ScoreRequest
from contracts.space import Modality, Space
from contracts.window import Window
from param_server import keys
from param_server.generations import Generations
from param_server.hget import hget
from param_server.id_rows import read_id_rows
from param_server.settings import StoreSettings
from param_server.store import Fetched, Store
from serving.app import RunningScorer, open_scorer
from serving.batcher import Job
from serving.settings import ScorerSettings
from tests.ranker_bundle import make_ranker_bundle

ID_DIM = 8
HISTORY = 16
SPACE = Space(
    "e" * 64,
    (Modality("text", 16), Modality("image", 16), Modality("fused", 16)),
    (AttributeField("genre", "categorical", 2), AttributeField("price", "numeric")),
)
HOSTILE = ["..", " ", "a/b?c#d%2F", "{x}", "nul\0l", "line\nbreak", "ümläut 映画 🎬", '"quoted"', "x" * 256]
WITH_CONTENT = [*(f"item-{i}" for i in range(40)), *HOSTILE]
COLD = [f"cold-{i}" for i in range(6)]
WITH_ID_ROW = [*WITH_CONTENT[:20], *HOSTILE[:4], *COLD]


@dataclass(frozen=True)
class World:
    """What is on the server. bundle: of the active generation."""

    redis: Redis
    store: Store
    generations: Generations
    bundle: Bundle
    generation: Generation

    async def records(self) -> dict[str, bytes]:
        space = self.generation.space
        return await self._rows(keys.records(space.id, space.buckets), WITH_CONTENT)

    async def id_rows(self) -> dict[str, bytes]:
        table = self.generation.id_table
        return await self._rows(keys.id_rows(table.name, table.rows), WITH_ID_ROW)

    async def _rows(self, family: keys.Family, item_ids: list[str]) -> dict[str, bytes]:
        values = await hget(self.redis, [family], keys.id_bytes(item_ids))
        return {i: v for i, v in zip(item_ids, values, strict=True) if isinstance(v, bytes)}

    async def publish(self, bundle: Bundle, **changes: object) -> str:
        """Publish a generation of this bundle beside the active one; the tables are shared."""
        generation = replace(
            self.generation,
            ranker_uri=str(bundle.path),
            ranker_digest=bundle.digest,
            **changes,  # type: ignore[arg-type]
        )
        return await self.generations.publish(generation)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """Two rankers over the same space and ID rows whose scores differ."""
    root = tmp_path_factory.mktemp("rankers")
    first, second = (
        make_ranker_bundle(root / name, SPACE, WITH_ID_ROW, bias=bias, id_dim=ID_DIM, history_length=HISTORY)
        for name, bias in (("first", -0.25), ("second", 0.75))
    )
    return first, second


async def fill(redis: Redis, bundle: Bundle, space: Space = SPACE, encoder_uri: str = "encoder") -> World:
    """Space, records, ID table and one generation, active in the scene "default".

    space: of the layout of SPACE.
    """
    store, generations = Store(redis), Generations(redis)
    await store.create_space(space)
    rng = np.random.default_rng(1)
    vectors = [rng.normal(size=(len(WITH_CONTENT), 16)).astype(np.float32) for _ in range(3)]
    vectors[1][3] = 0  # a missing picture
    slots = [
        attribute_slots({"genre": genre, "price": price}, SPACE.attributes)
        for genre, price in zip(
            rng.choice(["Crime|Drama", "Comedy", "Western", ""], len(WITH_CONTENT)).tolist(),
            rng.choice([0.5, 5.0, 50.0], len(WITH_CONTENT)).tolist(),
            strict=True,
        )
    ]
    slots[5] = attribute_slots({}, SPACE.attributes)
    sequences = np.arange(1, len(WITH_CONTENT) + 1, dtype=np.uint64)
    records = encode_records(vectors, sequences, np.stack(slots))
    await store.commit_window(Window(space, list(WITH_CONTENT), records, time.time_ns() // 1_000_000))
    table = IdTable("rows-1", ID_INT8, ID_DIM, len(WITH_ID_ROW))
    item_ids, rows = read_id_rows(bundle.file("id_rows.parquet"), table.codec, table.dim)
    await store.load_id_rows(table, item_ids, rows)
    await store.seal_id_table(table)
    generation = Generation(
        1_700_000_000_000, encoder_uri, space.encoder_digest, space, str(bundle.path), bundle.digest, table
    )
    generation_id = await generations.publish(generation)
    await generations.activate("default", generation_id)
    return World(redis, store, generations, bundle, generation)


@pytest_asyncio.fixture
async def world(redis: Redis, bundles: tuple[Bundle, Bundle]) -> World:
    return await fill(redis, bundles[0])


@pytest.fixture
def scorer_settings() -> ScorerSettings:
    return ScorerSettings(
        http_port=0,
        grpc_port=0,
        poll_s=0.02,
        workers=1,
        drain_s=0,
        max_concurrent_rows=3_000,
        kernels=False,  # the drawn graphs have no functions; test_kernels.py has some that do
    )


@pytest_asyncio.fixture
async def running(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> AsyncIterator[RunningScorer]:
    async with open_scorer(scorer_settings, settings) as scorer:
        await until(scorer.readiness.is_ready)
        yield scorer


def held(running: RunningScorer, gate: threading.Event) -> Job:
    """Work for the only worker that takes until the gate opens, already begun."""
    loaded, begun = running.live.pin("default"), threading.Event()
    assembled = assemble([ScoreRequest(["item-1"])], loaded.schema)
    rows = Fetched(
        np.zeros(1, loaded.space.dtype),
        np.ones(1, np.bool_),
        np.zeros(1, id_row_dtype(ID_INT8, ID_DIM)),
        np.ones(1, np.bool_),
    )

    def wait(*_: object) -> dict[str, npt.NDArray[np.float32]]:
        begun.set()
        gate.wait(5)
        return {"score": np.zeros((1, 1), np.float32)}

    model = SimpleNamespace(run=wait)
    job = Job(replace(loaded, model=cast(OnnxModel, model)), assembled, rows, float("inf"), "high")
    running.scorer.batcher.submit(job)
    assert begun.wait(5)
    return job


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    """Wait for a condition, or fail."""
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.01)
