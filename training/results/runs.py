"""The runs of a comparison, in a fixed order, and what is known of each: planned, taken, done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contracts.errors import Conflict, InvalidInput
from training.loop import TrainingConfig
from training.recipes.ranker import HISTORY_LENGTH, ID_DIM
from training.results.variants import Variant

RESULT, PREDICTIONS, CHECKPOINT, LOCK = "result.json", "test.npz", "checkpoint.safetensors", "lock"
CHECKPOINT_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all runs of a comparison share.

    rows: train rows kept, whole requests, about, 0 = all; new_share: of the items, drawn as new.
    tuning: measure on the validation split with draws of their own, for choices; the test split stays unseen.
    """

    rows: int = 0
    epochs: int = 1
    learning_rate: float = 3e-3
    batch_rows: int = 768
    id_dropout: float = 0.1
    new_share: float = 0.15
    tuning: bool = False
    history_length: int = HISTORY_LENGTH
    id_dim: int = ID_DIM

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise InvalidInput("rows", self.rows, "must not be negative")
        if self.history_length < 1:
            raise InvalidInput("history_length", self.history_length, "must be at least 1")

    def training(self, variant: Variant, seed: int, threads: int) -> TrainingConfig:
        return TrainingConfig(
            epochs=self.epochs,
            batch_rows=self.batch_rows,
            learning_rate=variant.learning_rate or self.learning_rate,
            id_dropout=self.id_dropout,
            validations_per_epoch=2,
            patience=2 * self.epochs,
            seed=seed,
            threads=threads,
            checkpoint_steps=CHECKPOINT_STEPS,
        )


@dataclass(frozen=True)
class Run:
    """One training: draw says which items are new."""

    variant: Variant
    seed: int
    draw: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}-s{self.seed}-d{self.draw}"


def plan(chosen: Sequence[Variant], seeds: int, draws: int) -> list[Run]:
    """Every first seed and draw before any second one: a comparison that is cut short is still a ladder."""
    for name, value in (("seeds", seeds), ("draws", draws)):
        if value < 1:
            raise InvalidInput(name, value, "must be at least 1")
    return [Run(v, seed, draw) for seed in range(seeds) for draw in range(draws) for v in chosen]


def finished(directory: Path, run: Run, settings: Settings) -> dict[str, Any] | None:
    """The result of a run, None where it is not there yet; Conflict where it is of another training."""
    path = directory / run.name / RESULT
    if not path.exists():
        return None
    document: dict[str, Any] = json.loads(path.read_text())
    if document["settings"] != asdict(settings):
        raise Conflict(
            f"{path} was made with {document['settings']}, not {asdict(settings)}: "
            "name another directory for these results, or remove those"
        )
    made = document.get("definition", run.variant.definition)  # absent in the first results of this format
    if made != run.variant.definition:
        raise Conflict(
            f"{path} is of another ranker that was called '{run.variant.name}' ({made}, not "
            f"{run.variant.definition}): remove it, or name another directory for these results"
        )
    return document
