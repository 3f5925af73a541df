"""What a bulk load reads: rows in an order, that can be read again from any row on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from contracts.space import Space
from contracts.window import Window


@dataclass(frozen=True)
class Batch:
    """What some rows of a source are. end: the row behind the last; rows: how many; refused: (item or row,
    reason) of those that are not in the window."""

    end: int
    rows: int
    window: Window
    refused: list[tuple[str, str]] = field(default_factory=list)


class Source(Protocol):
    """identity: at most 64 characters that change when the rows do."""

    @property
    def space(self) -> Space: ...

    @property
    def rows(self) -> int: ...

    @property
    def identity(self) -> str: ...

    def batches(self, first: int, most: int, sequence: int) -> Iterator[Batch]:
        """Batches of at most `most` rows from row `first` on. sequence: of rows that bring none. Blocking."""
        ...
