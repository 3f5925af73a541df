"""One run: train a variant, score the rows that all are measured on, leave both in its directory."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.data.interactions import TEST, TRAIN
from training.data.samples import Samples
from training.evaluation import evaluate, predict
from training.item_table import ItemTable
from training.loop import OnStep, train_ranker
from training.models.columns import AttributeTable
from training.models.ranker import Ranker
from training.models.similarity import side_by_side
from training.results.files import write_arrays, write_json
from training.results.log import Rows
from training.results.runs import CHECKPOINT, PREDICTIONS, RESULT, Run, Settings
from training.results.variants import vectors_read


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the runs of one draw share. new: (I,) bool, by which the report is grouped; space: its id."""

    samples: Samples
    items: ItemTable
    attributes: AttributeTable
    modalities: tuple[tuple[str, int], ...]
    space: str
    new: npt.NDArray[np.bool_]


def train_run(
    run: Run, prepared: Prepared, settings: Settings, directory: Path, *, threads: int, on_step: OnStep
) -> dict[str, Any]:
    """What RESULT then says. A run that was cut short goes on from its checkpoint, which goes at the end."""
    began = time.monotonic()
    config = run.variant.build(side_by_side(prepared.modalities), prepared.attributes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = Ranker(config)
    checkpoint = directory / CHECKPOINT
    trained = train_ranker(
        model,
        prepared.samples,
        prepared.items,
        settings.training(run.variant, run.seed, threads),
        checkpoint=checkpoint,
        on_step=on_step,
    )
    samples = prepared.samples
    chosen = np.flatnonzero(samples.splits == TEST)
    torch.set_num_threads(threads)
    logits = predict(trained.model, samples, chosen, prepared.items, trained.ids.quantised())
    new = np.concatenate([np.zeros(1, dtype=bool), prepared.new])
    write_arrays(directory / PREDICTIONS, logits=logits[samples.candidate_mask[chosen]])
    result = {
        "variant": run.variant.name,
        "definition": run.variant.definition,
        "seed": run.seed,
        "draw": run.draw,
        "settings": asdict(settings),
        "report": evaluate(logits, samples, chosen, new),
        "rows": Rows.of(samples).digest,
        "vectors": vectors_read(config),
        "space": prepared.space,
        "learning_rate": run.variant.learning_rate or settings.learning_rate,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_rows": int(samples.candidate_mask[samples.splits == TRAIN].sum()),
        "new_items": int(prepared.new.sum()),
        "log": trained.log,
        "threads": threads,
        "seconds": round(time.monotonic() - began, 1),  # of the last sitting
    }
    write_json(directory / RESULT, result)
    checkpoint.unlink(missing_ok=True)
    return result
