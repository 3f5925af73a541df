"""Train and compare the four rankers on the bytes that serving will read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from contracts.errors import InvalidInput
from contracts.schema import Encoding, FeatureSchema
from contracts.space import Space
from training.calibration import fit_calibration
from training.data.interactions import TEST, VAL
from training.data.samples import Samples
from training.distributed import ALONE, Ranks
from training.evaluation import GROUPS, evaluate, predict
from training.item_table import AsOf, ItemTable, Versions
from training.loop import StepReport, TrainedRanker, TrainingConfig, train_ranker
from training.models.builders import Build, ciubm, din, din_position, dmae
from training.models.columns import AttributeTable
from training.models.config import RankerConfig
from training.models.dmae import DmaeConfig
from training.models.query import QueryConfig
from training.models.ranker import Ranker
from training.models.similarity import side_by_side
from training.recipes.ranker_file import ranker_file
from training.recipes.tables import TableView as TableView
from training.recipes.tables import ranker_items, seen_records
from training.reliability import CalibrationReport, by_group
from training.schema_fit import fit_schema
from training.similarity_calibration import (
    Pair,
    Similarities,
    bucket_use,
    fit_similarity_calibration,
    similarities,
    warn_of_few_buckets,
)

BUILDERS: dict[str, Build] = {"din": din, "din_pos": din_position, "ciubm": ciubm, "dmae": dmae}
MODELS = tuple(BUILDERS)
ID_DIM = 16
HISTORY_LENGTH = 64

OnModelStep = Callable[[str, StepReport], None]


@dataclass(frozen=True, eq=False)
class RankerResult:
    """report: `test` (training.evaluation.Report with the int8 ID rows that serve), `auc_float_ids`,
    `auc_change_int8` (int8 minus float), `validation_auc`, `rows_per_s`, and of DMAE `bucket_use`, by
    modality the share of MIEU's buckets that train pairs use. calibrated: fitted on the validation split.
    """

    trained: TrainedRanker
    report: dict[str, Any]
    calibrated: CalibrationReport


@dataclass(frozen=True, eq=False)
class RankerRun:
    """items: the table as serving sees it, new items included; what export_ranker takes beside a result."""

    schema: FeatureSchema
    items: ItemTable
    results: dict[str, RankerResult]


def _silent(model: str, report: StepReport) -> None:
    pass


def train_rankers(
    samples: Samples,
    space: Space,
    table: TableView | Versions,
    serving_table: TableView | Versions,
    new: npt.NDArray[np.bool_],
    *,
    models: Sequence[str] = MODELS,
    config: TrainingConfig | None = None,
    id_dim: int = ID_DIM,
    history_length: int = HISTORY_LENGTH,
    negative_sampling_rate: float = 1.0,
    calibrate_similarity: bool = False,
    time_gaps: bool = False,
    encodings: Mapping[str, Encoding] | None = None,
    as_of: AsOf | None = None,
    checkpoints: Path | None = None,
    on_step: OnModelStep = _silent,
    ranks: Ranks = ALONE,
) -> RankerRun:
    """Each model on the same samples, features, seed and batches; the test split comes last.

    table: what the offline table holds while training, vocabularies are fitted on it; serving_table: the
    same with the new items; new: (I,) bool, items without an ID row, hidden from training whatever `table`
    says. negative_sampling_rate: the share of its negatives that the log has kept, which scores are corrected
    for; calibrate_similarity: fit DMAE's two numbers per modality (training.similarity_calibration), off by
    default: FewBuckets warns where they are wanted. Columns of users and requests, and searches, are read
    where the samples have them; time_gaps: the time since each behaviour too; encodings: of item attributes,
    by name (training.vocabularies). as_of: how samples are joined to tables of versions, None =
    `Versions.as_of`. checkpoints: a directory; an interrupted run goes on from there. ranks: the processes
    that make this call.
    """
    config = config or TrainingConfig()
    for name in models:
        builder(name)
    schema = fit_schema(
        samples,
        seen_records(table, samples, new, as_of),
        space,
        history_length=history_length,
        id_dim=id_dim,
        time_gaps=time_gaps,
        encodings=encodings,
    )
    samples = samples.read_by(schema)
    training_items = ranker_items(table, samples, ~new, new, schema, as_of)
    items = ranker_items(serving_table, samples, np.ones_like(new), new, schema, as_of)
    results = {}
    found = _similarities(samples, training_items, space, history_length, models)
    for name in models:
        model = new_ranker(name, space, schema, config.seed, found if calibrate_similarity else None)
        use = _bucket_use(model.config, found)
        warn_of_few_buckets(use)
        trained = train_ranker(
            model,
            samples,
            training_items,
            config,
            checkpoint=checkpoints / f"{Path(name).stem}.safetensors" if checkpoints is not None else None,
            on_step=partial(on_step, name),
            ranks=ranks,
        )
        result = assess(trained, samples, items, negative_sampling_rate)
        facts = {"data": dict(samples.report)} | ({"bucket_use": use} if use else {})
        results[name] = replace(result, report=result.report | facts)
    return RankerRun(schema, items, results)


def builder(name: str) -> Build:
    """A ranker by its name in BUILDERS, or by the path of a JSON file; InvalidInput otherwise."""
    if name in BUILDERS:
        return BUILDERS[name]
    if name.endswith(".json"):
        return ranker_file(Path(name))
    raise InvalidInput("ranker", name, f"must be among {', '.join(MODELS)}, or a .json file")


def new_ranker(
    name: str, space: Space, schema: FeatureSchema, seed: int, found: Similarities | None = None
) -> Ranker:
    """An untrained ranker (`builder`) over a space's modalities and what the schema reads, from the seed.

    found: training.similarity_calibration.similarities to calibrate DMAE's with, None = as they are.
    """
    attributes = AttributeTable.of(schema.items)
    modalities = side_by_side((m.name, m.dim) for m in space.modalities)
    config = builder(name)(modalities, attributes, id_dim=schema.id_dim, history_length=schema.history_length)
    config = replace(config, context=AttributeTable.of(schema.request_columns), time_gaps=schema.time_gaps)
    if schema.query:
        searched = QueryConfig(modalities=tuple(m.name for m in schema.query))
        config = replace(config, content=(*config.content, searched))
    if found is not None:
        config = replace(
            config,
            content=tuple(
                replace(c, calibration=fit_similarity_calibration(found, c.modalities))
                if isinstance(c, DmaeConfig)
                else c
                for c in config.content
            ),
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Ranker(config)


def _similarities(
    samples: Samples, items: ItemTable, space: Space, history_length: int, models: Sequence[str]
) -> Similarities:
    """Of the modalities that DMAE reads; nothing where no model is one."""
    modalities = side_by_side((m.name, m.dim) for m in space.modalities)
    configs = [
        builder(name)(modalities, AttributeTable(), id_dim=ID_DIM, history_length=history_length)
        for name in models
    ]
    names = {
        n for config in configs for c in config.content if isinstance(c, DmaeConfig) for n in c.modalities
    }
    return similarities(samples, items, modalities, sorted(names), history_length)


def _bucket_use(config: RankerConfig, found: Similarities) -> dict[str, float]:
    """By modality of the model's DMAE."""
    unchanged: tuple[Pair, Pair] = ((1.0, 0.0), (1.0, 0.0))
    return {
        name: bucket_use(found[name], c.buckets, pair)
        for c in config.content
        if isinstance(c, DmaeConfig)
        for name, pair in zip(c.modalities, c.calibration or unchanged, strict=True)
    }


def assess(
    trained: TrainedRanker, samples: Samples, items: ItemTable, negative_sampling_rate: float = 1.0
) -> RankerResult:
    """The calibration from the validation split, then what the test split says of both."""
    chosen = np.flatnonzero(samples.splits == TEST)
    full = predict(trained.model, samples, chosen, items, trained.ids)
    served = predict(trained.model, samples, chosen, items, trained.ids.quantised())
    report = evaluate(served, samples, chosen, items.new)
    float_auc, int8_auc = evaluate(full, samples, chosen, items.new)["all"]["auc"], report["all"]["auc"]
    change = None if float_auc is None or int8_auc is None else int8_auc - float_auc
    validation = np.flatnonzero(samples.splits == VAL)
    mask = samples.candidate_mask[validation]
    fitted_on = predict(trained.model, samples, validation, items, trained.ids.quantised())
    calibration = fit_calibration(samples.labels[validation][mask], fitted_on[mask], negative_sampling_rate)
    calibrated = CalibrationReport(
        calibration,
        by_group(fitted_on, samples, validation, items.new, calibration),
        by_group(served, samples, chosen, items.new, calibration),
    )
    facts = {
        "test": report,
        "auc_float_ids": float_auc,
        "auc_change_int8": change,
        "validation_auc": trained.log["validation_auc"],
        "rows_per_s": trained.log["rows_per_s"],
    }
    return RankerResult(trained, facts, calibrated)


def summary(results: Mapping[str, RankerResult]) -> dict[str, Any]:
    """What var/demo/summary.json says: auc, auc_warm, auc_new, logloss, calibration by model; gauc by kind,
    then model. calibration: of the test split, ece and ratio before and after, by group of items.
    """

    def by_model(group: str, metric: str) -> dict[str, float | None]:
        return {name: result.report["test"][group][metric] for name, result in results.items()}

    return {
        "auc": by_model("all", "auc"),
        "auc_warm": by_model("warm", "auc"),
        "auc_new": by_model("new", "auc"),
        "gauc": {"user": by_model("all", "gauc_user"), "request": by_model("all", "gauc_request")},
        "logloss": by_model("all", "logloss"),
        "calibration": {name: _calibration(result.calibrated) for name, result in results.items()},
    }


def _calibration(report: CalibrationReport) -> dict[str, Any]:
    return report.calibration.to_json() | {
        group: {
            "ece_before": both.before.ece,
            "ece_after": both.after.ece,
            "ratio_before": both.before.ratio,
            "ratio_after": both.after.ratio,
        }
        for group, both in report.test.items()
    }


def comparison(results: Mapping[str, RankerResult]) -> str:
    """The test split as a table of plain text, one line per model."""
    columns = [
        *((f"AUC {group}", group, "auc") for group in GROUPS),
        ("GAUC user", "all", "gauc_user"),
        ("GAUC request", "all", "gauc_request"),
        ("logloss", "all", "logloss"),
    ]
    lines = ["model    " + "".join(f"{title:>14}" for title, _, _ in columns) + f"{'rows/s':>10}"]
    for name, result in results.items():
        values = [result.report["test"][group][metric] for _, group, metric in columns]
        cells = "".join(f"{math.nan if v is None else v:14.4f}" for v in values)
        lines.append(f"{name:9}{cells}{result.report['rows_per_s']:10.0f}")
    return "\n".join(lines)
