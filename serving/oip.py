"""The Open Inference Protocol, version 2, over one Scorer: what its doors share. Tensors in, tensors out.

A scene is a model, a generation its version. B requests may be asked in one call: tensors then have one
row per request, and an empty string in `candidates` or `behaviours` fills a row up.

| input            | datatype | shape           |                                                    |
| ---------------- | -------- | --------------- | -------------------------------------------------- |
| candidates       | BYTES    | (N) or (B, N)   | item ids; the only input that must be given        |
| behaviours       | BYTES    | (T) or (B, T)   | item ids, newest last                              |
| behaviour_times  | INT64    | as behaviours   | milliseconds since the epoch, -1 = unknown         |
| user_id          | BYTES    | (1), (B), (B,1) | empty = unknown                                    |
| user, context    | BYTES    | likewise        | columns as a JSON object, empty = none             |
| timestamp_ms     | INT64    | likewise        | when the request was made, -1 = now                |
| query.<modality> | FP32     | (D) or (B, D)   | what was searched for, all 0 = nothing             |
| query_text       | BYTES    | (1), (B), (B,1) | the same in words, empty = nothing                 |
| query_image      | BYTES    | likewise        | as a picture (base64 in JSON), empty = nothing     |
| contents         | BYTES    | likewise        | JSON object of contents by item id, empty = none   |

| output   | datatype | shape         |                                                                |
| -------- | -------- | ------------- | -------------------------------------------------------------- |
| scores   | FP32     | as candidates | NaN where missing                                              |
| statuses | UINT8    | as candidates | numbers of repcenter.v1.CandidateStatus, 0 where filled up     |
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast, get_args

import numpy as np
import orjson

from contracts.errors import InvalidInput, NotFound, TooLarge
from contracts.items import AttributeValue
from contracts.request import PRIORITIES, Behaviour, MissingPolicy, Priority, ScoreRequest
from contracts.schema import FeatureSchema
from contracts.scores import Scores
from serving.content_json import read_contents
from serving.live import LiveGenerations
from serving.loaded import LoadedGeneration
from serving.scorer import Scorer
from serving.tensors import Numbers, Tensor

EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "onnx_onnxv1"
_QUERY = "query."
_INPUTS = {
    "candidates": "BYTES",
    "behaviours": "BYTES",
    "behaviour_times": "INT64",
    "user_id": "BYTES",
    "user": "BYTES",
    "context": "BYTES",
    "timestamp_ms": "INT64",
    "query_text": "BYTES",
    "query_image": "BYTES",
    "contents": "BYTES",
}
PICTURES = frozenset({"query_image"})  # BYTES that are no text
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
class InferCall:
    """version: None = whichever the scene serves; outputs: names, none = all of them."""

    model: str
    version: str | None
    id: str
    parameters: Mapping[str, object]
    inputs: Sequence[Tensor]
    outputs: Sequence[str]


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
        candidates = _inputs(call).get("candidates")
        if candidates is None:
            raise InvalidInput("inputs", [t.name for t in call.inputs], "lack candidates")
        requests = score_requests(call, self._scorer.limits.requests)
        limit_s = _shortest(deadline_s, _deadline_s(call.parameters))
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


def check_input(name: str, datatype: str) -> None:
    """InvalidInput where there is no such input, or its tensor has another datatype."""
    wanted = "FP32" if name.startswith(_QUERY) else _INPUTS.get(name)
    if wanted is None:
        raise InvalidInput("inputs", name, f"is not one of {sorted(_INPUTS)} or {_QUERY}<modality>")
    if datatype != wanted:
        raise InvalidInput(f"{name}.datatype", datatype, f"must be {wanted}")


def score_requests(call: InferCall, most: int) -> list[ScoreRequest]:
    """The B requests of a call, at most `most`; InvalidInput, TooLarge name the tensor that does not fit."""
    tensors = _inputs(call)
    candidates = tensors["candidates"]
    if len(candidates.shape) not in (1, 2):
        raise InvalidInput("candidates.shape", list(candidates.shape), "must have one or two dimensions")
    count = 1 if len(candidates.shape) == 1 else candidates.shape[0]
    if not count:
        raise InvalidInput("candidates.shape", list(candidates.shape), "has no request")
    if count > most:
        raise TooLarge("candidates.shape", count, most, "requests")
    items = _string_rows(candidates, count)
    behaviours = _behaviours(tensors, count)
    user_ids = _single(tensors.get("user_id"), count)
    users = [_columns(text, "user") for text in _single(tensors.get("user"), count)]
    contexts = [_columns(text, "context") for text in _single(tensors.get("context"), count)]
    times = _times(tensors.get("timestamp_ms"), count)
    queries = _queries(tensors, count)
    texts, pictures = _single(tensors.get("query_text"), count), _pictures(tensors.get("query_image"), count)
    contents = [read_contents(text, "contents") for text in _single(tensors.get("contents"), count)]
    missing, default_score = _missing(call.parameters)
    priority = _priority(call.parameters)
    return [
        ScoreRequest(
            items[b],
            behaviours[b],
            call.model,
            user_ids[b] or None,
            users[b],
            contexts[b],
            times[b],
            queries[b],
            call.id or None if count == 1 else None,
            missing,
            default_score,
            priority=priority,
            query_text=texts[b],
            query_image=pictures[b],
            contents=contents[b],
        )
        for b in range(count)
    ]


def _inputs(call: InferCall) -> dict[str, Tensor]:
    found = {tensor.name: tensor for tensor in call.inputs}
    if len(found) < len(call.inputs):
        raise InvalidInput("inputs", [t.name for t in call.inputs], "name a tensor twice")
    return found


def _strings(tensor: Tensor) -> list[str]:
    return cast(list[str], tensor.values)  # `check_input` has seen its datatype


def _numbers(tensor: Tensor) -> Numbers:
    assert not isinstance(tensor.values, list)
    return tensor.values


def _width(tensor: Tensor, count: int) -> int:
    """Values per request of a tensor of rows."""
    if len(tensor.shape) == 2 and tensor.shape[0] == count:
        return tensor.shape[1]
    if len(tensor.shape) == 1 and count == 1:
        return tensor.shape[0]
    raise InvalidInput(
        f"{tensor.name}.shape", list(tensor.shape), f"must have a row for each of {count} requests"
    )


def _string_rows(tensor: Tensor, count: int) -> list[list[str]]:
    values, width = _strings(tensor), _width(tensor, count)
    if len(tensor.shape) == 1:
        return [values]
    return [[v for v in values[b * width : (b + 1) * width] if v] for b in range(count)]


def _behaviours(tensors: Mapping[str, Tensor], count: int) -> list[list[Behaviour]]:
    ids, times = tensors.get("behaviours"), tensors.get("behaviour_times")
    if ids is None:
        if times is not None:
            raise InvalidInput("behaviour_times", list(times.shape), "need behaviours")
        return [[] for _ in range(count)]
    width, values = _width(ids, count), _strings(ids)
    if times is None:
        return [[Behaviour(v) for v in row] for row in _string_rows(ids, count)]
    if times.shape != ids.shape:
        raise InvalidInput("behaviour_times.shape", list(times.shape), f"must be {list(ids.shape)}")
    known: list[int | None] = [t if t != -1 else None for t in _numbers(times).tolist()]
    padded = len(ids.shape) == 2
    pairs = list(zip(values, known, strict=True))
    return [
        [Behaviour(v, t) for v, t in pairs[b * width : (b + 1) * width] if v or not padded]
        for b in range(count)
    ]


def _single(tensor: Tensor | None, count: int) -> list[str]:
    """One string per request, empty where none was given."""
    if tensor is None:
        return [""] * count
    _check_single(tensor, count)
    return _strings(tensor)


def _pictures(tensor: Tensor | None, count: int) -> list[bytes]:
    """One picture per request, empty where none was given."""
    if tensor is None:
        return [b""] * count
    _check_single(tensor, count)
    return cast(list[bytes], tensor.values)


def _times(tensor: Tensor | None, count: int) -> list[int | None]:
    if tensor is None:
        return [None] * count
    _check_single(tensor, count)
    return [t if t != -1 else None for t in _numbers(tensor).tolist()]


def _check_single(tensor: Tensor, count: int) -> None:
    if len(tensor.values) != count or len(tensor.shape) > 2:
        raise InvalidInput(
            f"{tensor.name}.shape", list(tensor.shape), f"must have one value for each of {count}"
        )


def _columns(text: str, where: str) -> Mapping[str, AttributeValue]:
    if not text:
        return {}
    try:
        columns = orjson.loads(text)
    except ValueError as error:
        raise InvalidInput(where, text, "must be a JSON object") from error
    if not isinstance(columns, dict):
        raise InvalidInput(where, text, "must be a JSON object")
    return columns


def _queries(tensors: Mapping[str, Tensor], count: int) -> list[dict[str, Sequence[float]]]:
    queries: list[dict[str, Sequence[float]]] = [{} for _ in range(count)]
    for name, tensor in tensors.items():
        if name.startswith(_QUERY):
            rows = _numbers(tensor).reshape(count, _width(tensor, count))
            for query, row in zip(queries, rows, strict=True):
                query[name.removeprefix(_QUERY)] = row.tolist()
    return queries


def _deadline_s(parameters: Mapping[str, object]) -> float | None:
    """deadline_ms, or timeout, the protocol's name for microseconds; None where neither is given."""
    found = None
    for name, per_second in (("deadline_ms", 1e3), ("timeout", 1e6)):
        value = parameters.get(name)
        if value is None:
            continue
        refused = InvalidInput(
            f"parameters.{name}", value, "must be a number above 0 and of at most 60 seconds"
        )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise refused
        if not 0 < value <= 60 * per_second:
            raise refused
        found = _shortest(found, value / per_second)
    return found


def _missing(parameters: Mapping[str, object]) -> tuple[MissingPolicy, float | None]:
    policy, score = parameters.get("missing", "mask"), parameters.get("default_score")
    if policy not in get_args(MissingPolicy):
        raise InvalidInput("parameters.missing", policy, f"must be one of {list(get_args(MissingPolicy))}")
    if isinstance(score, bool) or not isinstance(score, int | float | None):
        raise InvalidInput("parameters.default_score", score, "must be a probability")
    return cast(MissingPolicy, policy), score


def _priority(parameters: Mapping[str, object]) -> Priority:
    """By name, or as a number of clients that know numbers: 0 = default, 1 = the most urgent, 3 the least."""
    value = parameters.get("priority", 0)
    for priority in PRIORITIES:
        if value == priority:
            return priority
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput("parameters.priority", value, f"must be one of {list(PRIORITIES)} or 0 to 3")
    return "normal" if value in (0, 2) else "high" if value == 1 else "low"


def _shortest(one: float | None, other: float | None) -> float | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


def _answer(call: InferCall, candidates: Tensor, answers: Sequence[Scores]) -> InferAnswer:
    scores, statuses = answers[0].scores, answers[0].statuses
    if len(candidates.shape) == 2:
        given = np.array([bool(v) for v in _strings(candidates)], dtype=np.bool_)
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
    infos = [TensorInfo(name, datatype, (-1,)) for name, datatype in _INPUTS.items()]
    return infos + [TensorInfo(_QUERY + m.name, "FP32", (m.dim,)) for m in schema.query]


def _output_infos() -> list[TensorInfo]:
    return [TensorInfo(name, datatype, (-1,)) for name, datatype in _OUTPUTS.items()]
