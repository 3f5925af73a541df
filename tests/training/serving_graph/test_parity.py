from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from contracts.errors import BrokenBundle, InvalidInput
from contracts.features import GRAPH_OUTPUTS
from contracts.onnx_model import OnnxModel
from tests.training.serving_graph.rankers import CONTEXT, FEATURES, ranker, requests
from training.graph import PARITY, check_parity, reference, write_graph
from training.models.ciubm import CiubmConfig, Weighting
from training.models.columns import AttributeTable
from training.models.dmae import DmaeConfig
from training.models.query import QueryConfig
from training.models.recency import RecencySimilarityConfig
from training.models.simtier import SimTierConfig
from training.models.target_vector import TargetVectorConfig
from training.serving_graph.write import (
    TABULATED,
    WANTED,
    ServingOptions,
    serving_model,
    write_checked,
    write_serving_graph,
)

torch.set_num_threads(1)
DMAE = DmaeConfig(dim=16, buckets=50)
RANKERS = {
    "mean": lambda: ranker(id_interest="mean"),
    "din": lambda: ranker(id_interest="din"),
    "din softmax": lambda: ranker(din_softmax=True),
    "din one layer": lambda: ranker(din_hidden=(9,)),
    "din three layers": lambda: ranker(din_hidden=(9, 8, 3)),
    "no attributes": lambda: ranker(attributes=AttributeTable()),
    "ciubm": lambda: ranker(CiubmConfig()),
    "ciubm cosine": lambda: ranker(CiubmConfig(weighting="cosine", projection=7)),
    "ciubm relu": lambda: ranker(CiubmConfig(weighting="relu", content=False)),
    "ciubm softmax": lambda: ranker(CiubmConfig(weighting="softmax", fusion=False, modality="text")),
    "dmae": lambda: ranker(DMAE),
    "dmae alone": lambda: ranker(DMAE, id_interest="none"),
    "dmae d=18, wide window": lambda: ranker(replace(DMAE, dim=18, window_radius=9)),
    "dmae radius 0": lambda: ranker(replace(DMAE, window_radius=0)),
    "dmae causal": lambda: ranker(replace(DMAE, causal=True, share_positions=True)),
    "dmae residual": lambda: ranker(replace(DMAE, residual=True)),
    "dmae layernorm": lambda: ranker(replace(DMAE, layernorm=True)),
    "dmae both": lambda: ranker(replace(DMAE, residual=True, layernorm=True)),
    "dmae calibrated": lambda: ranker(replace(DMAE, calibration=((1.7, -0.3), (0.8, 0.1)))),
    "dmae w/o MIEU-se": lambda: ranker(replace(DMAE, without_mieu_se=True)),
    "dmae w/o MIFU": lambda: ranker(replace(DMAE, without_mifu=True)),
    "id trust": lambda: ranker(id_trust=True),
    "content in every item": lambda: ranker(
        item_content=FEATURES["item_content"], attributes=AttributeTable()
    ),
    "time gaps": lambda: ranker(id_interest="din", time_gaps=True),
    "context": lambda: ranker(context=CONTEXT),
    "scaled attributes": lambda: ranker(attributes=FEATURES["attributes"]),
    "recency": lambda: ranker(RecencySimilarityConfig(modalities=("text", "fused"), starts=(0, 1, 5, 30))),
    "recency beyond the history": lambda: ranker(RecencySimilarityConfig(starts=(0, 39, 500))),
    "query": lambda: ranker(QueryConfig(modalities=("fused", "text"))),
    "every feature": lambda: ranker(
        QueryConfig(), RecencySimilarityConfig(), CiubmConfig(), TargetVectorConfig(), **FEATURES
    ),
    "everything": lambda: ranker(
        TargetVectorConfig(modalities=("text", "fused"), projection=4),
        DMAE,
        CiubmConfig(projection=6),
        SimTierConfig(tiers=6, dim=3, windows=3),
        TargetVectorConfig(),
        CiubmConfig(modality="text", weighting="relu"),
    ),
}


@pytest.mark.parametrize("name", RANKERS)
def test_both_gates_hold_over_every_edge(name: str, tmp_path: Path, kernels: Path) -> None:
    made = RANKERS[name]()
    inputs = requests(3, 21, 37, made.config.attributes)
    path = tmp_path / "ranker.onnx"
    parity = write_checked(made, path, inputs, kernels=kernels)
    assert parity.folded <= PARITY
    assert parity.tabulated <= TABULATED / 2
    assert reference(made, inputs)["logit"].std() > 0.02  # weights that would show a difference
    if "dmae" not in name and name != "everything":
        assert parity.tabulated <= PARITY
    if ("dmae" not in name and name != "everything") or "MIEU-se" in name:
        assert parity.cells is None
    else:
        assert parity.cells is not None
    for model in (OnnxModel(path), OnnxModel(path, kernels=kernels)):
        assert (model.input_names, model.output_names) == (made.config.inputs, GRAPH_OUTPUTS)
        assert model.input_shapes["candidates"] == ("B", "N")
        outputs = model.run(inputs)
        assert np.allclose(outputs["score"], 1 / (1 + np.exp(-outputs["logit"])), atol=1e-6)


@pytest.mark.parametrize("history", [1, 15, 16, 17, 64, 150])
def test_any_history_length_blocks_or_not(history: int, tmp_path: Path, kernels: Path) -> None:
    made = ranker(DMAE, CiubmConfig(), history_length=history)
    for options in (ServingOptions(cells=256), ServingOptions(cells=256, behaviours=1_000)):
        path = tmp_path / "ranker.onnx"
        write_serving_graph(made, path, options)
        for t in sorted({1, max(1, history // 2), history}):
            for model in (OnnxModel(path), OnnxModel(path, kernels=kernels)):
                check_parity(made, model, requests(2, 17, t), TABULATED)


@pytest.mark.parametrize("weighting", ["cosine", "cosine_mean"])
def test_ciubm_by_matrices_is_ciubm_by_behaviours(weighting: Weighting, tmp_path: Path) -> None:
    made = ranker(CiubmConfig(weighting=weighting, projection=6))
    inputs = requests(3, 9, 31)
    sizes = {}
    for behaviours in (1, 1_000):
        path = tmp_path / f"{behaviours}.onnx"
        write_serving_graph(made, path, ServingOptions(behaviours=behaviours))
        assert check_parity(made, OnnxModel(path), inputs) <= PARITY
        graph = onnx.load(str(path)).graph
        sizes[behaviours] = [list(i.dims) for i in graph.initializer], len(graph.node)
    assert sizes[1] != sizes[1_000]  # two forms, not one


def test_large_scores_take_the_softmax_that_cannot_overflow(tmp_path: Path, kernels: Path) -> None:
    made = ranker(DMAE)
    kinds = []
    for factor in (1.0, 30.0):
        with torch.no_grad():
            for intra in made.content[0].intra:  # type: ignore[union-attr]
                intra.w_q.weight.mul_(factor)
        function = next(
            f for f in serving_model(made, ServingOptions()).functions if f.name == "DmaeInterest"
        )
        kinds.append("Exp" in [node.op_type for node in function.node])
        parity = write_checked(made, tmp_path / "ranker.onnx", requests(2, 9, 30), kernels=kernels)
        assert parity.tabulated <= TABULATED
    assert kinds == [True, False]


def test_cells_grow_until_the_table_is_good_enough(tmp_path: Path) -> None:
    made = ranker(DMAE)
    inputs = requests(2, 15, 33)
    parity = write_checked(made, tmp_path / "ranker.onnx", inputs, ServingOptions(cells=1))
    assert parity.cells is not None
    assert parity.cells > 1
    write_serving_graph(made, tmp_path / "coarse.onnx", ServingOptions(cells=parity.cells // 2))
    coarse = check_parity(made, OnnxModel(tmp_path / "coarse.onnx"), inputs, np.inf)
    assert coarse > WANTED >= parity.tabulated


def test_neither_decoder_nor_id_table_nor_path_is_in_the_graph(tmp_path: Path) -> None:
    made = ranker(DMAE)
    assert any("iddu" in name for name in made.state_dict())
    write_serving_graph(made, tmp_path / "ranker.onnx")
    raw = (tmp_path / "ranker.onnx").read_bytes()
    assert b"iddu" not in raw
    assert b".py" not in raw
    decoded = {tuple(p.shape) for name, p in made.named_parameters() if "iddu" in name and p.dim() > 1}
    kept = [tuple(i.dims) for i in onnx.load_from_string(raw).graph.initializer]
    assert decoded.isdisjoint({*kept, *(shape[::-1] for shape in kept)})


def test_a_graph_of_other_weights_is_caught(tmp_path: Path) -> None:
    made, other = ranker(DMAE), ranker(DMAE, seed=1)
    write_serving_graph(other, tmp_path / "other.onnx")
    with pytest.raises(BrokenBundle, match="a logit differs"):
        check_parity(made, OnnxModel(tmp_path / "other.onnx"), requests(2, 5, 9), TABULATED)


@pytest.mark.parametrize("wrong", [{"cells": 0}, {"cells": 48}, {"cells": 2048}, {"behaviours": 0}])
def test_options_that_cannot_be_used_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"serving.{next(iter(wrong))}"):
        ServingOptions(**wrong)


def test_the_literal_graph_agrees_too(tmp_path: Path, kernels: Path) -> None:
    made = ranker(DMAE, CiubmConfig())
    inputs = requests(2, 19, 33)
    write_graph(made, tmp_path / "plain.onnx")
    write_serving_graph(made, tmp_path / "ranker.onnx", ServingOptions(cells=1024))
    plain = OnnxModel(tmp_path / "plain.onnx").run(inputs)["logit"]
    for library in (None, kernels):
        served = OnnxModel(tmp_path / "ranker.onnx", kernels=library).run(inputs)["logit"]
        assert np.abs(plain - served).max() <= TABULATED
