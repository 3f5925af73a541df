"""C-SFT: the head learns from interest pairs what interests alike (MIM section 3.3, eq 5, 6).

Regularised on purpose: vectors that know the trained items' likes by heart are over-trusted by a ranker
and mislead it on new items, so the head starts as principal components, learns slowly under dropout and
stops when pairs of items that it never saw get no better.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.item_features import Features, Rows, Step
from training.models.fusion import EncoderHead
from training.recipes.csft_config import CsftConfig, Query
from training.recipes.csft_run import CsftRun
from training.recipes.head_bench import HeadBench, Recalls
from training.recipes.pair_split import Pairs, split_pairs
from training.seeded import seeded

_IMAGE_WEIGHTS = (
    0.25,
    0.5,
    1.0,
    2.0,
    4.0,
)  # of the untrained fusion, text being 1; 0 would lose lone pictures
_SURE = 2.0  # standard errors: the best of several looks at one held-out part flatters itself
_COMPONENT_ROWS = 20_000  # principal components come from at most so many items


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
        run = CsftRun(head, text, image, split.trained, config, seed)
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
    head: EncoderHead, run: CsftRun, bench: HeadBench, config: CsftConfig, progress: Step
) -> tuple[int, int]:
    """Train and leave the best head: its step, 0 where none is surely better than the start; the last step.

    Surely: the mean gain over the start exceeds _SURE standard errors. Nothing held out: the last head.
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
    if len(rise) and rise.mean() <= _SURE * rise.std() / np.sqrt(len(rise)):
        kept, state = 0, untrained
    head.load_state_dict(state)
    return kept, step


def _copy(head: EncoderHead) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in head.state_dict().items()}
