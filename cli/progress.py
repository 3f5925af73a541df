"""Progress of long work: bars in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_S = 10.0


class Advance:
    """Called with (done, total) as often as one likes; `note` says what is being done now."""

    def __init__(self, console: Console, title: str, bars: Progress | None) -> None:
        self._console = console
        self._title = title
        self._bars = bars
        self._task = bars.add_task(title, total=None) if bars else None
        self._began = self._said = time.monotonic()
        self._note = ""

    def note(self, text: str) -> None:
        """What the next calls are about; their time left counts from here."""
        if text == self._note:
            return
        self._note = text
        self._began = time.monotonic()
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, description=f"{self._title} {text}", completed=0, total=None)

    def __call__(self, done: int, total: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            spent = self._said - self._began
            left = spent * (total - done) / done if done else 0.0
            self._console.print(
                f"  {self._title} {self._note}: {done:,} of {total:,}, {spent:.0f} s, {left:.0f} s left",
                highlight=False,
            )


@contextmanager
def stage(console: Console, title: str) -> Iterator[Advance]:
    """One titled stage with its seconds at the end."""
    began = time.monotonic()
    console.print(f"[bold]{title}[/bold]")
    if console.is_terminal:
        with Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        ) as bars:
            yield Advance(console, "", bars)
    else:
        yield Advance(console, title, None)
    console.print(f"  {time.monotonic() - began:.1f} s", style="dim", highlight=False)
