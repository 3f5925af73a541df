"""The error tree of the whole house.

RepcenterError                     code
├── InvalidInput                   invalid            a field has a value that we cannot use
├── TooLarge                       too_large          a size limit was exceeded
├── NotFound                       not_found          a named thing does not exist
├── Conflict                       conflict           a compare-and-set lost, or things do not match
│   ├── SpaceMismatch              conflict           vectors of two spaces would have met
│   └── GateFailed                 conflict           a generation is not good enough to serve
├── UnknownVersion                 unknown_version    a format of a version that we do not read
├── BrokenBundle                   broken_bundle      a digest or a golden output does not match
├── ProviderUnavailable            unavailable        the execution provider was not obtained
├── Unauthenticated                unauthenticated    who asks is not known here
├── Forbidden                      forbidden          who asks is known and may not
├── Overloaded                     overloaded         refused to keep the latency of others; retry later
├── Unavailable                    unavailable        a part that we need is not there now
│   └── NotPermitted               unavailable        it is there but refuses this process's user
└── DeadlineExceeded               deadline           the caller's time ran out

Errors know nothing of HTTP or gRPC: each door owns one table from `code` to its own statuses.
"""

from __future__ import annotations

import reprlib

_SHOWN_CHARACTERS = 80
_REPR = reprlib.Repr()  # bounded in depth and length: a message is not the place for 20 MB or 1,000 levels
_REPR.maxstring = _REPR.maxother = _SHOWN_CHARACTERS


def shown(value: object) -> str:
    """`repr(value)` cut to a length that is safe in a message or a log; never raises."""
    try:
        text = _REPR.repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


class RepcenterError(Exception):
    """Any error that Repcenter raises on purpose."""

    code = "internal"


class InvalidInput(RepcenterError):
    """A field holds a value that cannot be used. `field` is a path such as `behaviours[3].item_id`."""

    code = "invalid"

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"{field}: {reason} (got {shown(value)})")
        self.field = field
        self.value = shown(value)
        self.reason = reason


class TooLarge(RepcenterError):
    """A size limit was exceeded."""

    code = "too_large"

    def __init__(self, field: str, size: int, limit: int, unit: str) -> None:
        super().__init__(f"{field}: {size} {unit} exceed the limit of {limit}")
        self.field = field
        self.size = size
        self.limit = limit


class NotFound(RepcenterError):
    """A named thing does not exist."""

    code = "not_found"

    def __init__(self, kind: str, name: object) -> None:
        super().__init__(f"no {kind} {shown(name)}")
        self.kind = kind
        self.name = shown(name)


class Conflict(RepcenterError):
    """A compare-and-set lost, or two things do not belong together."""

    code = "conflict"


class SpaceMismatch(Conflict):
    """Vectors of two spaces would have met."""

    def __init__(self, expected: str, found: str, where: str) -> None:
        super().__init__(f"{where}: expected space {expected}, found {found}")
        self.expected = expected
        self.found = found


class GateFailed(Conflict):
    """A generation may not serve. value, threshold: None where the gate could not measure."""

    def __init__(self, gate: str, value: float | None, threshold: float | None, detail: str) -> None:
        measured = "nothing" if value is None else f"{value:.6g}"
        limit = "" if threshold is None else f", the threshold is {threshold:.6g}"
        super().__init__(f"gate {gate}: measured {measured}{limit}: {detail}")
        self.gate = gate
        self.value = value
        self.threshold = threshold


class UnknownVersion(RepcenterError):
    """A stored or wire format of a version that this build does not read."""

    code = "unknown_version"

    def __init__(self, what: str, found: object, known: object) -> None:
        super().__init__(f"{what}: version {shown(found)} is unknown (this build reads {known})")


class BrokenBundle(RepcenterError):
    """A bundle's digest or golden output does not match."""

    code = "broken_bundle"


class ProviderUnavailable(RepcenterError):
    """The ONNX Runtime execution provider asked for was not obtained."""

    code = "unavailable"


class Unauthenticated(RepcenterError):
    """No key, or one that is not known."""

    code = "unauthenticated"


class Forbidden(RepcenterError):
    """A key of another role."""

    code = "forbidden"


class Overloaded(RepcenterError):
    """Refused so that admitted work stays fast. `retry_after_s` says when to try again."""

    code = "overloaded"

    def __init__(self, what: str, retry_after_s: float = 1.0) -> None:
        super().__init__(f"overloaded: {what}; retry after {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class Unavailable(RepcenterError):
    """A part that we need is not there now."""

    code = "unavailable"


class NotPermitted(Unavailable):
    """A server is there but its user of this process lacks a permission."""


class DeadlineExceeded(RepcenterError):
    """The caller's time ran out before the work was done."""

    code = "deadline"
