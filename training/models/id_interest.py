"""Interest by ID, sum_j alpha_j v_j (MIM eq 1; DMAE eq 14): average pooling, DIN, DIN with position."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.features import GAP_ROWS
from training.models.attention_unit import unit_scores
from training.models.dense import written_out
from training.models.layers import masked_softmax, mean_weights, mlp, table
from training.models.view import View

IdInterestKind = Literal["none", "mean", "din", "din_position"]


class MeanInterest(nn.Module):
    """The mean of the valid behaviours, the same for every candidate: View -> (B, N, d_v)."""

    def forward(self, view: View) -> Tensor:
        weights = mean_weights(view.behaviour_mask)
        pooled = torch.matmul(weights.unsqueeze(1), view.behaviours)
        return pooled.expand(-1, view.candidates.shape[1], -1)


class DinInterest(nn.Module):
    """Deep Interest Network (Zhou et al. 2018): View -> (B, N, d_v).

    alpha(q, k) = MLP([q, k, q - k, q * k]), no softmax unless asked for (D14); padded behaviours weigh 0.
    With `history_length` given, a learned vector per age is added to every behaviour (DIN with position);
    with `time_gaps`, one per interval of the time since it.

    The first layer is not evaluated on the (B, N, T, 4 d_v) concatenation. Its weight splits into
    [W_q, W_k, W_-, W_x], and per candidate the layer is affine in k:
        W [q; k; q-k; q*k] = (W_k - W_- + W_x diag(q)) k + (W_q + W_-) q
    so an exported graph and half precision need one batched matmul on the behaviours; in full precision
    `unit_scores` reads k and q * k. Equal to the concatenation up to rounding.
    """

    def __init__(
        self,
        width: int,
        hidden: tuple[int, ...],
        *,
        softmax: bool = False,
        history_length: int | None = None,
        time_gaps: bool = False,
    ) -> None:
        super().__init__()
        self.softmax = softmax
        self.first = nn.Linear(4 * width, hidden[0])
        self.rest = mlp(hidden[0], hidden[1:], 1)
        self.position = None if history_length is None else table(history_length, width, 0.05)
        self.gaps = table(GAP_ROWS, width, 0.05) if time_gaps else None

    def forward(self, view: View) -> Tensor:
        keys = view.behaviours
        if self.position is not None:
            keys = keys + F.embedding(view.ages, self.position)
        if self.gaps is not None and view.gaps is not None:
            keys = keys + F.embedding(view.gaps, self.gaps)
        scores = self._scores(view.candidates, keys)
        mask = view.behaviour_mask.unsqueeze(1)
        weights = masked_softmax(scores, mask) if self.softmax else scores * mask
        return torch.matmul(weights, keys)

    def _scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """queries: (B, N, d_v), keys: (B, T, d_v) -> (B, N, T)."""
        b, n, d = queries.shape
        t = keys.shape[1]
        h = self.first.out_features
        w_q, w_k, w_minus, w_times = self.first.weight.chunk(4, dim=1)  # each (h, d_v)
        bias = F.linear(queries, w_q + w_minus, self.first.bias)  # (B, N, h)
        if len(self.rest) == 3 and written_out(keys):
            second, last = cast(nn.Linear, self.rest[0]), cast(nn.Linear, self.rest[2])
            weights = (second.weight, second.bias, last.weight, last.bias)
            return unit_scores(queries, keys, bias, torch.cat([w_k - w_minus, w_times], dim=1), *weights)
        q = queries.reshape(b * n, d, 1)
        per_candidate = torch.addcmul((w_k - w_minus).t(), q, w_times.t())  # (B * N, d_v, h)
        shared = keys.unsqueeze(1).expand(b, n, t, d).reshape(b * n, t, d)
        first = torch.baddbmm(bias.view(b * n, 1, h), shared, per_candidate).relu_()
        scores: Tensor = self.rest(first.view(b * n * t, h))
        return scores.view(b, n, t)


def id_interest(
    kind: IdInterestKind,
    width: int,
    hidden: tuple[int, ...],
    *,
    softmax: bool,
    history_length: int,
    time_gaps: bool = False,
) -> MeanInterest | DinInterest | None:
    """The ID module of this name, None for "none"."""
    if kind == "none":
        return None
    if kind == "mean":
        return MeanInterest()
    return DinInterest(
        width,
        hidden,
        softmax=softmax,
        history_length=history_length if kind == "din_position" else None,
        time_gaps=time_gaps,
    )
