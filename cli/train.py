"""`repcenter train`: one ranker on a log and an offline table, alone or under torchrun, resumable."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cli.progress import stage
from contracts.bundle import Bundle, open_bundle
from contracts.encoder_spec import encoder_spec_from_json
from contracts.errors import Conflict, InvalidInput
from contracts.schema import Encoding
from contracts.space import Space
from param_server.offline import OfflineTable
from training.data.dataset import Dataset, load_dataset
from training.data.holdout import new_items
from training.data.interactions import UnknownItems
from training.data.samples import build_samples
from training.distributed import Ranks, joined_ranks
from training.export import export_ranker
from training.item_table import Versions, align_versions
from training.loop import StepReport, TrainingConfig
from training.recipes.incremental import open_base, since, train_incrementally
from training.recipes.ranker import HISTORY_LENGTH, assess, builder, train_rankers

BUNDLE, REPORT = "bundle", "report.json"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """encoder: URI of the bundle whose space is read from `offline`; out: checkpoints, bundle, report.

    threads: CPU threads of this process, None = all, shared by the ranks. ranker: a name or the path
    of a JSON file (training.recipes.ranker_file). user_columns, context_columns: None = all that are found.
    encodings: by column, of items, users and contexts (training.vocabularies). new_share: of the items, held
    out as new to measure on them, 0 = train on all.
    base: URI of the ranker bundle to train on from, with base_table, the name of its published full ID table,
    and since_s, where the new day begins; overlay: seal the changed ID rows alone.
    """

    data: Path
    encoder: str
    offline: str
    out: Path
    ranker: str
    config: TrainingConfig
    base: str | None = None
    base_table: str | None = None
    since_s: int | None = None
    overlay: bool = False
    threads: int | None = None
    user_columns: Sequence[str] | None = None
    context_columns: Sequence[str] | None = None
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    unknown_items: UnknownItems = "refuse"
    new_share: float = 0.15
    time_gaps: bool = False
    negative_sampling_rate: float = 1.0
    calibrate_similarity: bool = False


def run_training(options: TrainOptions) -> None:
    """Train, assess on the test split, seal `out`/bundle. Every rank trains, the first one writes."""
    builder(options.ranker)  # refuses what it does not know before any data is read
    incremental = (options.base, options.base_table, options.since_s)
    if len({value is None for value in incremental}) > 1:
        raise InvalidInput("--base", incremental, "needs --base-table and --since, and they need it")
    if options.overlay and options.base is None:
        raise InvalidInput("--overlay", True, "needs --base")
    if (options.out / BUNDLE).exists():
        raise InvalidInput("--out", str(options.out), f"holds a finished {BUNDLE} already")
    with joined_ranks(options.config.device) as ranks:
        console = Console(quiet=not ranks.first)
        threads = options.threads or max(1, (os.cpu_count() or 1) // ranks.count)
        config = dataclasses.replace(options.config, threads=threads)
        bundle, report = _train(console, options, config, ranks)
        if bundle is not None:
            (options.out / REPORT).write_text(json.dumps(report, indent=2) + "\n")
            console.print(f"bundle {bundle.digest[:12]}: {bundle.path}", highlight=False)


def _train(
    console: Console, options: TrainOptions, config: TrainingConfig, ranks: Ranks
) -> tuple[Bundle | None, dict[str, Any]]:
    with stage(console, "1. Data") as advance:
        dataset = load_dataset(
            options.data,
            progress=advance,
            user_columns=options.user_columns,
            context_columns=options.context_columns,
            encodings=options.encodings,
            unknown_items=options.unknown_items,
        )
        new = np.zeros(len(dataset.catalogue), dtype=bool)
        if options.new_share > 0:
            new = new_items(dataset, fraction=options.new_share, seed=config.seed)
        samples = build_samples(dataset, new, HISTORY_LENGTH, seed=config.seed)
        space = _space(options.encoder)
        table = _table(options.offline, dataset, space)
    item_ids = dataset.catalogue.item_ids
    overlay = None
    with stage(console, "2. Training") as advance:
        if ranks.count > 1:
            advance.note(f"on {ranks.count} ranks")

        def on_step(report: StepReport) -> None:
            advance(report.step, report.steps)

        if options.base is None:
            run = train_rankers(
                samples,
                space,
                table,
                table,
                new,
                models=(options.ranker,),
                config=config,
                negative_sampling_rate=options.negative_sampling_rate,
                calibrate_similarity=options.calibrate_similarity,
                time_gaps=options.time_gaps,
                encodings=options.encodings,
                checkpoints=options.out,
                on_step=lambda _, report: on_step(report),
                ranks=ranks,
            )
            schema, items, result = run.schema, run.items, run.results[options.ranker]
        else:
            assert options.base_table is not None
            assert options.since_s is not None
            base = open_base(open_bundle(options.base), options.base_table)
            day = train_incrementally(
                base,
                since(samples, options.since_s),
                space,
                table,
                table,
                new,
                item_ids,
                config,
                checkpoint=options.out / "incremental.safetensors",
                on_step=on_step,
                ranks=ranks,
            )
            schema, items, samples, item_ids = base.spec.schema, day.items, day.samples, day.item_ids
            overlay = day.overlay if options.overlay else None
            result = assess(day.trained, samples, items)
    if not ranks.first:
        return None, {}
    with stage(console, "3. Export"):
        bundle = export_ranker(
            result.trained,
            items,
            samples,
            space,
            schema,
            item_ids,
            options.out / BUNDLE,
            report=result.report,
            calibrated=result.calibrated,
            overlay=overlay,
        )
    log = {**result.trained.log, "ranks": ranks.count}
    return bundle, {**result.report, "training": log, "bundle": bundle.digest}


def _space(encoder: str) -> Space:
    bundle = open_bundle(encoder)
    if bundle.manifest.kind != "encoder":
        raise Conflict(f"bundle {encoder} is of kind {bundle.manifest.kind}, not encoder")
    return encoder_spec_from_json(dict(bundle.manifest.content)).space(bundle.digest)


def _table(offline: str, dataset: Dataset, space: Space) -> Versions:
    found = OfflineTable(offline).read_versions(space)
    if not found.item_ids:
        raise InvalidInput("--offline", offline, f"has no records of space {space.id}")
    return align_versions(dataset.catalogue.item_ids, found.item_ids, found.records, found.since_ms, space)
