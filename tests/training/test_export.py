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
from contracts.calibration import UNCALIBRATED, Calibration
from contracts.codec import ID_INT8, decode_id_rows, id_row_dtype
from contracts.errors import BrokenBundle, InvalidInput
from contracts.features import GRAPH_OUTPUTS, assemble, item_inputs
from contracts.kernels import build
from contracts.onnx_model import OnnxModel, replay
from contracts.ranker_spec import USER, WITH_USER, ranker_spec_from_json
from contracts.request import Behaviour, ScoreRequest
from contracts.schema import FeatureSchema
from contracts.user_side import UserSide
from param_server.id_rows import read_id_rows
from tests.training import tiny
from tests.training.serving_graph.rankers import ranker, requests
from training.data.interactions import VAL
from training.evaluation import predict
from training.export import _example, export_ranker
from training.graph import PARITY, check_parity, graph_inputs, parity_cases, reference, write_graph
from training.int8_gate import Int8Gate
from training.item_table import item_table
from training.loop import TrainedRanker, TrainingConfig, train_ranker
from training.models.dmae import Dmae, DmaeConfig
from training.recipes.ranker import MODELS, assess, new_ranker
from training.serving_graph.write import (
    TABULATED,
    WANTED,
    ServingOptions,
    largest_difference,
    write_checked,
    write_serving_graph,
)
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


def calibration_of(bundle: Bundle) -> Calibration:
    return ranker_spec_from_json(dict(bundle.manifest.content)).calibration


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
    result = assess(trained, SAMPLES, ITEMS, negative_sampling_rate=0.25)
    assert result.calibrated.calibration.negative_sampling_rate == 0.25
    bundle = export_ranker(
        trained,
        ITEMS,
        SAMPLES,
        tiny.SPACE,
        SCHEMA,
        tiny.ITEM_IDS,
        directory,
        report={"auc": 0.5},
        calibrated=result.calibrated,
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
    assert 0 <= spec.report["user_side_parity"] <= 1e-6
    side = UserSide(OnnxModel(opened.file(USER)), OnnxModel(opened.file(WITH_USER)))
    assert replay(opened, {"ranker": side}, spec.tolerance) <= 1e-5
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
    assert check_parity(trained.model, literal, inputs, calibration=calibration_of(bundle)) <= PARITY
    assert np.abs(literal.run(inputs)["logit"] - outputs["logit"]).max() <= tolerance(trained)
    assert np.abs(literal.run(inputs)["score"] - outputs["score"]).max() <= 1e-4


def test_the_graph_has_the_signature_and_free_sizes(exported: tuple[TrainedRanker, Bundle]) -> None:
    trained, bundle = exported
    model = OnnxModel(bundle.file("ranker.onnx"))
    assert model.input_names == trained.model.config.inputs
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
        options = ServingOptions(cells=cells, calibration=calibration_of(bundle))
        write_serving_graph(other, tmp_path / "other.onnx", options)
        assert (tmp_path / "other.onnx").read_bytes() == raw
    for graph in (raw, literal):
        assert not [i.name for i in onnx.load_from_string(graph).graph.initializer if "iddu" in i.name]
        assert b"iddu" not in graph
        assert not [s for s in shapes_of(graph) if s and s[0] in (tiny.ITEMS, tiny.ITEMS + 1)]
        assert b".py" not in graph  # no stack traces, which hold paths


def test_torch_and_onnx_agree_on_every_edge(exported: tuple[TrainedRanker, Bundle]) -> None:
    trained, bundle = exported
    model = OnnxModel(bundle.file("ranker.onnx"))
    id_rows = trained.ids.rows()
    for chosen in (np.arange(1), np.arange(3), np.arange(40)):
        inputs = graph_inputs(SAMPLES, chosen, ITEMS, id_rows, HISTORY)
        check_parity(trained.model, model, inputs, tolerance(trained), calibration_of(bundle))
        assert largest_difference(trained.model, [model], inputs) <= tolerance(trained)
    kinds = [case for case, _ in parity_cases(inputs)]
    assert {"one candidate", "one behaviour", "empty history", "unknown ids", "no content"} < set(kinds)
    outputs = model.run(inputs)
    c = calibration_of(bundle)
    z = c.scale * outputs["logit"] + c.shift + np.log(0.25)
    assert np.allclose(outputs["score"], 1 / (1 + np.exp(-z)), atol=1e-6)
    assert np.abs(outputs["score"] - 1 / (1 + np.exp(-outputs["logit"]))).max() > 0.1
    wanted = reference(trained.model, inputs, c)
    assert np.allclose(outputs["score"], wanted["score"], atol=1e-4)


def test_history_that_is_only_padding_changes_nothing(exported: tuple[TrainedRanker, Bundle]) -> None:
    trained, bundle = exported
    model = OnnxModel(bundle.file("ranker.onnx"))
    id_rows = trained.ids.rows()
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
            SCHEMA,
        )
        place_of = [tiny.ITEM_IDS.index(i) for i in assembled.item_ids]
        id_rows = np.zeros(len(place_of), dtype=id_row_dtype(ID_INT8, SCHEMA.id_dim))
        id_found = np.array([i in stored for i in assembled.item_ids])
        id_rows[id_found] = np.array([stored[i] for i in assembled.item_ids if i in stored], id_rows.dtype)
        inputs = item_inputs(RECORDS[place_of], np.ones(len(place_of), bool), id_rows, id_found, SCHEMA)
        served = model.run(inputs | assembled.inputs())["logit"][0]
        worst = max(worst, float(np.abs(served - trained_logits[place, : len(shown)]).max()))

        id_table = trained.ids.rows()
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
    shown = [
        sum(bool((SAMPLES.candidates[r] == k).any()) for r in np.flatnonzero(SAMPLES.splits == 0))
        for k in known
    ]
    assert max(shown) > 1
    assert np.allclose(rows["evidence"], np.log1p(shown), rtol=1e-3)


def test_calibration_and_its_curves_are_sealed(exported: tuple[TrainedRanker, Bundle]) -> None:
    trained, bundle = exported
    spec = ranker_spec_from_json(dict(bundle.manifest.content))
    figures = spec.report["calibration"]
    assert {k: figures[k] for k in spec.calibration.to_json()} == spec.calibration.to_json()
    assert spec.calibration.scale != 1
    curves = json.loads(bundle.file("reliability.json").read_text())
    assert curves["test"]["all"]["after"]["ece"] == figures["test"]["all"]["after"]["ece"]
    assert sum(curves["test"]["all"]["after"]["curve"]["share"]) == pytest.approx(1)
    assert "<svg" in bundle.file("reliability.svg").read_text()

    val = np.flatnonzero(SAMPLES.splits == VAL)
    logits = predict(trained.model, SAMPLES, val, ITEMS, trained.ids.quantised())
    mask = SAMPLES.candidate_mask[val]
    labels, scores = SAMPLES.labels[val][mask], spec.calibration.scores(logits)[mask]
    weight = np.where(labels == 1, 1, 4)
    ratio = (weight * scores).sum() / labels.sum()
    assert figures["validation"]["all"]["after"]["ratio"] == pytest.approx(ratio, rel=1e-6)
    assert figures["validation"]["all"]["after"]["ece"] < figures["validation"]["all"]["before"]["ece"]


def test_a_graph_of_another_calibration_is_caught(exported: tuple[TrainedRanker, Bundle]) -> None:
    trained, bundle = exported
    inputs, _ = bundle.golden()["ranker"]
    for name in ("ranker.onnx", "reference.onnx"):
        with pytest.raises(BrokenBundle, match="off its calibrated logit"):
            check_parity(
                trained.model, OnnxModel(bundle.file(name)), inputs, tolerance(trained), UNCALIBRATED
            )


def test_a_steep_calibration_wants_a_finer_table(tmp_path: Path) -> None:
    made, inputs = ranker(DmaeConfig(dim=16)), requests(2, 15, 33)
    cells = []
    for scale in (1.0, 30.0):
        options = ServingOptions(cells=1, calibration=Calibration(scale))
        parity = write_checked(made, tmp_path / "ranker.onnx", inputs, options)
        assert scale * parity.tabulated <= WANTED
        cells.append(parity.cells or 0)
    assert cells[1] > cells[0]
    with pytest.raises(BrokenBundle, match="serving graph: a logit differs"):
        write_checked(
            made,
            tmp_path / "ranker.onnx",
            inputs,
            ServingOptions(cells=1024, calibration=Calibration(1e6)),
        )


def test_the_int8_gate_is_in_the_export(exported: tuple[TrainedRanker, Bundle], tmp_path: Path) -> None:
    trained, bundle = exported
    figures = ranker_spec_from_json(dict(bundle.manifest.content)).report["int8"]
    assert (figures["most_change"], figures["least_pairs"], figures["gated"]) == (5e-4, 100_000, False)
    assert figures["change"] == figures["auc_int8"] - figures["auc_float"]
    coarse = copy.deepcopy(trained.ids.vectors)
    coarse[1:, 0] = 1e4 * np.sign(coarse[1:, 0])  # one huge column: int8 has nothing left for the others
    broken = dataclasses.replace(trained, ids=dataclasses.replace(trained.ids, vectors=coarse))
    gate = Int8Gate(most_change=0, least_pairs=1)
    rest = (ITEMS, SAMPLES, tiny.SPACE, SCHEMA, tiny.ITEM_IDS, tmp_path / "bundle")
    with pytest.raises(BrokenBundle, match="int8 ID rows change the validation AUC by"):
        export_ranker(broken, *rest, int8=gate)
    assert not list((tmp_path / "bundle").iterdir())


def test_a_graph_of_other_weights_is_caught(exported: tuple[TrainedRanker, Bundle], tmp_path: Path) -> None:
    trained, _ = exported
    name = next(n for n in MODELS if new_ranker(n, tiny.SPACE, SCHEMA, 0).config == trained.model.config)
    write_graph(new_ranker(name, tiny.SPACE, SCHEMA, seed=9).eval(), tmp_path / "other.onnx")
    inputs = graph_inputs(SAMPLES, np.arange(3), ITEMS, trained.ids.rows(), 8)
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
