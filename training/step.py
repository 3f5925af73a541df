"""One update of a ranker: a batch over unique item rows, its gradients summed over ranks, both optimisers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contracts.errors import RepcenterError
from training.batches import Batch, make_batch
from training.data.samples import Samples
from training.distributed import Ranks
from training.draws import derive, stream, uniform
from training.losses import masked_bce
from training.models.items import drop_ids
from training.resident import ResidentItems, send, send_requests
from training.run_state import RunState

Precision = Literal["fp32", "bf16"]


class LossNotFinite(RepcenterError):
    """Training diverged, or a feature is not finite."""

    code = "invalid"

    def __init__(self, loss: float, step: int, learning_rate: float) -> None:
        super().__init__(
            f"loss is {loss} at step {step} (learning rate {learning_rate:.3g}): try a lower one"
        )


@dataclass(frozen=True, eq=False)
class Stepper:
    """What every step of a run shares.

    precision: "bf16" runs the model's matrix products in bfloat16; similarities, losses, weights and both
    optimisers stay float32.
    """

    run: RunState
    samples: Samples
    items: ResidentItems
    ranks: Ranks
    seed: int
    id_dropout: float
    precision: Precision

    def step(self, chosen: npt.NDArray[np.int64], learning_rate: float) -> float:
        """Update on the samples `chosen` of all ranks; the mean cross entropy of their candidates."""
        began = time.perf_counter()
        run, device = self.run, self.items.device
        mine = self.ranks.share(chosen)
        batch = self._batch(mine, chosen)
        rows = send(torch.from_numpy(batch.rows).long(), device)
        vectors = run.ids.table[rows].requires_grad_()
        items, of_items = rows, vectors
        if batch.versions is not None:  # several rows of one item share its vector, and its draw
            place = send(torch.from_numpy(batch.versions.items), device)
            items, of_items = rows[place], vectors[place]
        inputs = self.items.rows(batch, items, of_items)
        draws = uniform(derive(stream(self.seed, run.step, "id"), items))
        inputs = inputs._replace(id_known=drop_ids(inputs.id_known, self.id_dropout, draws))
        requests = send_requests(batch.requests, device)
        requests = requests._replace(draw_keys=self._draw_keys(mine, requests.candidates))
        run.model.train()
        run.adam.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = run.model(inputs, requests)
        mask = send(batch.candidate_mask, device)
        # a mean over all ranks' candidates is the sum of the ranks' means by their shares of them
        counted = int(self.samples.candidate_mask[chosen].sum())
        share = int(batch.candidate_mask.sum()) / counted
        cross_entropy = masked_bce(output.logit.float(), send(batch.labels, device), mask) * share
        loss = cross_entropy + output.auxiliary.float()
        loss.backward()
        parameters = list(run.model.parameters())
        values = self.ranks.sum_gradients(parameters, torch.stack([cross_entropy, loss]))
        value, whole = values.tolist()
        if not np.isfinite(whole):
            raise LossNotFinite(whole, run.step, learning_rate)
        run.adam.param_groups[0]["lr"] = learning_rate
        run.adam.step()
        assert vectors.grad is not None
        run.ids.step(*self.ranks.sum_rows(rows, vectors.grad), learning_rate)
        run.trained(value, counted, time.perf_counter() - began)
        return float(value)

    def _batch(self, mine: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]) -> Batch:
        length = self.run.model.config.history_length
        if len(mine):
            return make_batch(self.samples, mine, length, self.items.table)
        # fewer samples than ranks: take part with a sample of which nothing counts
        batch = make_batch(self.samples, chosen[:1], length, self.items.table)
        return batch._replace(
            candidate_mask=torch.zeros_like(batch.candidate_mask),
            behaviour_mask=torch.zeros_like(batch.behaviour_mask),
        )

    def _draw_keys(self, mine: npt.NDArray[np.int64], candidates: Tensor) -> Tensor:
        """A key per sample and candidate slot: (B, N) int64."""
        count, width = candidates.shape
        indices = torch.from_numpy(mine) if len(mine) else torch.zeros(count, dtype=torch.int64)
        samples = derive(stream(self.seed, self.run.step, "candidate"), send(indices, self.items.device))
        return derive(samples.unsqueeze(1), torch.arange(width, device=candidates.device))
