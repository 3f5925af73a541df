"""The exported graph against torch over several shapes, on weights large enough that logits differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from contracts.onnx_model import OnnxModel
from tests.training.models.drawn import batch, ranker
from training.graph import Inputs, reference, write_graph
from training.models.ciubm import CiubmConfig
from training.models.config import ContentConfig
from training.models.dmae import DmaeConfig
from training.models.simtier import SimTierConfig
from training.models.target_vector import TargetVectorConfig

DECODER_HIDDEN, DECODER_CELLS = 61, 7 * 9
DMAE: dict[str, Any] = {"dim": 8, "decoder_hidden": DECODER_HIDDEN, "intervals": 7, "regions": 9}
SETS: dict[str, tuple[ContentConfig, ...]] = {
    "ciubm": (CiubmConfig(),),
    "dmae": (DmaeConfig(**DMAE),),
    "all": (
        TargetVectorConfig(),
        CiubmConfig(weighting="softmax", projection=4),
        SimTierConfig(tiers=6, windows=4),
        DmaeConfig(**DMAE, residual=True, layernorm=True, causal=True, calibration=((2.0, -0.5), (1.0, 0.0))),
    ),
}


def drawn_inputs(rows: int, requests: int, candidates: int, behaviours: int) -> Inputs:
    drawn = batch(rows, requests, candidates, behaviours, seed=rows)
    rng = np.random.default_rng(rows)
    return {
        **{
            name: getattr(drawn.rows, name).numpy()
            for name in ("codes", "inv_norm", "attributes", "id_known", "id_evidence", "attribute_values")
        },
        "id_codes": rng.integers(-127, 128, (rows, 4)).astype(np.int8),
        "id_scale": rng.random(rows).astype(np.float32) / 127,
        **{name: value.numpy() for name, value in drawn.requests._asdict().items() if value is not None},
    }


@pytest.mark.parametrize("content", SETS.values(), ids=SETS.keys())
def test_onnx_gives_torchs_logits(content: tuple[ContentConfig, ...], tmp_path: Path) -> None:
    model = ranker(*content)
    path = tmp_path / "ranker.onnx"
    write_graph(model, path)
    session = OnnxModel(path)
    for shape in (
        (30, 3, 4, 24),
        (2, 1, 1, 1),
        (50, 1, 33, 16),
        (50, 2, 5, 17),
        (90, 4, 3, 40),
        (12, 2, 1, 2),
    ):
        inputs = drawn_inputs(*shape)
        wanted, got = reference(model, inputs), session.run(inputs)
        assert wanted["logit"].shape == shape[1:3]
        np.testing.assert_allclose(got["logit"], wanted["logit"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got["score"], wanted["score"], rtol=1e-5, atol=1e-5)
    graph = onnx.load(path).graph
    sizes = {size for weight in graph.initializer for size in weight.dims}
    assert 16 in sizes  # the network's first layer is there ...
    assert not sizes & {DECODER_HIDDEN, DECODER_CELLS}  # ... and nothing of IDDU
    assert not {node.op_type for node in graph.node} & {"RandomUniform", "RandomUniformLike", "Loop", "If"}
    assert np.ptp(reference(model, drawn_inputs(90, 4, 3, 40))["logit"]) > 0.01
