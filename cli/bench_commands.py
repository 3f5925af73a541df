"""The words of `repcenter bench` and `repcenter results`."""

from __future__ import annotations

import shutil
import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Literal

import typer

bench_app = typer.Typer(help="Measure on this machine.", no_args_is_help=True)
results_app = typer.Typer(help="Compare models on real data.", no_args_is_help=True)

VarDir = Annotated[Path, typer.Option("--var", help="Directory of everything that is written.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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


@bench_app.command("user-states")
def bench_user_states(
    json: Json = False,
    models: Annotated[
        str, typer.Option(help="Rankers to measure, separated by commas: din, din_pos, ciubm, dmae.")
    ] = "dmae,ciubm",
) -> None:
    """The serving graph with a user's state kept, computed anew, and in one piece (under two minutes)."""
    from cli.user_states import kept_states
    from training.user_side_bench import run

    run(kept_states, json=json, models=[name.strip() for name in models.split(",")])


@bench_app.command("gpu")
def bench_gpu(
    models: Annotated[
        str, typer.Option(help="Rankers to measure, separated by commas: din, din_pos, ciubm, dmae.")
    ] = "dmae,ciubm",
    candidates: Annotated[
        str, typer.Option(help="Counts of candidates, separated by commas.")
    ] = "100,500,1000",
    behaviours: Annotated[int, typer.Option(min=1, max=1_000, help="Behaviours of a request.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each figure.")] = 3.0,
    device: Annotated[
        Literal["cuda", "cpu"], typer.Option(help="cpu: what binding and buckets cost there.")
    ] = "cuda",
) -> None:
    """Rankers on a GPU: latency, throughput, fp32, TF32 and fp16 beside the CPU's scores; one JSON line.

    Ends with code 3 where there is no GPU or this ONNX Runtime cannot use it.
    """
    from contracts.errors import ProviderUnavailable
    from training.gpu_bench import GpuOptions, last_line, run

    names = [name.strip() for name in models.split(",")]
    counts = _counts("candidates", candidates)
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"must be at least 1, not {candidates!r}", param_hint="candidates")
    try:
        print(last_line(run(GpuOptions(names, counts, behaviours, seconds=seconds, device=device))))
    except ProviderUnavailable as error:
        typer.echo(f"nothing was measured: {error}", err=True)
        raise typer.Exit(3) from None


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


@bench_app.command("table")
def bench_table(
    json: Json = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="20,000 items, fewer reads, no growth, no Feast: under a minute.")
    ] = False,
    items: Annotated[int | None, typer.Option(help="Items in the table. [default: 200000]")] = None,
    growth: Annotated[
        str | None,
        typer.Option(help="Further counts of items, separated by commas. [default: 10000,100000,1000000]"),
    ] = None,
    nodes: Annotated[
        str, typer.Option(help="Primaries of the clusters to measure, separated by commas; empty: none.")
    ] = "1,2,3",
    layouts: Annotated[str, typer.Option(help="Further rows per bucket, separated by commas.")] = "",
    feast: Annotated[
        bool | None, typer.Option(help="Also measure Feast, in an environment of its own.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Measure again what an interrupted run had measured.")
    ] = False,
    var: VarDir = Path("var"),
) -> None:
    """The tables: bytes per item, reads beside a bare MGET and Feast, loads, clusters (under ten minutes).

    Interrupted, it goes on with the next case.
    """
    from rich.console import Console

    from cli.progress import stage
    from param_server.table_bench import GROWTH, last_line, run

    checkpoint = var / "bench" / "table"
    if restart:
        shutil.rmtree(checkpoint, ignore_errors=True)
    console = Console(stderr=True)
    with stage(console, "Measuring the tables") as advance:

        def progress(text: str, done: int, total: int) -> None:
            advance.note(text)
            advance(done, total)

        result = run(
            items=items or (20_000 if quick else 200_000),
            growth=_counts("growth", growth) if growth is not None else () if quick else GROWTH,
            nodes=_counts("nodes", nodes),
            rounds=200 if quick else 1_000,
            rows_per_bucket=_counts("layouts", layouts),
            feast=var / "bench" / "feast" if (not quick if feast is None else feast) else None,
            checkpoint=checkpoint,
            progress=progress,
            say_case=lambda line: console.print(line, highlight=False, soft_wrap=True),
        )
    print(last_line(result, json))


@bench_app.command("serve")
def bench_serve(
    json: Json = False,
    door: Annotated[Literal["http", "grpc"], typer.Option(help="Which door.")] = "http",
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer rounds and no growth: about half a minute.")
    ] = False,
    overload: Annotated[
        float, typer.Option(min=0, help="Seconds at twice the capacity, 0 = none. Meant: 60.")
    ] = 0.0,
    var: VarDir = Path("var"),
) -> None:
    """A scorer's door beside the bare graph that it serves: DMAE, N = 100, T = 64, cached rows, one worker.

    Server and client run on cores of their own; every score is compared with the literal graph's. The ranker
    is trained once, under <var>/bench/serve.
    """
    from rich.console import Console

    from cli.progress import stage
    from cli.serve_bench import BenchOptions, lines, run

    options = BenchOptions(door, overload_s=overload)
    if quick:
        options = BenchOptions(
            door, rounds=3, seconds=1.0, half_load_s=5.0, overload_s=overload, growth=(), sharing=()
        )
    with stage(Console(stderr=True), f"Measuring the {door} door") as advance:

        def progress(text: str, done: int, total: int) -> None:
            advance.note(text)
            advance(done, total)

        result = run(options, var / "bench" / "serve", progress)
    print(dumps(result) if json else lines(result))


@bench_app.command("peers")
def bench_peers(
    json: Json = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer rounds, four connections only: about a minute and a half.")
    ] = False,
    var: VarDir = Path("var"),
) -> None:
    """The scorer beside LitServe and BentoML: the same requests, rows, graph and core (about seven minutes).

    The peers come from PyPI into environments of their own, under <var>/bench, once; one that cannot be
    installed is left out. Every score is compared with the literal graph's. Linux only.
    """
    from rich.console import Console

    from cli.peer_bench import PeerOptions, run
    from cli.peer_report import lines
    from cli.progress import stage

    options = PeerOptions(rounds=3, seconds=1.0, others=(), open_s=2.0) if quick else PeerOptions()
    with stage(Console(stderr=True), "Measuring the peers") as advance:

        def progress(text: str, done: int, total: int) -> None:
            advance.note(text)
            advance(done, total)

        result = run(options, var / "bench", progress)
    print(dumps(result) if json else lines(result))


@bench_app.command("behaviours")
def bench_behaviours(
    json: Json = False, users: Annotated[int, typer.Option(min=100, help="Users in the store.")] = 5_000
) -> None:
    """The stored behaviours: bytes per user, appends, reads, bulk import (about a minute)."""
    from param_server.behaviour_bench import run

    run(users=users, as_json=json)


@bench_app.command("freshness")
def bench_freshness(
    json: Json = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Fewer items, shorter loops, no infinity: about a minute and a half."),
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Your items with pictures (docs/data.md); drawn ones if absent.")
    ] = None,
    image_tower: Annotated[Path | None, typer.Option(help="An ONNX image tower of your own.")] = None,
    overhead_rate: Annotated[
        float, typer.Option(min=1, help="Pushes per second with the encoder that costs nothing.")
    ] = 100.0,
    infinity: Annotated[
        bool | None,
        typer.Option(help="Also encode the titles with infinity, in an environment of its own (1.5 GB)."),
    ] = None,
    var: VarDir = Path("var"),
) -> None:
    """From a push to a score that says ok, and how many items a worker takes (about five minutes).

    Write door, workers and scorer run as processes of their own, over a server of their own.
    """
    from rich.console import Console

    from cli.freshness import FreshnessOptions, run_freshness
    from cli.freshness_report import last_line, print_report
    from cli.progress import stage

    console = Console(stderr=True)
    options = FreshnessOptions(
        data, image_tower, var, quick, overhead_rate, not quick if infinity is None else infinity
    )
    with stage(console, "Freshness") as advance:
        report = run_freshness(options, advance)
    print_report(console, report)
    print(last_line(report, json))


def _counts(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(
            f"must be whole numbers separated by commas, not {text!r}", param_hint=name
        ) from None
