"""The literal ranker, the module and the serving graph give the same logits for every kind of ranker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contracts.features import GRAPH_OUTPUTS, REQUIRED_INPUTS
from contracts.onnx_model import OnnxModel
from tests.training.literal.drawn_inputs import drawn_inputs
from tests.training.models.drawn import FEATURES, T_MAX, ranker
from training.graph import PARITY, check_parity, parity_cases, reference, write_graph
from training.literal.ranker import LiteralRanker
from training.models.ciubm import CiubmConfig
from training.models.config import CONTENT_KINDS, ContentConfig
from training.models.dmae import DmaeConfig
from training.models.query import QueryConfig
from training.models.ranker import Ranker
from training.models.recency import RecencySimilarityConfig
from training.models.simtier import SimTierConfig
from training.models.target_vector import TargetVectorConfig
from training.serving_graph.write import ServingOptions, write_serving_graph

D: dict[str, Any] = {"dim": 8}
CONTENT: dict[str, tuple[ContentConfig, ...]] = {
    "nothing": (),
    "dmae": (DmaeConfig(**D),),
    "dmae window 0": (DmaeConfig(**D, window_radius=0),),
    "dmae wide window": (DmaeConfig(**D, window_radius=50),),
    "dmae causal": (DmaeConfig(**D, causal=True, window_radius=2),),
    "dmae residual": (DmaeConfig(**D, residual=True),),
    "dmae layernorm": (DmaeConfig(**D, residual=True, layernorm=True),),
    "dmae shared positions": (DmaeConfig(**D, share_positions=True, buckets=7, base=100.0, sc_scale=1.0),),
    "dmae calibrated": (DmaeConfig(**D, calibration=((2.0, -0.5), (1.0, 0.0))),),
    "dmae w/o MIEU-se": (DmaeConfig(**D, without_mieu_se=True),),
    "dmae w/o MIEU-t": (DmaeConfig(**D, without_mieu_t=True),),
    "dmae w/o MIFU": (DmaeConfig(**D, without_mifu=True),),
    "dmae w/o IDDU": (DmaeConfig(**D, without_iddu=True),),
    "ciubm": (CiubmConfig(),),
    "ciubm cosine": (CiubmConfig(weighting="cosine", fusion=False, projection=3),),
    "ciubm relu": (CiubmConfig(weighting="relu", content=False),),
    "ciubm softmax": (CiubmConfig(weighting="softmax", modality="text"),),
    "simtier": (SimTierConfig(tiers=6, dim=3),),
    "simtier windows": (SimTierConfig(tiers=5, dim=3, windows=4),),
    "target vector": (TargetVectorConfig(modalities=("fused", "text")),),
    "target projected": (TargetVectorConfig(projection=3),),
    "recency": (RecencySimilarityConfig(modalities=("image", "fused"), starts=(0, 2, 9, 60)),),
    "query": (QueryConfig(modalities=("fused", "text")),),
}
EVERYTHING: tuple[ContentConfig, ...] = (
    DmaeConfig(**D),
    CiubmConfig(),
    SimTierConfig(tiers=4, dim=3),
    TargetVectorConfig(),
    RecencySimilarityConfig(),
    QueryConfig(),
)
SHAPES = ((30, 3, 4, 24), (2, 1, 1, 1), (50, 1, 33, 16), (90, 4, 3, T_MAX), (12, 2, 1, 2))


def largest_difference(model: Ranker) -> float:
    """Relative where a logit is larger than 1, over shapes and edges; the logits themselves must differ."""
    literal, worst, logits = LiteralRanker(model), 0.0, []
    for shape in SHAPES:
        for _, inputs in parity_cases(drawn_inputs(*shape)):
            wanted, got = reference(model, inputs)["logit"], reference(literal, inputs)["logit"]
            assert got.shape == wanted.shape
            worst = max(worst, float((np.abs(wanted - got) / np.maximum(1, np.abs(wanted))).max()))
            logits.append(wanted.reshape(-1))
    assert np.concatenate(logits).std() > 0.01
    return worst


def test_every_kind_of_content_is_among_the_cases() -> None:
    covered = {type(config) for content in CONTENT.values() for config in content}
    assert covered == set(CONTENT_KINDS.values()) == {type(config) for config in EVERYTHING}


@pytest.mark.parametrize("content", CONTENT.values(), ids=CONTENT.keys())
def test_content_modules_to_the_letter(content: tuple[ContentConfig, ...]) -> None:
    assert largest_difference(ranker(*content)) <= PARITY


@pytest.mark.parametrize("id_interest", ["none", "mean", "din", "din_position"])
@pytest.mark.parametrize("softmax", [False, True])
def test_id_modules_to_the_letter(id_interest: Any, softmax: bool) -> None:
    assert largest_difference(ranker(CiubmConfig(), id_interest=id_interest, din_softmax=softmax)) <= PARITY


@pytest.mark.parametrize("feature", FEATURES)
def test_features_to_the_letter(feature: str) -> None:
    assert largest_difference(ranker(CiubmConfig(), **{feature: FEATURES[feature]})) <= PARITY


def test_everything_at_once_to_the_letter() -> None:
    assert largest_difference(ranker(*EVERYTHING, **FEATURES)) <= PARITY


def test_a_changed_weight_changes_both() -> None:
    model = ranker(DmaeConfig(**D))
    literal, inputs = LiteralRanker(model), drawn_inputs(30, 3, 4, 24)
    before = reference(literal, inputs)["logit"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "w_v" in name:
                parameter.mul_(1.5)
    after = reference(literal, inputs)["logit"]
    assert np.abs(after - before).max() > 1e-3
    assert np.abs(after - reference(model, inputs)["logit"]).max() <= PARITY


@pytest.mark.parametrize("features", [{}, FEATURES], ids=["plain", "features"])
def test_literal_module_and_serving_graph_agree(features: dict[str, Any], tmp_path: Path) -> None:
    model = ranker(*EVERYTHING, **features)
    write_graph(LiteralRanker(model), tmp_path / "literal.onnx")
    write_graph(model, tmp_path / "module.onnx")
    write_serving_graph(model, tmp_path / "serving.onnx", ServingOptions(cells=None))
    for name in ("literal", "module", "serving"):
        session = OnnxModel(tmp_path / f"{name}.onnx")
        for shape in SHAPES:
            assert check_parity(model, session, drawn_inputs(*shape)) <= PARITY
            assert check_parity(LiteralRanker(model), session, drawn_inputs(*shape)) <= PARITY


def test_the_exported_graph_has_the_signature_and_free_sizes(tmp_path: Path) -> None:
    write_graph(LiteralRanker(ranker(DmaeConfig(**D))), tmp_path / "literal.onnx")
    session = OnnxModel(tmp_path / "literal.onnx")
    assert session.input_names == REQUIRED_INPUTS
    assert session.output_names == GRAPH_OUTPUTS
    assert session.input_shapes["codes"][0] == "K"
    assert session.input_shapes["candidates"] == ("B", "N")
    assert session.input_shapes["behaviours"] == session.input_shapes["behaviour_mask"] == ("B", "T")
