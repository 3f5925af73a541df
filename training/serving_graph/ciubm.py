"""CiUBM, the user's side folded through the network's first layer: by behaviour, or by per-user matrices."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import nn

from training.models.ciubm import Ciubm
from training.serving_graph.builder import GraphBuilder, array
from training.serving_graph.id_interest import MASKED, mean_weights
from training.serving_graph.inputs import Inputs
from training.serving_graph.mieu import Table

Form = Literal["loop", "matrices"]


def matrices_pay(width: int, item_width: int, behaviours: int) -> bool:
    """Whether per-user matrices cost less than the loop over T behaviours (T > D (D + d_v) / (2 D + d_v))."""
    return behaviours > width * (width + item_width) / (2 * width + item_width)


def possible(module: Ciubm) -> bool:
    """Matrices need weights that are linear in the cosine."""
    return module.config.weighting in ("cosine", "cosine_mean")


def ciubm(b: GraphBuilder, inputs: Inputs, module: Ciubm, first: Table, form: Form) -> str:
    """What CiUBM adds to the network's first layer: (B, N, h). first: (width, h), that layer's rows for it.

    The weighted sums of unit vectors and of item embeddings have the same weights, so both go through `first`
    per behaviour. loop: alpha (B, N, T) times them (B, T, h). matrices: alpha is ĥ_n . ĥ_j, so one (D, h)
    matrix per user, sum_j ĥ_j (ĥ_j W_content + v_j W_fusion), times ĥ_n.
    """
    config = module.config
    c = inputs.content(config.modality)
    unit = b.op("Mul", c.behaviours, b.op("Transpose", c.behaviour_inv_norm, perm=[0, 2, 1]))  # (B, T, D)
    content_width = module.width - (inputs.width if config.fusion else 0)
    content, fusion = first[:content_width], first[content_width:]
    if config.content and isinstance(module.projection, nn.Linear):
        content = array(module.projection.weight).T @ content
    vectors, rows = [], []
    if config.content:
        vectors.append(unit)
        rows.append(content)
    if config.fusion:
        vectors.append(inputs.behaviours)
        rows.append(fusion)
    both = vectors[0] if len(vectors) == 1 else b.op("Concat", *vectors, axis=2)
    folded = b.const(np.concatenate(rows))
    if form == "matrices":
        weights = mean_weights(b, c.present) if config.weighting == "cosine_mean" else c.present
        weighted = b.op("Mul", both, b.unsqueeze(weights, 2))
        per_user = b.op("MatMul", b.op("Transpose", unit, perm=[0, 2, 1]), weighted)  # (B, D, D + d_v)
        candidates = b.op("Mul", c.candidates, c.candidate_inv_norm)
        return b.op("MatMul", candidates, b.op("MatMul", per_user, folded))
    return b.op("MatMul", _alpha(b, inputs, module), b.op("MatMul", both, folded))


def _alpha(b: GraphBuilder, inputs: Inputs, module: Ciubm) -> str:
    """alpha^MM: (B, N, T)."""
    config = module.config
    c, cosine = inputs.content(config.modality), inputs.cosine(config.modality)
    present = b.unsqueeze(c.present, 1)
    if config.weighting == "softmax":
        inverse = float(np.exp(-array(module.log_temperature)))
        bias = b.op("Mul", b.op("Sub", present, b.const(1.0)), b.const(-MASKED))
        alpha = b.op("Softmax", b.op("Add", b.op("Mul", cosine, b.const(inverse)), bias), axis=-1)
        return b.op("Mul", b.op("Mul", alpha, present), b.unsqueeze(c.shown, 2))
    if config.weighting == "relu":
        cosine = b.op("Relu", cosine)
    weights = c.present if config.weighting == "cosine" else mean_weights(b, c.present)
    return b.op("Mul", cosine, b.unsqueeze(weights, 1))
