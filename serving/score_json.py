"""The JSON of POST /v1/score: body -> ScoreBody, and its schema.

pydantic-core validates straight from bytes into the contracts' dataclasses, faster than orjson and checks
by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from fastapi.exceptions import RequestValidationError
from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError, WithJsonSchema

from contracts.explanation import MAX_EXPLAINED
from contracts.item_json import decode_base64
from contracts.request import (
    MAX_CANDIDATES,
    MAX_CONTENTS,
    Behaviour,
    MissingPolicy,
    Priority,
    ScoreRequest,
)
from serving.content_json import Column, Content, contents_of

EXAMPLE_BODY: dict[str, Any] = {
    "scene": "default",
    "user_id": "u42",
    "behaviours": [
        {"item_id": "film-318", "timestamp_ms": 1700000000000},
        {"item_id": "film-858", "timestamp_ms": 1700000360000},
    ],
    "candidates": ["film-50", "film-260", "film-new"],
    "user": {"age": 34, "tastes": ["Crime", "Drama"]},
    "context": {"device": "tv"},
    "timestamp_ms": 1700000400000,
    "query": {},
    "deadline_ms": 100,
    "top_k": 1,
    "request_id": "page-7f3a",
}
Vector = Annotated[  # contracts.request.check_request says what is wrong with it
    Any, WithJsonSchema({"type": "array", "items": {"type": "number"}})
]


@dataclass(frozen=True)
class ScoreBody:
    """What to score, for whom."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    candidates: Annotated[
        list[str],
        FailFast(),
        Field(
            description=f"Ids of the items to score, at most {MAX_CANDIDATES} unless configured. Duplicates "
            "are fine."
        ),
    ]
    behaviours: Annotated[
        list[Behaviour],
        FailFast(),
        Field(description="The user's positive actions, newest last. The ranker reads the newest ones."),
    ] = field(default_factory=list)
    scene: Annotated[str, Field(description="The named use of a ranker.")] = "default"
    user_id: Annotated[
        str | None,
        Field(description="The user, where known. Without behaviours here, the stored ones are read."),
    ] = None
    generation: Annotated[str | None, Field(description="Score with this generation or answer 409.")] = None
    deadline_ms: Annotated[
        float | None, Field(gt=0, le=60_000, description="Answer within this time or with 504.")
    ] = None
    top_k: Annotated[int | None, Field(ge=1, description="Also name the best candidates, best first.")] = None

    user: Annotated[
        dict[str, Column],
        Field(
            description='What is known of the user, by column: a number, a string (split at "|") or a list '
            "of strings. The ranker ignores columns that it was not trained with and reads one that is not "
            "given as absent.",
            examples=[{"age": 34, "tastes": ["Crime", "Drama"]}],
        ),
    ] = field(default_factory=dict)
    context: Annotated[
        dict[str, Column],
        Field(
            description="What is known of this request (device, page, hour …), in the same way.",
            examples=[{"device": "tv"}],
        ),
    ] = field(default_factory=dict)
    timestamp_ms: Annotated[
        int | None,
        Field(
            description="When the request was made, in milliseconds since the epoch; absent means now. Not "
            "before any behaviour."
        ),
    ] = None
    query: Annotated[
        dict[str, Vector],
        Field(
            description="What was searched for: an encoder's vector by modality of the space, for any of "
            "them. Only its direction counts. Empty where nothing was searched for.",
            examples=[{"text": [0.1, -0.2, 0.3]}],
        ),
    ] = field(default_factory=dict)
    request_id: Annotated[
        str | None,
        Field(
            description="Your name of this request, 1 to 256 bytes, to find it again in the score log; "
            "absent: the scorer gives one."
        ),
    ] = None
    explain: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_EXPLAINED,
            description="Also say why this many of the best candidates score as they do.",
        ),
    ] = 0

    missing: Annotated[
        MissingPolicy,
        Field(
            description="What becomes of candidates that are known by neither content nor ID row: `mask`, "
            "they have no score; `fail`, 404 that names the first of them; `encode`, items without content "
            "are encoded from `contents` (status `encoded`), and what remains is masked."
        ),
    ] = "mask"
    default_score: Annotated[
        float | None,
        Field(
            ge=0, le=1, description="The score of masked ones, whose status is then `default`; absent: none."
        ),
    ] = None
    query_text: Annotated[
        str,
        Field(
            description="What was searched for in words, encoded on the way; empty: nothing. Where `query` "
            "has a vector of a modality, that one counts.",
            examples=["a thief and a detective"],
        ),
    ] = ""
    query_image: Annotated[
        str,
        Field(
            description="What was searched for as a picture (JPEG, PNG, WebP, GIF, BMP, TIFF) in base64 or "
            "as a data URI, likewise."
        ),
    ] = ""
    contents: Annotated[
        dict[str, Content],
        Field(
            description="With missing: encode, what candidates and behaviours of this request look like and "
            f"say, by their ids, at most {MAX_CONTENTS} unless configured. Those without a content record "
            "are encoded on the way.",
            examples=[{"film-new": {"title": "Heat", "attributes": {"year": 1995}}}],
        ),
    ] = field(default_factory=dict)

    priority: Annotated[
        Priority,
        Field(description="Who goes first where requests wait, and who is refused first under overload."),
    ] = "normal"

    @property
    def deadline_s(self) -> float | None:
        return None if self.deadline_ms is None else self.deadline_ms / 1e3

    def request(self) -> ScoreRequest:
        """InvalidInput, TooLarge name what is no picture in base64."""
        return ScoreRequest(
            self.candidates,
            self.behaviours,
            self.scene,
            self.user_id,
            self.user,
            self.context,
            self.timestamp_ms,
            self.query,
            self.request_id,
            self.missing,
            self.default_score,
            self.explain,
            self.priority,
            self.query_text,
            decode_base64(self.query_image, "query_image") if self.query_image else b"",
            contents_of(self.contents) if self.contents else {},
        )


_MOST_ERRORS = 100
_ADAPTER = TypeAdapter(ScoreBody)


def parse_score_body(body: bytes) -> ScoreBody:
    """The body, or RequestValidationError that names the fields."""
    try:
        return _ADAPTER.validate_json(body)
    except ValidationError as error:
        raise refused(error) from error


def refused(error: ValidationError) -> RequestValidationError:
    """The door's error of pydantic's. Too many are counted, not told: that takes longer than finding."""
    count = error.error_count()
    if count > _MOST_ERRORS:
        return RequestValidationError([{"loc": ("body",), "msg": f"has {count} errors", "input": "…"}])
    return RequestValidationError(error.errors(include_url=False, include_context=False))


def score_body_schema() -> dict[str, Any]:
    """The JSON schema of a body, from the same adapter that validates; without references."""
    schema = _ADAPTER.json_schema()
    schema["properties"]["behaviours"]["items"] = schema.pop("$defs")["Behaviour"]
    return schema


def request_body_schema() -> dict[str, Any]:
    """OpenAPI's requestBody."""
    return {
        "required": True,
        "content": {"application/json": {"schema": score_body_schema(), "example": EXAMPLE_BODY}},
    }
