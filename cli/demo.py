"""`repcenter demo`: data, encoder, table, rankers, publish, serve; every figure goes to summary.json."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from cli.demo_report import print_examples, print_models, print_top
from cli.demo_serving import Live, measure
from cli.loadtest import LOAD_IDS_FILE
from cli.progress import Advance, stage
from cli.shelf import shelf
from cli.stack import running_stack, wait_for_signal
from contracts.bundle import Bundle, publish
from contracts.codec import ID_INT8, Rows
from contracts.errors import InvalidInput
from contracts.manifest import Generation, IdTable
from contracts.ranker_spec import ranker_spec_from_json
from contracts.space import buckets_for
from param_server.connection import connect
from param_server.embedded import EmbeddedServer
from param_server.generations import Generations
from param_server.offline import OfflineTable
from param_server.publication import republish
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.backfill import BackfillReport, backfill
from realtime_infer.encoder import Encoder
from training.data.dataset import Dataset, load_dataset
from training.data.holdout import new_items
from training.data.pairs import encoder_input
from training.data.samples import Samples, build_samples
from training.data.world import draw_world
from training.export import RELIABILITY, export_ranker
from training.item_table import align_records
from training.loop import StepReport, TrainingConfig
from training.recipes.encoder import train_encoder
from training.recipes.ranker import (
    HISTORY_LENGTH,
    MODELS,
    RankerRun,
    TableView,
    summary,
    train_rankers,
)

SCENE = "default"
_OWN = ("valkey", "bundles", "offline", "work", "world", "logs")
_ENCODE_BATCH = 64
_LARGE_LOG = 300_000  # candidate rows


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """data: a directory of docs/data.md, None draws a world; var: everything that is written."""

    data: Path | None
    image_tower: Path | None
    keep: bool
    var: Path
    serve: str
    seed: int


def run_demo(options: DemoOptions) -> None:
    """The seven steps. Raises the rooms' typed errors."""
    if options.serve not in MODELS:
        raise InvalidInput("--serve", options.serve, f"must be among {', '.join(MODELS)}")
    began = time.monotonic()
    console = Console()
    var = options.var
    if (var / "valkey").exists():
        EmbeddedServer.start(var / "valkey").stop()  # refused while a stack runs over this directory
    for name in _OWN:
        shutil.rmtree(var / name, ignore_errors=True)
    (var / "work").mkdir(parents=True)

    dataset, new, samples = _data(console, options)
    encoder_bundle, encoder_report = _encoder(console, options, dataset, new)
    encoder_uri = publish(encoder_bundle, str((var / "bundles").resolve()))
    with shelf(var) as redis_url:
        encoder = Encoder.open(
            encoder_uri,
            encoder_bundle.digest,
            threads=os.cpu_count() or 1,
            buckets=buckets_for(len(dataset.catalogue)),
        )
        table, serving_table = _table(console, var, redis_url, dataset, new, encoder)
        run = _rankers(console, options, samples, encoder, table, serving_table, new)
        generation, parity = _publish(
            console, options, redis_url, dataset, samples, run, encoder, encoder_uri, encoder_bundle.digest
        )
        _write_load_ids(var, dataset)
        with running_stack(var, redis_url) as stack:
            live = Live(dataset, samples, new, run, run.results[options.serve], generation, stack)
            measured = measure(console, live, options.seed)
            figures = {
                "items": len(dataset.catalogue),
                "new_items": int(new.sum()),
                "generation": generation.id,
                "served_ranker": options.serve,
                **summary(run.results),
                "push_to_scoreable_ms": measured.push_ms,
                "score_ms": measured.score_ms,
                "max_abs_diff_online_offline": measured.max_abs_diff,
                "seconds_total": round(time.monotonic() - began, 1),
                "interactions": len(dataset.interactions.items),
                "pushed_items": measured.pushed,
                "compared_scores": measured.compared,
                "export_parity": parity,
                "encoder": encoder_report,
            }
            (var / "summary.json").write_text(json.dumps(figures, indent=2) + "\n")
            print_models(console, figures)
            print_top(console, dataset, new, measured.shown)
            console.print(f"every figure: {var / 'summary.json'}", highlight=False)
            if options.keep:
                print_examples(console, stack.endpoints, measured.shown)
                wait_for_signal(stack)


def _data(console: Console, options: DemoOptions) -> tuple[Dataset, npt.NDArray[np.bool_], Samples]:
    with stage(console, "1. Data") as advance:
        directory = options.data
        if directory is None:
            directory = options.var / "world"
            advance.note("drawing a world")
            draw_world(directory, seed=options.seed, progress=advance)
        advance.note(f"reading {directory}")
        dataset = load_dataset(directory, progress=advance)
        new = new_items(dataset, seed=options.seed)
        samples = build_samples(dataset, new, HISTORY_LENGTH)
    console.print(
        f"  {len(dataset.catalogue):,} items, {int(new.sum()):,} of them new; "
        f"{len(dataset.interactions.items):,} interactions in {len(samples):,} requests",
        highlight=False,
    )
    return dataset, new, samples


def _encoder(
    console: Console, options: DemoOptions, dataset: Dataset, new: npt.NDArray[np.bool_]
) -> tuple[Bundle, dict[str, Any]]:
    """The towers and the head see no new item: they are trained on the others' pictures, texts and pairs."""
    catalogue = dataset.catalogue
    with stage(console, "2. Encoder") as advance:
        items, pairs, rows = encoder_input(dataset, new)

        def progress(name: str, done: int, total: int) -> None:
            advance.note(name)
            advance(done, total)

        bundle, report = train_encoder(
            items,
            pairs,
            text_fields=catalogue.text_fields,
            attribute_fields=catalogue.attribute_fields,
            directory=options.var / "work" / "encoder",
            image_tower=options.image_tower,
            rows=rows,
            seed=options.seed,
            progress=progress,
        )
    document: dict[str, Any] = report.to_json()
    return bundle, document


def _table(
    console: Console,
    var: Path,
    redis_url: str,
    dataset: Dataset,
    new: npt.NDArray[np.bool_],
    encoder: Encoder,
) -> tuple[TableView, TableView]:
    """Backfill all but the new items; give the table as training reads it, and with the new items."""
    catalogue, space = dataset.catalogue, encoder.space
    offline_root = str((var / "offline").resolve())
    with stage(console, "3. Table") as advance:
        advance.note("backfill")
        written = asyncio.run(
            _backfill(redis_url, dataset, np.flatnonzero(~new), encoder, offline_root, advance)
        )
        item_ids, rows = OfflineTable(offline_root).read(space)
        records, found = align_records(catalogue.item_ids, item_ids, rows, space)
        advance.note("encoding new items for the offline test")
        fresh_records, fresh_found = _encode(dataset, np.flatnonzero(new), encoder, advance)
    console.print(
        f"  space {space.id}: {written.committed:,} items backfilled, {written.failed} could not be encoded",
        highlight=False,
    )
    for item_id, reason in written.failures[:3]:
        console.print(f"  {item_id}: {reason}", markup=False)
    both = records.copy()
    both[fresh_found] = fresh_records[fresh_found]
    return TableView(records, found), TableView(both, found | fresh_found)


async def _backfill(
    redis_url: str,
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    encoder: Encoder,
    offline_root: str,
    advance: Advance,
) -> BackfillReport:
    settings = StoreSettings()
    redis = connect(redis_url, settings)
    stream = connect(settings.stream_url or redis_url, settings)
    try:
        return await backfill(
            (dataset.catalogue.item(row) for row in rows.tolist()),
            encoder,
            Store(redis),
            stream,
            offline_root,
            progress=lambda report: advance(report.items, len(rows)),
        )
    finally:
        await redis.aclose()
        await stream.aclose()


def _encode(
    dataset: Dataset, rows: npt.NDArray[np.int64], encoder: Encoder, advance: Advance
) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Records of some catalogue rows in catalogue order, written nowhere: (I,) records, (I,) bool."""
    records = np.zeros(len(dataset.catalogue), dtype=encoder.space.dtype)
    found = np.zeros(len(dataset.catalogue), dtype=bool)
    for at in range(0, len(rows), _ENCODE_BATCH):
        chunk = rows[at : at + _ENCODE_BATCH]
        encoded = encoder.encode([dataset.catalogue.item(row) for row in chunk.tolist()])
        good = chunk[encoded.good]
        records[good] = encoder.records(encoded, np.zeros(len(chunk), dtype=np.uint64))
        found[good] = True
        advance(min(at + _ENCODE_BATCH, len(rows)), len(rows))
    return records, found


def _rankers(
    console: Console,
    options: DemoOptions,
    samples: Samples,
    encoder: Encoder,
    table: TableView,
    serving_table: TableView,
    new: npt.NDArray[np.bool_],
) -> RankerRun:
    with stage(console, "4. Rankers") as advance:

        def progress(name: str, report: StepReport) -> None:
            advance.note(name)
            advance(report.step, report.steps)

        return train_rankers(
            samples,
            encoder.space,
            table,
            serving_table,
            new,
            config=_training(options, int(samples.candidate_mask.sum())),
            on_step=progress,
        )


def _training(options: DemoOptions, rows: int) -> TrainingConfig:
    """Small logs want more and smaller steps; large ones overfit after two epochs."""
    common = TrainingConfig(seed=options.seed, threads=os.cpu_count() or 1)
    if rows >= _LARGE_LOG:
        return common
    return dataclasses.replace(common, epochs=3, batch_rows=256, validations_per_epoch=2, patience=4)


def _publish(
    console: Console,
    options: DemoOptions,
    redis_url: str,
    dataset: Dataset,
    samples: Samples,
    run: RankerRun,
    encoder: Encoder,
    encoder_uri: str,
    encoder_digest: str,
) -> tuple[Generation, dict[str, dict[str, Any]]]:
    """Export every ranker with its parity, publish the one to serve, activate it for the scene."""
    with stage(console, "5. Publish") as advance:
        bundles: dict[str, Bundle] = {}
        for n, (name, result) in enumerate(run.results.items()):
            advance.note(f"export of {name}")
            bundles[name] = export_ranker(
                result.trained,
                run.items,
                samples,
                encoder.space,
                run.schema,
                dataset.catalogue.item_ids,
                options.var / "work" / f"ranker-{name}",
                report=result.report,
                calibrated=result.calibrated,
            )
            for suffix in ("json", "svg"):
                shutil.copyfile(
                    bundles[name].file(f"{RELIABILITY}.{suffix}"),
                    options.var / f"{RELIABILITY}-{name}.{suffix}",
                )
            advance(n + 1, len(run.results))
        specs = {n: ranker_spec_from_json(dict(b.manifest.content)) for n, b in bundles.items()}
        chosen, spec = bundles[options.serve], specs[options.serve]
        uri = publish(chosen, str((options.var / "bundles").resolve()))
        generation = Generation(
            created_ms=time.time_ns() // 1_000_000,
            encoder_uri=encoder_uri,
            encoder_digest=encoder_digest,
            space=encoder.space,
            ranker_uri=uri,
            ranker_digest=chosen.digest,
            id_table=IdTable(f"items-{chosen.digest[:16]}", ID_INT8, spec.schema.id_dim, spec.id_row_count),
            notes={"ranker": options.serve},
        )
        advance.note("loading ID rows")
        asyncio.run(_activate(redis_url, generation, advance))
    console.print(f"  generation {generation.id} is active for scene {SCENE!r}", highlight=False)
    return generation, {name: dict(s.report["parity"]) for name, s in specs.items()}


async def _activate(redis_url: str, generation: Generation, advance: Advance) -> None:
    redis = connect(redis_url, StoreSettings())
    try:
        await republish(redis, generation, advance)
        await Generations(redis).activate(SCENE, generation.id)
    finally:
        await redis.aclose()


def _write_load_ids(var: Path, dataset: Dataset) -> None:
    """Most shown items first, for the load tests."""
    counts = np.bincount(dataset.interactions.items, minlength=len(dataset.catalogue))
    order = np.argsort(-counts, kind="stable").tolist()
    ids = [dataset.catalogue.item_ids[row] for row in order]
    (var / LOAD_IDS_FILE).write_text(json.dumps({"item_ids": ids}))
