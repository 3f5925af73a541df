"""The JSON of an answer to POST /v1/score, and its schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, Field

from contracts.scores import Scores, Source

EXAMPLE_ANSWER: dict[str, Any] = {
    "scene": "default",
    "generation": "g0123456789ab",
    "request_id": "page-7f3a",
    "scores": [0.412, 0.087, None],
    "statuses": ["ok", "cold", "missing"],
    "completeness": {
        "behaviours_asked": 2,
        "behaviours_found": 2,
        "candidates_asked": 3,
        "candidates_found": 2,
        "columns_asked": 3,
        "columns_found": 3,
        "behaviours_source": "request",
        "stale": False,
        "encoded": 0,
        "encode_failed": 0,
    },
    "timings_ms": {"queue": 0.02, "fetch": 0.41, "assemble": 0.22, "run": 1.9, "total": 2.6, "encode": 0.0},
    "top": [{"item_id": "film-50", "position": 0, "score": 0.412}],
    "explanations": None,
}


class TimingsMs(BaseModel):
    """Milliseconds per stage; queue: waiting for a free worker; encode: what the request brought, 0 where no
    encoder was asked."""

    queue: float
    fetch: float
    assemble: float
    run: float
    total: float
    encode: float


class CompletenessAnswer(BaseModel):
    """How much of the request the tables knew, by record or ID row."""

    behaviours_asked: int
    behaviours_found: int
    candidates_asked: int
    candidates_found: int
    columns_asked: Annotated[int, Field(description="The ranker's columns of users and contexts.")]
    columns_found: Annotated[int, Field(description="Those of them that the request gave.")]
    behaviours_source: Source
    stale: Annotated[bool, Field(description="From cached rows of any age: the tables did not answer.")]
    encoded: Annotated[int, Field(description="Items that were encoded from the request's contents.")]
    encode_failed: Annotated[int, Field(description="Those that could not be; they stay as they were.")]


class TopItem(BaseModel):
    """One of the best candidates; position: in the request."""

    item_id: str
    position: int
    score: float


class WeighedBehaviour(BaseModel):
    """A behaviour and its number. age: 0 is the newest."""

    item_id: str
    age: int
    value: float


class ExplanationAnswer(BaseModel):
    """Why a candidate scored as it did."""

    item_id: str
    position: int
    score: float
    logit: float
    contributions: Annotated[
        dict[str, float],
        Field(description="By part of the ranker: the logit less the logit with zeros in that part's place."),
    ]
    behaviours: Annotated[
        dict[str, list[WeighedBehaviour]],
        Field(
            description="The most telling behaviours, by what their number is: similarity.<modality>, "
            "weights.<module>, attention.<modality>."
        ),
    ]
    distributions: Annotated[
        dict[str, list[list[float]]],
        Field(
            description="DMAE's interest distribution by distribution.<modality>: the share of the "
            "behaviours by region of age, newest first, and interval of similarity, least similar first."
        ),
    ]


class ScoreAnswer(BaseModel):
    """scores and statuses are in the order of the candidates; a missing item's score is null."""

    scene: str
    generation: str
    request_id: str
    scores: list[float | None]
    statuses: list[Literal["ok", "cold", "missing", "default", "encoded"]]
    completeness: CompletenessAnswer
    timings_ms: TimingsMs
    top: list[TopItem] | None
    explanations: list[ExplanationAnswer] | None


def score_answer(scores: Scores, candidates: list[str], top_k: int | None) -> bytes:
    """The answer's JSON. orjson writes NaN of an array as null and float32 in its shortest form."""
    timings = scores.timings
    answer = {
        "scene": scores.scene,
        "generation": scores.generation,
        "request_id": scores.request_id,
        "scores": scores.scores,
        "statuses": scores.status_names(),
        "completeness": scores.completeness,
        "timings_ms": {
            "queue": round(timings.queue_ms, 3),
            "fetch": round(timings.fetch_ms, 3),
            "assemble": round(timings.assemble_ms, 3),
            "run": round(timings.run_ms, 3),
            "total": round(timings.total_ms, 3),
            "encode": round(timings.encode_ms, 3),
        },
        "top": None
        if top_k is None
        else [
            {"item_id": candidates[i], "position": i, "score": scores.scores[i]} for i in scores.top(top_k)
        ],
        "explanations": scores.explanations,
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def server_timing(scores: Scores) -> str:
    """The value of the Server-Timing header."""
    t = scores.timings
    return (
        f"queue;dur={t.queue_ms:.3f}, fetch;dur={t.fetch_ms:.3f}, assemble;dur={t.assemble_ms:.3f}, "
        f"run;dur={t.run_ms:.3f}, total;dur={t.total_ms:.3f}, encode;dur={t.encode_ms:.3f}"
    )
