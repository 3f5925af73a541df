"""The serving graph cut in two: what a user's behaviours alone give, and the rest (contracts.user_side).

A partition of the finished ModelProto by what each node depends on, whatever modules wrote it:

    behaviours, mask, gaps ──► user side ──┐ the frontier, kept per user
    candidates, context, query ────────────┴──► candidates' side ──► logit, score

Nodes over item rows or constants alone are in both files, each over its own rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from onnx import helper

from contracts.errors import BrokenBundle
from contracts.features import BEHAVIOUR_INPUTS, ROW_INPUTS
from contracts.onnx_model import OnnxModel
from contracts.ranker_spec import USER, WITH_USER
from contracts.user_side import UserSide
from training.graph import Inputs, parity_cases
from training.serving_graph.builder import IR_VERSION

_HISTORY, _REQUEST = 1, 2  # what a tensor depends on, as bits
_VIEWS = frozenset(("Shape", "Unsqueeze", "Squeeze", "Identity"))  # cheaper to make again than to keep
PARITY = 1e-6  # on the score beside the whole graph's; on the logit relative above 1


class Halves(NamedTuple):
    """ModelProtos. frontier: what the first gives to the second."""

    user: Any
    with_user: Any
    frontier: tuple[str, ...]


def write_user_side(graph: Path, directory: Path) -> bool:
    """Write USER and WITH_USER into `directory`; False where no tensor depends on behaviours alone."""
    halves = split_user_side(onnx.load(str(graph)))
    if halves is None:
        return False
    onnx.save_model(halves.user, str(directory / USER))
    onnx.save_model(halves.with_user, str(directory / WITH_USER))
    return True


def write_user_side_checked(graph: Path, directory: Path, inputs: Inputs) -> float | None:
    """`write_user_side` behind a gate; the largest difference of a score, None where nothing was written.

    Over training.graph.parity_cases of `inputs`. Raises BrokenBundle where a score differs from the whole
    graph's by more than 1e-6, or a logit by more than 1e-5 (relative above 1).
    """
    if not write_user_side(graph, directory):
        return None
    whole = OnnxModel(graph)
    halves = UserSide(OnnxModel(directory / USER), OnnxModel(directory / WITH_USER))
    return max(_difference(whole.run(case), halves.run(case), name) for name, case in parity_cases(inputs))


def _difference(wanted: Inputs, got: Inputs, case: str) -> float:
    logit = abs(wanted["logit"] - got["logit"]) / abs(wanted["logit"]).clip(1)
    score = abs(wanted["score"] - got["score"])
    worst = float(logit.max(initial=0.0)), float(score.max(initial=0.0))
    if not (worst[0] <= 10 * PARITY and worst[1] <= PARITY):
        raise BrokenBundle(f"user side, {case}: logit and score differ from the whole graph's by {worst}")
    return worst[1]


def split_user_side(model: Any) -> Halves | None:
    """A ModelProto of the serving signature -> its halves, None where there is no user side."""
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output if name}
    depends = _dependencies(graph)
    outputs = [output.name for output in graph.output]
    late = [node for node in graph.node if any(depends[name] & _REQUEST for name in node.output if name)]
    read = [*outputs, *(name for node in late for name in node.input)]
    frontier = list(dict.fromkeys(n for n in read if n in made_by and depends[n] == _HISTORY))
    frontier = _without_views(frontier, made_by, depends)
    if not frontier or set(frontier) & set(outputs):
        return None
    types = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    unknown = [name for name in frontier if name not in types]
    if unknown:
        raise BrokenBundle(f"user side: ONNX cannot tell the types of {unknown}")
    kept = [types[name] for name in frontier]
    return Halves(
        _part(model, "user", (), kept),
        _part(model, "with_user", kept, list(graph.output)),
        tuple(frontier),
    )


def _dependencies(graph: Any) -> dict[str, int]:
    depends = dict.fromkeys((value.name for value in graph.initializer), 0)
    for value in graph.input:
        name = value.name
        depends[name] = 0 if name in ROW_INPUTS else _HISTORY if name in BEHAVIOUR_INPUTS else _REQUEST
    for node in graph.node:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise BrokenBundle(f"user side: {node.op_type} {node.name!r} holds a graph of its own")
        bits = 0
        for name in filter(None, node.input):
            bits |= depends[name]
        depends.update(dict.fromkeys(node.output, bits))
    return depends


def _without_views(frontier: Sequence[str], made_by: dict[str, Any], depends: dict[str, int]) -> list[str]:
    """Views of what is on the frontier anyhow are made again on the candidates' side."""
    kept = list(frontier)
    for name in frontier:
        node = made_by[name]
        sources = [n for n in node.input if n and depends[n]]
        if node.op_type in _VIEWS and all(n in kept for n in sources):
            kept.remove(name)
    return kept


def _part(model: Any, name: str, given: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """The nodes that `outputs` need beyond the tensors `given`, their constants, inputs and functions."""
    graph = model.graph
    needed, nodes = {value.name for value in outputs}, []
    there = {value.name for value in given}
    for node in reversed(graph.node):
        if any(output in needed and output not in there for output in node.output):
            nodes.append(node)
            needed.update(node.input)
    called = {(node.domain, node.op_type) for node in nodes}
    functions = [f for f in model.functions if (f.domain, f.name) in called]
    domains = {"", *(f.domain for f in functions)}
    part = helper.make_model(
        helper.make_graph(
            nodes[::-1],
            name,
            [*_named(graph.input, needed - there), *given],
            outputs,
            _named(graph.initializer, needed),
        ),
        functions=functions,
        opset_imports=[o for o in model.opset_import if o.domain in domains],
        ir_version=IR_VERSION,
        producer_name=model.producer_name,
    )
    onnx.checker.check_model(part)
    return part


def _named(values: Iterable[Any], names: set[str]) -> list[Any]:
    return [value for value in values if value.name in names]
