"""The papers' equations in plain numpy, one pair (candidate, history) at a time, written from the papers.

Nothing here knows the modules' code: weights come in as arrays by the papers' names, stored as torch does
(out, in), so that W x in the paper is `w @ x` here. float64 throughout, but for r, whose bucket is decided in
float32 on both sides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    out: Array = e / e.sum()
    return out


def similarity(
    candidate: npt.NDArray[np.int8], behaviour: npt.NDArray[np.int8], inv_c: np.float32, inv_b: np.float32
) -> np.float32:
    """r_j of DMAE 4.1 on raw codes."""
    dot = np.float32(candidate.astype(np.int64) @ behaviour.astype(np.int64))
    return np.float32((dot * inv_c * inv_b + np.float32(1)) * np.float32(0.5))


def mlp(x: Array, layers: list[tuple[Array, Array]]) -> Array:
    for i, (w, b) in enumerate(layers):
        x = w @ x + b
        if i < len(layers) - 1:
            x = relu(x)
    return x


def din(query: Array, keys: Array, mask: Bools, layers: list[tuple[Array, Array]], *, soft: bool) -> Array:
    """sum_j alpha(q, k_j) k_j over the valid behaviours. keys: (T, d)."""
    alphas = [mlp(np.concatenate([query, k, query - k, query * k]), layers)[0] for k in keys[mask]]
    if not alphas:
        return np.zeros_like(query)
    weights = softmax(np.array(alphas)) if soft else np.array(alphas)
    out: Array = weights @ keys[mask]
    return out


def ciubm(
    target: Array, content: Array, ids: Array, mask: Bools, weighting: str, temperature: float
) -> tuple[Array, Array]:
    """Eq 7 and 8 of MIM: h_B^MM, h_B^Fusion of target (D,), content (T, D) and ids (T, d)."""
    alpha = np.zeros(len(mask))
    for i in np.flatnonzero(mask):
        alpha[i] = target @ content[i] / (np.linalg.norm(target) * np.linalg.norm(content[i]))
    if weighting == "relu":
        alpha = relu(alpha)
    if weighting in ("cosine_mean", "relu"):
        alpha = alpha / max(1, mask.sum())
    if weighting == "softmax" and mask.any():
        alpha[mask] = softmax(alpha[mask] / temperature)
    unit = content / np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-30)
    return sum((alpha[i] * unit[i] for i in range(len(mask))), np.zeros(content.shape[1])), sum(
        (alpha[i] * ids[i] for i in range(len(mask))), np.zeros(ids.shape[1])
    )


class MieuWeights(NamedTuple):
    w: float
    b: float
    buckets: Array  # (N_B, d)
    w1: Array  # (d, 2d)
    b1: Array
    w2: Array  # (d, 2d)
    b2: Array
    position: Array  # (T_max, d), by age


def mieu(r: np.float32, age: int, weights: MieuWeights, base: float, scale: float) -> Array:
    """Eq 1 to 4 for one behaviour."""
    n_b, d = weights.buckets.shape
    r_hat = weights.w * float(r) + weights.b
    bucket = int(np.clip(np.floor(r * np.float32(n_b - 1)), 0, n_b - 1))
    r_d = r_hat * weights.buckets[bucket]
    r_sc: list[float] = []
    for i in range(d // 2):
        angle = float(r) * scale / base ** (2 * i / d)
        r_sc += [np.sin(angle), np.cos(angle)]
    hidden = relu(weights.w1 @ np.concatenate([r_d, r_sc]) + weights.b1)
    return relu(weights.w2 @ np.concatenate([hidden, weights.position[age]]) + weights.b2)


def mieu_bucketing(r: np.float32, age: int, weights: MieuWeights) -> Array:
    """The variant w/o MIEU-se: only the bucket's embedding."""
    n_b = len(weights.buckets)
    bucket = int(np.clip(np.floor(r * np.float32(n_b - 1)), 0, n_b - 1))
    hidden = relu(weights.w1 @ weights.buckets[bucket] + weights.b1)
    return relu(weights.w2 @ np.concatenate([hidden, weights.position[age]]) + weights.b2)


class Attention(NamedTuple):
    q: Array
    k: Array
    v: Array


def window(
    tokens: Array, mask: Bools, weights: Attention, radius: int, *, causal: bool, residual: bool
) -> Array:
    """Eq 5, 6: (T, d) -> r̂ (T, d); the rows of invalid behaviours stay zero."""
    t, d = tokens.shape
    out = np.zeros_like(tokens)
    for i in np.flatnonzero(mask):
        near = [j for j in range(t) if mask[j] and abs(i - j) <= radius and (j <= i or not causal)]
        scores = np.array([(weights.q @ tokens[i]) @ (weights.k @ tokens[j]) for j in near]) / np.sqrt(d)
        out[i] = sum(
            (a * (weights.v @ tokens[j]) for a, j in zip(softmax(scores), near, strict=True)), np.zeros(d)
        )
        if residual:
            out[i] += tokens[i]
    return out


def mean(tokens: Array, mask: Bools) -> Array:
    """Eq 7 over the valid behaviours; zeros without any."""
    out: Array = tokens[mask].sum(axis=0) / max(1, mask.sum())
    return out


def cross(context: Array, tokens: Array, mask: Bools, weights: Attention) -> Array:
    """Eq 8, 9: context is the other modality's mean."""
    d = tokens.shape[1]
    if not mask.any():
        return np.zeros(d)
    scores = np.array([(weights.q @ context) @ (weights.k @ x) for x in tokens[mask]]) / np.sqrt(d)
    out: Array = softmax(scores) @ np.stack([weights.v @ x for x in tokens[mask]])
    return out


def distribution(
    r: npt.NDArray[np.float32], ages: npt.NDArray[np.int64], mask: Bools, n: int, regions: int, t_max: int
) -> Array:
    """Eq 10: P (regions, n); c_1 = [0, 1/n], c_j = ((j-1)/n, j/n]."""
    p = np.zeros((regions, n))
    for k in np.flatnonzero(mask):
        scaled = np.float32(r[k]) * np.float32(n)
        j = next(j for j in range(1, n + 1) if scaled <= j or j == n)
        i = int(ages[k]) * regions // t_max
        p[i, j - 1] += 1
    out: Array = p / max(1, mask.sum())
    return out


def divergence(p: Array, logits: Array, decoder: str) -> float:
    """Eq 13 and its repairs, cell by cell, 0 log 0 = 0."""
    flat, total = p.reshape(-1), 0.0
    q = softmax(logits) if decoder == "softmax" else 1 / (1 + np.exp(-logits))
    for x, y in zip(flat, q, strict=True):
        total += x * np.log(x / y) if x > 0 else 0.0
        if decoder == "gkl":
            total += y - x
        if decoder == "bce":
            total += (1 - x) * np.log((1 - x) / (1 - y)) if x < 1 else 0.0
    return total
