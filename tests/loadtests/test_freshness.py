"""The parts of `repcenter bench freshness` on real doors: a push is seen once it scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.codec import ID_INT8, decode_vectors
from contracts.items import Item
from contracts.manifest import Generation, IdTable
from loadtests.freshness import push_and_watch
from param_server.generations import Generations
from param_server.id_rows import read_id_rows
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.app import open_door, open_worker
from realtime_infer.bare_loop import BareLoop
from realtime_infer.encoder import Encoder
from realtime_infer.settings import EncoderSettings
from serving.app import open_scorer
from serving.client import GrpcClient
from serving.settings import ScorerSettings
from tests.encoder_bundle import picture
from tests.realtime_infer.workers import until
from training.freshness_bundles import trivial_encoder, trivial_ranker

ITEMS = [Item(f"item {n}", {"title": f"{n} {n + 1}"}, image=picture((9 * n, 50, 90))) for n in range(12)]


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    bundle = trivial_encoder(tmp_path / "encoder")
    return Encoder.open(str(bundle.path), bundle.digest)


def test_the_trivial_encoder_tells_items_apart(encoder: Encoder) -> None:
    encoded = encoder.encode([*ITEMS, Item("text alone", {"title": "5"})])
    assert not encoded.failures
    rows = encoder.records(encoded, np.arange(1, len(ITEMS) + 2, dtype=np.uint64))
    text, image, fused = decode_vectors(rows, encoder.space.dims)
    assert (np.abs(np.linalg.norm(fused, axis=1) - 1) < 0.02).all()
    assert not image[-1].any()
    assert len(np.unique(text, axis=0)) == len(rows) - 1  # "5" is the sum of "2 3"


def test_a_bare_loop_has_a_rate(tmp_path: Path) -> None:
    bundle, seen = trivial_encoder(tmp_path / "bundle"), list[int]()
    rates = BareLoop(bundle, ITEMS * 4).measure(lambda done, total: seen.append(done))
    assert seen == [1, 2]
    assert rates.graphs > rates.whole > 0


async def test_every_push_is_watched_until_it_scores(
    redis: Redis, settings: StoreSettings, encoder: Encoder, tmp_path: Path
) -> None:
    ranker = trivial_ranker(tmp_path / "ranker", encoder.space)
    store, generations = Store(redis), Generations(redis)
    await store.create_space(encoder.space)
    table = IdTable("nobody", ID_INT8, 8, 1)
    await store.load_id_rows(table, *read_id_rows(ranker.file("id_rows.parquet"), table.codec, table.dim))
    await store.seal_id_table(table)
    generation = Generation(
        1, str(tmp_path / "encoder"), encoder.digest, encoder.space, str(ranker.path), ranker.digest, table
    )
    await generations.activate("default", await generations.publish(generation))
    writing = EncoderSettings(http_port=0, grpc_port=0, decode_processes=0, stop_s=2.0)
    reading = ScorerSettings(http_port=0, grpc_port=0, poll_s=0.02, workers=1, drain_s=0, kernels=False)
    seen: list[tuple[int, int]] = []
    async with (
        open_door(writing, settings) as door,
        open_worker(writing, settings) as worker,
        open_scorer(reading, settings) as scorer,
        GrpcClient(door.grpc_target) as pushes,
        GrpcClient(scorer.grpc_target) as scores,
    ):
        await until(scorer.readiness.is_ready)
        run = await push_and_watch(
            pushes, scores, ITEMS, 200.0, 0, lambda done, total: seen.append((done, total))
        )
        refused = await push_and_watch(pushes, scores, [Item("nothing")], 200.0, 0, lambda done, total: None)
        assert worker.worker.ready
    assert len(run.latencies_ms) == len(run.late_ms) == len(run.receipt_ms) == len(ITEMS)
    assert seen[-1] == (len(ITEMS), len(ITEMS))
    assert min(run.latencies_ms) > 0
    assert not run.errors
    assert not run.unseen
    assert refused.errors == {"invalid": 1}
    assert not refused.latencies_ms
