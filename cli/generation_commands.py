"""The words of `repcenter generations`; what they do is in cli.generations, cli.collect and cli.publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.publish_commands import export_generations, import_generations, publish

generations_app = typer.Typer(
    help="What is published and what each scene serves: publish, compare, activate, roll back, collect.",
    no_args_is_help=True,
)

VarDir = Annotated[Path, typer.Option("--var", help="Directory of everything that is written.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Scene = Annotated[str, typer.Option(help="Scene to move.")]
Catalogue = Annotated[
    Path | None,
    typer.Option(help="Parquet with item_id: what must be covered, instead of what the scene serves now."),
]
MinCoverage = Annotated[
    float | None, typer.Option(min=0, max=1, help="Least share of the catalogue with a content record.")
]
MinIdCoverage = Annotated[
    float | None, typer.Option(min=0, max=1, help="Least share of the catalogue with a trained ID row.")
]
GoldenTolerance = Annotated[
    float | None, typer.Option(min=0, help="Largest difference of golden outputs; else the bundle's own.")
]
Sample = Annotated[int | None, typer.Option(min=0, help="Live items that are looked at; 0: all.")]
By = Annotated[str | None, typer.Option(help="Who, for the log; user@host if absent.")]
DEFAULT_VAR = Path("var")
generations_app.command("publish")(publish)
generations_app.command("export")(export_generations)
generations_app.command("import")(import_generations)


@generations_app.command("list")
def list_generations(var: VarDir = DEFAULT_VAR, json: Json = False) -> None:
    """Published generations and the scenes that serve them."""
    from cli.generations import print_generations

    print_generations(var, json)


@generations_app.command("diff")
def diff(
    first: str,
    second: str,
    scene: Annotated[str, typer.Option(help="Whose live catalogue coverage is of.")] = "default",
    sample: Sample = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """In what two generations differ: encoder, space, ranker, ID table, coverage of the live catalogue."""
    from cli.generations import print_difference

    print_difference(var, first, second, scene, sample, json)


@generations_app.command("check")
def check(
    generation: str,
    scene: Annotated[str, typer.Option(help="Scene that would serve it.")] = "default",
    catalogue: Catalogue = None,
    min_coverage: MinCoverage = None,
    min_id_coverage: MinIdCoverage = None,
    golden_tolerance: GoldenTolerance = None,
    sample: Sample = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Ask the gates, move nothing; exit status 1 where one fails."""
    from cli.generations import check as run
    from cli.generations import limits

    run(
        var,
        generation,
        scene,
        limits(min_coverage, min_id_coverage, golden_tolerance, sample),
        catalogue,
        json,
    )


@generations_app.command("activate")
def activate(
    generation: str,
    scene: Scene = "default",
    expected_revision: Annotated[int | None, typer.Option(help="Refuse if the pointer has moved on.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even where a gate fails; the log keeps it, with the reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="With --force: why.")] = None,
    by: By = None,
    catalogue: Catalogue = None,
    min_coverage: MinCoverage = None,
    min_id_coverage: MinIdCoverage = None,
    golden_tolerance: GoldenTolerance = None,
    sample: Sample = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Let a scene serve a generation (one atomic pointer) once the gates have passed it."""
    from cli.generations import activate as run
    from cli.generations import limits

    if force != (reason is not None):
        raise typer.BadParameter("--force needs a --reason, and a reason needs --force", param_hint="--force")
    run(
        var,
        generation,
        scene,
        limits(min_coverage, min_id_coverage, golden_tolerance, sample),
        catalogue,
        expected_revision,
        reason,
        by,
        json,
    )


@generations_app.command("canary")
def canary(
    generation: str,
    share: Annotated[
        str, typer.Option(help="Of users, such as 5% or 0.05; again with another: more, fewer.")
    ],
    scene: Annotated[str, typer.Option(help="Scene whose users get it.")] = "default",
    salt: Annotated[
        str | None, typer.Option(help="Decides which users; the generation's id if absent.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even where a gate fails; the log keeps it, with the reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="With --force: why.")] = None,
    by: By = None,
    catalogue: Catalogue = None,
    min_coverage: MinCoverage = None,
    min_id_coverage: MinIdCoverage = None,
    golden_tolerance: GoldenTolerance = None,
    sample: Sample = None,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Let a share of a scene's users get a generation once the gates have passed it."""
    from cli.generations import canary as run
    from cli.generations import limits

    if force != (reason is not None):
        raise typer.BadParameter("--force needs a --reason, and a reason needs --force", param_hint="--force")
    settings = limits(min_coverage, min_id_coverage, golden_tolerance, sample)
    run(var, generation, scene, share, salt, settings, catalogue, reason, by, json)


@generations_app.command("promote")
def promote(scene: Scene = "default", by: By = None, var: VarDir = DEFAULT_VAR, json: Json = False) -> None:
    """Let all users of a scene get its canary."""
    from cli.generations import promote as run

    run(var, scene, by, json)


@generations_app.command("abort")
def abort(scene: Scene = "default", by: By = None, var: VarDir = DEFAULT_VAR, json: Json = False) -> None:
    """End a scene's canary: all users get what the scene serves."""
    from cli.generations import abort as run

    run(var, scene, by, json)


@generations_app.command("roll-back")
def roll_back(scene: Scene = "default", by: By = None, var: VarDir = DEFAULT_VAR) -> None:
    """Let a scene serve the generation before; asks no gates."""
    from cli.generations import roll_back as run

    run(var, scene, by)


@generations_app.command("log")
def log(
    scene: Annotated[str, typer.Argument(help="Whose pointer.")] = "default",
    count: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 20,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Every move of a scene's pointer: when, who, what the gates said, what was forced and why."""
    from cli.generations import print_log

    print_log(var, scene, count, json)


@generations_app.command("collect")
def collect(
    keep: Annotated[
        int | None, typer.Option(min=0, max=10, help="Earlier generations of each scene that stay.")
    ] = None,
    grace: Annotated[
        float | None, typer.Option(min=0, help="Seconds since the last use of what is collected.")
    ] = None,
    unpublished_grace: Annotated[
        float | None, typer.Option(min=0, help="The same for tables that no generation ever named.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go and why the rest stays.")
    ] = False,
    var: VarDir = DEFAULT_VAR,
    json: Json = False,
) -> None:
    """Remove what no scene serves or could roll back to, bit by bit; goes on where it was stopped."""
    from cli.collect import run_collect

    run_collect(var, keep, grace, unpublished_grace, dry_run, json)


@generations_app.command("pin")
def pin(
    part: Annotated[str, typer.Argument(help="A generation, the beginning of a space's id, or an ID table.")],
    reason: Annotated[str, typer.Option(help="Why it must stay.")],
    var: VarDir = DEFAULT_VAR,
) -> None:
    """Never collect a generation, a space or an ID table."""
    from cli.collect import pin as run

    run(var, part, reason)


@generations_app.command("unpin")
def unpin(part: str, var: VarDir = DEFAULT_VAR) -> None:
    """Let a pinned part be collected once nothing needs it."""
    from cli.collect import unpin as run

    run(var, part)
