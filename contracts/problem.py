"""Errors on the wire: the one table from an error's code to HTTP and gRPC statuses, and RFC 9457 bodies.

Knows neither FastAPI nor grpc; each door turns these values into its own response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contracts.errors import (
    BrokenBundle,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    RepcenterError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnknownVersion,
    shown,
)

MEDIA_TYPE = "application/problem+json"
GRPC_KEY = "repcenter-problem-bin"  # trailing metadata of a failed call: the same body

# code: (HTTP status, gRPC status name, title)
STATUSES: Mapping[str, tuple[int, str, str]] = {
    "invalid": (422, "INVALID_ARGUMENT", "A field cannot be used"),
    "too_large": (413, "INVALID_ARGUMENT", "A size limit was exceeded"),
    "not_found": (404, "NOT_FOUND", "No such thing"),
    "conflict": (409, "FAILED_PRECONDITION", "Things do not match"),
    "unknown_version": (409, "FAILED_PRECONDITION", "Unknown version"),
    "broken_bundle": (503, "UNAVAILABLE", "A bundle is broken"),
    "unauthenticated": (401, "UNAUTHENTICATED", "Not known here"),
    "forbidden": (403, "PERMISSION_DENIED", "Not allowed"),
    "overloaded": (429, "RESOURCE_EXHAUSTED", "Too much work"),
    "unavailable": (503, "UNAVAILABLE", "Not available now"),
    "deadline": (504, "DEADLINE_EXCEEDED", "Out of time"),
    "internal": (500, "INTERNAL", "An error of ours"),
}


def http_status(error: RepcenterError) -> int:
    return STATUSES[error.code][0]


def grpc_status(error: RepcenterError) -> str:
    """The name of a grpc.StatusCode."""
    return STATUSES[error.code][1]


def retry_after_s(error: RepcenterError) -> float | None:
    """When to try again, where the error says so."""
    return error.retry_after_s if isinstance(error, Overloaded) else None


def problem(error: RepcenterError, instance: str) -> dict[str, Any]:
    """The RFC 9457 body of an error; names field and value where the error has them."""
    status, _, title = STATUSES[error.code]
    body: dict[str, Any] = {
        "type": f"urn:repcenter:problem:{error.code}",
        "title": title,
        "status": status,
        "detail": str(error),
        "instance": instance,
    }
    if (wait_s := retry_after_s(error)) is not None:
        body["retry_after_s"] = wait_s
    if isinstance(error, InvalidInput):
        body["errors"] = [{"field": error.field, "value": error.value, "reason": error.reason}]
    elif isinstance(error, TooLarge):
        body["errors"] = [{"field": error.field, "value": error.size, "reason": f"limit {error.limit}"}]
    return body


def validation_problem(errors: Sequence[Mapping[str, Any]], instance: str) -> dict[str, Any]:
    """The body for pydantic's error list: every entry names the field, the value and the reason."""
    status, _, title = STATUSES["invalid"]
    named = [
        {
            "field": _path(error.get("loc", ())),
            "value": shown(error.get("input")),
            "reason": str(error.get("msg", "")),
        }
        for error in errors[:20]
    ]
    first = named[0] if named else {"field": "body", "reason": "is invalid"}
    return {
        "type": "urn:repcenter:problem:invalid",
        "title": title,
        "status": status,
        "detail": f"{first['field']}: {first['reason']}",
        "instance": instance,
        "errors": named,
    }


def _path(location: Sequence[object]) -> str:
    text = ""
    for part in location:
        if part == "body" and not text:
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "body"


def error_of(body: Mapping[str, Any], retry_after_s: float | None = None) -> RepcenterError:
    """The typed error behind a problem body: what `problem` and `validation_problem` said, said again.

    SpaceMismatch comes back as Conflict, ProviderUnavailable as Unavailable, unknown types as RepcenterError.
    """
    code = str(body.get("type", "")).rpartition(":")[2]
    detail = str(body.get("detail", ""))
    kind = _KINDS.get(code, RepcenterError)
    error = kind.__new__(kind)
    Exception.__init__(error, detail)
    named = body.get("errors") or [{}]
    if isinstance(error, InvalidInput):
        error.field = str(named[0].get("field", ""))
        error.value = str(named[0].get("value", ""))
        error.reason = str(named[0].get("reason", detail))
    elif isinstance(error, TooLarge):
        error.field = str(named[0].get("field", ""))
        error.size = int(named[0].get("value", 0))
        error.limit = int(str(named[0].get("reason", "limit 0")).rpartition(" ")[2])
    elif isinstance(error, NotFound):
        error.kind, error.name = "", ""
    elif isinstance(error, Overloaded):
        told = body.get("retry_after_s", 1.0)
        error.retry_after_s = float(told) if retry_after_s is None else retry_after_s
    return error


_KINDS: Mapping[str, type[RepcenterError]] = {
    kind.code: kind
    for kind in (
        InvalidInput,
        TooLarge,
        NotFound,
        Conflict,
        UnknownVersion,
        BrokenBundle,
        Unauthenticated,
        Forbidden,
        Overloaded,
        Unavailable,
        DeadlineExceeded,
    )
}
