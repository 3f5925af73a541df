"""Score requests and answers on both wires."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from contracts.errors import RepcenterError
from contracts.explanation import Explanation, Weighed
from contracts.problem import error_of
from contracts.request import MissingPolicy, Priority, ScoreRequest
from contracts.rpc.columns import column_messages
from contracts.rpc.items import item_message
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.scores import STATUS_NAMES, Completeness, Scores, Timings
from serving.client.encoded import refusal
from serving.client.items import content_document

_POLICIES: dict[MissingPolicy, pb.MissingPolicy] = {
    "mask": pb.MISSING_POLICY_MASK,
    "fail": pb.MISSING_POLICY_FAIL,
    "encode": pb.MISSING_POLICY_ENCODE,
}
_PRIORITIES: dict[Priority, pb.RequestPriority] = {
    "low": pb.REQUEST_PRIORITY_LOW,
    "normal": pb.REQUEST_PRIORITY_NORMAL,
    "high": pb.REQUEST_PRIORITY_HIGH,
}
_STATUS_OF_NAME = {name: number for number, name in enumerate(STATUS_NAMES)}


def score_body(
    request: ScoreRequest,
    *,
    deadline_s: float | None = None,
    generation: str | None = None,
    top_k: int | None = None,
) -> bytes:
    """The JSON of POST /v1/score."""
    return orjson.dumps(
        {
            "scene": request.scene,
            "user_id": request.user_id,
            "behaviours": list(request.behaviours),
            "candidates": list(request.candidates),
            "generation": generation,
            "deadline_ms": None if deadline_s is None else deadline_s * 1e3,
            "top_k": top_k,
            "user": dict(request.user),
            "context": dict(request.context),
            "timestamp_ms": request.timestamp_ms,
            "query": {name: list(vector) for name, vector in request.query.items()},
            "request_id": request.request_id,
            "missing": request.missing,
            "default_score": request.default_score,
            "explain": request.explain,
            # a body that names none can be refused unread
            **({} if request.priority == "normal" else {"priority": request.priority}),
            **_brought(request),
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _brought(request: ScoreRequest) -> dict[str, Any]:
    """What is to be encoded, where there is something."""
    image = base64.b64encode(request.query_image).decode()
    contents = {item_id: content_document(item) for item_id, item in request.contents.items()}
    given = {"query_text": request.query_text, "query_image": image, "contents": contents}
    return {name: value for name, value in given.items() if value}


def read_scores(body: bytes) -> Scores:
    """The answer of POST /v1/score; null scores become NaN."""
    return _scores(orjson.loads(body))


def many_body(
    requests: Sequence[ScoreRequest], *, deadline_s: float | None = None, generation: str | None = None
) -> bytes:
    """The JSON of POST /v1/score/many."""
    bodies = [score_body(request, deadline_s=deadline_s, generation=generation) for request in requests]
    return orjson.dumps({"requests": [orjson.Fragment(body) for body in bodies]})


def read_many(body: bytes) -> list[Scores | RepcenterError]:
    """The answer of POST /v1/score/many."""
    return [
        _scores(outcome["answer"]) if outcome["problem"] is None else error_of(outcome["problem"])
        for outcome in orjson.loads(body)["outcomes"]
    ]


def _scores(document: Mapping[str, Any]) -> Scores:
    return Scores(
        document["scene"],
        document["generation"],
        np.array(document["scores"], dtype=np.float32),
        np.array([_STATUS_OF_NAME[name] for name in document["statuses"]], dtype=np.uint8),
        Completeness(**document["completeness"]),
        Timings(**{f"{stage}_ms": ms for stage, ms in document["timings_ms"].items()}),
        document["request_id"],
        _explanations(document["explanations"]),
    )


def score_message(request: ScoreRequest, generation: str | None = None) -> pb.ScoreRequest:
    return pb.ScoreRequest(
        scene=request.scene,
        user_id=request.user_id,
        behaviours=[pb.Behaviour(item_id=b.item_id, timestamp_ms=b.timestamp_ms) for b in request.behaviours],
        candidates=request.candidates,
        generation=generation,
        user=column_messages(request.user),
        context=column_messages(request.context),
        timestamp_ms=request.timestamp_ms,
        query={name: pb.Vector(values=vector) for name, vector in request.query.items()},
        request_id=request.request_id,
        missing=_POLICIES[request.missing],
        default_score=request.default_score,
        explain=request.explain,
        priority=_PRIORITIES[request.priority],
        query_text=request.query_text,
        query_image=request.query_image,
        contents={item_id: item_message(item) for item_id, item in request.contents.items()},
    )


def read_many_message(message: pb.ScoreManyResponse) -> list[Scores | RepcenterError]:
    return [
        read_score_message(outcome.answer, explained=bool(outcome.answer.explanations))
        if outcome.HasField("answer")
        else refusal(outcome.refusal)
        for outcome in message.outcomes
    ]


def read_score_message(message: pb.ScoreResponse, *, explained: bool = False) -> Scores:
    """explained: whether the request asked for explanations."""
    c, t = message.completeness, message.timings
    return Scores(
        message.scene,
        message.generation,
        np.array(message.scores, dtype=np.float32),
        np.array(message.statuses, dtype=np.uint8),
        Completeness(
            c.behaviours_asked,
            c.behaviours_found,
            c.candidates_asked,
            c.candidates_found,
            c.columns_asked,
            c.columns_found,
            behaviours_source="stored" if c.behaviours_source == pb.BEHAVIOUR_SOURCE_STORED else "request",
            stale=c.stale,
            encoded=c.encoded,
            encode_failed=c.encode_failed,
        ),
        Timings(t.queue_ms, t.fetch_ms, t.assemble_ms, t.run_ms, t.total_ms, t.encode_ms),
        message.request_id,
        tuple(_explained(e) for e in message.explanations) if explained else None,
    )


def _explanations(documents: list[dict[str, Any]] | None) -> tuple[Explanation, ...] | None:
    if documents is None:
        return None
    return tuple(
        Explanation(
            **{
                **document,
                "behaviours": {
                    name: [Weighed(**value) for value in values]
                    for name, values in document["behaviours"].items()
                },
            }
        )
        for document in documents
    )


def _explained(message: pb.Explanation) -> Explanation:
    return Explanation(
        message.item_id,
        message.position,
        message.score,
        message.logit,
        dict(message.contributions),
        {
            name: [Weighed(w.item_id, w.age, w.value) for w in weighed.values]
            for name, weighed in message.behaviours.items()
        },
        {
            name: np.array(grid.shares).reshape(grid.regions, grid.intervals).tolist()
            for name, grid in message.distributions.items()
        },
    )
