"""Losses: the ranker's (DMAE eq 16), IDDU's (eq 13), InfoNCE and C-SFT (MIM eq 5, 6)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts.errors import InvalidInput

Decoder = Literal["gkl", "bce", "softmax", "literal"]


def masked_bce(logit: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Mean binary cross entropy over the candidates that count.

    logit, labels: (B, N) float32; mask: (B, N) bool -> () float32, 0 where nothing counts.
    """
    each = F.binary_cross_entropy_with_logits(logit, labels, reduction="none")
    return torch.where(mask, each, 0.0).sum() / mask.sum().clamp(min=1)


def decoding_divergence(p: Tensor, logits: Tensor, decoder: Decoder) -> Tensor:
    """How far the decoded distribution q is from p, summed over cells: p, logits: (P, cells) -> (P,).

    gkl      q = sigmoid: sum p log(p/q) - p + q, the generalised KL, least at q = p (default, D12)
    bce      q = sigmoid: one Bernoulli KL per cell
    softmax  q = softmax over all cells: KL
    literal  q = sigmoid: sum p log(p/q) as printed in eq 13, which is least at q = 1 whatever p is
    """
    p = p.detach()
    entropy: Tensor = torch.special.xlogy(p, p)
    if decoder == "softmax":
        cells = entropy - p * F.log_softmax(logits, dim=-1)
        return cells.sum(-1)
    cells = entropy - p * F.logsigmoid(logits)
    if decoder == "gkl":
        cells = cells - p + torch.sigmoid(logits)
    elif decoder == "bce":
        rest = 1.0 - p
        cells = cells + torch.special.xlogy(rest, rest) - rest * F.logsigmoid(-logits)
    elif decoder != "literal":
        raise InvalidInput("decoder", decoder, "must be gkl, bce, softmax or literal")
    return cells.sum(-1)


class InfoNce(nn.Module):
    """-log softmax of cos(q_i, x_i) / tau against the batch's other items (MIM eq 5, M5).

    tau is learned and never below the floor: tau = floor + exp(theta).
    """

    def __init__(self, temperature: float = 0.07, floor: float = 0.01) -> None:
        super().__init__()
        if not temperature > floor > 0:
            raise InvalidInput("temperature", (temperature, floor), "must be above a floor that is above 0")
        self.floor = floor
        self.theta = nn.Parameter(torch.tensor(math.log(temperature - floor)))

    @property
    def temperature(self) -> Tensor:
        """tau: () float32."""
        return self.floor + self.theta.exp()

    def forward(
        self,
        queries: Tensor,
        items: Tensor,
        item_keys: Tensor,
        *,
        query_keys: Tensor | None = None,
        query_items: Tensor | None = None,
        present: Tensor | None = None,
        negatives: Tensor | None = None,
        negative_keys: Tensor | None = None,
    ) -> Tensor:
        """queries, items: (P, d), pair i is (queries[i], items[i]) -> () mean loss over the pairs.

        item_keys: (P,) int64, one per item: the same item elsewhere in the batch is no negative (M8).
        query_keys: (P,) int64: what the same query bought elsewhere in the batch is no negative either.
        query_items: (P,) int64: keys of queries that are items themselves: none is its own negative.
        present: (P,) bool, whether the item has this vector: pairs without are left out, on both sides.
        negatives: (Q, d) further items with their negative_keys (Q,), no gradient is stopped here.
        """
        same = item_keys.unsqueeze(1) == item_keys.unsqueeze(0)
        if query_keys is not None:
            same = same | (query_keys.unsqueeze(1) == query_keys.unsqueeze(0))
        if query_items is not None:
            same = same | (query_items.unsqueeze(1) == item_keys.unsqueeze(0))
        count = len(items)
        if present is not None:
            same = same | ~present.unsqueeze(0)
        hidden = same & ~torch.eye(count, dtype=torch.bool, device=items.device)
        if negatives is not None:
            if negative_keys is None or len(negative_keys) != len(negatives):
                raise InvalidInput("negative_keys", negative_keys, "must hold one key per extra negative")
            items = torch.cat([items, negatives])
            hidden = torch.cat([hidden, item_keys.unsqueeze(1) == negative_keys.unsqueeze(0)], dim=1)
        cosine = F.normalize(queries, dim=1) @ F.normalize(items, dim=1).t()
        logits = (cosine / self.temperature).masked_fill(hidden, -torch.inf)
        each = F.cross_entropy(logits, torch.arange(count, device=items.device), reduction="none")
        if present is None:
            return each.mean()
        return torch.where(present, each, 0.0).sum() / present.sum().clamp(min=1)


class CsftLoss(nn.Module):
    """L_C-SFT = L_q2item + w_txt L_q2txt + w_img L_q2img (MIM eq 6; alpha = beta = 0.5 there).

    Each of the three has a temperature of its own.
    """

    def __init__(self, w_txt: float = 0.5, w_img: float = 0.5, temperature: float = 0.07) -> None:
        super().__init__()
        self.w_txt = w_txt
        self.w_img = w_img
        self.q2item = InfoNce(temperature)
        self.q2txt = InfoNce(temperature)
        self.q2img = InfoNce(temperature)

    def forward(
        self,
        queries: Tensor,
        fused: Tensor,
        text: Tensor,
        image: Tensor,
        item_keys: Tensor,
        *,
        query_keys: Tensor | None = None,
        query_items: Tensor | None = None,
        text_present: Tensor | None = None,
        image_present: Tensor | None = None,
        negatives: tuple[Tensor, Tensor, Tensor] | None = None,
        negative_keys: Tensor | None = None,
    ) -> Tensor:
        """queries, fused, text, image: (P, d) -> () float32.

        negatives: further fused, text and image vectors, each (Q, d); keys as in `InfoNce`.
        """
        extra = negatives or (None, None, None)

        def level(loss: InfoNce, items: Tensor, present: Tensor | None, further: Tensor | None) -> Tensor:
            out: Tensor = loss(
                queries,
                items,
                item_keys,
                query_keys=query_keys,
                query_items=query_items,
                present=present,
                negatives=further,
                negative_keys=negative_keys if further is not None else None,
            )
            return out

        return (
            level(self.q2item, fused, None, extra[0])
            + self.w_txt * level(self.q2txt, text, text_present, extra[1])
            + self.w_img * level(self.q2img, image, image_present, extra[2])
        )
