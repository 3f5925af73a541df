"""Tables for people: what is copied from them is never cut, whatever the terminal's width."""

from __future__ import annotations

from rich.table import Table


def grid(*names: str, title: str | None = None) -> Table:
    """A table whose first column stays on one line; the others are folded. Print it without markup where a
    cell or the title holds what users named."""
    table = Table(title=title)
    for name in names:
        table.add_column(name, no_wrap=not table.columns, overflow="fold")
    return table
