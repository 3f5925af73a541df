"""The Open Inference Protocol, version 2, over one Scorer: what its doors share. Tensors in, tensors out.

A scene is a model, a generation its version. B requests may be asked in one call: tensors then have one
row per request, and an empty string in `candidates` or `behaviours` fills a row up.

| output   | datatype | shape         |                                                                |
| -------- | -------- | ------------- | -------------------------------------------------------------- |
| scores   | FP32     | as candidates | NaN where missing                                              |
| statuses | UINT8    | as candidates | numbers of repcenter.v1.CandidateStatus, 0 where filled up     |
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from contracts.errors import InvalidInput, NotFound
from contracts.schema import FeatureSchema
from contracts.scores import Scores
from serving.live import LiveGenerations
from serving.loaded import LoadedGeneration
from serving.oip_requests import (
    INPUTS,
    QUERY,
    InferCall,
    deadline_of,
    inputs_of,
    score_requests,
    shortest,
    strings,
)
from serving.scorer import Scorer
from serving.tensors import Numbers, Tensor

EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "onnx_onnxv1"
_OUTPUTS = {"scores": "FP32", "statuses": "UINT8"}

Parameter = bool | int | float | str


class TensorInfo(NamedTuple):
    """shape: -1 where any size will do."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelInfo:
    """A scene and the generation that it serves."""

    name: str
    versions: tuple[str, ...]
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


@dataclass(frozen=True)
class InferAnswer:
    model: str
    version: str
    id: str
    parameters: dict[str, Parameter]
    outputs: list[Tensor]


class OpenInference:
    """Knows neither HTTP nor gRPC."""

    def __init__(self, scorer: Scorer, live: LiveGenerations) -> None:
        self._scorer = scorer
        self._live = live

    def model(self, name: str, version: str | None) -> ModelInfo:
        """What the scene reads and gives. Raises NotFound (scene or version), Unavailable (not loaded)."""
        loaded = self._pinned(name, version)
        return ModelInfo(name, (loaded.id,), _input_infos(loaded.schema), _output_infos())

    def check_admission(self, body: bytes) -> None:
        """Overloaded, before it is parsed, where the call would be refused."""
        self._scorer.admission.check_unread(body)

    async def infer(self, call: InferCall, deadline_s: float | None = None) -> InferAnswer:
        """Score all requests of a call, or none: the first error of `Scorer.score` is raised."""
        self._pinned(call.model, call.version)
        for i, name in enumerate(call.outputs):
            if name not in _OUTPUTS:
                raise InvalidInput(f"outputs[{i}].name", name, f"must be one of {sorted(_OUTPUTS)}")
        candidates = inputs_of(call).get("candidates")
        if candidates is None:
            raise InvalidInput("inputs", [t.name for t in call.inputs], "lack candidates")
        requests = score_requests(call, self._scorer.limits.requests)
        limit_s = shortest(deadline_s, deadline_of(call.parameters))
        # one answer has one generation: that of the first request. Tasks of one gather begin before anything
        # else does, so it is still there when they pin it
        version = call.version
        if len(requests) > 1:
            version = self._live.pin(call.model, version, requests[0], call.id).id
        outcomes = await asyncio.gather(
            *(self._scorer.score(r, limit_s, version) for r in requests), return_exceptions=True
        )
        answers = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            answers.append(outcome)
        return _answer(call, candidates, answers)

    def _pinned(self, name: str, version: str | None) -> LoadedGeneration:
        loaded = self._live.pin(name)
        if version is not None and version != loaded.id:
            raise NotFound(f"version of model {name!r}, which serves {loaded.id},", version)
        return loaded


def _answer(call: InferCall, candidates: Tensor, answers: Sequence[Scores]) -> InferAnswer:
    scores, statuses = answers[0].scores, answers[0].statuses
    if len(candidates.shape) == 2:
        given = np.array([bool(v) for v in strings(candidates)], dtype=np.bool_)
        scores = np.full(len(given), np.nan, dtype=np.float32)
        statuses = np.zeros(len(given), dtype=np.uint8)
        scores[given] = np.concatenate([a.scores for a in answers])
        statuses[given] = np.concatenate([a.statuses for a in answers])
    values: dict[str, Numbers] = {"scores": scores, "statuses": statuses}
    found = [a.completeness for a in answers]
    return InferAnswer(
        call.model,
        answers[0].generation,
        call.id,
        {
            "candidates_asked": sum(c.candidates_asked for c in found),
            "candidates_found": sum(c.candidates_found for c in found),
            "behaviours_asked": sum(c.behaviours_asked for c in found),
            "behaviours_found": sum(c.behaviours_found for c in found),
            "stale": any(c.stale for c in found),
            "encoded": sum(c.encoded for c in found),
            "encode_failed": sum(c.encode_failed for c in found),
        },
        [Tensor(name, _OUTPUTS[name], candidates.shape, values[name]) for name in (call.outputs or _OUTPUTS)],
    )


def _input_infos(schema: FeatureSchema) -> list[TensorInfo]:
    infos = [TensorInfo(name, datatype, (-1,)) for name, datatype in INPUTS.items()]
    return infos + [TensorInfo(QUERY + m.name, "FP32", (m.dim,)) for m in schema.query]


def _output_infos() -> list[TensorInfo]:
    return [TensorInfo(name, datatype, (-1,)) for name, datatype in _OUTPUTS.items()]
