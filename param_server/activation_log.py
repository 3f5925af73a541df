"""The log of a scene: every move of its pointer, who moved it, what the gates said, and why it was forced.

A line is written in the same step as the pointer, so no move goes without one. The newest LINES are kept.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from contracts.errors import InvalidInput, UnknownVersion, shown
from contracts.items import check_item_id
from contracts.manifest import canonical
from param_server import keys
from param_server.connection import redis_errors
from param_server.server import Server

LOG_VERSION = 1
LINES = 1_000
MAX_REASON = 1_000  # characters
_MAX_BY = 200

Action = Literal["activate", "roll back", "canary", "promote", "abort", "restore"]


@dataclass(frozen=True)
class GateResult:
    """What a gate found. value, threshold: None where there was nothing to measure or nothing to hold it to;
    detail: for people."""

    gate: str
    passed: bool
    value: float | None
    threshold: float | None
    detail: str


@dataclass(frozen=True)
class Trace:
    """Who moves a pointer. gates: that were asked; forced: why they were overruled."""

    by: str = ""
    gates: tuple[GateResult, ...] = ()
    forced: str | None = None

    def __post_init__(self) -> None:
        if len(self.by) > _MAX_BY:
            raise InvalidInput("by", self.by, f"must be at most {_MAX_BY} characters")
        if self.forced is not None and not 1 <= len(self.forced.strip()) <= MAX_REASON:
            raise InvalidInput("reason", self.forced, f"must be 1 to {MAX_REASON} characters")


@dataclass(frozen=True)
class LogLine:
    """One move. at_ms: the server's clock; left: the generation that served before, None at the first; share:
    of users that a canary gets; `to` is the canary's generation where one begins, `left` where one ends."""

    at_ms: int
    action: Action
    left: str | None
    to: str
    revision: int
    trace: Trace
    share: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "at_ms": self.at_ms,
            "action": self.action,
            "from": self.left,
            "to": self.to,
            "revision": self.revision,
            "by": self.trace.by,
            "gates": [asdict(gate) for gate in self.trace.gates],
            "forced": self.trace.forced,
            **({} if self.share is None else {"share": self.share}),
        }

    def to_bytes(self) -> bytes:
        """Without its time, which the server gives."""
        document = {"version": LOG_VERSION, **self.to_json()}
        del document["at_ms"]
        return canonical(document)


def parse_line(at_ms: int, data: bytes) -> LogLine:
    """`LogLine.to_bytes()` back; UnknownVersion or InvalidInput otherwise."""
    try:
        document = json.loads(data)
        if document["version"] != LOG_VERSION:
            raise UnknownVersion("activation log", document["version"], LOG_VERSION)
        gates = tuple(GateResult(**gate) for gate in document["gates"])
        return LogLine(
            at_ms,
            cast(Action, str(document["action"])),
            None if document["from"] is None else str(document["from"]),
            str(document["to"]),
            int(document["revision"]),
            Trace(str(document["by"]), gates, document["forced"]),
            document.get("share"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput("activation log", data, f"is malformed: {error!r}") from error


async def read_log(redis: Server, scene: str, count: int = LINES) -> list[LogLine]:
    """The newest `count` moves of a scene, newest first. Raises Unavailable, UnknownVersion, InvalidInput."""
    check_item_id(scene, "scene")
    async with redis_errors(f"read the log of scene {shown(scene)}"):
        entries = await cast(Any, redis.xrevrange(cast(str, keys.activations(scene)), count=count))
    return [parse_line(int(entry_id.split(b"-")[0]), fields[b"line"]) for entry_id, fields in entries]
