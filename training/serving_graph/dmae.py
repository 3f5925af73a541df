"""DMAE's features: both modalities on one axis, MIEU from a table, MIFU on blocks and their halos."""

from __future__ import annotations

from typing import cast

import numpy as np

from training.models.dmae import Dmae
from training.models.mieu import Mieu
from training.models.mifu import CrossModal, IntraModal
from training.models.window import BLOCK
from training.serving_graph.builder import DOMAIN, GraphBuilder, array
from training.serving_graph.id_interest import MASKED, mean_weights
from training.serving_graph.inputs import Inputs
from training.serving_graph.mieu import Table, exact, positions, score_bound, similarity_table

_NAME = "DmaeInterest"
_BIG = 2**62
_SAFE_SCORE = 60.0  # exp of it and of its negative, and sums of a window of them, stay well inside float32
_NOTHING = 1e-36  # so that a window without a valid behaviour is 0 / this


def dmae(b: GraphBuilder, inputs: Inputs, module: Dmae, cells: int | None) -> str:
    """(B, N, 2 d): r_*^m1 ⊕ r_*^m2. cells: per bucket of the similarity table, None = no table, exact."""
    config = module.config
    mieus = [cast(Mieu, m) for m in module.mieu]
    if config.without_mieu_se and cells is not None:
        cells = 1  # G is constant within a bucket
    content = [inputs.content(name) for name in config.modalities]
    similarities = [
        _unit_interval(b, inputs.cosine(name), module.calibration[m])
        for m, name in enumerate(config.modalities)
    ]
    scaled = [_scaled(b, r, config.buckets - 1) for r in similarities]
    present = b.op("Concat", *(b.unsqueeze(c.present, 0) for c in content), axis=0)  # (2, B, T)
    shown = b.op("Concat", *(b.unsqueeze(c.shown, 0) for c in content), axis=0)  # (2, B, N)
    places = np.stack([positions(m) for m in mieus])
    if cells is None:
        encoded = [b.unsqueeze(exact(b, *x), 0) for x in zip(mieus, similarities, scaled, strict=True)]
        tokens = _tokens(b, b.op("Concat", *encoded, axis=0), b.const(places))
        return _interest(b, module, tokens, present, shown, _weights(b, module), bound=np.inf)
    tables = [similarity_table(m, cells) for m in mieus]
    rows = len(tables[0])
    both = b.op("Concat", *(b.unsqueeze(x, 0) for x in scaled), axis=0)  # (2, B, N, T)
    position = b.op("Add", b.op("Mul", both, b.const(float(cells))), b.op("Floor", both))
    arguments = [
        position,
        present,
        shown,
        b.const(np.concatenate(tables)),
        b.const(places),
        *_weights(b, module),
    ]
    bound = max(score_bound(t, places[m], _folded(module, m)) for m, t in enumerate(tables))
    if config.without_mifu or config.residual or config.layernorm:
        return _tabulated(b, module, arguments, rows, bound)
    names = ["position", "present", "shown", "value", "place", "a", "u", "v"]
    body = GraphBuilder()
    output = _tabulated(body, module, names, rows, bound)
    b.function(_NAME, names, body, output, attributes=("radius", "causal"))
    return b.op(_NAME, *arguments, domain=DOMAIN, radius=config.window_radius, causal=int(config.causal))


def _unit_interval(b: GraphBuilder, cosine: str, calibration: tuple[float, float]) -> str:
    """r, rounded as training.models.similarity rounds it."""
    r = b.op("Mul", b.op("Add", cosine, b.const(1.0)), b.const(0.5))
    if calibration == (1.0, 0.0):
        return r
    r = b.op("Add", b.op("Mul", r, b.const(calibration[0])), b.const(calibration[1]))
    return b.op("Clip", r, b.const(0.0), b.const(1.0))


def _scaled(b: GraphBuilder, r: str, last: int) -> str:
    """r (N_B - 1) clipped to [0, N_B - 1], whose floor is the bucket."""
    return b.op("Clip", b.op("Mul", r, b.const(float(last))), b.const(0.0), b.const(float(last)))


def _folded(module: Dmae, m: int) -> Table:
    """A = W_Q W_K^T / sqrt(d): e_i A e_j^T is the score of i reading j."""
    if module.config.without_mifu:
        return np.zeros((1, 1))
    intra = cast(IntraModal, module.intra[m])
    folded: Table = array(intra.w_q.weight).T @ array(intra.w_k.weight) * module.config.dim**-0.5
    return folded


def _value(module: Dmae, m: int) -> Table:
    """From what the window passes on, per behaviour, to r̂: W_V; with `residual` of (e ⊕ window); else 1."""
    intra = cast(IntraModal, module.intra[m])
    identity = np.eye(module.config.dim)
    if module.config.layernorm:
        return identity
    weight = array(intra.w_v.weight).T
    return np.concatenate([identity, weight]) if module.config.residual else weight


def _weights(b: GraphBuilder, module: Dmae) -> list[str]:
    """A (2, d, d); U (2, w, w) from the other's mean to the query; V (2, w, d) from what it read to r_*."""
    if module.config.without_mifu:
        return []
    a, u, v = [], [], []
    for m in range(2):
        cross = cast(CrossModal, module.cross[m])
        query = array(cross.w_q.weight).T @ array(cross.w_k.weight) * module.config.dim**-0.5
        a.append(_folded(module, m))
        u.append(_value(module, 1 - m) @ query @ _value(module, m).T)
        v.append(_value(module, m) @ array(cross.w_v.weight).T)
    return [b.const(np.stack(x)) for x in (a, u, v)]


def _tabulated(b: GraphBuilder, module: Dmae, names: list[str], rows: int, bound: float) -> str:
    position, present, shown, value, place = names[:5]
    padded = _pad(b, position, 3)
    row = b.op("Floor", padded)
    index = b.op("Cast", row, to=6)
    index = b.op("Add", index, b.const([[[[0]]], [[[rows]]]], np.int32))  # the second modality's rows
    inside = b.unsqueeze(b.op("Sub", padded, row), -1)
    left = b.op("Gather", value, index)
    right = b.op("Gather", value, b.op("Add", index, b.const(1, np.int32)))
    encoded = b.op("Add", left, b.op("Mul", b.op("Sub", right, left), inside))
    tokens = _tokens(b, encoded, place, pad=False)
    return _interest(b, module, tokens, present, shown, names[5:], bound=bound)


def _pad(b: GraphBuilder, x: str, axis: int) -> str:
    """Zeros at the old end of T, up to whole blocks; axis is the last one."""
    missing = b.op("Mod", b.op("Neg", b.size(x, axis)), b.ints(BLOCK))
    return b.op("Pad", x, b.op("Concat", b.ints(*[0] * axis), missing, b.ints(*[0] * (axis + 1)), axis=0))


def _tokens(b: GraphBuilder, encoded: str, place: str, pad: bool = True) -> str:
    """ReLU(G + P): encoded (2, B, N, T, d) -> (2, B, N, T', d), T' whole blocks of T."""
    if pad:
        missing = b.op("Mod", b.op("Neg", b.size(encoded, 3)), b.ints(BLOCK))
        encoded = b.op("Pad", encoded, b.op("Concat", b.ints(0, 0, 0), missing, b.ints(*[0] * 6), axis=0))
    newest = b.slice(place, b.op("Neg", b.size(encoded, 3)), _BIG, 1)
    return b.op("Relu", b.op("Add", encoded, b.unsqueeze(newest, 1, 2)))


def _interest(
    b: GraphBuilder, module: Dmae, tokens: str, present: str, shown: str, weights: list[str], bound: float
) -> str:
    """tokens: (2, B, N, T', d) -> (B, N, 2 d)."""
    present = _pad(b, present, 2)
    shown = b.unsqueeze(shown, 3, 4)  # (2, B, N, 1, 1)
    divisor = None  # (2, B, N, 1, T') of the tokens, where their windows' sums are still to be divided by
    if not module.config.without_mifu:
        tokens, divisor = _window(b, module, tokens, present, weights[0], bound)
    pooling = b.unsqueeze(mean_weights(b, present), 2, 3)
    if divisor is not None:
        pooling = b.op("Div", pooling, divisor)
    mean = b.op("Mul", b.op("MatMul", pooling, tokens), shown)  # (2, B, N, 1, w), eq 7
    if module.config.without_mifu:
        out = mean
    else:
        other = b.op("Gather", mean, b.ints(1, 0))
        u, v = (b.unsqueeze(w, 1, 2) for w in weights[1:])  # (2, 1, 1, w, w), (2, 1, 1, w, d)
        query = b.op("MatMul", other, u)
        scores = b.op("MatMul", query, b.op("Transpose", tokens, perm=[0, 1, 2, 4, 3]))  # (2, B, N, 1, T')
        if divisor is not None:
            scores = b.op("Div", scores, divisor)
        mask = b.unsqueeze(present, 2, 3)
        bias = b.op("Mul", b.op("Sub", mask, b.const(1.0)), b.const(-MASKED))
        attention = b.op("Mul", b.op("Softmax", b.op("Add", scores, bias), axis=-1), mask)
        if divisor is not None:
            attention = b.op("Div", attention, divisor)
        out = b.op("Mul", b.op("MatMul", b.op("MatMul", attention, tokens), v), shown)  # eq 8, 9
    first, second = b.split("Split", out, outputs=2, axis=0, num_outputs=2)
    both = b.op("Concat", first, second, axis=4)
    return b.op("Squeeze", both, b.ints(0, 3))


def _window(
    b: GraphBuilder, module: Dmae, tokens: str, present: str, a: str, bound: float
) -> tuple[str, str | None]:
    """What `_value` maps to r̂: (2, B, N, T', w), and what to divide it by where that is left to the pooling.

    Each block of BLOCK queries reads BLOCK + 2 radius tokens, so the cost is linear in T.
    """
    radius, d = module.config.window_radius, module.config.dim
    span = BLOCK + 2 * radius
    offset = np.arange(span) - radius - np.arange(BLOCK)[:, None]
    near = np.abs(offset) <= radius
    if module.config.causal:
        near &= offset <= 0
    n, t = b.size(tokens, 2), b.size(tokens, 3)
    blocks = b.op("Div", t, b.ints(BLOCK))
    starts = b.op("Range", b.const(0, np.int64), b.op("Squeeze", t), b.const(BLOCK, np.int64))
    wanted = b.op("Add", b.unsqueeze(starts, 1), b.const(np.arange(span) - radius, np.int64))
    index = b.op("Clip", wanted, b.const(0, np.int64), b.op("Squeeze", b.op("Sub", t, b.ints(1))))
    inside = b.op("Cast", b.op("Equal", wanted, index), to=1)  # (blocks, span)
    flat = b.reshape(index, -1)
    readable = b.op("Mul", b.op("Gather", present, flat, axis=2), b.reshape(inside, -1))
    readable = b.reshape(readable, 2, -1, 1, blocks, 1, span)
    mask = b.op("Mul", readable, b.const(near))  # (2, B, 1, blocks, BLOCK, span)

    rows = b.reshape(tokens, 2, -1, d)
    queries = b.reshape(b.op("MatMul", rows, a), 2, -1, n, blocks, BLOCK, d)
    read = b.reshape(b.op("Gather", tokens, flat, axis=3), 2, -1, n, blocks, span, d)
    scores = b.op("MatMul", queries, b.op("Transpose", read, perm=[0, 1, 2, 3, 5, 4]))
    if bound < _SAFE_SCORE:  # no maximum to subtract
        powers = b.op("Mul", b.op("Exp", scores), mask)
        total = b.op("ReduceSum", powers, b.ints(-1), keepdims=1)
        total = b.op("Add", total, b.const(_NOTHING))
        out = b.op("MatMul", powers, read)
        if not module.config.residual and not module.config.layernorm:
            return b.reshape(out, 2, -1, n, t, d), b.reshape(total, 2, -1, n, 1, t)
        out = b.op("Div", out, total)
    else:
        bias = b.op("Mul", b.op("Sub", mask, b.const(1.0)), b.const(-MASKED))
        out = b.op("MatMul", b.op("Softmax", b.op("Add", scores, bias), axis=-1), read)
    out = b.reshape(out, 2, -1, n, t, d)
    if not module.config.residual and not module.config.layernorm:
        return out, None
    if not module.config.layernorm:
        return b.op("Concat", tokens, out, axis=4), None
    intra = [cast(IntraModal, m) for m in module.intra]
    value = b.const(np.stack([array(m.w_v.weight).T for m in intra]))
    out = b.reshape(b.op("MatMul", b.reshape(out, 2, -1, d), value), 2, -1, n, t, d)
    if module.config.residual:
        out = b.op("Add", tokens, out)
    halves = b.split("Split", out, outputs=2, axis=0, num_outputs=2)
    normed = []
    for half, m in zip(halves, intra, strict=True):
        assert m.norm is not None
        scale, shift = b.const(array(m.norm.weight)), b.const(array(m.norm.bias))
        normed.append(b.op("LayerNormalization", half, scale, shift, axis=-1, epsilon=m.norm.eps))
    return b.op("Concat", *normed, axis=0), None
