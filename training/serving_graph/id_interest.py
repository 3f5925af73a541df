"""The ID module: average pooling, DIN, DIN with position, folded."""

from __future__ import annotations

import numpy as np
from torch import nn

from training.models.id_interest import DinInterest, MeanInterest
from training.serving_graph.builder import DOMAIN, GraphBuilder, array
from training.serving_graph.inputs import Inputs

MASKED = -1e9
_SCORES = "DinScores"
_BIG = 2**62


def id_interest(b: GraphBuilder, inputs: Inputs, module: MeanInterest | DinInterest) -> str:
    """(B, N, d_v) or, for the mean, which is the same for every candidate, (B, N, d_v) by expansion."""
    if isinstance(module, MeanInterest):
        weights = b.unsqueeze(mean_weights(b, inputs.mask), 1)
        pooled = b.op("MatMul", weights, inputs.behaviours)  # (B, 1, d_v)
        return b.op("Expand", pooled, b.op("Shape", inputs.candidates))
    keys = inputs.behaviours
    if module.position is not None:
        # rows oldest first, so the newest T of them belong to ages T-1 ... 0
        rows = b.const(array(module.position)[::-1])
        start = b.op("Neg", b.size(keys, 1))
        keys = b.op("Add", keys, b.slice(rows, start, _BIG, 0))
    if module.gaps is not None:
        keys = b.op("Add", keys, b.op("Gather", b.const(array(module.gaps)), "gaps"))
    scores = _scores(b, inputs, keys, module)
    mask = b.unsqueeze(inputs.mask, 1)
    if module.softmax:
        bias = b.op("Mul", b.op("Sub", mask, b.const(1.0)), b.const(-MASKED))
        weights = b.op("Mul", b.op("Softmax", b.op("Add", scores, bias), axis=-1), mask)
    else:
        weights = b.op("Mul", scores, mask)
    return b.op("MatMul", weights, keys)


def mean_weights(b: GraphBuilder, mask: str) -> str:
    """(..., T) of 0 and 1 -> weights that sum to 1, all zero where nothing is valid."""
    count = b.op("ReduceSum", mask, b.ints(-1), keepdims=1)
    return b.op("Div", mask, b.op("Max", count, b.const(1.0)))


def _scores(b: GraphBuilder, inputs: Inputs, keys: str, module: DinInterest) -> str:
    """alpha(q, k): (B, N, T).

    Per candidate the first layer is one affine map of the behaviour, (W_k - W_-) + diag(q) W_x and a bias
    (W_q + W_-) q + b; `assembled` makes all of them from [q, 1] in one matmul, the bias as the row of a
    constant 1 appended to the behaviours.
    """
    d = inputs.width
    w_q, w_k, w_minus, w_times = np.split(array(module.first.weight).T, 4)  # each (d, h)
    h = w_q.shape[1]
    assembled = np.zeros((d + 1, d + 1, h))  # [q, 1] -> rows of the map
    assembled[np.arange(d), np.arange(d)] = w_times
    assembled[d, :d] = w_k - w_minus
    assembled[:d, d] = w_q + w_minus
    assembled[d, d] = array(module.first.bias)
    layers = [layer for layer in module.rest if isinstance(layer, nn.Linear)]
    arguments = [inputs.candidates, keys, b.const(assembled.reshape(d + 1, (d + 1) * h))]
    for layer in layers:
        arguments += [b.const(array(layer.weight).T), b.const(array(layer.bias))]
    if len(layers) != 2:
        return _forward(b, arguments, d, h, len(layers))
    names = ["queries", "keys", "assembled", "w2", "b2", "w3", "b3"]
    body = GraphBuilder()
    output = _forward(body, names, d, h, len(layers))
    b.function(_SCORES, names, body, output)
    return b.op(_SCORES, *arguments, domain=DOMAIN)


def _forward(b: GraphBuilder, names: list[str], d: int, h: int, layers: int) -> str:
    queries, keys, assembled = names[:3]
    n, t = b.size(queries, 1), b.size(keys, 1)
    flat = b.op("Pad", b.reshape(queries, -1, d), b.ints(0, 0, 0, 1), b.const(1.0))
    maps = b.reshape(b.op("MatMul", flat, assembled), -1, n, d + 1, h)
    extended = b.op("Pad", keys, b.ints(0, 0, 0, 0, 0, 1), b.const(1.0))
    x = b.op("Relu", b.op("MatMul", b.unsqueeze(extended, 1), maps))  # (B, N, T, h)
    x = b.reshape(x, -1, h)
    for layer in range(layers):
        x = b.op("Gemm", x, names[3 + 2 * layer], names[4 + 2 * layer])
        if layer + 1 < layers:
            x = b.op("Relu", x)
    return b.reshape(x, -1, n, t)
