"""The words of `repcenter rollover` and `repcenter backfill`; what they do is in cli.backfill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

rollover_app = typer.Typer(
    help="The next encoder: pushes go to its space too until it serves.", no_args_is_help=True
)

VarDir = Annotated[Path, typer.Option("--var", help="Directory of everything that is written.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Digest = Annotated[str | None, typer.Option(help="Digest that the bundle must have.")]
Buckets = Annotated[
    int | None,
    typer.Option(min=1, help="Hash buckets of the space, part of its identity; for 100,000 items if absent."),
]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait until all workers encode for the space.")]
DEFAULT_VAR = Path("var")


@rollover_app.command("begin")
def begin(
    encoder: Annotated[str, typer.Argument(help="The next encoder's bundle (a directory or fsspec URI).")],
    digest: Digest = None,
    buckets: Buckets = None,
    wait: Wait = 60.0,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Let every push go to this encoder's space too; ends once all workers do so."""
    from cli.backfill import begin as run

    run(var, encoder, digest, buckets, wait, json)


@rollover_app.command("show")
def show(var: VarDir = DEFAULT_VAR, json: Json = False) -> None:
    """Spaces in preparation and which workers encode for them."""
    from cli.backfill import show as run

    run(var, json)


@rollover_app.command("clear")
def clear(space: Annotated[str, typer.Argument(help="Id of the space.")], var: VarDir = DEFAULT_VAR) -> None:
    """End it: after the pointer has moved, or to give the space up."""
    from cli.backfill import clear as run

    run(var, space)


def backfill(
    data: Annotated[Path, typer.Argument(help="Directory of items.parquet (docs/data.md).")],
    encoder: Annotated[str, typer.Option(help="Encoder bundle (a directory or fsspec URI).")],
    digest: Digest = None,
    buckets: Buckets = None,
    offline: Annotated[str | None, typer.Option(help="Root of the offline table; <var>/offline.")] = None,
    following: Annotated[
        bool, typer.Option("--next", help="Begin a rollover first: pushes go to the space too.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Write everything again.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Items of one batch.")] = 128,
    wait: Wait = 60.0,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Encode a whole catalogue into an encoder's space; goes on where it was stopped, gives way to pushes."""
    from cli.backfill import run_backfill

    run_backfill(
        var,
        data,
        encoder,
        digest,
        buckets,
        offline,
        following=following,
        restart=restart,
        batch_size=batch_size,
        wait_s=wait,
        as_json=json,
    )
