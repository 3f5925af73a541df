"""Train one ranker: mini-batches over unique item rows, Adam with linear decay, best validation AUC kept.

The dense weights go through torch's fused Adam, the ID table through RowAdam. Every random draw of a
step comes from (seed, step) and what it decides about, every epoch's order from (seed, epoch): a run that is
interrupted and resumed from its checkpoint ends in the same bits as one that was not (same numbers of
threads and ranks), and a run of several ranks makes the updates of one, up to rounding.

A request's candidates share one row of behaviours. Samples of one batch that have the same history are not
merged further: in shuffled batches 1 in 2,000 has a twin (0.05 % of MovieLens-1M's at 768 rows, 0.09 % of the
drawn world's), so there is nothing to save.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

from contracts.errors import InvalidInput, Unavailable
from training.batches import id_evidence, items_shown
from training.data.interactions import TRAIN, VAL
from training.data.samples import Samples
from training.distributed import ALONE, Ranks
from training.evaluation import IdVectors, predict
from training.item_table import ItemTable
from training.metrics import auc
from training.models.ranker import Ranker
from training.resident import ResidentItems
from training.row_adam import RowAdam
from training.run_state import RunState
from training.step import Precision, Stepper

_ID_STD = 0.05


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """batch_rows: candidate rows per step, about: batches hold whole samples of the mean width.

    id_dropout: probability that an item is out of vocabulary for a batch; patience: validations without a
    better AUC after which training stops; checkpoint_steps: 0 = at validations only. precision: of the
    model's matrix products in training, "fp32" or "bf16"; device: "cpu" or "cuda", where the item table, the
    ID table and the model lie.
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
    precision: Precision = "fp32"
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_rows", "validations_per_epoch", "patience", "threads"):
            if getattr(self, name) < 1:
                raise InvalidInput(name, getattr(self, name), "must be at least 1")
        if not self.learning_rate > 0:
            raise InvalidInput("learning_rate", self.learning_rate, "must be positive")
        if not 0 <= self.id_dropout < 1:
            raise InvalidInput("id_dropout", self.id_dropout, "must be in [0, 1)")
        if self.precision not in get_args(Precision):
            raise InvalidInput("precision", self.precision, "must be fp32 or bf16")
        if self.device not in ("cpu", "cuda"):
            raise InvalidInput("device", self.device, "must be cpu or cuda")


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
    ranks: Ranks = ALONE,
    start: IdVectors | None = None,
) -> TrainedRanker:
    """Train `model` in place on the train split; the val split chooses the step that is kept.

    checkpoint: resumed from where the file exists, written by the first rank at validations and every
    checkpoint_steps. ranks: the processes that make this call with the same arguments; each calls on_step.
    start: ID vectors to go on from, with their evidence; rows that it does not know are drawn.
    Raises LossNotFinite, InvalidInput (a split without both classes), Conflict (another run's checkpoint,
    ranks that differ), RankLost.
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
        "start": None if start is None else start.digest,
    }
    device = _device(config)
    with _threads(config.threads), ranks.counting(model):
        run = _new_run(model.to(device), len(items), config, start)
        if checkpoint is not None and checkpoint.exists():
            run.restore(checkpoint, identity)
        ranks.agree(json.dumps([identity, run.step]).encode())
        known, evidence = _known(samples, items, model.config.history_length, start)
        resident = ResidentItems(items, known, evidence, device)
        stepper = Stepper(run, samples, resident, ranks, config.seed, config.id_dropout, config.precision)
        due = _validation_steps(per_epoch, config)
        while not run.finished(steps, config.patience):
            epoch, place = divmod(run.step, per_epoch)
            order = np.random.default_rng((config.seed, epoch)).permutation(train)
            for at in range(place * batch, len(order), batch):
                learning_rate = config.learning_rate * (1 - run.step / steps)
                loss = stepper.step(order[at : at + batch], learning_rate)
                score = None
                if run.step % per_epoch in due:
                    ids = IdVectors(run.ids.table.cpu().numpy(), known, evidence)
                    score = _validation_auc(run.model, samples, val, items, ids, ranks)
                    run.validated(score)
                saving = config.checkpoint_steps and run.step % config.checkpoint_steps == 0
                if checkpoint is not None and ranks.first and (saving or score is not None):
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
    return TrainedRanker(model.cpu().eval(), IdVectors(run.ids.table.cpu().numpy(), known, evidence), log)


def _device(config: TrainingConfig) -> torch.device:
    if config.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise Unavailable("device cuda: this machine has none, or this build of torch cannot use it")
    return torch.device("cuda", torch.cuda.current_device())


def _new_run(model: Ranker, rows: int, config: TrainingConfig, start: IdVectors | None) -> RunState:
    generator = torch.Generator().manual_seed(config.seed)
    table = torch.randn(rows, model.config.id_dim, generator=generator) * _ID_STD
    if start is not None:
        table = torch.where(
            torch.from_numpy(start.known).unsqueeze(1), torch.from_numpy(start.vectors), table
        )
    adam = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    return RunState(model, adam, RowAdam(table.to(next(model.parameters()).device)))


def _known(
    samples: Samples, items: ItemTable, history_length: int, start: IdVectors | None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Which items have an ID row, (I+1,) bool, and log1p of the examples behind it, (I+1,) float32."""
    known = items_shown(samples, TRAIN, history_length, len(items)) & ~items.new
    evidence = np.where(known, id_evidence(samples, len(items)), np.float32(0))
    if start is None:
        return known, evidence
    both = np.log1p(np.expm1(evidence) + np.expm1(np.where(start.known, start.evidence, np.float32(0))))
    return known | start.known, both.astype(np.float16).astype(np.float32)


def _validation_auc(
    model: Ranker,
    samples: Samples,
    val: npt.NDArray[np.int64],
    items: ItemTable,
    ids: IdVectors,
    ranks: Ranks,
) -> float:
    """Each rank predicts its share; all of them see all logits, so they choose the same step."""
    logits = ranks.concatenate(predict(model, samples, ranks.share(val), items, ids))
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
