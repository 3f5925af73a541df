"""Rankers that read users, contexts, time gaps and searches: trained, exported, scored as serving does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from contracts.codec import inverse_norms, quantise_absmax
from contracts.features import assemble, item_inputs
from contracts.items import AttributeField, attribute_slots
from contracts.onnx_model import OnnxModel
from contracts.request import Behaviour, ScoreRequest
from tests.training import tiny
from training.data.context import RequestColumns
from training.data.queries import Queries
from training.data.request_inputs import Said
from training.data.samples import Samples
from training.evaluation import predict
from training.export import export_ranker
from training.item_table import Versions
from training.loop import TrainingConfig
from training.recipes.ranker import RankerRun, TableView, train_rankers

RECORDS = tiny.records()
CONFIG = TrainingConfig(epochs=1, batch_rows=120, threads=1)
HISTORY = 8


def columns(
    values: dict[str, list[str | float | None]], fields: tuple[AttributeField, ...]
) -> RequestColumns:
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    slots = [attribute_slots({n: v for n, v in row.items() if v is not None}, fields) for row in rows]
    return RequestColumns(fields, np.stack(slots), {}, {n: pa.array(v) for n, v in values.items()})


def samples() -> Samples:
    """tiny.samples, whose users have a city and an age, requests an hour, some of them a search."""
    plain = tiny.samples()
    rng = np.random.default_rng(3)
    vectors = tiny.unit(rng.normal(size=(20, tiny.DIM)))
    codes, _ = quantise_absmax(vectors)
    said = Said(
        users=columns(
            {
                "city": [None if u % 9 == 0 else f"c{u % 5}" for u in range(tiny.USERS)],
                "age": [20.0 + u for u in range(tiny.USERS)],
            },
            (AttributeField("city", "categorical", 2), AttributeField("age", "numeric")),
        ),
        context=columns(
            {"hour": [float(r % 24) for r in range(len(plain))]}, (AttributeField("hour", "numeric"),)
        ),
        queries=Queries({str(q): q for q in range(20)}, {"fused": codes}, {"fused": inverse_norms(codes)}),
        asked=np.maximum(np.arange(len(plain)) % 25 - 5, -1),
    )
    return dataclasses.replace(
        plain,
        said=said,
        liked_at=np.arange(len(plain.liked)) % tiny.LIKES * 30 - 500,
        report={"samples": len(plain)},
    )


SAMPLES = samples()


@pytest.fixture(scope="module")
def run() -> RankerRun:
    everything = TableView(RECORDS, np.ones(tiny.ITEMS, bool))
    return train_rankers(
        SAMPLES,
        tiny.SPACE,
        TableView(RECORDS, ~tiny.NEW),
        everything,
        tiny.NEW,
        models=("din", "dmae"),
        config=CONFIG,
        id_dim=4,
        history_length=HISTORY,
        time_gaps=True,
        encodings={"year": "standard"},
    )


def test_the_schema_and_the_models_read_all_of_it(run: RankerRun) -> None:
    schema = run.schema
    assert [(f.field.name, f.encoding) for f in schema.request_columns] == [
        ("city", "vocabulary"),
        ("age", "standard"),
        ("hour", "standard"),
    ]
    assert [(f.field.name, f.encoding) for f in schema.items] == [
        ("genres", "vocabulary"),
        ("year", "standard"),
    ]
    assert schema.query == tiny.SPACE.modalities
    for result in run.results.values():
        inputs = result.trained.model.config.inputs
        wanted = {"attribute_values", "gaps", "context", "context_values", "query_codes", "query_inv_norm"}
        assert wanted <= set(inputs)
        assert result.report["data"] == {"samples": len(SAMPLES)}


@pytest.mark.parametrize("name", ["din", "dmae"])
def test_the_served_graph_scores_requests_as_training_does(run: RankerRun, tmp_path: Path, name: str) -> None:
    trained = run.results[name].trained
    bundle = export_ranker(
        trained, run.items, SAMPLES, tiny.SPACE, run.schema, tiny.ITEM_IDS, tmp_path / "ranker"
    )
    graph = OnnxModel(bundle.file("ranker.onnx"))
    chosen = np.flatnonzero(SAMPLES.splits == 2)[:40]
    assert SAMPLES.liked_at is not None
    requests = [
        ScoreRequest(
            [tiny.ITEM_IDS[i - 1] for i in SAMPLES.candidates[r] if i],
            [
                Behaviour(tiny.ITEM_IDS[SAMPLES.liked[p] - 1], 1000 * int(SAMPLES.liked_at[p]))
                for p in range(SAMPLES.starts[r], SAMPLES.ends[r])
            ],
            timestamp_ms=1000 * int(SAMPLES.timestamps[r]),
            **SAMPLES.said.request(int(SAMPLES.users[r]), int(SAMPLES.requests[r])),
        )
        for r in chosen.tolist()
    ]
    assembled = assemble(requests, run.schema)
    rows = np.array([tiny.ITEM_IDS.index(i) for i in assembled.item_ids])
    id_rows = trained.ids.rows()[1:][rows]
    inputs = item_inputs(
        RECORDS[rows], np.ones(len(rows), bool), id_rows, id_rows["version"] != 0, run.schema
    )
    served = graph.run(inputs | assembled.inputs())["logit"]
    offline = predict(trained.model, SAMPLES.read_by(run.schema), chosen, run.items, trained.ids.quantised())
    mask = SAMPLES.candidate_mask[chosen]
    width = served.shape[1]
    np.testing.assert_allclose(served[mask[:, :width]], offline[mask], atol=1e-4)
    for absent in ("gaps", "context", "query_inv_norm"):
        given = inputs | assembled.inputs()
        without = graph.run(given | {absent: np.zeros_like(given[absent])})["logit"]
        assert np.abs(without - served).max() > 1e-4, absent


def test_versions_are_joined_by_time_and_the_future_is_not_fitted() -> None:
    later = RECORDS.copy()
    later["attributes"][:, 0] = np.arange(1, tiny.ITEMS + 1)  # tokens that nobody saw in the log
    first = Versions(RECORDS, np.arange(tiny.ITEMS, dtype=np.int32), np.zeros(tiny.ITEMS, np.int64))
    both = Versions(
        np.stack([RECORDS, later], axis=1).ravel(),
        np.repeat(np.arange(tiny.ITEMS, dtype=np.int32), 2),
        np.tile([0, 10**9], tiny.ITEMS),
    )
    after = Versions(first.records, first.items, first.since_ms + 10**9)
    plain = TableView(RECORDS, np.ones(tiny.ITEMS, bool))
    runs = [
        train_rankers(
            tiny.samples(),
            tiny.SPACE,
            table,
            table,
            tiny.NEW,
            models=("ciubm",),
            config=CONFIG,
            id_dim=4,
            history_length=HISTORY,
        )
        for table in (plain, first, both, after)
    ]
    assert [r.items.index is not None for r in runs] == [False, True, True, False]
    reports = [r.results["ciubm"].report for r in runs]
    for run, report in zip(runs[1:], reports[1:], strict=True):
        assert run.schema.to_json() == runs[0].schema.to_json()
        assert report["test"]["all"]["auc"] == pytest.approx(reports[0]["test"]["all"]["auc"], abs=0.01)
