"""A score request as every door hands it on, and its checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import le
from typing import Literal, get_args

import numpy as np

from contracts.codec import MAX_MODALITIES
from contracts.errors import InvalidInput, TooLarge, shown
from contracts.explanation import MAX_EXPLAINED
from contracts.images import MAX_IMAGE_BYTES
from contracts.items import (
    MAX_ID_BYTES,
    AttributeValue,
    Item,
    check_attributes,
    check_item,
    check_item_id,
    check_name,
    check_text,
)

MAX_CANDIDATES = 2_000
MAX_BEHAVIOURS = 1_000
MAX_REQUESTS = 64
MAX_CONTENTS = 64
MAX_QUERY_DIM = 4_096
_UTF8_BYTES = 4  # at most, of one character


MissingPolicy = Literal["mask", "fail", "encode"]
Priority = Literal["low", "normal", "high"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)  # least urgent first


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for; requests: how many one call may bring; contents: of how many items
    one request may bring what they look like and say."""

    candidates: int = MAX_CANDIDATES
    behaviours: int = MAX_BEHAVIOURS
    requests: int = MAX_REQUESTS
    contents: int = MAX_CONTENTS


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Behaviour:
    """One past positive action of a user. timestamp_ms may be None: then the order given counts."""

    item_id: str
    timestamp_ms: int | None = None


@dataclass(frozen=True)
class ScoreRequest:
    """Items to score for one user. behaviours: newest last.

    user, context: columns by name, as the ranker's schema reads them; a column that it lacks is ignored, one
    that is not given reads as absent. timestamp_ms: when the request was made, None = now. query: what was
    searched for, a vector for any modalities of the space, of any length but zero; empty = no search.
    A ranker that reads no search ignores it. request_id: the caller's name of the request, None = the scorer
    gives one. missing: what becomes of candidates that are known by neither content nor ID row: masked (no
    score) or the whole request fails; encode: items without a content record are encoded from `contents`, and
    what remains is masked. default_score: the score of masked ones, None = none. explain:
    how many of the best candidates to explain, at most MAX_EXPLAINED. query_text, query_image: what was
    searched for in words and as a picture's bytes, empty = none; encoded on the way, for modalities of which
    `query` has no vector. contents: what items of this request, candidates or behaviours, look like and say,
    by their ids. priority: who goes first where requests wait, and who is refused first.
    """

    candidates: Sequence[str]
    behaviours: Sequence[Behaviour] = ()
    scene: str = "default"
    user_id: str | None = None
    user: Mapping[str, AttributeValue] = field(default_factory=dict)
    context: Mapping[str, AttributeValue] = field(default_factory=dict)
    timestamp_ms: int | None = None
    query: Mapping[str, Sequence[float]] = field(default_factory=dict)
    request_id: str | None = None
    missing: MissingPolicy = "mask"
    default_score: float | None = None
    explain: int = 0
    priority: Priority = "normal"
    query_text: str = ""
    query_image: bytes = field(default=b"", repr=False)
    contents: Mapping[str, Item] = field(default_factory=dict, repr=False)


def check_request(request: ScoreRequest, limits: Limits = DEFAULT_LIMITS) -> ScoreRequest:
    """The request, or InvalidInput / TooLarge that names the field."""
    check_item_id(request.scene, "scene")
    if len(request.scene) > 128:
        raise InvalidInput("scene", request.scene, "must have 1 to 128 characters")
    if request.user_id is not None:
        check_item_id(request.user_id, "user_id")
    if len(request.candidates) > limits.candidates:
        raise TooLarge("candidates", len(request.candidates), limits.candidates, "items")
    if len(request.behaviours) > limits.behaviours:
        raise TooLarge("behaviours", len(request.behaviours), limits.behaviours, "items")
    if not _plain_ids(request.candidates):
        for n, item_id in enumerate(request.candidates):
            check_item_id(item_id, f"candidates[{n}]")
    last_ms = _check_behaviours(request.behaviours)
    if request.timestamp_ms is not None:
        _check_time(request.timestamp_ms, "timestamp_ms")
        if last_ms is not None and request.timestamp_ms < last_ms:
            raise InvalidInput("timestamp_ms", request.timestamp_ms, "is before the newest behaviour")
    if request.request_id is not None:
        check_item_id(request.request_id, "request_id")
    _check_missing(request)
    if request.priority not in PRIORITIES:
        raise InvalidInput("priority", request.priority, f"must be one of {list(PRIORITIES)}")
    if type(request.explain) is not int or not 0 <= request.explain <= MAX_EXPLAINED:
        raise InvalidInput("explain", request.explain, f"must be an integer, 0 to {MAX_EXPLAINED}")
    check_attributes(request.user, "user")
    check_attributes(request.context, "context")
    if len(request.query) > MAX_MODALITIES:
        raise TooLarge("query", len(request.query), MAX_MODALITIES, "vectors")
    for name, vector in request.query.items():
        check_name(name, "query")
        _check_vector(vector, f"query.{name}")
    check_text(request.query_text, "query_text")
    _check_picture(request.query_image)
    if request.contents:
        _check_contents(request, limits)
    return request


def _check_picture(image: object) -> None:
    if not isinstance(image, bytes):
        raise InvalidInput("query_image", image, "must be bytes")
    if len(image) > MAX_IMAGE_BYTES:
        raise TooLarge("query_image", len(image), MAX_IMAGE_BYTES, "bytes")


def _check_contents(request: ScoreRequest, limits: Limits) -> None:
    """Of items that the request names, no more than an encoder is asked for."""
    contents = request.contents
    if request.missing != "encode":
        raise InvalidInput("contents", f"{len(contents)} items", "need missing: encode")
    if len(contents) > limits.contents:
        raise TooLarge("contents", len(contents), limits.contents, "items")
    named = {*request.candidates, *(behaviour.item_id for behaviour in request.behaviours)}
    for item_id, item in contents.items():
        if item_id not in named:
            raise InvalidInput("contents", item_id, "is no candidate and no behaviour of the request")
        where = f"contents[{shown(item_id)}]"
        if item.item_id != item_id:
            raise InvalidInput(f"{where}.item_id", item.item_id, "is another one")
        check_item(item, where)


def _plain_ids(ids: Sequence[str]) -> bool:
    """Whether all are usable ids at one glance; False leaves it open."""
    try:
        "".join(ids).encode()
    except (TypeError, UnicodeEncodeError):  # not all strings, not all Unicode
        return False
    lengths = list(map(len, ids))
    return not lengths or (min(lengths) > 0 and max(lengths) <= MAX_ID_BYTES // _UTF8_BYTES)


def _check_behaviours(behaviours: Sequence[Behaviour]) -> int | None:
    """The time of the newest one that has one, or an error that names what is wrong."""
    given = [b.timestamp_ms for b in behaviours if b.timestamp_ms is not None]
    if _plain_ids([b.item_id for b in behaviours]) and _rising(given):
        return given[-1] if given else None
    last_ms = None
    for j, behaviour in enumerate(behaviours):
        check_item_id(behaviour.item_id, f"behaviours[{j}].item_id")
        if behaviour.timestamp_ms is None:
            continue
        where = f"behaviours[{j}].timestamp_ms"
        _check_time(behaviour.timestamp_ms, where)
        if last_ms is not None and behaviour.timestamp_ms < last_ms:
            raise InvalidInput(where, behaviour.timestamp_ms, "goes back: the newest must be last")
        last_ms = behaviour.timestamp_ms
    return last_ms


def _rising(times: Sequence[int]) -> bool:
    """Whether all are usable times in order at one glance; False leaves it open."""
    if set(map(type, times)) - {int}:
        return False
    return not times or (all(map(le, times, times[1:])) and times[0] >= 0 and times[-1] < 2**63)


def _check_missing(request: ScoreRequest) -> None:
    if request.missing not in get_args(MissingPolicy):
        raise InvalidInput("missing", request.missing, f"must be one of {list(get_args(MissingPolicy))}")
    score = request.default_score
    if score is None:
        return
    if request.missing == "fail":
        raise InvalidInput("default_score", score, "needs missing: mask or encode")
    if not 0 <= score <= 1:
        raise InvalidInput("default_score", score, "must be a probability")


def _check_time(value: object, where: str) -> None:
    if type(value) is not int:
        raise InvalidInput(where, value, "must be an integer")
    if not 0 <= value < 2**63:
        raise InvalidInput(where, value, "must be 0 to 2^63-1")


def _check_vector(vector: Sequence[float], where: str) -> None:
    if not isinstance(vector, Sequence | np.ndarray) or isinstance(vector, str | bytes):
        raise InvalidInput(where, vector, "must be a list of numbers")
    if len(vector) > MAX_QUERY_DIM:
        raise TooLarge(where, len(vector), MAX_QUERY_DIM, "numbers")
    try:
        values = np.asarray(vector)
    except ValueError as error:  # lists of different lengths
        raise InvalidInput(where, vector, "must be a list of numbers") from error
    if values.ndim != 1 or values.dtype.kind not in "iuf":  # integers beyond 64 bits are objects
        raise InvalidInput(where, vector, "must be a list of numbers that fit float32")
    if not (np.abs(values.astype(np.float64)) <= np.finfo(np.float32).max).all():
        raise InvalidInput(where, vector, "must be finite and fit float32")
