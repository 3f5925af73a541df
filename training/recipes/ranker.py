"""Train and compare the four rankers on the bytes that serving will read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from contracts.codec import Rows
from contracts.errors import InvalidInput
from contracts.features import FeatureSchema
from contracts.space import Space
from training.data.interactions import TEST
from training.data.samples import Samples
from training.evaluation import GROUPS, evaluate, predict
from training.item_table import ItemTable, item_table
from training.loop import StepReport, TrainedRanker, TrainingConfig, train_ranker
from training.models.builders import ciubm, din, din_position, dmae
from training.models.items import AttributeTable
from training.models.ranker import Ranker
from training.models.similarity import side_by_side
from training.vocabularies import fit_vocabularies

BUILDERS = {"din": din, "din_pos": din_position, "ciubm": ciubm, "dmae": dmae}
MODELS = tuple(BUILDERS)
ID_DIM = 16
HISTORY_LENGTH = 64

OnModelStep = Callable[[str, StepReport], None]


@dataclass(frozen=True, eq=False)
class TableView:
    """Records of one space in catalogue order. records: (I,), zero where not found; found: (I,) bool."""

    records: Rows
    found: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RankerResult:
    """report: `test` (training.evaluation.Report with the int8 ID rows that serve), `auc_float_ids`,
    `auc_change_int8` (int8 minus float), `validation_auc`, `rows_per_s`."""

    trained: TrainedRanker
    report: dict[str, Any]


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
    table: TableView,
    serving_table: TableView,
    new: npt.NDArray[np.bool_],
    *,
    models: Sequence[str] = MODELS,
    config: TrainingConfig | None = None,
    id_dim: int = ID_DIM,
    history_length: int = HISTORY_LENGTH,
    checkpoints: Path | None = None,
    on_step: OnModelStep = _silent,
) -> RankerRun:
    """Each model on the same samples, features, seed and batches; the test split comes last.

    table: what the offline table holds while training, vocabularies are fitted on it; serving_table: the
    same with the new items; new: (I,) bool, items without an ID row, hidden from training whatever `table`
    says. checkpoints: a directory; an interrupted run goes on from there.
    """
    config = config or TrainingConfig()
    for name in models:
        if name not in BUILDERS:
            raise InvalidInput("models", name, f"must be among {', '.join(MODELS)}")
    seen = table.found & ~new
    schema = FeatureSchema(history_length, id_dim, fit_vocabularies(table.records[seen], space.attributes))
    training_items = item_table(table.records, seen, new, schema)
    items = item_table(serving_table.records, serving_table.found, new, schema)
    results = {}
    for name in models:
        model = new_ranker(name, space, schema, config.seed)
        trained = train_ranker(
            model,
            samples,
            training_items,
            config,
            checkpoint=checkpoints / f"{name}.safetensors" if checkpoints is not None else None,
            on_step=partial(on_step, name),
        )
        results[name] = RankerResult(trained, assess(trained, samples, items))
    return RankerRun(schema, items, results)


def new_ranker(name: str, space: Space, schema: FeatureSchema, seed: int) -> Ranker:
    """An untrained ranker of BUILDERS over a space's modalities and attributes, drawn from the seed."""
    attributes = AttributeTable(tuple(v.field.slots for v in schema.vocabularies), schema.attribute_rows)
    modalities = side_by_side((m.name, m.dim) for m in space.modalities)
    config = BUILDERS[name](
        modalities, attributes, id_dim=schema.id_dim, history_length=schema.history_length
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Ranker(config)


def assess(trained: TrainedRanker, samples: Samples, items: ItemTable) -> dict[str, Any]:
    """RankerResult.report of the test split."""
    chosen = np.flatnonzero(samples.splits == TEST)
    full = predict(trained.model, samples, chosen, items, trained.ids)
    served = predict(trained.model, samples, chosen, items, trained.ids.quantised())
    report = evaluate(served, samples, chosen, items.new)
    float_auc, int8_auc = evaluate(full, samples, chosen, items.new)["all"]["auc"], report["all"]["auc"]
    change = None if float_auc is None or int8_auc is None else int8_auc - float_auc
    return {
        "test": report,
        "auc_float_ids": float_auc,
        "auc_change_int8": change,
        "validation_auc": trained.log["validation_auc"],
        "rows_per_s": trained.log["rows_per_s"],
    }


def summary(results: Mapping[str, RankerResult]) -> dict[str, Any]:
    """What var/demo/summary.json says: auc, auc_warm, auc_new, logloss by model; gauc by kind, then model."""

    def by_model(group: str, metric: str) -> dict[str, float | None]:
        return {name: result.report["test"][group][metric] for name, result in results.items()}

    return {
        "auc": by_model("all", "auc"),
        "auc_warm": by_model("warm", "auc"),
        "auc_new": by_model("new", "auc"),
        "gauc": {"user": by_model("all", "gauc_user"), "request": by_model("all", "gauc_request")},
        "logloss": by_model("all", "logloss"),
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
