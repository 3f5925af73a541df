"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (steps done, steps in all)


def silent(done: int, total: int) -> None:
    """A Progress that shows nothing."""
