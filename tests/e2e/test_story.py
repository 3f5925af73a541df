"""The whole story on a tiny world: train, publish, serve, push, kill, score.

A shop has a log, pictures and titles. An encoder and rankers are trained on all but the newest items; one
generation goes live; then the newest items are pushed, the worker is killed in the middle, and in the end
every item scores as an offline recomputation says.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.stack import Stack, running_stack
from contracts.bundle import Bundle, publish
from contracts.codec import ID_INT8
from contracts.items import Item
from contracts.manifest import Generation, IdTable
from contracts.ranker_spec import ranker_spec_from_json
from contracts.request import Behaviour, ScoreRequest
from contracts.scores import MISSING, OK, Scores
from param_server.connection import connect_one
from param_server.embedded import EmbeddedServer
from param_server.generations import Generations
from param_server.id_rows import read_id_rows
from param_server.offline import OfflineTable
from param_server.settings import StoreSettings
from param_server.store import Fetched, Store
from realtime_infer.backfill import backfill
from realtime_infer.encoder import Encoder
from serving.client import GrpcClient, HttpClient, ItemStatus
from training.data.dataset import load_dataset
from training.data.holdout import new_items
from training.data.interactions import TEST
from training.data.pairs import interest_pairs
from training.data.samples import build_samples
from training.data.world import draw_world
from training.evaluation import predict
from training.export import export_ranker
from training.item_table import align_records, item_table
from training.loop import TrainingConfig
from training.recipes.csft_config import CsftConfig
from training.recipes.encoder import EncoderConfig, train_encoder
from training.recipes.image_tower import ImageTowerConfig
from training.recipes.ranker import TableView, train_rankers

T = 16
PATIENCE_S = 30.0


@pytest.mark.timeout(240)
def test_a_pushed_item_scores_as_if_it_had_always_been_there(tmp_path: Path) -> None:
    # A log, pictures and titles; the last items arrive after training has ended.
    draw_world(tmp_path / "data", items=300, users=80, impressions=6_000, seed=1)
    data = load_dataset(tmp_path / "data")
    new = new_items(data)
    catalogue, item_ids = data.catalogue, data.catalogue.item_ids
    fresh = [catalogue.item(row) for row in np.flatnonzero(new).tolist()]
    assert len(fresh) >= 10
    samples = build_samples(data, new, T)

    # An encoder that has seen no new item, as one sealed bundle.
    trained_encoder, _ = train_encoder(
        [catalogue.item(row) for row in range(len(catalogue))],
        interest_pairs(data, new),
        text_fields=catalogue.text_fields,
        attribute_fields=catalogue.attribute_fields,
        directory=tmp_path / "encoder",
        rows=np.flatnonzero(~new),
        dim=32,
        max_tokens=32,
        config=EncoderConfig(image=ImageTowerConfig(samples=1_000), csft=CsftConfig(steps=20)),
    )
    encoder_uri = publish(trained_encoder, str(tmp_path / "bundles"))
    encoder = Encoder.open(encoder_uri, trained_encoder.digest)
    space = encoder.space

    with EmbeddedServer.start(tmp_path / "valkey") as valkey:
        # The catalogue goes through the exported encoder into both tables, same bytes.
        old = [catalogue.item(row) for row in np.flatnonzero(~new).tolist()]
        asyncio.run(fill(valkey.url, old, encoder, tmp_path / "offline"))
        ids, rows = OfflineTable(str(tmp_path / "offline")).read(space)
        in_redis = asyncio.run(fetch(valkey.url, encoder, ids))
        assert in_redis.found.all()
        assert in_redis.records.tobytes() == rows.tobytes()

        # Rankers train on these bytes; DMAE is exported, proven against torch and put live.
        records, found = align_records(item_ids, ids, rows, space)
        table = TableView(records, found)
        run = train_rankers(
            samples,
            space,
            table,
            table,
            new,
            models=("din", "dmae"),
            config=TrainingConfig(epochs=1),
            history_length=T,
        )
        result = run.results["dmae"]
        bundle = export_ranker(
            result.trained,
            run.items,
            samples,
            space,
            run.schema,
            item_ids,
            tmp_path / "ranker",
            calibrated=result.calibrated,
        )
        generation = asyncio.run(go_live(valkey.url, encoder, encoder_uri, bundle, tmp_path / "bundles"))

        with running_stack(tmp_path, valkey.url) as stack:
            stack.wait_ready()
            asyncio.run(push_through_a_kill(stack, fresh))

            # A user's answer is the same at both doors and offline, new items included.
            request_row = int(
                np.flatnonzero((samples.splits == TEST) & (samples.ends - samples.starts >= 3))[0]
            )
            liked = samples.liked[samples.starts[request_row] : samples.ends[request_row]]
            request = ScoreRequest(item_ids, [Behaviour(item_ids[row - 1]) for row in liked.tolist()])
            over_http, over_grpc = asyncio.run(ask(stack, request))
            assert over_http.generation == over_grpc.generation == generation.id
            assert (over_http.statuses == OK).all()
            np.testing.assert_allclose(over_http.scores, over_grpc.scores, rtol=0, atol=1e-7)

            stored = asyncio.run(fetch(valkey.url, encoder, item_ids))
            items = item_table(stored.records, stored.found, new, run.schema)
            everything = np.arange(1, len(item_ids) + 1, dtype=np.int32)[None, :]
            one = dataclasses.replace(
                samples,
                candidates=everything,
                labels=np.zeros(everything.shape, dtype=np.float32),
                candidate_mask=np.ones(everything.shape, dtype=bool),
                starts=samples.starts[request_row : request_row + 1],
                ends=samples.ends[request_row : request_row + 1],
            )
            logits = predict(
                result.trained.model, one, np.zeros(1, np.int64), items, result.trained.ids.quantised()
            )
            offline = result.calibrated.calibration.scores(logits)
            assert np.abs(offline[0] - over_http.scores).max() <= 1e-4


async def fill(url: str, items: Sequence[Item], encoder: Encoder, offline: Path) -> None:
    redis = connect_one(url, StoreSettings())
    report = await backfill(items, encoder, Store(redis), redis, str(offline))
    await redis.aclose()
    assert (report.committed, report.failed) == (len(items), 0)


async def fetch(url: str, encoder: Encoder, item_ids: Sequence[str]) -> Fetched:
    redis = connect_one(url, StoreSettings())
    fetched = await Store(redis).fetch(encoder.space, None, item_ids)
    await redis.aclose()
    return fetched


async def go_live(url: str, encoder: Encoder, encoder_uri: str, ranker: Bundle, bundles: Path) -> Generation:
    spec = ranker_spec_from_json(dict(ranker.manifest.content))
    generation = Generation(
        created_ms=1,
        encoder_uri=encoder_uri,
        encoder_digest=encoder.digest,
        space=encoder.space,
        ranker_uri=publish(ranker, str(bundles)),
        ranker_digest=ranker.digest,
        id_table=IdTable("items-1", ID_INT8, spec.schema.id_dim, spec.id_row_count),
    )
    redis = connect_one(url, StoreSettings())
    store, generations = Store(redis), Generations(redis)
    table = generation.id_table
    await store.load_id_rows(table, *read_id_rows(ranker.file(spec.id_rows), table.codec, table.dim))
    await store.seal_id_table(table)
    await generations.activate("default", await generations.publish(generation))
    await redis.aclose()
    return generation


async def push_through_a_kill(stack: Stack, fresh: Sequence[Item]) -> None:
    """Half of the new items, kill -9 of the worker, the other half, a poison picture and a deletion."""
    half = len(fresh) // 2
    async with (
        HttpClient(stack.endpoints.door_http) as door,
        HttpClient(stack.endpoints.scorer_http) as scorer,
    ):
        before = await scorer.score(ScoreRequest([item.item_id for item in fresh]))
        assert (before.statuses == MISSING).all()
        assert np.isnan(before.scores).all()

        for item in fresh[:half]:
            await door.push(item)
        stack.kill("worker")  # some of them are in its hands
        for item in fresh[half:]:
            await door.push(item)
        await door.push(Item("poison", {"title": "A broken picture"}, {}, b"this is no picture"))
        await door.push(Item("regretted", {"title": "Pushed, then deleted"}, {}, picture()))
        await door.delete("regretted")
        assert (await door.status(fresh[-1].item_id)).state == "queued"

        stack.launch("worker")
        await until(scorer, [item.item_id for item in fresh])
        dead = await settled(door, "poison")
        assert (dead.state, "picture" in (dead.reason or "")) == ("dead", True)
        assert (await settled(door, "regretted")).state == "deleted"
        gone = await scorer.score(ScoreRequest(["poison", "regretted"]))
        assert (gone.statuses == MISSING).all()


async def until(scorer: HttpClient, item_ids: Sequence[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ((await scorer.score(ScoreRequest(item_ids))).statuses == OK).all():
        assert time.monotonic() < deadline, "a pushed item does not become scoreable"
        await asyncio.sleep(0.02)


async def settled(door: HttpClient, item_id: str) -> ItemStatus:
    deadline = time.monotonic() + PATIENCE_S
    while (status := await door.status(item_id)).state in ("queued", "encoding"):
        assert time.monotonic() < deadline, f"{item_id} stays {status.state}"
        await asyncio.sleep(0.02)
    return status


async def ask(stack: Stack, request: ScoreRequest) -> tuple[Scores, Scores]:
    async with (
        HttpClient(stack.endpoints.scorer_http) as http,
        GrpcClient(stack.endpoints.scorer_grpc) as rpc,
    ):
        return await http.score(request), await rpc.score(request)


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(buffer, "PNG")
    return buffer.getvalue()
