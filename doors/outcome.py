"""How a call at a door ended and how long it took, for its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from contracts.errors import InvalidInput, RepcenterError


@contextmanager
def outcome_of(
    ended: Callable[[str, float], None], fine: str = "ok", malformed: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """ended: gets `fine` or the error's code, and seconds, whatever comes of the block. malformed: errors
    that count as "invalid"."""
    began, outcome = time.perf_counter(), "internal"
    try:
        yield
        outcome = fine
    except RepcenterError as error:
        outcome = error.code
        raise
    except malformed:
        outcome = InvalidInput.code
        raise
    finally:
        ended(outcome, time.perf_counter() - began)
