"""The `repcenter` command. Each sub-command imports its room when it runs, so `--help` stays fast
and works in an install without torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.backfill_commands import backfill, rollover_app
from cli.bench_commands import bench_app, results_app
from cli.dlq_commands import dlq_app
from cli.generation_commands import generations_app
from cli.offline_commands import offline_app
from cli.table_commands import plan_memory, table_app
from cli.train_command import train

app = typer.Typer(
    name="repcenter",
    help="Click-through ranking that understands what items look like and say.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Check your own data, join it from the score log, or draw the demo's world.", no_args_is_help=True
)
events_app = typer.Typer(help="What users did: their stored behaviours.", no_args_is_help=True)
app.add_typer(generations_app, name="generations")
app.add_typer(table_app, name="table")
app.add_typer(offline_app, name="offline")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(results_app, name="results")
app.add_typer(events_app, name="events")
app.add_typer(dlq_app, name="dlq")
app.add_typer(rollover_app, name="rollover")
app.command("backfill")(backfill)
app.command("plan-memory")(plan_memory)
app.command("train")(train)

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
def up(var: VarDir = Path("var")) -> None:
    """Start the stack: Valkey (unless REPCENTER_REDIS_URL), scorer, write door, encoder, worker, sink."""
    from cli.stack import run_stack

    run_stack(var)


@app.command()
def scorer() -> None:
    """Run the scorer in this process (settings: REPCENTER_*, docs/settings.md)."""
    from param_server.settings import StoreSettings
    from serving.app import run_scorer
    from serving.settings import ScorerSettings

    run_scorer(ScorerSettings(), StoreSettings())


@app.command()
def door() -> None:
    """Run the write door in this process."""
    from param_server.settings import StoreSettings
    from realtime_infer.app import run_door
    from realtime_infer.settings import EncoderSettings

    run_door(EncoderSettings(), StoreSettings())


@app.command()
def encoder() -> None:
    """Run an encoder in this process: texts and pictures to vectors while the caller waits."""
    from param_server.settings import StoreSettings
    from realtime_infer.app import run_encoder
    from realtime_infer.settings import EncoderSettings

    run_encoder(EncoderSettings(), StoreSettings())


@app.command()
def worker() -> None:
    """Run an encoder worker in this process."""
    from param_server.settings import StoreSettings
    from realtime_infer.app import run_worker
    from realtime_infer.settings import EncoderSettings

    run_worker(EncoderSettings(), StoreSettings())


@app.command()
def sink() -> None:
    """Run the sink of live windows into the offline table in this process."""
    from param_server.settings import StoreSettings
    from realtime_infer.app import run_sink
    from realtime_infer.sink_settings import SinkSettings

    run_sink(SinkSettings(), StoreSettings())


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
    query_text: Annotated[str, typer.Option(help="What was searched for, in words.")] = "",
    query_image: Annotated[Path | None, typer.Option(help="What was searched for, as a picture.")] = None,
    contents: Annotated[
        Path | None,
        typer.Option(help="JSON of what items look like and say, id -> content; those missing are encoded."),
    ] = None,
    user_id: Annotated[
        str | None, typer.Option(help="The user; their stored behaviours, without -b.")
    ] = None,
    priority: Annotated[
        Literal["low", "normal", "high"], typer.Option(help="Who goes first where requests wait.")
    ] = "normal",
    url: Scorer = SCORER_URL,
    json: Json = False,
) -> None:
    """Score candidates for one user through the scorer's HTTP door."""
    from cli.items import print_scores

    print_scores(
        url,
        candidates,
        behaviour or [],
        scene,
        json,
        user or [],
        context or [],
        query_file,
        query_text=query_text,
        query_image=query_image,
        contents=contents,
        user_id=user_id,
        priority=priority,
    )


@app.command()
def explain(
    candidates: Annotated[list[str], typer.Argument(help="Items to score.")],
    behaviour: Annotated[
        list[str] | None, typer.Option("--behaviour", "-b", help="A past item, oldest first; repeat.")
    ] = None,
    scene: Annotated[str, typer.Option(help="Scene to score in.")] = "default",
    top: Annotated[int, typer.Option(min=1, max=20, help="Explain so many of the best.")] = 3,
    user_id: Annotated[
        str | None, typer.Option(help="The user; their stored behaviours, without -b.")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option("--user", "-u", help="A column of the user, name=value; repeat.")
    ] = None,
    context: Annotated[
        list[str] | None, typer.Option("--context", "-c", help="A column of the request, name=value; repeat.")
    ] = None,
    query_file: Annotated[
        Path | None, typer.Option(help="JSON of what was searched for: modality -> list of numbers.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page, with its pictures inside.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data directory whose items.parquet has titles and pictures.")
    ] = None,
    url: Scorer = SCORER_URL,
    json: Json = False,
) -> None:
    """Why the best candidates score as they do: behaviours, weights, distributions, what each part adds."""
    from cli.explain import explain as draw

    told = (user_id, user or [], context or [], query_file)
    draw(url, candidates, behaviour or [], scene, top, *told, html, data, json)


@app.command()
def replay(
    captured: Annotated[Path, typer.Argument(help="A captured request, or a directory of them.")],
    ranker: Annotated[
        str | None, typer.Option(help="Where its ranker bundle is, if no longer where it was.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; as captured if absent.")] = None,
    repeat: Annotated[int, typer.Option(min=1, max=10_000, help="Runs of each, for the time.")] = 20,
    var: VarDir = Path("var"),
    json: Json = False,
) -> None:
    """Score captured slow requests again from their record bytes (REPCENTER_CAPTURE_SLOW_MS)."""
    from cli.replay import replay as again

    again(captured, ranker, threads, repeat, var, json)


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
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Of a file: uploads at a time.")] = 4,
    patience: Annotated[
        float, typer.Option(min=0, help="Of a file: seconds without progress before it gives up.")
    ] = 120.0,
    ledger: Annotated[
        Path | None, typer.Option(help="Of a file: where to note how far it is; beside it if absent.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Of a file: forget an earlier run.")] = False,
    json: Json = False,
    url: Door = DOOR_URL,
) -> None:
    """Push new or changed items through the write door. A file goes on where an earlier run was stopped."""
    from cli.items import push_one
    from cli.push import push_file

    if (items is None) == (item_id is None):
        raise typer.BadParameter("name either a file of items or one item with --id")
    if items is not None:
        push_file(
            url,
            items,
            concurrency=concurrency,
            patience_s=patience,
            ledger=ledger,
            restart=restart,
            as_json=json,
        )
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


@data_app.command("join")
def data_join(
    log: Annotated[str, typer.Argument(help="The score log: a directory or URL (REPCENTER_SCORE_LOG).")],
    events: Annotated[Path, typer.Argument(help="What users did: a JSON object per line, or .parquet.")],
    directory: Annotated[Path, typer.Argument(help="Data directory for interactions.parquet.")],
    window: Annotated[float, typer.Option(help="Seconds for which an event counts for a request.")] = 1800.0,
    top: Annotated[
        int | None, typer.Option(help="Only the best so many candidates of a request were shown.")
    ] = None,
    shown_kind: Annotated[
        str | None, typer.Option(help="Kind of the events that say what was shown, such as view.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Kind of events that count as likes; repeat. Default: all others."),
    ] = None,
    scene: Annotated[list[str] | None, typer.Option(help="Only this scene; repeat.")] = None,
    since_ms: Annotated[int | None, typer.Option(help="Only requests from this time on.")] = None,
    until_ms: Annotated[int | None, typer.Option(help="Only requests before this time.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace interactions.parquet.")] = False,
    json: Json = False,
) -> None:
    """Join the score log with events: what serving showed becomes what the next training reads."""
    from cli.score_join import join
    from training.data.score_join import JoinOptions

    options = JoinOptions(window, top, shown_kind, tuple(kind or ()), tuple(scene or ()), since_ms, until_ms)
    join(log, events, directory, options, replace, json)


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
