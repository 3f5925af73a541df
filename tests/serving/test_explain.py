"""Explanations through both doors, against the module with parts of its network's input blotted out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
import torch
from PIL import Image
from redis.asyncio import Redis
from torch import Tensor, nn
from typer.testing import CliRunner

from cli.main import app
from contracts.bundle import Bundle
from contracts.errors import Conflict, DeadlineExceeded, InvalidInput, Overloaded
from contracts.explanation import Explanation
from contracts.request import Behaviour, ScoreRequest
from param_server.settings import StoreSettings
from serving.app import RunningScorer, open_scorer
from serving.client import GrpcClient, HttpClient
from serving.settings import ScorerSettings
from tests.serving.conftest import COLD, HISTORY, SPACE, WITH_CONTENT, World, fill, until
from tests.serving.full_ranker import gathered, make_bundle, make_ranker
from training.models.ciubm import CiubmConfig
from training.models.dmae import DmaeConfig
from training.models.ranker import Ranker

DMAE = DmaeConfig(modalities=("text", "image"), dim=8, regions=4, intervals=5)
BEHAVIOURS = ["item-3", "item-9", "item-20", COLD[1], "item-31"]  # item-3 has no picture
REQUEST = ScoreRequest(
    [*WITH_CONTENT[:8], COLD[0], "never-seen"],
    [Behaviour(item_id, 1_000 + n) for n, item_id in enumerate(BEHAVIOURS)],
    user={"age": 30.0},
    timestamp_ms=9_000_000,
    explain=12,
)


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return make_ranker((CiubmConfig(modality="fused", weighting="cosine"), DMAE))


@pytest.fixture(scope="module")
def bundle(ranker: Ranker, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("explained") / "ranker", ranker, explains=True)


@pytest_asyncio.fixture
async def world(redis: Redis, bundle: Bundle) -> World:
    return await fill(redis, bundle)


@pytest_asyncio.fixture
async def running(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> AsyncIterator[RunningScorer]:
    async with open_scorer(scorer_settings, settings) as scorer:
        await until(scorer.readiness.is_ready)
        yield scorer


def logits_without(ranker: Ranker, inputs: tuple[object, ...], first: int, width: int) -> Tensor:
    """The module's own logits (N,) with zeros in some columns of its network's input."""

    def blot(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features = given[0].clone()
        features[..., first : first + width] = 0
        return (features,)

    hook = ranker.network.register_forward_pre_hook(blot)
    try:
        with torch.inference_mode():
            logits: Tensor = ranker(*inputs).logit[0]
            return logits
    finally:
        hook.remove()


async def test_both_doors_explain_the_best_as_the_module_does(
    running: RunningScorer, world: World, ranker: Ranker
) -> None:
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        answers = [await http.score(REQUEST), await rpc.score(REQUEST)]
        plain = await http.score(ScoreRequest(["item-1"]))
    assert plain.explanations is None
    np.testing.assert_array_equal(answers[0].scores, answers[1].scores)
    explained = answers[0].explanations
    assert explained is not None
    assert [e.position for e in explained] == answers[0].top(12)
    assert len(explained) == 9  # not the one that has no score
    assert explained == answers[1].explanations
    records = await world.records()
    inputs = gathered(REQUEST, records, await world.id_rows(), 0)
    with torch.inference_mode():
        logits = ranker(*inputs).logit[0]
    widths = {"item": ranker.items.width, "id_interest": ranker.items.width}
    widths |= {name: int(m.width) for name, m in zip(("ciubm", "dmae"), ranker.content, strict=True)}  # type: ignore[arg-type]
    assert ranker.context is not None
    widths["context"] = ranker.context.width
    first = 0
    for name, width in widths.items():
        left = logits - logits_without(ranker, inputs, first, width)
        for e in explained:
            assert e.contributions[name] == pytest.approx(float(left[e.position]), abs=1e-4)
        assert float(left.abs().max()) > 1e-3
        first += width
    for e in explained:
        assert e.item_id == REQUEST.candidates[e.position]
        assert e.score == pytest.approx(float(answers[0].scores[e.position]), abs=1e-7)
        assert e.logit == pytest.approx(float(logits[e.position]), abs=1e-3)
        assert set(e.contributions) == set(widths)
        check_behaviours(e, records)


def check_behaviours(e: Explanation, records: dict[str, bytes]) -> None:
    """Cosines and the distribution in plain numpy; weights that are what they should be."""
    for m, modality in enumerate(SPACE.modalities):
        cosines = {}
        for age, item_id in enumerate(reversed(BEHAVIOURS)):
            a, b = (vector(records.get(i), m) for i in (e.item_id, item_id))
            if a.any() and b.any():
                cosines[item_id, age] = float(a @ b)
        told = {(w.item_id, w.age): w.value for w in e.behaviours[f"similarity.{modality.name}"]}
        assert told == pytest.approx(cosines, abs=1e-5)
        values = [abs(v) for v in told.values()]
        assert values == sorted(values, reverse=True)
        if modality.name == "fused":
            weights = {(w.item_id, w.age): w.value for w in e.behaviours["weights.ciubm.fused"] if w.value}
            assert weights == pytest.approx(cosines, abs=1e-5)
            continue
        attention = [w.value for w in e.behaviours[f"attention.{modality.name}"]]
        assert sum(attention) == pytest.approx(1.0 if cosines else 0.0, abs=1e-5)
        grid = np.zeros((DMAE.regions, DMAE.intervals))
        for (_, age), cosine in cosines.items():
            j = int(np.clip(np.ceil((cosine + 1) / 2 * DMAE.intervals) - 1, 0, DMAE.intervals - 1))
            grid[age * DMAE.regions // HISTORY, j] += 1 / len(cosines)
        np.testing.assert_allclose(e.distributions[f"distribution.{modality.name}"], grid, atol=1e-6)
    assert len(e.behaviours["weights.id_interest"]) == 5


def vector(record: bytes | None, m: int) -> npt.NDArray[np.float64]:
    if record is None:
        return np.zeros(16)
    row = np.frombuffer(record, SPACE.dtype)[0]
    part = row["codes"][16 * m : 16 * m + 16].astype(np.float64)
    unit: npt.NDArray[np.float64] = part * float(row["inv_norm"][m])
    return unit


async def test_limits(running: RunningScorer) -> None:
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            with pytest.raises(InvalidInput, match="explain"):
                await client.score(ScoreRequest(["item-1"], explain=21))
            unknown = await client.score(ScoreRequest(["never-seen"], explain=3))
            assert unknown.explanations == ()
    running.scorer.admission.limit = 1_000 + 20 * HISTORY - 1
    many = ScoreRequest(
        [f"item-{n % 40}" for n in range(20)], [Behaviour(f"item-{n % 40}") for n in range(980)], explain=20
    )
    running.scorer.admission.enter(1_000)  # of others
    with pytest.raises(Overloaded):
        await running.scorer.score(many)
    running.scorer.admission.leave(1_000)
    answer = await running.scorer.score(many)
    assert answer.explanations is not None
    assert len(answer.explanations) == 20

    async def idle() -> bool:
        return running.scorer.admission.in_flight == 0

    await until(idle)
    with pytest.raises(DeadlineExceeded):
        await running.scorer.score(many, deadline_s=1e-4)
    await until(idle)


async def test_a_bundle_without_the_graph_says_so(
    redis: Redis,
    ranker: Ranker,
    settings: StoreSettings,
    scorer_settings: ScorerSettings,
    tmp_path: Path,
) -> None:
    await fill(redis, make_bundle(tmp_path / "ranker", ranker))
    async with open_scorer(scorer_settings, settings) as scorer:
        await until(scorer.readiness.is_ready)
        async with HttpClient(scorer.http_url) as client:
            with pytest.raises(Conflict, match="no graph that explains"):
                await client.score(REQUEST)
            await client.score(ScoreRequest(["item-1"]))


async def test_the_command_draws_in_the_terminal_and_as_a_page(
    running: RunningScorer, tmp_path: Path
) -> None:
    hostile = '"quoted"'
    picture = tmp_path / "p.png"
    Image.new("RGB", (400, 300), (200, 30, 30)).save(picture)
    items = {
        "item_id": [hostile, "item-3", "item-9"],
        "title": ["<script>alert(1)</script>", "Three & more", "Nine"],
        "image": [picture.read_bytes(), b"no picture", None],
    }
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    page = tmp_path / "why.html"
    behaviours = [part for item_id in BEHAVIOURS for part in ("-b", item_id)]
    command = ["explain", hostile, "item-4", "never-seen", *behaviours, "--url", running.http_url]
    drawn = await asyncio.to_thread(
        CliRunner().invoke, app, [*command, "--html", str(page), "--data", str(tmp_path)]
    )
    assert drawn.exit_code == 0, (drawn.output, drawn.exception)
    for word in ("logit by dmae", "similarity.text", "weights.ciubm.fused", "attention.image", "region 0"):
        assert word in drawn.stdout
    html = page.read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&quot;quoted&quot;" in html
    assert html.count("data:image/jpeg;base64,") >= 1
    assert "http" not in html.replace("http-equiv", "")
    said = await asyncio.to_thread(CliRunner().invoke, app, [*command, "--json", "--top", "1"])
    (only,) = json.loads(said.stdout)["explanations"]
    assert only["item_id"] in (hostile, "item-4")
    assert set(only["contributions"]) == {"item", "id_interest", "ciubm", "dmae", "context"}
