"""What changes from step to step of a training run, and its way into a checkpoint and back, bit by bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contracts.errors import Conflict
from training.checkpoints import below, load_checkpoint, save_checkpoint, under
from training.models.ranker import Ranker
from training.row_adam import RowAdam

_SCALARS = ("step", "losses", "loss_sum", "rows", "seconds")


@dataclass
class RunState:
    """best: weights of the best validation; validations: (step, AUC); losses: means between validations."""

    model: Ranker
    adam: torch.optim.Adam
    ids: RowAdam
    step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    validations: list[tuple[int, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    loss_sum: float = 0.0
    rows: int = 0  # candidate rows trained
    seconds: float = 0.0  # spent on them

    def trained(self, loss: float, rows: int, seconds: float) -> None:
        """Count one step."""
        self.step += 1
        self.loss_sum += loss
        self.rows += rows
        self.seconds += seconds

    def validated(self, score: float) -> None:
        """Count one validation; its weights are kept where it is the first of the best."""
        if score > self.best_validation[1]:
            self.best = {name: tensor.detach().clone() for name, tensor in self._weights().items()}
        since = self.step - (self.validations[-1][0] if self.validations else 0)
        self.losses.append(self.loss_sum / since)
        self.loss_sum = 0.0
        self.validations.append((self.step, score))

    @property
    def best_validation(self) -> tuple[int, float]:
        """(step, AUC); (0, -1) before the first."""
        return max(self.validations, key=lambda v: v[1], default=(0, -1.0))

    def finished(self, steps: int, patience: int) -> bool:
        """All steps done, or `patience` validations without a better AUC."""
        since = sum(step > self.best_validation[0] for step, _ in self.validations)
        return self.step >= steps or since >= patience

    def take_best(self) -> None:
        """Put the best weights into the model and the ID table."""
        self._load(self.best)

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """identity: what a run must share to go on from here."""
        adam = {
            f"{n}/{name}": value
            for n, state in self.adam.state_dict()["state"].items()
            for name, value in state.items()
        }
        tensors = {
            **below("now", self._weights()),
            **below("best", self.best),
            **below("adam", adam),
            "ids/mean": self.ids.mean,
            "ids/square": self.ids.square,
        }
        scalars = {name: getattr(self, name) for name in _SCALARS}
        save_checkpoint(path, tensors, {"identity": identity, "validations": self.validations, **scalars})

    def restore(self, path: Path, identity: dict[str, Any]) -> None:
        """`save` back; Conflict where the file is of a run with another identity."""
        tensors, state = load_checkpoint(path)
        if state["identity"] != identity:
            raise Conflict(f"checkpoint {path} is of another run: {state['identity']}, not {identity}")
        self._load(under("now", tensors))
        self.best = under("best", tensors)
        adam: dict[int, dict[str, Tensor]] = {}
        for name, value in under("adam", tensors).items():
            number, _, key = name.partition("/")
            adam.setdefault(int(number), {})[key] = value
        self.adam.load_state_dict({"state": adam, "param_groups": self.adam.state_dict()["param_groups"]})
        device = self.ids.table.device
        self.ids.mean, self.ids.square = (tensors[f"ids/{name}"].to(device) for name in ("mean", "square"))
        self.validations = [(int(step), float(score)) for step, score in state["validations"]]
        for name in _SCALARS:
            setattr(self, name, state[name])
        self.ids.step_count = self.step

    def _weights(self) -> dict[str, Tensor]:
        return {"ids": self.ids.table, **below("model", self.model.state_dict())}

    def _load(self, weights: dict[str, Tensor]) -> None:
        self.ids.table = weights["ids"].to(self.ids.table.device, copy=True)
        self.model.load_state_dict(under("model", weights))
