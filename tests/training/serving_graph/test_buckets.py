"""Padded to a bucket and run through kept buffers, every ranker gives the scores that it gives without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.onnx_model import OnnxModel
from contracts.shape_buckets import ShapeBuckets
from serving.bucketed import BucketedRuns
from tests.training.serving_graph.rankers import ranker, requests
from tests.training.serving_graph.test_parity import DMAE, RANKERS
from training.graph import Inputs, parity_cases
from training.models.ciubm import CiubmConfig
from training.serving_graph.write import write_serving_graph

torch.set_num_threads(1)
BUCKETS = ShapeBuckets((1, 2, 4), (4, 16, 64), (8, 24, 40))


def both(model: OnnxModel, inputs: Inputs) -> tuple[Inputs, Inputs]:
    return model.run(inputs), BucketedRuns(model, BUCKETS).run(inputs)


def agree(wanted: Inputs, got: Inputs) -> None:
    for output in ("logit", "score"):
        assert got[output].shape == wanted[output].shape
        assert np.allclose(got[output], wanted[output], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", RANKERS)
def test_padding_changes_no_score(name: str, compiled: bool, tmp_path: Path, kernels: Path) -> None:
    made = RANKERS[name]()
    write_serving_graph(made, tmp_path / "ranker.onnx")
    model = OnnxModel(tmp_path / "ranker.onnx", kernels=kernels if compiled else None)
    for _, inputs in parity_cases(requests(3, 21, 37, made.config.attributes)):
        agree(*both(model, inputs))
    assert 0 < model.bound.shapes <= 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, kernels: Path) -> OnnxModel:
    path = tmp_path_factory.mktemp("graph") / "ranker.onnx"
    write_serving_graph(ranker(DMAE, CiubmConfig(), time_gaps=True), path)
    return OnnxModel(path, kernels=kernels)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(b=st.integers(1, 4), n=st.integers(1, 64), t=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_shape_in_any_order(model: OnnxModel, b: int, n: int, t: int, seed: int) -> None:
    agree(*both(model, requests(b, n, t, seed=seed)))
    assert model.bound.shapes <= 27


def test_beyond_the_largest_bucket_it_runs_as_it_is(model: OnnxModel) -> None:
    before = model.bound.shapes
    agree(*both(model, requests(1, 65, 9)))
    agree(*both(model, requests(5, 3, 9)))
    wide = requests(1, 40, 30)  # more rows than requests of 2 and 3 can name
    agree(*both(model, wide | {"candidates": wide["candidates"][:, :2]}))
    assert model.bound.shapes <= before + 1
