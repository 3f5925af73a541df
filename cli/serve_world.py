"""What `repcenter bench serve` serves: a trained ranker, published with its rows on a server of its own."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contracts.bundle import Bundle, open_bundle, seal, write_golden
from contracts.codec import ID_INT8, Rows
from contracts.features import Inputs, assemble, item_inputs
from contracts.manifest import Generation, IdTable
from contracts.onnx_model import OnnxModel
from contracts.ranker_spec import RankerSpec, ranker_spec_from_json
from contracts.request import Behaviour, ScoreRequest
from contracts.window import Window
from param_server.connection import connect
from param_server.generations import Generations
from param_server.id_rows import read_id_rows, write_id_rows
from param_server.settings import StoreSettings
from param_server.store import Store

SCENE = "default"
LONGEST_HISTORY = 1_000
_BUNDLE, _RECORDS, _LITERAL = "bundle", "records.npy", "reference.onnx"
_SEED = 0
_ROWS_AT_ONCE = 1_000
_LITERAL_AT_ONCE = 50


@dataclass(frozen=True, eq=False)
class ServeWorld:
    """A sealed ranker bundle, and every item's rows: records (I,) of the space's dtype, id_rows (I,)."""

    bundle: Bundle
    records: Rows
    item_ids: Sequence[str]
    id_rows: Rows

    @property
    def spec(self) -> RankerSpec:
        return ranker_spec_from_json(dict(self.bundle.manifest.content))

    @property
    def graph(self) -> Path:
        return self.bundle.file(self.spec.graph)

    @property
    def literal(self) -> Path:
        """The papers' equations term by term: the oracle."""
        return self.bundle.file(_LITERAL)

    def request(self, candidates: int, behaviours: int, seed: int) -> ScoreRequest:
        """Distinct items, drawn evenly."""
        drawn = np.random.default_rng(seed).permutation(len(self.item_ids))[: candidates + behaviours]
        ids = [self.item_ids[i] for i in drawn.tolist()]
        history = [Behaviour(ids[candidates + j], 1_700_000_000_000 + j) for j in range(behaviours)]
        return ScoreRequest(ids[:candidates], history, SCENE, user_id=f"user-{seed}")

    def inputs(self, request: ScoreRequest) -> Inputs:
        """The graph's inputs of one request, from the rows themselves."""
        schema = self.spec.schema
        assembled = assemble([request], schema)
        place = {item_id: i for i, item_id in enumerate(self.item_ids)}
        rows = np.array([place[item_id] for item_id in assembled.item_ids])
        known = self.id_rows["version"][rows] != 0
        every = np.ones(len(rows), dtype=bool)
        return {
            **item_inputs(self.records[rows], every, self.id_rows[rows], known, schema),
            **assembled.inputs(),
        }

    def oracle(self, requests: Sequence[ScoreRequest]) -> list[npt.NDArray[np.float32]]:
        """Scores (N,) of each request by the literal graph, a few candidates at a time: it is large."""
        model = OnnxModel(self.literal)
        return [self._literal(model, self.inputs(request)) for request in requests]

    def _literal(self, model: OnnxModel, inputs: Inputs) -> npt.NDArray[np.float32]:
        every = inputs["candidates"]
        parts = [every[:, at : at + _LITERAL_AT_ONCE] for at in range(0, every.shape[1], _LITERAL_AT_ONCE)]
        return np.concatenate([model.run({**inputs, "candidates": p}, ["score"])["score"][0] for p in parts])


def serve_world(directory: Path, steps: int = 200) -> ServeWorld:
    """The world of this directory; trained there where it is not, for so many steps (about half a minute)."""
    if not is_there(directory):
        _make(directory, steps)
    bundle = open_bundle(str(directory / _BUNDLE))
    records = np.load(directory / _RECORDS)
    spec = ranker_spec_from_json(dict(bundle.manifest.content))
    item_ids = _item_ids(len(records))
    known, rows = read_id_rows(bundle.file(spec.id_rows), spec.id_codec, spec.schema.id_dim)
    id_rows = np.zeros(len(records), rows.dtype)
    place = {item_id: i for i, item_id in enumerate(item_ids)}
    id_rows[[place[item_id] for item_id in known]] = rows
    return ServeWorld(bundle, records.view(spec.space.dtype)[:, 0], item_ids, id_rows)


def is_there(directory: Path) -> bool:
    """Whether a world is there whole: its records are written last."""
    return (directory / _RECORDS).exists()


def _make(directory: Path, steps: int) -> None:
    from training.graph import write_graph
    from training.literal.ranker import LiteralRanker
    from training.serving_graph.planted import train_planted
    from training.serving_graph.user_side import write_user_side_checked
    from training.serving_graph.write import write_checked

    shutil.rmtree(directory, ignore_errors=True)
    into = directory / _BUNDLE
    into.mkdir(parents=True)
    planted = train_planted("dmae", history_length=LONGEST_HISTORY, steps=steps, seed=_SEED)
    model, ids = planted.trained.model, planted.id_rows[1:]
    checked = planted.inputs(300, 64, _SEED)
    spec = RankerSpec(model.config.to_dict(), planted.space, planted.schema, int((ids["version"] != 0).sum()))
    write_graph(LiteralRanker(model), into / _LITERAL)
    write_checked(model, into / spec.graph, checked)
    write_user_side_checked(into / spec.graph, into, checked)
    known = np.flatnonzero(ids["version"] != 0)
    item_ids = _item_ids(len(ids))
    write_id_rows(into / spec.id_rows, [item_ids[i] for i in known.tolist()], ids[known])
    example = planted.inputs(20, 64, _SEED + 1)
    write_golden(into, {"ranker": (example, OnnxModel(into / spec.graph).run(example))})
    seal(into, "ranker", spec.to_json())
    records = np.ascontiguousarray(planted.records)
    np.save(directory / _RECORDS, records.view(np.uint8).reshape(len(records), records.dtype.itemsize))


def _item_ids(count: int) -> list[str]:
    return [f"item-{i:08d}" for i in range(count)]


def publish_world(world: ServeWorld, settings: StoreSettings) -> Generation:
    """Rows and generation onto an empty server; active in the scene "default"."""
    return asyncio.run(_publish(world, settings))


async def _publish(world: ServeWorld, settings: StoreSettings) -> Generation:
    assert settings.redis_url is not None
    redis = connect(settings.redis_url, settings)
    try:
        store, generations, spec = Store(redis), Generations(redis), world.spec
        await store.create_space(spec.space)
        now_ms = time.time_ns() // 1_000_000
        for at in range(0, len(world.item_ids), _ROWS_AT_ONCE):
            part = slice(at, at + _ROWS_AT_ONCE)
            await store.commit_window(
                Window(spec.space, list(world.item_ids[part]), world.records[part], now_ms)
            )
        table = IdTable("bench", ID_INT8, spec.schema.id_dim, spec.id_row_count)
        known = np.flatnonzero(world.id_rows["version"] != 0)
        await store.load_id_rows(table, [world.item_ids[i] for i in known.tolist()], world.id_rows[known])
        await store.seal_id_table(table)
        generation = Generation(
            now_ms,
            "encoder",
            spec.space.encoder_digest,
            spec.space,
            str(world.bundle.path.resolve()),
            world.bundle.digest,
            table,
        )
        await generations.activate(SCENE, await generations.publish(generation))
        return generation
    finally:
        await redis.aclose()
