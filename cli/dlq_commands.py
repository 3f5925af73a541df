"""The words of `repcenter dlq`; what they do is in cli.dlq."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

dlq_app = typer.Typer(help="Dead letters: pushes that could not be encoded.", no_args_is_help=True)

VarDir = Annotated[Path, typer.Option("--var", help="Directory of everything that is written.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Code = Annotated[str | None, typer.Option(help="Only letters of this error code, such as invalid.")]
Items = Annotated[list[str] | None, typer.Option("--item", help="Only letters of this item; repeat.")]
Letters = Annotated[list[str] | None, typer.Argument(help="Names of letters, as `dlq list` shows them.")]
All = Annotated[bool, typer.Option("--all", help="Every letter.")]
DEFAULT_VAR = Path("var")


@dlq_app.command("list")
def list_letters(
    code: Code = None,
    item: Items = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Dead letters, the newest first: item, reason, when, how large."""
    from cli.dlq import print_letters

    print_letters(var, code, item or [], limit, json)


@dlq_app.command("show")
def show(
    letter: str,
    image: Annotated[Path | None, typer.Option(help="Write the picture that was pushed here.")] = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """One letter with all that was pushed."""
    from cli.dlq import print_letter

    print_letter(var, letter, image, json)


@dlq_app.command("replay")
def replay(
    letters: Letters = None,
    code: Code = None,
    item: Items = None,
    every: All = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even over what was pushed or stored since; it is overwritten.")
    ] = False,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Push letters again, the oldest first. Those of an item that has something newer are passed over."""
    from cli.dlq import replay_letters

    replay_letters(var, _chosen(letters, code, item, every), force, json)


@dlq_app.command("drop")
def drop(
    letters: Letters = None,
    code: Code = None,
    item: Items = None,
    every: All = False,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Forget letters and what was pushed with them."""
    from cli.dlq import drop_letters

    drop_letters(var, _chosen(letters, code, item, every), json)


def _chosen(
    letters: list[str] | None, code: str | None, items: list[str] | None, every: bool
) -> tuple[list[str], str | None, list[str]]:
    if sum((bool(letters), bool(code or items), every)) != 1:
        raise typer.BadParameter("name letters, or filter with --code and --item, or say --all")
    return letters or [], code, items or []
