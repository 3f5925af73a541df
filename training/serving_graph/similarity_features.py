"""SimTier and the target's content vector."""

from __future__ import annotations

import numpy as np
from torch import nn

from training.models.simtier import SimTier
from training.models.target_vector import TargetVector
from training.serving_graph.builder import GraphBuilder, array
from training.serving_graph.inputs import Inputs
from training.serving_graph.mieu import Table

_BIG = 2**62


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
