"""The `repcenter` command. Each sub-command imports its room when it runs, so `--help` stays fast
and works in an install without torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.table_commands import plan_memory, table_app

app = typer.Typer(
    name="repcenter",
    help="Click-through ranking that understands what items look like and say.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
generations_app = typer.Typer(help="Publish state: which generation each scene serves.", no_args_is_help=True)
data_app = typer.Typer(help="Check your own data, or draw the demo's world.", no_args_is_help=True)
events_app = typer.Typer(help="What users did: their stored behaviours.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure on this machine.", no_args_is_help=True)
results_app = typer.Typer(help="Compare models on real data.", no_args_is_help=True)
app.add_typer(generations_app, name="generations")
app.add_typer(table_app, name="table")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(results_app, name="results")
app.add_typer(events_app, name="events")
app.command("plan-memory")(plan_memory)

VarDir = Annotated[Path, typer.Option("--var", help="Directory of everything that is written.")]
Scorer = Annotated[str, typer.Option(help="Base URL of the scorer.", envvar="REPCENTER_SCORER_URL")]
Door = Annotated[str, typer.Option(help="Base URL of the write door.", envvar="REPCENTER_DOOR_URL")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SCORER_URL = "http://127.0.0.1:8080"
DOOR_URL = "http://127.0.0.1:8081"


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="Your data (docs/data.md); a small world if absent.")
    ] = None,
    image_tower: Annotated[Path | None, typer.Option(help="An ONNX image tower of your own.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running at the end.")] = False,
    var: VarDir = Path("var/demo"),
    serve: Annotated[
        str, typer.Option(help="Which ranker to publish: din, din_pos, ciubm or dmae.")
    ] = "dmae",
    seed: Annotated[int, typer.Option(help="Seed of the world, the draws and the training.")] = 0,
) -> None:
    """The whole loop: data, encoder, table, rankers, publish, serve, push, score."""
    from cli.demo import DemoOptions, run_demo

    run_demo(DemoOptions(data=data, image_tower=image_tower, keep=keep, var=var, serve=serve, seed=seed))


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Your data (docs/data.md).")],
    encoder: Annotated[str, typer.Option(help="Encoder bundle whose vectors the offline table holds.")],
    offline: Annotated[str, typer.Option(help="Root of the offline table: a directory or a URL.")],
    out: Annotated[Path, typer.Option(help="Checkpoints, then bundle/ and report.json.")],
    ranker: Annotated[
        str, typer.Option(help="din, din_pos, ciubm, dmae, or a .json file (docs/rankers.md).")
    ] = "dmae",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the train split.")] = 2,
    batch_rows: Annotated[int, typer.Option(min=1, help="Candidate rows of a step, of all ranks.")] = 768,
    learning_rate: Annotated[float, typer.Option(help="At the first step; falls linearly to 0.")] = 3e-3,
    validations: Annotated[int, typer.Option(min=1, help="Validations per epoch.")] = 1,
    patience: Annotated[int, typer.Option(min=1, help="Validations without a better AUC to stop at.")] = 2,
    checkpoint_steps: Annotated[int, typer.Option(min=0, help="Steps between checkpoints.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the draws and the training.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each process.")] = None,
    precision: Annotated[str, typer.Option(help="Of the model's matrix products: fp32 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    base: Annotated[str | None, typer.Option(help="Ranker bundle to train on from.")] = None,
    base_table: Annotated[str | None, typer.Option(help="Name of its published full ID table.")] = None,
    since: Annotated[int | None, typer.Option(help="With --base: where the new day begins, seconds.")] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Seal changed ID rows alone.")] = False,
    user_columns: Annotated[
        str | None, typer.Option(help="Of users.parquet, by commas; all if absent.")
    ] = None,
    context_columns: Annotated[
        str | None, typer.Option(help="Of interactions.parquet, by commas; all if absent, none if empty.")
    ] = None,
    encoding: Annotated[
        list[str] | None,
        typer.Option(help="column=vocabulary|hash|bins|standard|log; repeat."),
    ] = None,
    exclude_unknown: Annotated[
        bool, typer.Option("--exclude-unknown", help="Count rows of unknown items instead of refusing them.")
    ] = False,
    new_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Of the items, held out as new to measure on; 0 = none.")
    ] = 0.15,
    time_gaps: Annotated[
        bool, typer.Option("--time-gaps", help="Read the time since each behaviour.")
    ] = False,
    negative_sampling_rate: Annotated[
        float, typer.Option(help="Share of its negatives that the log has kept; scores are corrected.")
    ] = 1.0,
    calibrate_similarity: Annotated[
        bool, typer.Option("--calibrate-similarity", help="Stretch DMAE's similarities over all buckets.")
    ] = False,
) -> None:
    """Train one ranker; an interrupted run goes on. Under torchrun on all its processes:

    python -m torch.distributed.run --nproc-per-node 2 -m cli.main train DATA ...
    """
    from cli.train import TrainOptions, run_training
    from training.loop import TrainingConfig

    config = TrainingConfig(
        epochs=epochs,
        batch_rows=batch_rows,
        learning_rate=learning_rate,
        validations_per_epoch=validations,
        patience=patience,
        seed=seed,
        checkpoint_steps=checkpoint_steps,
        precision=precision,  # type: ignore[arg-type]  # checked by TrainingConfig
        device=device,  # type: ignore[arg-type]
    )
    run_training(
        TrainOptions(
            data=data,
            encoder=encoder,
            offline=offline,
            out=out,
            ranker=ranker,
            config=config,
            base=base,
            base_table=base_table,
            since_s=since,
            overlay=overlay,
            threads=threads,
            user_columns=_names(user_columns),
            context_columns=_names(context_columns),
            encodings=dict(_pair(e, "--encoding") for e in encoding or []),  # type: ignore[misc]  # checked
            unknown_items="exclude" if exclude_unknown else "refuse",
            new_share=new_share,
            time_gaps=time_gaps,
            negative_sampling_rate=negative_sampling_rate,
            calibrate_similarity=calibrate_similarity,
        )
    )


@app.command()
def up(var: VarDir = Path("var")) -> None:
    """Start the whole stack: Valkey (unless REPCENTER_REDIS_URL), scorer, write door, encoder worker."""
    from cli.stack import run_stack

    run_stack(var)


@app.command()
def scorer() -> None:
    """Run the scorer in this process (settings: REPCENTER_*, docs/settings.md)."""
    import logging

    from param_server.settings import StoreSettings
    from serving.app import run_scorer
    from serving.settings import ScorerSettings

    logging.basicConfig(level=logging.INFO)
    run_scorer(ScorerSettings(), StoreSettings())


@app.command()
def door() -> None:
    """Run the write door in this process."""
    from param_server.settings import StoreSettings
    from realtime_infer.app import run_door
    from realtime_infer.settings import EncoderSettings

    run_door(EncoderSettings(), StoreSettings())


@app.command()
def worker() -> None:
    """Run an encoder worker in this process."""
    from param_server.settings import StoreSettings
    from realtime_infer.app import run_worker
    from realtime_infer.settings import EncoderSettings

    run_worker(EncoderSettings(), StoreSettings())


@app.command()
def score(
    candidates: Annotated[list[str], typer.Argument(help="Items to score.")],
    behaviour: Annotated[
        list[str] | None, typer.Option("--behaviour", "-b", help="A past item, oldest first; repeat.")
    ] = None,
    scene: Annotated[str, typer.Option(help="Scene to score in.")] = "default",
    user: Annotated[
        list[str] | None, typer.Option("--user", "-u", help="A column of the user, name=value; repeat.")
    ] = None,
    context: Annotated[
        list[str] | None, typer.Option("--context", "-c", help="A column of the request, name=value; repeat.")
    ] = None,
    query_file: Annotated[
        Path | None, typer.Option(help="JSON of what was searched for: modality -> list of numbers.")
    ] = None,
    url: Scorer = SCORER_URL,
    json: Json = False,
) -> None:
    """Score candidates for one user through the scorer's HTTP door."""
    from cli.items import print_scores

    print_scores(url, candidates, behaviour or [], scene, json, user or [], context or [], query_file)


@app.command()
def push(
    items: Annotated[Path | None, typer.Argument(help="items.parquet, or a directory that holds it.")] = None,
    item_id: Annotated[str | None, typer.Option("--id", help="Push one item with this id.")] = None,
    title: Annotated[str, typer.Option(help="Its title.")] = "",
    image: Annotated[Path | None, typer.Option(help="Its picture.")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option("--attribute", "-a", help="name=value; repeat.")
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait until it is scoreable.")] = 10.0,
    url: Door = DOOR_URL,
) -> None:
    """Push new or changed items through the write door."""
    from cli.items import push_file, push_one

    if (items is None) == (item_id is None):
        raise typer.BadParameter("name either a file of items or one item with --id")
    if items is not None:
        push_file(url, items)
    elif item_id is not None:
        push_one(url, item_id, title, image, attribute or [], wait)


@app.command()
def status(item_id: str, url: Door = DOOR_URL) -> None:
    """Where an item is: queued, encoding, scoreable, deleted or dead."""
    from cli.items import print_status

    print_status(url, item_id)


@app.command()
def delete(item_id: str, url: Door = DOOR_URL) -> None:
    """Delete an item."""
    from cli.items import delete_item

    delete_item(url, item_id)


@generations_app.command("list")
def generations_list(var: VarDir = Path("var"), json: Json = False) -> None:
    """Published generations and the scenes that serve them."""
    from cli.generations import print_generations

    print_generations(var, json)


@generations_app.command("activate")
def generations_activate(
    generation: str,
    scene: Annotated[str, typer.Option(help="Scene to move.")] = "default",
    expected_revision: Annotated[int | None, typer.Option(help="Refuse if the pointer has moved on.")] = None,
    var: VarDir = Path("var"),
) -> None:
    """Let a scene serve a generation (one atomic pointer)."""
    from cli.generations import activate

    activate(var, generation, scene, expected_revision)


@generations_app.command("roll-back")
def generations_roll_back(
    scene: Annotated[str, typer.Option(help="Scene to move.")] = "default", var: VarDir = Path("var")
) -> None:
    """Let a scene serve the generation before."""
    from cli.generations import roll_back

    roll_back(var, scene)


@events_app.command("push")
def events_push(
    events: Annotated[
        Path | None, typer.Argument(help="A file of events, a JSON object per line; -: stdin.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Push one event of this user.")] = None,
    item: Annotated[str | None, typer.Option(help="Its item.")] = None,
    timestamp_ms: Annotated[int | None, typer.Option("--time", help="Milliseconds; now if absent.")] = None,
    event_id: Annotated[str | None, typer.Option("--id", help="Unique within the user.")] = None,
    kind: Annotated[str | None, typer.Option(help="Such as click or buy.")] = None,
    url: Door = DOOR_URL,
) -> None:
    """Append to users' behaviours through the write door."""
    from cli.events import push_event, push_events
    from contracts.events import Event

    if events is not None and user is None and item is None:
        push_events(url, events)
    elif events is None and user is not None and item is not None:
        push_event(url, Event(user, item, timestamp_ms, event_id, kind))
    else:
        raise typer.BadParameter("name either a file of events or one event with --user and --item")


@events_app.command("import")
def events_import(
    interactions: Annotated[Path, typer.Argument(help="interactions.parquet, or its directory.")],
    most: Annotated[int | None, typer.Option(help="Behaviours kept of a user; 200 if absent.")] = None,
    var: VarDir = Path("var"),
) -> None:
    """Append the liked rows of a log, straight to the shelf; goes on where it was stopped."""
    from cli.events import import_file

    import_file(var, interactions, most)


@events_app.command("forget")
def events_forget(user: str, url: Door = DOOR_URL) -> None:
    """Delete all of a user's behaviours; late events from before are refused from then on."""
    from cli.events import forget

    forget(url, user)


@events_app.command("show")
def events_show(user: str, json: Json = False, var: VarDir = Path("var")) -> None:
    """A user's stored behaviours, newest last."""
    from cli.events import show

    show(var, user, json)


@data_app.command("check")
def data_check(data: Path) -> None:
    """Read a data directory and say what it holds, or what is wrong with it (file, column, row)."""
    from cli.data import check_data

    check_data(data)


@data_app.command("draw")
def data_draw(directory: Path, seed: Annotated[int, typer.Option(help="Seed of the world.")] = 0) -> None:
    """Draw the demo's small world into a directory."""
    from cli.data import draw_data

    draw_data(directory, seed)


@app.command()
def loadtest(
    var: VarDir = Path("var/demo"),
    seconds: Annotated[int, typer.Option(min=1, max=3600, help="How long.")] = 60,
    users: Annotated[int, typer.Option(min=1, max=500, help="Simulated users, half HTTP, half gRPC.")] = 8,
) -> None:
    """Start the stack, drive it with locust over HTTP and gRPC, print percentiles, stop it."""
    from cli.loadtest import run_loadtest

    run_loadtest(var, seconds, users)


@bench_app.command("graph")
def bench_graph(
    json: Json = False,
    models: Annotated[
        str, typer.Option(help="Rankers to measure, separated by commas: din, din_pos, ciubm, dmae.")
    ] = "dmae,ciubm",
) -> None:
    """The serving graph beside the literal one: one thread, trained weights, medians of interleaved runs."""
    from training.graph_bench import run

    run(json=json, models=[name.strip() for name in models.split(",")])


@bench_app.command("train")
def bench_train(
    json: Json = False,
    rows: Annotated[int, typer.Option(min=1, help="Candidate rows of one epoch.")] = 49_152,
    width: Annotated[int, typer.Option(min=1, help="Candidates of a request, which share a history.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every contender.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Epochs timed of each, in turn; medians count.")] = 3,
    fuxictr: Annotated[
        Path, typer.Option(help="FuxiCTR's virtual environment, made there if missing.")
    ] = Path("var/bench/fuxictr"),
    skip_fuxictr: Annotated[bool, typer.Option("--skip-fuxictr", help="Time ours only.")] = False,
) -> None:
    """Training rows per second of DIN, CiUBM and DMAE beside FuxiCTR's DIN on the same rows."""
    from training.train_bench import run

    rival = None if skip_fuxictr else fuxictr
    run(json=json, rows=rows, width=width, threads=threads, repeats=repeats, fuxictr=rival)


@results_app.command("rankers")
def results_rankers(
    data: Annotated[Path, typer.Option(help="The log and its items.")],
    image_tower: Annotated[Path, typer.Option(help="An ONNX image tower.")],
    runs: Annotated[Path, typer.Option(help="Directory of the runs; processes share it.")] = Path(
        "var/results/rankers"
    ),
    variants: Annotated[str, typer.Option(help="Names separated by commas; all if empty.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, … of the training.")] = 3,
    draws: Annotated[int, typer.Option(min=1, help="Draws 0, 1, … of the new items.")] = 2,
    rows: Annotated[int, typer.Option(min=0, help="Train rows, about, whole requests; 0 = all.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one training.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the runs.")] = 1,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="Measure on the validation split with other draws, for choices.")
    ] = False,
    report: Annotated[Path, typer.Option(help="Where rankers.md and its pictures go.")] = Path(
        "docs/results"
    ),
    no_report: Annotated[bool, typer.Option("--no-report", help="Train only.")] = False,
) -> None:
    """Train and measure the ladder of rankers, run by run (resumable), and write docs/results/rankers.md."""
    from cli.results import ResultsOptions, run_results
    from training.recipes.ranker_results import Comparison
    from training.results.runs import Settings

    comparison = Comparison(
        directory=runs,
        variants=[name.strip() for name in variants.split(",") if name.strip()],
        seeds=seeds,
        draws=draws,
        settings=Settings(rows=rows, epochs=epochs, tuning=tuning),
        threads=threads,
    )
    run_results(
        ResultsOptions(
            data=data,
            image_tower=image_tower,
            comparison=comparison,
            jobs=jobs,
            report=None if no_report else report,
            arguments=sys.argv[1:],
        )
    )


def _names(given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


def _pair(given: str, option: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not (name and equals and value):
        from contracts.errors import InvalidInput

        raise InvalidInput(option, given, "must be column=encoding")
    return name, value


@bench_app.command("table")
def bench_table(
    json: Json = False,
    items: Annotated[int, typer.Option(help="Items in the table.")] = 200_000,
    growth: Annotated[str, typer.Option(help="Further counts of items, separated by commas.")] = "",
    layouts: Annotated[str, typer.Option(help="Further rows per bucket, separated by commas.")] = "",
    feast: Annotated[bool, typer.Option(help="Also measure Feast, in an environment of its own.")] = True,
    var: VarDir = Path("var"),
) -> None:
    """The tables: bytes per item, cold reads beside a bare MGET and Feast, bulk load."""
    from param_server.table_bench import run

    run(
        json=json,
        items=items,
        growth=_counts("growth", growth),
        rows_per_bucket=_counts("layouts", layouts),
        feast=var / "bench" / "feast" if feast else None,
    )


@bench_app.command("behaviours")
def bench_behaviours(
    json: Json = False, users: Annotated[int, typer.Option(min=100, help="Users in the store.")] = 5_000
) -> None:
    """The stored behaviours: bytes per user, appends, reads, bulk import (about a minute)."""
    from param_server.behaviour_bench import run

    run(users=users, as_json=json)


def _counts(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(
            f"must be whole numbers separated by commas, not {text!r}", param_hint=name
        ) from None


def main() -> None:
    """Entry point: errors of ours are one line, not a stack trace."""
    from contracts.errors import RepcenterError

    try:
        app()
    except RepcenterError as error:
        print(f"repcenter: {error.code}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
