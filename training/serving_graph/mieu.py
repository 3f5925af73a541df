"""MIEU, folded: every (4) of training.models.mieu is ReLU(G(r) + P_age), G of one scalar, P a constant.

G(r) = W_left ReLU(W_1 (r^d ⊕ r^sc) + b_1) is tabulated. A bucket of eq 2 is cut into `cells` equal cells, and
has cells + 1 rows of its own, both ends included: no cell straddles a jump of G. Within a cell G is linear.
`cells` is a power of two, so that x cells is exact for x = r (N_B - 1), and with
    position = x cells + floor(x),    row = floor(position)
the rows `row` and `row + 1` are of the bucket floor(x) (where the sum rounds up, `row` is the bucket's last).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.models.mieu import Mieu
from training.models.window import BLOCK
from training.serving_graph.builder import GraphBuilder, array

Table = npt.NDArray[np.float64]


def similarity_table(mieu: Mieu, cells: int) -> Table:
    """G: (rows, d). r = 1 is a bucket of its own with one value, held by the last two rows."""
    last = mieu.buckets.shape[0] - 1
    bucket = np.repeat(np.arange(last), cells + 1)
    r = (bucket + np.tile(np.arange(cells + 1), last) / cells) / last
    return encode(mieu, np.concatenate([r, [1.0, 1.0]]), np.concatenate([bucket, [last, last]]))


def encode(mieu: Mieu, r: Table, bucket: npt.NDArray[np.int64]) -> Table:
    """G: r, bucket (P,) -> (P, d), before the position half, the bias and the ReLU of (4)."""
    d = mieu.w2.out_features
    rows = array(mieu.buckets)[bucket]
    if mieu.similarity_embedding:
        angle = r[:, None] * array(mieu.omega)
        rows = (float(array(mieu.scale)) * r + float(array(mieu.shift)))[:, None] * rows
        rows = np.concatenate([rows, np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(-1, d)], axis=1)
    hidden = np.maximum(rows @ array(mieu.w1.weight).T + array(mieu.w1.bias), 0.0)
    out: Table = hidden @ array(mieu.w2.weight)[:, :d].T
    return out


def positions(mieu: Mieu) -> Table:
    """P: (rows, d), oldest age first, filled up with zeros at the old end to whole blocks of the window."""
    d = mieu.w2.out_features
    by_age = array(mieu.position) @ array(mieu.w2.weight)[:, d:].T + array(mieu.w2.bias)
    missing = -len(by_age) % BLOCK
    return np.concatenate([np.zeros((missing, d)), by_age[::-1]])


def exact(b: GraphBuilder, mieu: Mieu, r: str, scaled: str) -> str:
    """G without a table. r: (...), scaled: r (N_B - 1) clipped to its range -> (..., d)."""
    d = mieu.w2.out_features
    bucket = b.op("Cast", b.op("Floor", scaled), to=6)
    w1 = array(mieu.w1.weight)
    by_bucket = array(mieu.buckets) @ w1[:, :d].T
    if not mieu.similarity_embedding:
        hidden = b.op("Gather", b.const(np.maximum(by_bucket + array(mieu.w1.bias), 0.0)), bucket)
    else:
        r = b.unsqueeze(r, -1)
        angle = b.op("Mul", r, b.const(array(mieu.omega)))
        waves = b.op("Concat", b.op("Sin", angle), b.op("Cos", angle), axis=-1)
        halves = np.concatenate([w1[:, d::2], w1[:, d + 1 :: 2]], axis=1)
        hidden = b.op("Add", b.op("MatMul", waves, b.const(halves.T)), b.const(array(mieu.w1.bias)))
        factor = b.op(
            "Add", b.op("Mul", r, b.const(float(array(mieu.scale)))), b.const(float(array(mieu.shift)))
        )
        hidden = b.op("Add", hidden, b.op("Mul", b.op("Gather", b.const(by_bucket), bucket), factor))
        hidden = b.op("Relu", hidden)
    return b.op("MatMul", hidden, b.const(array(mieu.w2.weight)[:, :d].T))


def score_bound(values: Table, places: Table, folded: Table) -> float:
    """An upper bound of |e_i A e_j| over all tokens e = ReLU(G + P): what a softmax may meet."""
    top = values.max(0) + places.max(0)
    largest = np.linalg.norm(np.maximum(top, 0.0))
    return float(largest**2 * np.linalg.norm(folded, 2))
