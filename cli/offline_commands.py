"""The words of `repcenter offline`; what they do is in cli.offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

offline_app = typer.Typer(help="The offline table: look, prove, compact.", no_args_is_help=True)

VarDir = Annotated[Path, typer.Option("--var", help="Directory of everything that is written.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SpaceId = Annotated[
    str | None, typer.Option("--space", help="A space by the beginning of its id; all if absent.")
]
Root = Annotated[
    str | None,
    typer.Option("--root", help="Directory or fsspec URI; REPCENTER_OFFLINE_URI or <var>/offline if absent."),
]
DEFAULT_VAR = Path("var")


@offline_app.command("inspect")
def inspect(root: Root = None, var: VarDir = DEFAULT_VAR, json: Json = False) -> None:
    """Spaces, files, rows, bytes, and how far behind the window stream they are."""
    from cli.offline import print_state

    print_state(var, root, json)


@offline_app.command("verify")
def verify(
    space: SpaceId = None,
    sample: Annotated[int | None, typer.Option(min=1, help="About so many items instead of all.")] = None,
    root: Root = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Prove that the newest record of every item is the serving table's, both ways (else exit status 1)."""
    from cli.offline import verify as run

    run(var, root, space, sample, json)


@offline_app.command("compact")
def compact(
    space: SpaceId = None,
    most_mb: Annotated[float, typer.Option(min=0.001, help="Size of the files that are made, in MB.")] = 256,
    keep_days: Annotated[
        float | None,
        typer.Option(min=0, help="Drop versions that were replaced longer ago; all are kept if absent."),
    ] = None,
    root: Root = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Merge small files, beside readers and a running sink; a kill at any moment leaves the table whole."""
    from cli.offline import compact_tables

    keep_s = None if keep_days is None else round(keep_days * 86_400)
    compact_tables(var, root, space, round(most_mb * 1e6), keep_s, json)
