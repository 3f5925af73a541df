from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from contracts.bundle import Bundle, open_bundle
from contracts.codec import ID_INT8, decode_id_rows, id_row_dtype
from contracts.errors import BrokenBundle, InvalidInput
from contracts.features import (
    GRAPH_INPUTS,
    GRAPH_OUTPUTS,
    Behaviour,
    FeatureSchema,
    ScoreRequest,
    assemble,
    item_inputs,
)
from contracts.kernels import build
from contracts.onnx_model import OnnxModel, replay
from contracts.ranker_spec import ranker_spec_from_json
from param_server.id_rows import read_id_rows
from tests.training import tiny
from training.evaluation import predict
from training.export import _example, export_ranker, id_row_table, positive_counts
from training.graph import PARITY, check_parity, graph_inputs, parity_cases, reference, write_graph
from training.item_table import item_table
from training.loop import TrainedRanker, TrainingConfig, train_ranker
from training.models.dmae import Dmae
from training.recipes.ranker import MODELS, new_ranker
from training.serving_graph.write import TABULATED, ServingOptions, largest_difference, write_serving_graph
from training.vocabularies import fit_vocabularies

HISTORY = 21  # more than a block of DMAE's window, and no multiple of it
SAMPLES = tiny.samples()
RECORDS = tiny.records()
SCHEMA = FeatureSchema(HISTORY, 4, fit_vocabularies(RECORDS[~tiny.NEW], tiny.SPACE.attributes))
ITEMS = item_table(RECORDS, np.ones(tiny.ITEMS, bool), tiny.NEW, SCHEMA)


def tabulates(trained: TrainedRanker) -> bool:
    return any(isinstance(module, Dmae) for module in trained.model.content)


def tolerance(trained: TrainedRanker) -> float:
    """What the serving graph's logit may differ from torch: only DMAE's similarity table is not exact."""
    return TABULATED if tabulates(trained) else PARITY


def shapes_of(graph: bytes) -> list[tuple[int, ...]]:
    return [tuple(i.dims) for i in onnx.load_from_string(graph).graph.initializer]


@pytest.fixture(scope="module", params=MODELS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainedRanker, Bundle]:
    torch.set_num_threads(1)
    training = item_table(RECORDS, ~tiny.NEW, tiny.NEW, SCHEMA)
    model = new_ranker(request.param, tiny.SPACE, SCHEMA, seed=0)
    trained = train_ranker(model, SAMPLES, training, TrainingConfig(epochs=2, batch_rows=60, threads=1))
    directory = tmp_path_factory.mktemp("bundles") / request.param
    bundle = export_ranker(
        trained, ITEMS, SAMPLES, tiny.SPACE, SCHEMA, tiny.ITEM_IDS, directory, report={"auc": 0.5}
    )
    return trained, bundle


def test_the_bundle_opens_replays_and_says_what_it_is(exported: tuple[TrainedRanker, Bundle]) -> None:
    trained, bundle = exported
    opened = open_bundle(str(bundle.path), bundle.digest)
    spec = ranker_spec_from_json(json.loads(json.dumps(opened.manifest.content)))
    assert spec.space == tiny.SPACE
    assert spec.schema.to_json() == SCHEMA.to_json()
    assert spec.model == trained.model.config.to_dict()
    assert spec.report["auc"] == 0.5
    parity = spec.report["parity"]
    assert set(parity) == {"folded", "tabulated", "cells"}
    assert 0 < parity["folded"] <= PARITY
    assert 0 < parity["tabulated"] <= tolerance(trained)
    assert (parity["cells"] is not None) == tabulates(trained)
    assert 0 < spec.report["reference_parity"] <= PARITY
    assert replay(opened, {"ranker": OnnxModel(opened.file(spec.graph))}, spec.tolerance) == 0
    if (library := build(bundle.path.parent)) is not None:
        served = OnnxModel(opened.file(spec.graph), kernels=library)
        assert replay(opened, {"ranker": served}, spec.tolerance) <= 2e-6


def test_golden_inputs_are_many_pairs_of_several_requests(exported: tuple[TrainedRanker, Bundle]) -> None:
    inputs, outputs = exported[1].golden()["ranker"]
    requests, candidates = inputs["candidates"].shape
    assert requests == 16
    assert requests * candidates * inputs["behaviours"].shape[1] >= 300
    lengths = inputs["behaviour_mask"].sum(axis=1)
    assert lengths.max() == (SAMPLES.ends - SAMPLES.starts).max()
    assert len(set(lengths.tolist())) > 2
    assert set(outputs) == set(GRAPH_OUTPUTS)
    assert len(np.unique(outputs["logit"])) > 30


def test_long_and_wide_logs_give_fewer_requests() -> None:
    assert len(set(_example(SAMPLES, HISTORY).tolist())) == 256
    wide = dataclasses.replace(SAMPLES, candidates=np.ones((len(SAMPLES), 20_000), dtype=np.int32))
    assert len(_example(wide, HISTORY)) == 4
    one = dataclasses.replace(
        SAMPLES,
        candidates=SAMPLES.candidates[:1],
        starts=SAMPLES.starts[:1],
        ends=SAMPLES.ends[:1],
        splits=SAMPLES.splits[:1],
    )
    assert _example(one, HISTORY).tolist() == [0]


def test_the_literal_graph_is_in_the_bundle(exported: tuple[TrainedRanker, Bundle]) -> None:
    trained, bundle = exported
    inputs, outputs = bundle.golden()["ranker"]
    literal = OnnxModel(bundle.file("reference.onnx"))
    assert check_parity(trained.model, literal, inputs) <= PARITY
    assert np.abs(literal.run(inputs)["logit"] - outputs["logit"]).max() <= tolerance(trained)
    assert np.abs(literal.run(inputs)["score"] - outputs["score"]).max() <= 1e-4


def test_the_graph_has_the_signature_and_free_sizes(exported: tuple[TrainedRanker, Bundle]) -> None:
    model = OnnxModel(exported[1].file("ranker.onnx"))
    assert model.input_names == GRAPH_INPUTS
    assert model.output_names == GRAPH_OUTPUTS
    assert model.input_shapes["codes"] == ("K", 3 * tiny.DIM)
    assert model.input_shapes["id_known"] == ("K",)
    assert model.input_shapes["candidates"] == ("B", "N")
    assert model.input_shapes["behaviours"] == model.input_shapes["behaviour_mask"] == ("B", "T")


def test_neither_decoder_nor_id_table_is_in_the_graph(
    exported: tuple[TrainedRanker, Bundle], tmp_path: Path
) -> None:
    trained, bundle = exported
    raw = bundle.file("ranker.onnx").read_bytes()
    literal = bundle.file("reference.onnx").read_bytes()
    assert any("network" in i.name for i in onnx.load_from_string(literal).graph.initializer)
    if trained.model.config.content and hasattr(trained.model.content[0], "iddu"):
        assert any("iddu" in name for name in trained.model.state_dict())  # it was there to be left out
        other = copy.deepcopy(trained.model)  # another decoder, the same serving graph
        for name, weight in other.named_parameters():
            if "iddu" in name:
                torch.nn.init.normal_(weight)
        cells = ranker_spec_from_json(dict(bundle.manifest.content)).report["parity"]["cells"]
        write_serving_graph(other, tmp_path / "other.onnx", ServingOptions(cells=cells))
        assert (tmp_path / "other.onnx").read_bytes() == raw
    for graph in (raw, literal):
        assert not [i.name for i in onnx.load_from_string(graph).graph.initializer if "iddu" in i.name]
        assert b"iddu" not in graph
        assert not [s for s in shapes_of(graph) if s and s[0] in (tiny.ITEMS, tiny.ITEMS + 1)]
        assert b".py" not in graph  # no stack traces, which hold paths


def test_torch_and_onnx_agree_on_every_edge(exported: tuple[TrainedRanker, Bundle]) -> None:
    trained, bundle = exported
    model = OnnxModel(bundle.file("ranker.onnx"))
    id_rows = id_row_table(trained.ids, positive_counts(SAMPLES, len(ITEMS)))
    for chosen in (np.arange(1), np.arange(3), np.arange(40)):
        inputs = graph_inputs(SAMPLES, chosen, ITEMS, id_rows, HISTORY)
        check_parity(trained.model, model, inputs, tolerance(trained))
        assert largest_difference(trained.model, [model], inputs) <= tolerance(trained)
    kinds = [case for case, _ in parity_cases(inputs)]
    assert {"one candidate", "one behaviour", "empty history", "unknown ids", "no content"} < set(kinds)
    outputs = model.run(inputs)
    assert np.allclose(outputs["score"], 1 / (1 + np.exp(-outputs["logit"])), atol=1e-6)


def test_history_that_is_only_padding_changes_nothing(exported: tuple[TrainedRanker, Bundle]) -> None:
    trained, bundle = exported
    model = OnnxModel(bundle.file("ranker.onnx"))
    id_rows = id_row_table(trained.ids, positive_counts(SAMPLES, len(ITEMS)))
    inputs = graph_inputs(SAMPLES, np.arange(12), ITEMS, id_rows, HISTORY)
    missing = HISTORY - inputs["behaviours"].shape[1]
    padded = inputs | {
        name: np.pad(inputs[name], ((0, 0), (missing, 0))) for name in ("behaviours", "behaviour_mask")
    }
    assert missing > 0
    assert np.allclose(model.run(inputs)["logit"], model.run(padded)["logit"], atol=1e-5)


def test_serving_features_are_training_features(exported: tuple[TrainedRanker, Bundle]) -> None:
    trained, bundle = exported
    model = OnnxModel(bundle.file("ranker.onnx"))
    ids, rows = read_id_rows(bundle.file("id_rows.parquet"), ID_INT8, SCHEMA.id_dim)
    stored = dict(zip(ids, rows, strict=True))
    test = np.flatnonzero(SAMPLES.splits == 2)
    trained_logits = predict(trained.model, SAMPLES, test, ITEMS, trained.ids.quantised())
    worst = 0.0
    for place, r in enumerate(test[:25]):
        shown = SAMPLES.candidates[r][SAMPLES.candidate_mask[r]] - 1
        history = SAMPLES.liked[SAMPLES.starts[r] : SAMPLES.ends[r]] - 1
        assembled = assemble(
            [
                ScoreRequest(
                    candidates=[tiny.ITEM_IDS[i] for i in shown],
                    behaviours=[Behaviour(tiny.ITEM_IDS[i]) for i in history],
                )
            ],
            SCHEMA.history_length,
        )
        place_of = [tiny.ITEM_IDS.index(i) for i in assembled.item_ids]
        id_rows = np.zeros(len(place_of), dtype=id_row_dtype(ID_INT8, SCHEMA.id_dim))
        id_found = np.array([i in stored for i in assembled.item_ids])
        id_rows[id_found] = np.array([stored[i] for i in assembled.item_ids if i in stored], id_rows.dtype)
        inputs = item_inputs(RECORDS[place_of], np.ones(len(place_of), bool), id_rows, id_found, SCHEMA)
        served = model.run(
            inputs
            | {
                "candidates": assembled.candidates,
                "behaviours": assembled.behaviours,
                "behaviour_mask": assembled.behaviour_mask,
            }
        )["logit"][0]
        worst = max(worst, float(np.abs(served - trained_logits[place, : len(shown)]).max()))

        id_table = id_row_table(trained.ids, positive_counts(SAMPLES, len(ITEMS)))
        same = graph_inputs(SAMPLES, np.array([r]), ITEMS, id_table, HISTORY)
        assert np.allclose(served, model.run(same)["logit"][0], atol=1e-6, rtol=0)
    assert worst <= tolerance(trained)


def test_id_rows_are_those_of_trained_items_with_their_evidence(
    exported: tuple[TrainedRanker, Bundle],
) -> None:
    trained, bundle = exported
    ids, rows = read_id_rows(bundle.file("id_rows.parquet"), ID_INT8, SCHEMA.id_dim)
    known = np.flatnonzero(trained.ids.known)
    assert ids == [tiny.ITEM_IDS[k - 1] for k in known]
    assert not set(ids) & {tiny.ITEM_IDS[i] for i in np.flatnonzero(tiny.NEW)}
    assert ranker_spec_from_json(dict(bundle.manifest.content)).id_row_count == len(ids)
    assert np.abs(decode_id_rows(rows) - trained.ids.vectors[known]).max() <= rows["scale"].max()
    positives = [
        sum(
            bool((SAMPLES.candidates[r] == k)[SAMPLES.labels[r] == 1].any())
            for r in np.flatnonzero(SAMPLES.splits == 0)
        )
        for k in known
    ]
    assert max(positives) > 1
    assert np.allclose(rows["evidence"], np.log1p(positives), rtol=1e-3)


def test_a_graph_of_other_weights_is_caught(exported: tuple[TrainedRanker, Bundle], tmp_path: Path) -> None:
    trained, _ = exported
    name = next(n for n in MODELS if new_ranker(n, tiny.SPACE, SCHEMA, 0).config == trained.model.config)
    write_graph(new_ranker(name, tiny.SPACE, SCHEMA, seed=9).eval(), tmp_path / "other.onnx")
    inputs = graph_inputs(
        SAMPLES, np.arange(3), ITEMS, id_row_table(trained.ids, np.zeros(len(ITEMS), int)), 8
    )
    with pytest.raises(BrokenBundle, match="a logit differs"):
        check_parity(trained.model, OnnxModel(tmp_path / "other.onnx"), inputs)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = new_ranker("din", tiny.SPACE, SCHEMA, seed=0)
    trained = train_ranker(model, SAMPLES, ITEMS, TrainingConfig(epochs=1, batch_rows=200, threads=1))
    rest = (tiny.ITEM_IDS, tmp_path / "bundle")
    with pytest.raises(InvalidInput, match="item_ids"):
        export_ranker(trained, ITEMS, SAMPLES, tiny.SPACE, SCHEMA, tiny.ITEM_IDS[1:], tmp_path / "bundle")
    other = dataclasses.replace(SCHEMA, history_length=9)
    with pytest.raises(InvalidInput, match="schema"):
        export_ranker(trained, ITEMS, SAMPLES, tiny.SPACE, other, *rest)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "leftover").touch()
    with pytest.raises(InvalidInput, match="must be empty"):
        export_ranker(trained, ITEMS, SAMPLES, tiny.SPACE, SCHEMA, *rest)


def test_a_space_without_attributes_exports(tmp_path: Path) -> None:
    space = dataclasses.replace(tiny.SPACE, attributes=())
    records = np.zeros(tiny.ITEMS, dtype=space.dtype)
    for name in ("version", "codec", "inv_norm", "codes"):
        records[name] = RECORDS[name]
    schema = FeatureSchema(8, 4, ())
    items = item_table(records, np.ones(tiny.ITEMS, bool), tiny.NEW, schema)
    model = new_ranker("ciubm", space, schema, seed=0).eval()
    write_graph(model, tmp_path / "ranker.onnx")
    ids = np.zeros(len(items), dtype=id_row_dtype(ID_INT8, 4))
    inputs = graph_inputs(SAMPLES, np.arange(3), items, ids, 8)
    assert check_parity(model, OnnxModel(tmp_path / "ranker.onnx"), inputs) <= 1e-5
    assert reference(model, inputs)["logit"].std() > 0
