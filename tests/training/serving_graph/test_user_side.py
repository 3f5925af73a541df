"""The serving graph in two gives what it gives in one, for every ranker, at every edge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from contracts.errors import BrokenBundle
from contracts.features import BEHAVIOUR_INPUTS, ROW_INPUTS
from contracts.onnx_model import OnnxModel
from contracts.ranker_spec import USER, WITH_USER
from contracts.user_side import UserSide
from tests.training.serving_graph.rankers import ranker, requests
from tests.training.serving_graph.test_parity import DMAE, RANKERS
from training.graph import parity_cases
from training.models.ciubm import CiubmConfig
from training.models.ranker import Ranker
from training.models.target_vector import TargetVectorConfig
from training.serving_graph.user_side import split_user_side, write_user_side, write_user_side_checked
from training.serving_graph.write import ServingOptions, serving_model, write_serving_graph

torch.set_num_threads(1)


def halves(
    made: Ranker, directory: Path, kernels: Path | None = None, behaviours: int | None = None
) -> tuple[OnnxModel, UserSide]:
    write_serving_graph(made, directory / "ranker.onnx", ServingOptions(behaviours=behaviours))
    assert write_user_side(directory / "ranker.onnx", directory)
    first, second = (OnnxModel(directory / name, kernels=kernels) for name in (USER, WITH_USER))
    return OnnxModel(directory / "ranker.onnx", kernels=kernels), UserSide(first, second)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", RANKERS)
def test_two_graphs_are_one(name: str, compiled: bool, tmp_path: Path, kernels: Path) -> None:
    made = RANKERS[name]()
    whole, side = halves(made, tmp_path, kernels if compiled else None)
    assert set(side.input_names) <= set(whole.input_names)
    for case, inputs in parity_cases(requests(3, 21, 37, made.config.attributes)):
        wanted, got = whole.run(inputs), side.run(inputs)
        for output in ("logit", "score"):
            assert got[output].shape == wanted[output].shape, case
            assert np.allclose(got[output], wanted[output], rtol=1e-6, atol=1e-6), case


@pytest.mark.parametrize("weighting", ["cosine", "cosine_mean"])
@pytest.mark.parametrize("behaviours", [1, 1_000])
def test_both_forms_of_ciubm(weighting: str, behaviours: int, tmp_path: Path) -> None:
    made = ranker(CiubmConfig(weighting=weighting, projection=6))  # type: ignore[arg-type]
    whole, side = halves(made, tmp_path, behaviours=behaviours)
    inputs = requests(2, 9, 31)
    assert np.allclose(side.run(inputs)["logit"], whole.run(inputs)["logit"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", RANKERS)
def test_each_half_reads_its_own(name: str) -> None:
    split = split_user_side(serving_model(RANKERS[name](), ServingOptions()))
    assert split is not None
    user, with_user = ({i.name for i in m.graph.input} for m in (split.user, split.with_user))
    assert user <= {*ROW_INPUTS, *BEHAVIOUR_INPUTS}
    assert with_user.isdisjoint(BEHAVIOUR_INPUTS)
    assert [o.name for o in split.user.graph.output] == list(split.frontier)
    assert set(split.frontier) <= with_user
    assert "Shape" not in {node.op_type for node in split.user.graph.node if node.output[0] in split.frontier}
    made = [{n.output[0] for n in m.graph.node} for m in (split.user, split.with_user)]
    depends = made[0] & made[1]  # over item rows, constants or the frontier: small
    assert len(depends) < len(made[0])


def test_functions_go_where_they_are_called() -> None:
    split = split_user_side(serving_model(ranker(DMAE), ServingOptions()))
    assert split is not None
    assert [len(m.functions) for m in (split.user, split.with_user)] == [0, 2]


def test_a_state_is_of_the_behaviours_alone(tmp_path: Path) -> None:
    _, side = halves(ranker(DMAE, CiubmConfig()), tmp_path)
    inputs = requests(1, 9, 30)
    state = side.state(side.history(inputs))
    others = inputs | {"candidates": inputs["candidates"][:, ::-1].copy()}
    again = side.state(side.history(others))
    assert {name: value.tobytes() for name, value in state.items()} == {
        name: value.tobytes() for name, value in again.items()
    }


def test_a_history_does_not_know_row_numbers(tmp_path: Path) -> None:
    _, side = halves(ranker(DMAE), tmp_path)
    inputs = requests(1, 9, 30)
    order = np.concatenate([[0], 1 + np.random.default_rng(0).permutation(len(inputs["codes"]) - 1)])
    place = np.argsort(order).astype(np.int32)
    moved = inputs | {name: inputs[name][order] for name in ROW_INPUTS}
    moved |= {name: place[inputs[name]] for name in ("candidates", "behaviours")}
    first, second = side.history(inputs), side.history(moved)
    assert {k: v.tobytes() for k, v in first.items()} == {k: v.tobytes() for k, v in second.items()}
    assert side.run(inputs)["score"].tobytes() == side.run(moved)["score"].tobytes()


def test_without_behaviours_there_is_nothing_to_write(tmp_path: Path) -> None:
    made = ranker(TargetVectorConfig(), id_interest="none")
    write_serving_graph(made, tmp_path / "ranker.onnx")
    assert write_user_side_checked(tmp_path / "ranker.onnx", tmp_path, requests(2, 5, 6)) is None
    assert [path.name for path in tmp_path.iterdir()] == ["ranker.onnx"]


def test_the_gate_says_how_far_apart_they_are(tmp_path: Path) -> None:
    write_serving_graph(ranker(DMAE), tmp_path / "ranker.onnx")
    worst = write_user_side_checked(tmp_path / "ranker.onnx", tmp_path, requests(2, 9, 16))
    assert worst is not None
    assert worst <= 1e-6


def test_halves_of_two_rankers_are_refused(tmp_path: Path) -> None:
    for name, made in (("a", ranker(DMAE)), ("b", ranker(CiubmConfig()))):
        (tmp_path / name).mkdir()
        halves(made, tmp_path / name)
    with pytest.raises(BrokenBundle, match="does not fit"):
        UserSide(OnnxModel(tmp_path / "a" / USER), OnnxModel(tmp_path / "b" / WITH_USER))


def test_a_graph_with_a_graph_inside_is_refused() -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["gaps"], ["inside"])],
        "inner",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.INT32, ["B", "T"])],
    )
    node = helper.make_node("If", ["id_known"], ["logit"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph(
        [node],
        "ranker",
        [
            helper.make_tensor_value_info("id_known", TensorProto.BOOL, []),
            helper.make_tensor_value_info("gaps", TensorProto.INT32, ["B", "T"]),
        ],
        [helper.make_tensor_value_info("logit", TensorProto.INT32, ["B", "T"])],
    )
    with pytest.raises(BrokenBundle, match="holds a graph"):
        split_user_side(onnx.helper.make_model(graph))
