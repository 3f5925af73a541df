"""The words of `repcenter table` and `plan-memory`; what they do is in cli.table, cli.table_load and
cli.plan_memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

table_app = typer.Typer(help="The tables: look, load, export, compare.", no_args_is_help=True)

VarDir = Annotated[Path, typer.Option("--var", help="Directory of everything that is written.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
IdTableName = Annotated[str | None, typer.Option("--id-table", help="An ID table by name, not a space.")]
SpaceId = Annotated[str | None, typer.Option("--space", help="A space by the beginning of its id.")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin again, whatever an interrupted load did.")]
DEFAULT_VAR = Path("var")


@table_app.command("inspect")
def inspect(
    scan: Annotated[
        bool, typer.Option("--scan", help="Read every record too: deleted, missing, flagged.")
    ] = False,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Spaces and ID tables: rows, bytes, the newest sequence, what the server says of its memory."""
    from cli.table import print_tables

    print_tables(var, scan, json)


@table_app.command("get")
def get(
    item_id: str,
    space: SpaceId = None,
    id_table: IdTableName = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """One item's record in every space and its row in every ID table, decoded."""
    from cli.table import print_item

    print_item(var, item_id, space, id_table, json)


@table_app.command("load")
def load(
    path: Annotated[
        Path | None, typer.Argument(help="Records (a file or a directory) or, with --id-table, ID rows.")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Vectors made elsewhere: item_id and columns of lists of floats.")
    ] = None,
    name: Annotated[str, typer.Option(help="With --vectors: what made them.")] = "",
    version: Annotated[str, typer.Option(help="With --vectors: changes when they cease to compare.")] = "1",
    codec: Annotated[str, typer.Option(help="With --vectors: int8, or fp16 (no ranker reads it).")] = "int8",
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", "-a", help="With --vectors: NAME:numeric or NAME:categorical:SLOTS."),
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(min=1, help="With --vectors: items that a new space is made for.")
    ] = None,
    offline: Annotated[
        str | None, typer.Option(help="Root of the offline table; with --vectors empty for none.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="`offline`: rebuild a space from the offline table.")
    ] = None,
    space: Annotated[
        str | None, typer.Option("--space", help="With --from: the beginning of the space's id.")
    ] = None,
    id_table: IdTableName = None,
    restart: Restart = False,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Parquet into the tables, resumed where it stopped; a newer record always stays."""
    from cli.table_load import load_offline, load_table, load_vectors

    if sum(given is not None for given in (path, vectors, source)) != 1:
        raise typer.BadParameter("name either a file of records, --vectors or --from offline")
    if source is not None:
        if source != "offline":
            raise typer.BadParameter("must be offline", param_hint="--from")
        load_offline(var, offline, space, restart, json)
    elif path is not None:
        load_table(var, path, id_table, restart, json)
    elif vectors is not None:
        if not name:
            raise typer.BadParameter("vectors need a --name", param_hint="--name")
        load_vectors(var, vectors, name, version, codec, attribute or [], capacity, offline, restart, json)


@table_app.command("export")
def export(
    path: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    space: SpaceId = None,
    id_table: IdTableName = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """A space, deletions included, or an ID table into a file that `table load` takes."""
    from cli.table import export_table

    export_table(var, path, space, id_table, json)


@table_app.command("verify")
def verify(
    path: Annotated[Path, typer.Argument(help="Records (a file or a directory) or, with --id-table, rows.")],
    sample: Annotated[int | None, typer.Option(min=1, help="About so many rows instead of all.")] = None,
    id_table: IdTableName = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """A table against its source: missing, older, different, extra rows (then exit status 1)."""
    from cli.table import verify_table

    verify_table(var, path, id_table, sample, json)


@table_app.command("acl")
def acl(
    generate: Annotated[
        Path | None,
        typer.Option(
            help="Draw a password for each role that has none in REPCENTER_ACL_<ROLE>_PASSWORD; written to "
            "this new file, NAME=VALUE per line, which only its owner may read."
        ),
    ] = None,
    setuser: Annotated[
        bool, typer.Option("--setuser", help="ACL SETUSER lines for a running server, not a users file.")
    ] = False,
    before_7_2: Annotated[
        bool, typer.Option("--before-7-2", help="For Redis 7.0, which does not know all the commands.")
    ] = False,
    json: Json = False,
) -> None:
    """The servers' users: what scorer, encoder and admin may do. Without a password a user is off."""
    from cli.access import print_access

    print_access(generate, setuser, before_7_2, json)


def plan_memory(
    items: Annotated[str, typer.Option(help="Items, such as 16e6.")],
    modalities: Annotated[int, typer.Option(min=1, max=7, help="Vectors of an item.")] = 3,
    dim: Annotated[int, typer.Option(min=1, max=1040, help="Components of each.")] = 128,
    attributes: Annotated[int, typer.Option(min=0, help="Attribute slots of a record.")] = 0,
    codec: Annotated[str, typer.Option(help="int8 or fp16.")] = "int8",
    id_bytes: Annotated[int, typer.Option(min=1, max=256, help="UTF-8 bytes of an item id.")] = 12,
    id_dim: Annotated[int, typer.Option(min=0, help="Components of an ID row; 0: no ID tables.")] = 0,
    user_rows: Annotated[str, typer.Option(help="ID rows of users.")] = "0",
    users: Annotated[str, typer.Option(help="Users whose behaviours are stored.")] = "0",
    behaviours: Annotated[int, typer.Option(min=0, help="Behaviours of a user.")] = 64,
    cached: Annotated[str, typer.Option(help="Rows in a process's cache.")] = "0",
    buckets: Annotated[int, typer.Option(min=0, help="Of the space; 0: those made for the items.")] = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Load a sample into each installed server and compare.")
    ] = False,
    on_server: Annotated[
        bool, typer.Option("--on-server", help="Load the sample into REPCENTER_REDIS_URL's, and out again.")
    ] = False,
    json: Json = False,
) -> None:
    """How much memory the tables will take on Redis and Valkey, and what a process needs to cache rows."""
    from cli.plan_memory import count, print_plan
    from contracts.codec import CONTENT_FP16, CONTENT_INT8
    from param_server.planner import Catalogue

    if codec not in ("int8", "fp16"):
        raise typer.BadParameter("must be int8 or fp16", param_hint="--codec")
    catalogue = Catalogue(
        items=count(items, "items"),
        dims=(dim,) * modalities,
        attributes=attributes,
        codec=CONTENT_INT8 if codec == "int8" else CONTENT_FP16,
        id_bytes=id_bytes,
        id_dim=id_dim,
        user_rows=count(user_rows, "user-rows"),
        users=count(users, "users"),
        behaviours=behaviours,
        cached=count(cached, "cached"),
        buckets=buckets,
    )
    print_plan(catalogue, verify, on_server, json)
