"""The scorer over an exported ranker: the same scores with compiled kernels, and where there are none."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import pytest_asyncio
import torch
from redis.asyncio import Redis

from contracts.bundle import Bundle, seal
from contracts.codec import ID_INT8
from contracts.errors import Unavailable
from contracts.kernels import build
from contracts.manifest import Generation, IdTable
from contracts.ranker_spec import ranker_spec_from_json
from contracts.request import Behaviour, ScoreRequest
from contracts.schema import FeatureSchema
from contracts.window import Window
from param_server.generations import Generations
from param_server.id_rows import read_id_rows
from param_server.settings import StoreSettings
from param_server.store import Store
from serving.app import open_scorer
from serving.settings import ScorerSettings
from tests.serving.conftest import until
from tests.training import tiny
from training.export import export_ranker
from training.item_table import item_table
from training.loop import TrainingConfig, train_ranker
from training.recipes.ranker import new_ranker
from training.vocabularies import fit_vocabularies

REQUEST = ScoreRequest(tiny.ITEM_IDS, [Behaviour(tiny.ITEM_IDS[i]) for i in (3, 40, 7, 7, 21, 58)])


class Answer(NamedTuple):
    scores: npt.NDArray[np.float32]
    metrics: str
    log: str


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A trained DMAE as the demo would publish it."""
    torch.set_num_threads(1)
    records = tiny.records()
    schema = FeatureSchema(12, 4, fit_vocabularies(records, tiny.SPACE.attributes))
    items = item_table(records, np.ones(tiny.ITEMS, bool), tiny.NEW, schema)
    samples = tiny.samples()
    model = new_ranker("dmae", tiny.SPACE, schema, seed=0)
    trained = train_ranker(model, samples, items, TrainingConfig(epochs=1, batch_rows=100, threads=1))
    directory = tmp_path_factory.mktemp("kernels") / "ranker"
    return export_ranker(trained, items, samples, tiny.SPACE, schema, tiny.ITEM_IDS, directory)


@pytest_asyncio.fixture
async def shelf(redis: Redis) -> Redis:
    store = Store(redis)
    await store.create_space(tiny.SPACE)
    await store.commit_window(Window(tiny.SPACE, list(tiny.ITEM_IDS), tiny.records(), 1))
    return redis


async def publish(redis: Redis, bundle: Bundle) -> None:
    spec = ranker_spec_from_json(dict(bundle.manifest.content))
    store, generations = Store(redis), Generations(redis)
    table = IdTable("rows-1", ID_INT8, spec.schema.id_dim, spec.id_row_count)
    await store.load_id_rows(table, *read_id_rows(bundle.file(spec.id_rows), table.codec, table.dim))
    await store.seal_id_table(table)
    digest = tiny.SPACE.encoder_digest
    generation = Generation(1, "encoder", digest, tiny.SPACE, str(bundle.path), bundle.digest, table)
    await generations.activate("default", await generations.publish(generation))


async def ask(
    settings: StoreSettings, scorer_settings: ScorerSettings, caplog: pytest.LogCaptureFixture
) -> Answer:
    """One scorer from start to end."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="serving.kernels"):
        async with open_scorer(scorer_settings, settings) as running:
            await until(running.readiness.is_ready)
            scores = (await running.scorer.score(REQUEST)).scores
            async with httpx.AsyncClient(base_url=running.http_url) as raw:
                metrics = (await raw.get("/metrics")).text
            return Answer(scores, metrics, caplog.text)


def compiler(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH holds nothing but a `cc` of this script."""
    directory.mkdir()
    (directory / "cc").write_text(f"#!{shutil.which('sh')}\n{script}\n")
    (directory / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))


async def test_scores_are_the_same_with_kernels_and_without(
    shelf: Redis,
    bundle: Bundle,
    settings: StoreSettings,
    scorer_settings: ScorerSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    await publish(shelf, bundle)
    monkeypatch.setenv("REPCENTER_KERNELS", "false")
    off = ScorerSettings(http_port=0, grpc_port=0, poll_s=0.02, drain_s=0)
    assert not off.kernels
    without = await ask(settings, off, caplog)
    assert 'repcenter_kernels_info{kernels="portable"} 1.0' in without.metrics
    assert "kernels: portable" in without.log
    assert not (settings.var_dir / "kernels").exists()
    assert without.scores.std() > 1e-3

    on = scorer_settings.model_copy(update={"kernels": True})
    with monkeypatch.context() as broken:
        compiler(tmp_path / "failing", "exit 1", broken)
        failing = await ask(settings, on, caplog)
    assert "failed" in failing.log
    with monkeypatch.context() as broken:
        compiler(tmp_path / "lying", "echo nonsense > ranker_ops.so", broken)
        lying = await ask(settings, on, caplog)
    assert "cannot load the kernels" in lying.log
    for answer in (failing, lying):
        assert 'kernels="portable"} 1.0' in answer.metrics
        assert 'kernels="compiled"' not in answer.metrics
        assert np.array_equal(answer.scores, without.scores)
    assert not list((settings.var_dir / "kernels").glob("*.so"))  # the next start tries again

    if build(tmp_path / "compiled") is None:
        pytest.skip("no C compiler on this machine")
    compiled = await ask(settings, on, caplog)
    assert 'repcenter_kernels_info{kernels="compiled"} 1.0' in compiled.metrics
    assert "kernels: compiled" in compiled.log
    assert np.abs(compiled.scores - without.scores).max() <= 1e-6


async def test_kernels_are_what_runs(
    shelf: Redis,
    bundle: Bundle,
    settings: StoreSettings,
    scorer_settings: ScorerSettings,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """A graph whose functions have other bodies reproduces its golden outputs with kernels, and only so."""
    if build(settings.var_dir / "kernels") is None:
        pytest.skip("no C compiler on this machine")
    hollow = tmp_path / "hollow"
    shutil.copytree(bundle.path, hollow)
    (hollow / "manifest.json").unlink()
    graph = onnx.load(str(hollow / "ranker.onnx"))
    assert len(graph.functions) == 2
    for function in graph.functions:
        del function.node[:]
        function.node.append(onnx.helper.make_node("Identity", [function.input[0]], [function.output[0]]))
    onnx.save_model(graph, str(hollow / "ranker.onnx"))
    await publish(shelf, seal(hollow, "ranker", bundle.manifest.content))
    answer = await ask(settings, scorer_settings.model_copy(update={"kernels": True}), caplog)
    assert np.isfinite(answer.scores).all()
    async with open_scorer(scorer_settings, settings) as running:
        await running.live.refresh()
        with pytest.raises(Unavailable, match="ranker"):
            running.live.pin("default")
