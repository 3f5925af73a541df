"""The inputs of an Open Inference call as score requests.

B requests may be asked in one call: tensors then have one row per request, and an empty string in
`candidates` or `behaviours` fills a row up.

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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from contracts.errors import InvalidInput, TooLarge
from contracts.items import AttributeValue
from contracts.request import PRIORITIES, Behaviour, MissingPolicy, Priority, ScoreRequest
from serving.content_json import json_object, read_contents
from serving.tensors import Numbers, Tensor

QUERY = "query."
INPUTS = {
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


@dataclass(frozen=True)
class InferCall:
    """version: None = whichever the scene serves; outputs: names, none = all of them."""

    model: str
    version: str | None
    id: str
    parameters: Mapping[str, object]
    inputs: Sequence[Tensor]
    outputs: Sequence[str]


def check_input(name: str, datatype: str) -> None:
    """InvalidInput where there is no such input, or its tensor has another datatype."""
    wanted = "FP32" if name.startswith(QUERY) else INPUTS.get(name)
    if wanted is None:
        raise InvalidInput("inputs", name, f"is not one of {sorted(INPUTS)} or {QUERY}<modality>")
    if datatype != wanted:
        raise InvalidInput(f"{name}.datatype", datatype, f"must be {wanted}")


def score_requests(call: InferCall, most: int) -> list[ScoreRequest]:
    """The B requests of a call, at most `most`; InvalidInput, TooLarge name the tensor that does not fit."""
    tensors = inputs_of(call)
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


def inputs_of(call: InferCall) -> dict[str, Tensor]:
    """Tensors by name. InvalidInput where two have one name."""
    found = {tensor.name: tensor for tensor in call.inputs}
    if len(found) < len(call.inputs):
        raise InvalidInput("inputs", [t.name for t in call.inputs], "name a tensor twice")
    return found


def strings(tensor: Tensor) -> list[str]:
    """The values of a tensor of BYTES."""
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
    values, width = strings(tensor), _width(tensor, count)
    if len(tensor.shape) == 1:
        return [values]
    return [[v for v in values[b * width : (b + 1) * width] if v] for b in range(count)]


def _behaviours(tensors: Mapping[str, Tensor], count: int) -> list[list[Behaviour]]:
    ids, times = tensors.get("behaviours"), tensors.get("behaviour_times")
    if ids is None:
        if times is not None:
            raise InvalidInput("behaviour_times", list(times.shape), "need behaviours")
        return [[] for _ in range(count)]
    width, values = _width(ids, count), strings(ids)
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
    return strings(tensor)


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
    return json_object(text, where) if text else {}


def _queries(tensors: Mapping[str, Tensor], count: int) -> list[dict[str, Sequence[float]]]:
    queries: list[dict[str, Sequence[float]]] = [{} for _ in range(count)]
    for name, tensor in tensors.items():
        if name.startswith(QUERY):
            rows = _numbers(tensor).reshape(count, _width(tensor, count))
            for query, row in zip(queries, rows, strict=True):
                query[name.removeprefix(QUERY)] = row.tolist()
    return queries


def deadline_of(parameters: Mapping[str, object]) -> float | None:
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
        found = shortest(found, value / per_second)
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


def shortest(one: float | None, other: float | None) -> float | None:
    """Of two limits of time, None = none."""
    return min((limit for limit in (one, other) if limit is not None), default=None)
