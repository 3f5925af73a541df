"""One rank of a distributed run over the tiny log: `python -m tests.training.ranked OUT MODEL [STOP RANK]`.

Writes OUT/<rank>.safetensors: the trained weights, the ID table and the log. Reads its place from torchrun's
environment. STOP RANK: that rank dies, without a word, after step STOP.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from contracts.errors import RepcenterError
from contracts.schema import FeatureSchema
from tests.training import tiny
from training.distributed import Ranks, joined_ranks
from training.item_table import item_table
from training.loop import StepReport, TrainedRanker, TrainingConfig, train_ranker
from training.recipes.ranker import new_ranker
from training.vocabularies import fit_vocabularies

# 7 samples a batch: two ranks take 4 and 3, the last batch of an epoch is smaller still
CONFIG = TrainingConfig(epochs=2, batch_rows=20, threads=1, checkpoint_steps=1, patience=9, id_dropout=0.3)

SCHEMA = FeatureSchema(8, 4, fit_vocabularies(tiny.records()[~tiny.NEW], tiny.SPACE.attributes))


def train(
    model: str, config: TrainingConfig, ranks: Ranks, checkpoint: Path | None = None, die: int | None = None
) -> TrainedRanker:
    """The tiny log's run; `die`: the process ends after that step."""
    items = item_table(tiny.records(), ~tiny.NEW, tiny.NEW, SCHEMA)

    def on_step(report: StepReport) -> None:
        if report.step == die:
            os._exit(9)

    ranker = new_ranker(model, tiny.SPACE, SCHEMA, config.seed)
    # 50 train samples are 7 batches and a last one of a single sample, of which the second rank has none
    samples = tiny.samples()
    train_rows = np.flatnonzero(samples.splits == 0)
    splits = samples.splits.copy()
    splits[train_rows[50:]] = -1
    samples = dataclasses.replace(samples, splits=splits)
    return train_ranker(ranker, samples, items, config, checkpoint=checkpoint, on_step=on_step, ranks=ranks)


def tensors(trained: TrainedRanker) -> dict[str, torch.Tensor]:
    """Everything that a run ends in."""
    return {**trained.model.state_dict(), "ids": torch.from_numpy(trained.ids.vectors)}


def main() -> None:
    out, model, *fault = sys.argv[1:]
    torch.set_num_threads(1)
    try:
        with joined_ranks(timeout_s=60) as ranks:
            stop = int(fault[0]) if fault and int(fault[1]) == ranks.rank else None
            trained = train(model, CONFIG, ranks, Path(out) / "run.safetensors", stop)
            path = Path(out) / f"{ranks.rank}-of-{ranks.count}.safetensors"
            save_file(tensors(trained), path, metadata={"log": json.dumps(trained.log)})
    except RepcenterError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # torch's store may abort an interpreter that ends with an exception


if __name__ == "__main__":
    main()
