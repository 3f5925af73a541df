"""The JSON of events -> Event. One event is one object; a batch is NDJSON, an object per line."""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.errors import TooLarge
from contracts.events import MAX_EVENTS, Event
from contracts.items import MAX_ID_BYTES

JSON, NDJSON = "application/json", "application/x-ndjson"
EXAMPLE: dict[str, Any] = {
    "user_id": "u42",
    "item_id": "film-318",
    "timestamp_ms": 1700000000000,
    "event_id": "8d6f1c1e",
    "kind": "watch",
}
EXAMPLE_LINES = (
    '{"user_id": "u42", "item_id": "film-318", "timestamp_ms": 1700000000000, "event_id": "8d6f1c1e"}\n'
    '{"user_id": "u43", "item_id": "film-50", "timestamp_ms": 1700000000120}\n'
)
_ID = f"A string of at most {MAX_ID_BYTES} bytes of UTF-8; any characters."


class EventBody(BaseModel):
    """One positive action of a user."""

    model_config = ConfigDict(extra="forbid", strict=True)

    user_id: str = Field(description=_ID)
    item_id: str = Field(description=_ID)
    timestamp_ms: int | None = Field(
        None, description="Milliseconds since the epoch, at most an hour ahead; absent: its arrival."
    )
    event_id: str | None = Field(
        None, description="Unique within the user. Absent: item, time and kind identify the event."
    )
    kind: str | None = Field(
        None, description="A word such as click or buy. Not stored; REPCENTER_EVENT_KINDS says which count."
    )

    def event(self) -> Event:
        return Event(self.user_id, self.item_id, self.timestamp_ms, self.event_id, self.kind)


class EventsAnswer(BaseModel):
    """What became of the events. They are on disk, and the next score request reads them."""

    appended: int
    duplicates: int = Field(description="Known already.")
    too_old: int = Field(description="Not newer than the oldest of a full list.")
    forgotten: int = Field(description="From before the deletion of the user's data.")
    ignored: int = Field(description="Of a kind that does not count.")


class ForgottenAnswer(BaseModel):
    """The user's behaviours are deleted, on disk too."""

    user_id: str
    behaviours: int = Field(description="How many were deleted.")
    forgotten_ms: int = Field(description="Events up to this time are refused from now on.")


def parse_event(body: bytes) -> Event:
    """One object; RequestValidationError names the fields."""
    return _parse(body, ())


def parse_lines(body: bytes) -> list[Event]:
    """NDJSON, empty lines left out; errors name `events[3].item_id`: the fourth event. TooLarge."""
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > MAX_EVENTS:
        raise TooLarge("events", len(lines), MAX_EVENTS, "events")
    return [_parse(line, ("events", n)) for n, line in enumerate(lines)]


def events_schema() -> dict[str, Any]:
    """OpenAPI's requestBody."""
    schema = EventBody.model_json_schema()
    lines = {"type": "string", "description": f"An event per line, at most {MAX_EVENTS}: all or none."}
    return {
        "required": True,
        "content": {
            JSON: {"schema": schema, "example": EXAMPLE},
            NDJSON: {"schema": lines, "example": EXAMPLE_LINES},
        },
    }


def _parse(text: bytes, where: tuple[str | int, ...]) -> Event:
    try:
        return EventBody.model_validate_json(text).event()
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        raise RequestValidationError([{**one, "loc": (*where, *one["loc"])} for one in errors]) from error
