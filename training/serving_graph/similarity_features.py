"""What a candidate's content says beside the history or alone: SimTier, recency, target vector, query."""

from __future__ import annotations

import numpy as np
from torch import nn

from training.models.query import QuerySimilarity
from training.models.recency import RecencySimilarity
from training.models.simtier import SimTier
from training.models.target_vector import TargetVector
from training.serving_graph.builder import GraphBuilder, array
from training.serving_graph.inputs import Inputs
from training.serving_graph.mieu import Table

_BIG = 2**62
_NOWHERE = 1e4  # below every similarity, once added
_LOWEST = 4.0  # above the magnitude of every scaled similarity


def simtier(b: GraphBuilder, inputs: Inputs, module: SimTier) -> str:
    """(B, N, width): log1p of the behaviours per window and tier, times the tiers' vectors."""
    config, parts = module.config, []
    grid = config.windows * config.tiers
    ages = np.arange(module.history_length)[::-1]  # oldest first
    window = (ages * config.windows) // module.history_length * config.tiers
    n = b.size("candidates", 1)
    for name, table in zip(config.modalities, module.tiers, strict=True):
        c, cosine = inputs.content(name), inputs.cosine(name)
        r = b.op("Mul", b.op("Add", cosine, b.const(1.0)), b.const(0.5))
        tier = b.op("Sub", b.op("Ceil", b.op("Mul", r, b.const(float(config.tiers)))), b.const(1.0))
        tier = b.op("Clip", tier, b.const(0.0), b.const(config.tiers - 1.0))
        newest = b.slice(b.const(window, np.int64), b.op("Neg", b.size(cosine, 2)), _BIG, 0)
        cell = b.op("Add", b.op("Cast", tier, to=7), newest)
        counted = b.op("Mul", b.unsqueeze(c.present, 1), b.unsqueeze(c.shown, 2))  # (B, N, T)
        shape = b.op("Concat", b.size(cosine, 0), n, b.ints(grid), axis=0)
        zeros = b.op("Expand", b.const(0.0), shape)
        counts = b.op("ScatterElements", zeros, cell, counted, axis=2, reduction="add")
        logs = b.op("Log", b.op("Add", counts, b.const(1.0)))
        windows = b.unsqueeze(b.reshape(logs, 0, 0, config.windows, config.tiers), 3)
        tiers = array(table).reshape(config.windows, config.tiers, config.dim)
        features = b.op("MatMul", windows, b.const(tiers))  # (B, N, windows, 1, dim)
        parts.append(b.reshape(features, 0, 0, config.windows * config.dim))
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=2)


def target_vector(b: GraphBuilder, inputs: Inputs, module: TargetVector, first: Table) -> tuple[str, Table]:
    """The candidate's unit vectors (B, N, D) and the first layer's rows for them, projections folded in."""
    parts, rows, start = [], [], 0
    for name, projection in zip(module.config.modalities, module.projections, strict=True):
        c = inputs.content(name)
        parts.append(b.op("Mul", c.candidates, c.candidate_inv_norm))
        width = module.config.projection or inputs.dim(name)
        own = first[start : start + width]
        rows.append(array(projection.weight).T @ own if isinstance(projection, nn.Linear) else own)
        start += width
    vectors = parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=2)
    return vectors, np.concatenate(rows)


def recency_similarity(b: GraphBuilder, inputs: Inputs, module: RecencySimilarity) -> str:
    """(B, N, width): mean and maximum of the scaled r per modality and window of ages.

    Every window begins with one absent behaviour, so that none is empty however short the history.
    """
    parts = []
    starts = module.config.starts
    for name in module.config.modalities:
        c, cosine = inputs.content(name), inputs.cosine(name)
        r = b.op("Mul", cosine, b.const(2.0))  # ((cos + 1) / 2 - 1/2) * 4
        shown = b.unsqueeze(c.shown, 2)
        low = b.op("Mul", b.op("Sub", c.present, b.const(1.0)), b.const(_NOWHERE))
        masked = b.op("Add", r, b.unsqueeze(low, 1))
        total = b.op("Mul", r, b.unsqueeze(c.present, 1))
        masked = b.op("Pad", masked, b.ints(0, 0, 1, 0, 0, 0), b.const(-_NOWHERE))
        total = b.op("Pad", total, b.ints(0, 0, 1, 0, 0, 0))
        present = b.op("Pad", c.present, b.ints(0, 1, 0, 0))
        for first, start in enumerate(starts):
            end = -start if start else _BIG
            old = -starts[first + 1] if first + 1 < len(starts) else -_BIG
            window = [_window(b, x, old, end, axis) for x, axis in ((total, 2), (masked, 2), (present, 1))]
            count = b.unsqueeze(b.op("ReduceSum", window[2], b.ints(1), keepdims=1), 1)  # (B, 1, 1)
            mean = b.op("ReduceSum", window[0], b.ints(2), keepdims=1)
            mean = b.op("Div", mean, b.op("Max", count, b.const(1.0)))
            there = b.op("Min", count, b.const(1.0))
            largest = b.op("Max", b.op("ReduceMax", window[1], b.ints(2), keepdims=1), b.const(-_LOWEST))
            parts += [b.op("Mul", mean, shown), b.op("Mul", b.op("Mul", largest, there), shown)]
    return b.op("Concat", *parts, axis=2)


def _window(b: GraphBuilder, x: str, old: int, end: int, axis: int) -> str:
    """The newest-last slice of ages, the padded behaviour in front of it where the history is too short."""
    aged = b.op("Slice", x, b.ints(old), b.ints(end), b.ints(axis))
    first = b.op("Slice", x, b.ints(0), b.ints(1), b.ints(axis))
    return b.op("Concat", first, aged, axis=axis)


def query_similarity(b: GraphBuilder, inputs: Inputs, module: QuerySimilarity) -> str:
    """(B, N, 2 modalities): cosine of query and candidate, and whether both are there."""
    parts = [part for name in module.config.modalities for part in inputs.query(name)]
    return b.op("Concat", *parts, axis=2)
