"""C-SFT: the head learns from interest pairs what interests alike (MIM section 3.3, eq 5, 6).

Regularised on purpose: vectors that know the trained items' likes by heart are over-trusted by a ranker
and mislead it on new items, so the head starts as principal components, learns slowly under dropout and
stops when pairs of items that it never saw get no better.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from contracts.errors import InvalidInput
from training.item_features import Features, Rows, Step
from training.losses import CsftLoss
from training.models.fusion import EncoderHead
from training.recipes.head_bench import HeadBench, Recalls, Vectors
from training.recipes.pair_split import Pairs, split_pairs
from training.seeded import seeded

Query = Literal["image", "fused"]
_IMAGE_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)  # of the untrained fusion, text being 1
_SETTLING_STEPS = 100
_COMPONENT_ROWS = 20_000  # principal components come from at most so many items


@dataclass(frozen=True)
class CsftConfig:
    """query: what stands for the query item, its fused vector or, as in eq 5, its picture.

    temperature_rate: the temperatures' own learning rate; before the head moves they settle alone. Else
    0.07 is too sharp for faint pairs, and the head flattens its cosines (towards collapse) instead.
    """

    query: Query = "fused"
    w_txt: float = 0.5
    w_img: float = 0.5
    temperature: float = 0.07
    dropout: float = 0.4
    steps: int = 400
    batch: int = 256
    learning_rate: float = 3e-4
    temperature_rate: float = 0.05
    weight_decay: float = 0.01
    warm_up: int = 50
    held_out: float = 0.05
    evaluated_pairs: int = 5_000
    evaluate_every: int = 50
    patience: int = 3

    def __post_init__(self) -> None:
        if self.query not in ("image", "fused"):
            raise InvalidInput("query", self.query, "must be image or fused")
        for name in ("batch", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise InvalidInput(name, getattr(self, name), "must be at least 1")


@dataclass(frozen=True)
class CsftReport:
    """before, after: recall per held-out part; image_weight: of the untrained fusion.

    steps: of the head that is kept, steps_run: of the last one tried;
    mean_cosine: between two different items, by modality, near 1 means collapse.
    """

    pairs: int
    trained_pairs: int
    query: Query
    image_weight: float
    steps: int
    steps_run: int
    temperature: float
    before: Recalls
    after: Recalls
    mean_cosine: Mapping[str, float]
    seconds: float


def train_head(
    text: Features,
    image: Features,
    pairs: Pairs,
    rows: Rows,
    dim: int,
    config: CsftConfig,
    *,
    seed: int,
    threads: int,
    progress: Step,
) -> tuple[EncoderHead, CsftReport]:
    """text, image: of I items; pairs: (P, 2) rows; rows: of the items that may be learnt from.

    Pairs whose query or item has no vector to use are left out. Without pairs the head stays untrained.
    """
    started = time.perf_counter()
    some = text.present | image.present
    asks = image.present if config.query == "image" else some
    usable = pairs[asks[pairs[:, 0]] & some[pairs[:, 1]] & (pairs[:, 0] != pairs[:, 1])]
    split = split_pairs(usable, config.held_out, seed, config.evaluated_pairs)
    with seeded(seed, threads):
        head = EncoderHead(text.values.shape[1], image.values.shape[1], dim, dropout=config.dropout)
        bench = HeadBench(text, image, split, config.query, seed)
        weight = _start(head, text, image, rows, bench)
        before = bench.recalls(head)
        run = _Run(head, text, image, split.trained, config, seed)
        run.settle(*bench.start_vectors(head))
        kept, ran = _climb(head, run, bench, config, progress) if len(split.trained) else (0, 0)
        head.eval().requires_grad_(False)
        report = CsftReport(
            pairs=len(usable),
            trained_pairs=len(split.trained),
            query=config.query,
            image_weight=weight,
            steps=kept,
            steps_run=ran,
            temperature=float(run.loss.q2item.temperature.detach()),
            before=before,
            after=bench.recalls(head),
            mean_cosine=bench.mean_cosines(head),
            seconds=time.perf_counter() - started,
        )
    progress(config.steps, config.steps)
    return head, report


def _start(head: EncoderHead, text: Features, image: Features, rows: Rows, bench: HeadBench) -> float:
    """Principal components, and the image weight under which trained pairs are found best."""
    rows = rows[:: max(1, -(-len(rows) // _COMPONENT_ROWS))]
    given = [torch.from_numpy(f.values[rows[f.present[rows]]]) for f in (text, image)]
    scores = []
    for weight in _IMAGE_WEIGHTS:
        head.fusion.start(weight)
        if weight == _IMAGE_WEIGHTS[0]:
            head.start(given[0], given[1], weight)
        scores.append(bench.start_gains(head).sum())
    best = _IMAGE_WEIGHTS[int(np.argmax(scores))] if any(scores) else 1.0
    head.fusion.start(best)
    return best


def _climb(
    head: EncoderHead, run: _Run, bench: HeadBench, config: CsftConfig, progress: Step
) -> tuple[int, int]:
    """Train and leave the best head: its step, 0 where none is surely better than the start; the last step.

    Surely: the mean gain over the start is more than its standard error. Nothing held out: the last head.
    """
    start = bench.gains(head)
    untrained = state = _copy(head)
    best, kept, step = start, 0, 0
    for step in range(1, config.steps + 1):
        run.step(step)
        progress(step, config.steps)
        if step % config.evaluate_every and step != config.steps:
            continue
        gains = bench.gains(head)
        if not len(gains) or gains.mean() > best.mean():
            best, kept, state = gains, step, _copy(head)
        elif step - kept >= config.patience * config.evaluate_every:
            break
    rise = best - start
    if len(rise) and rise.mean() <= rise.std() / np.sqrt(len(rise)):
        kept, state = 0, untrained
    head.load_state_dict(state)
    return kept, step


def _copy(head: EncoderHead) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in head.state_dict().items()}


class _Run:
    """The optimiser and what it needs for one step."""

    def __init__(
        self, head: EncoderHead, text: Features, image: Features, pairs: Pairs, config: CsftConfig, seed: int
    ) -> None:
        self._head = head
        self._config = config
        self._text, self._image = torch.from_numpy(text.values), torch.from_numpy(image.values)
        self._has_text, self._has_image = torch.from_numpy(text.present), torch.from_numpy(image.present)
        self._pairs = torch.from_numpy(pairs)
        self._rng = np.random.default_rng(seed)
        self._batch = min(config.batch, len(pairs))
        self.loss = CsftLoss(config.w_txt, config.w_img, config.temperature)
        self._rates = (config.learning_rate, config.temperature_rate)
        self._optimiser = torch.optim.AdamW(
            [
                {"params": list(head.parameters()), "weight_decay": config.weight_decay},
                {"params": list(self.loss.parameters()), "weight_decay": 0.0},
            ]
        )

    def settle(self, vectors: Vectors, pairs: Pairs) -> None:
        """Fit the temperatures alone. vectors: (K, d) untrained, by modality; pairs: (P, 2) rows of them."""
        if not len(pairs):
            return
        optimiser = torch.optim.Adam(self.loss.parameters(), lr=self._config.temperature_rate)
        known = {name: torch.from_numpy(values) for name, values in vectors.items()}
        for _ in range(_SETTLING_STEPS):
            chosen = torch.from_numpy(pairs[self._rng.integers(0, len(pairs), self._batch)])
            query, item = chosen[:, 0], chosen[:, 1]
            loss = self.loss(
                known[self._config.query][query],
                known["fused"][item],
                known["text"][item],
                known["image"][item],
                item,
                query_keys=query,
                query_items=query,
                text_present=known["text"][item].any(dim=1),
                image_present=known["image"][item].any(dim=1),
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    def step(self, number: int) -> None:
        """Step `number` of 1 to config.steps: warm-up, then linear decay."""
        config = self._config
        factor = min(1.0, number / max(1, config.warm_up)) * (1.0 - (number - 1) / config.steps)
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        chosen = self._rng.integers(0, len(self._pairs), self._batch)
        pairs = self._pairs[torch.from_numpy(chosen)]
        rows, place = torch.unique(pairs, return_inverse=True)
        self._head.train()
        text, image, fused = self._head(
            self._text[rows], self._image[rows], self._has_text[rows], self._has_image[rows]
        )
        query, item = place[:, 0], place[:, 1]
        loss = self.loss(
            (image if config.query == "image" else fused)[query],
            fused[item],
            text[item],
            image[item],
            pairs[:, 1],
            query_keys=pairs[:, 0],
            query_items=pairs[:, 0],
            text_present=self._has_text[pairs[:, 1]],
            image_present=self._has_image[pairs[:, 1]],
        )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
