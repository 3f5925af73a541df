"""The words of `repcenter generations publish`, `export` and `import`; what they do is in cli.publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

VarDir = Annotated[Path, typer.Option("--var", help="Directory of everything that is written.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_VAR = Path("var")


def publish(
    ranker: Annotated[str, typer.Argument(help="Ranker bundle (a directory or fsspec URI).")],
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Bundle of its space's encoder; that of an earlier generation if absent; '' for vectors "
            "made elsewhere."
        ),
    ] = None,
    id_table: Annotated[
        str | None, typer.Option("--id-table", help="Name of its ID table; after the bundle if absent.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="Copy both bundles there first, where scorers and workers read them.")
    ] = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """A ranker bundle as a generation: its ID rows loaded, all parts checked. Serves once it is activated."""
    from cli.publish import publish_bundles

    publish_bundles(var, ranker, encoder, id_table, to, json)


def export_generations(
    path: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    var: VarDir = DEFAULT_VAR,
) -> None:
    """Generations, scenes and pins into a file: what a lost table server is rebuilt by."""
    from cli.publish import export_published

    export_published(var, path)


def import_generations(
    path: Annotated[Path, typer.Argument(help="A file of `generations export`.")],
    by: Annotated[str | None, typer.Option(help="Who, for the log; user@host if absent.")] = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Publish and point again as the file says (records first: `table load`); a scene that serves stays."""
    from cli.publish import import_published

    import_published(var, path, by, json)
