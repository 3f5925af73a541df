"""Train one ranker: mini-batches over unique item rows, Adam with linear decay, best validation AUC kept.

The dense weights go through torch's fused Adam, the ID table through RowAdam. Every random draw of a
step comes from (seed, step), every epoch's order from (seed, epoch): a run that is interrupted and
resumed from its checkpoint ends in the same bits as one that was not (same thread count).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from contracts.errors import InvalidInput, RepcenterError
from training.batches import gather, items_shown, make_batch
from training.data.interactions import TRAIN, VAL
from training.data.samples import Samples
from training.evaluation import IdVectors, predict
from training.item_table import ItemTable
from training.losses import masked_bce
from training.metrics import auc
from training.models.items import drop_ids
from training.models.ranker import Ranker
from training.row_adam import RowAdam
from training.run_state import RunState

_ID_STD = 0.05


class LossNotFinite(RepcenterError):
    """Training diverged, or a feature is not finite."""

    code = "invalid"

    def __init__(self, loss: float, step: int, learning_rate: float) -> None:
        super().__init__(
            f"loss is {loss} at step {step} (learning rate {learning_rate:.3g}): try a lower one"
        )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """batch_rows: candidate rows per step, about: batches hold whole samples of the mean width.

    id_dropout: probability that an item is out of vocabulary for a batch; patience: validations without a
    better AUC after which training stops; checkpoint_steps: 0 = at validations only.
    """

    epochs: int = 2
    batch_rows: int = 768
    learning_rate: float = 3e-3
    id_dropout: float = 0.1
    validations_per_epoch: int = 1
    patience: int = 2
    seed: int = 0
    threads: int = 2
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_rows", "validations_per_epoch", "patience", "threads"):
            if getattr(self, name) < 1:
                raise InvalidInput(name, getattr(self, name), "must be at least 1")
        if not self.learning_rate > 0:
            raise InvalidInput("learning_rate", self.learning_rate, "must be positive")
        if not 0 <= self.id_dropout < 1:
            raise InvalidInput("id_dropout", self.id_dropout, "must be in [0, 1)")


class StepReport(NamedTuple):
    """loss: cross entropy, without DMAE's auxiliary loss.

    rows_per_s: candidate rows trained per second so far, validations not counted.
    """

    step: int
    steps: int
    loss: float
    rows_per_s: float
    validation_auc: float | None  # where this step ended in a validation


OnStep = Callable[[StepReport], None]


def quiet(report: StepReport) -> None:
    """An OnStep that shows nothing."""


@dataclass(frozen=True, eq=False)
class TrainedRanker:
    """model: in eval mode, with the weights of the best validation; ids: its ID vectors.

    log: steps, best_step, validation_auc, validations [(step, AUC)], loss (mean per interval), rows_per_s.
    """

    model: Ranker
    ids: IdVectors
    log: dict[str, Any]


def train_ranker(
    model: Ranker,
    samples: Samples,
    items: ItemTable,
    config: TrainingConfig,
    *,
    checkpoint: Path | None = None,
    on_step: OnStep = quiet,
) -> TrainedRanker:
    """Train `model` in place on the train split; the val split chooses the step that is kept.

    checkpoint: resumed from where the file exists, written at validations and every checkpoint_steps.
    Raises LossNotFinite, InvalidInput (a split without both classes), Conflict (another run's checkpoint).
    """
    train, val = (np.flatnonzero(samples.splits == s) for s in (TRAIN, VAL))
    for name, chosen in (("train", train), ("val", val)):
        _check_classes(samples, name, chosen)
    mean_width = float(samples.candidate_mask[train].sum() / len(train))
    batch = max(1, round(config.batch_rows / mean_width))
    per_epoch = -(-len(train) // batch)
    steps = per_epoch * config.epochs
    identity = {
        "config": asdict(config),
        "model": model.config.to_dict(),
        "samples": [len(train), len(val), int(samples.candidates.sum(dtype=np.int64))],
        "items": len(items),
    }
    with _threads(config.threads), torch.random.fork_rng(devices=[]):
        run = _new_run(model, len(items), config)
        if checkpoint is not None and checkpoint.exists():
            run.restore(checkpoint, identity)
        known = items_shown(samples, TRAIN, model.config.history_length, len(items)) & ~items.new
        due = _validation_steps(per_epoch, config)
        while not run.finished(steps, config.patience):
            epoch, place = divmod(run.step, per_epoch)
            order = np.random.default_rng((config.seed, epoch)).permutation(train)
            for at in range(place * batch, len(order), batch):
                loss = _step(run, samples, items, known, order[at : at + batch], config, steps)
                score = None
                if run.step % per_epoch in due:
                    score = _validation_auc(run, samples, val, items, known)
                    run.validated(score)
                saving = config.checkpoint_steps and run.step % config.checkpoint_steps == 0
                if checkpoint is not None and (saving or score is not None):
                    run.save(checkpoint, identity)
                on_step(StepReport(run.step, steps, loss, run.rows / run.seconds, score))
                if run.finished(steps, config.patience):
                    break
        run.take_best()
    best_step, best_auc = run.best_validation
    log = {
        "steps": run.step,
        "best_step": best_step,
        "validation_auc": best_auc,
        "validations": [list(v) for v in run.validations],
        "loss": run.losses,
        "rows_per_s": round(run.rows / run.seconds, 1),
    }
    return TrainedRanker(model.eval(), IdVectors(run.ids.table.numpy(), known), log)


def _new_run(model: Ranker, rows: int, config: TrainingConfig) -> RunState:
    generator = torch.Generator().manual_seed(config.seed)
    table = torch.randn(rows, model.config.id_dim, generator=generator) * _ID_STD
    adam = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    return RunState(model, adam, RowAdam(table))


def _step(
    run: RunState,
    samples: Samples,
    items: ItemTable,
    known: npt.NDArray[np.bool_],
    chosen: npt.NDArray[np.int64],
    config: TrainingConfig,
    steps: int,
) -> float:
    """One update; its cross entropy."""
    began = time.perf_counter()
    torch.manual_seed((config.seed << 32) + run.step)
    learning_rate = config.learning_rate * (1 - run.step / steps)
    batch = make_batch(samples, chosen, run.model.config.history_length)
    rows = torch.from_numpy(batch.rows).long()
    vectors = run.ids.table[rows].requires_grad_()
    inputs = gather(items, batch.rows, vectors, known)
    inputs = inputs._replace(id_known=drop_ids(inputs.id_known, config.id_dropout))
    run.model.train()
    run.adam.zero_grad(set_to_none=True)
    output = run.model(inputs, batch.candidates, batch.behaviours, batch.behaviour_mask)
    cross_entropy = masked_bce(output.logit, batch.labels, batch.candidate_mask)
    loss = cross_entropy + output.auxiliary
    if not torch.isfinite(loss):
        raise LossNotFinite(float(loss.detach()), run.step, learning_rate)
    loss.backward()
    run.adam.param_groups[0]["lr"] = learning_rate
    run.adam.step()
    assert vectors.grad is not None
    run.ids.step(rows, vectors.grad, learning_rate)
    value = float(cross_entropy.detach())
    run.trained(value, int(batch.candidate_mask.sum()), time.perf_counter() - began)
    return value


def _validation_auc(
    run: RunState,
    samples: Samples,
    val: npt.NDArray[np.int64],
    items: ItemTable,
    known: npt.NDArray[np.bool_],
) -> float:
    logits = predict(run.model, samples, val, items, IdVectors(run.ids.table.numpy(), known))
    mask = samples.candidate_mask[val]
    return auc(samples.labels[val][mask], logits[mask])


def _validation_steps(per_epoch: int, config: TrainingConfig) -> set[int]:
    """Steps of an epoch, modulo its length, after which the val split is looked at, the last one too."""
    parts = min(config.validations_per_epoch, per_epoch)
    return {(per_epoch * n // parts) % per_epoch for n in range(1, parts + 1)}


def _check_classes(samples: Samples, name: str, chosen: npt.NDArray[np.int64]) -> None:
    labels = samples.labels[chosen][samples.candidate_mask[chosen]]
    positives = int((labels == 1).sum())
    if not 0 < positives < len(labels):
        raise InvalidInput(
            f"split '{name}'", positives, f"needs positives and negatives among its {len(labels)}"
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
