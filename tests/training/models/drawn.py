"""Small random rows and requests for the model tests, weights large enough that a mistake shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from contracts.features import GAP_ROWS
from training.models.columns import AttributeTable
from training.models.config import ContentConfig, RankerConfig
from training.models.id_interest import IdInterestKind
from training.models.items import ItemContentConfig, ItemRows
from training.models.ranker import Ranker, RankerOutput
from training.models.similarity import side_by_side
from training.models.view import Requests, View

DIM = 12
MODALITIES = side_by_side((("text", DIM), ("image", DIM), ("fused", DIM)))
ATTRIBUTES = AttributeTable((2, 1), 9)
T_MAX = 40


FEATURES: dict[str, Any] = {
    "attributes": replace(ATTRIBUTES, scaled=True),
    "context": AttributeTable((1, 2), 7, scaled=True),
    "id_trust": True,
    "item_content": ItemContentConfig(modalities=("image", "fused"), dim=3),
    "time_gaps": True,
}


class Batch(NamedTuple):
    rows: ItemRows
    candidates: Tensor
    behaviours: Tensor
    behaviour_mask: Tensor
    gaps: Tensor
    context: Tensor
    context_values: Tensor
    query_codes: Tensor
    query_inv_norm: Tensor

    @property
    def requests(self) -> Requests:
        return Requests(*self[1:])


def ranker(
    *content: ContentConfig,
    id_interest: IdInterestKind = "din_position",
    seed: int = 0,
    din_softmax: bool = False,
    **features: Any,
) -> Ranker:
    """In eval mode, every parameter drawn anew with a spread that keeps logits around 1."""
    torch.manual_seed(seed)
    config = RankerConfig(
        modalities=MODALITIES,
        **{"attributes": ATTRIBUTES, **features},
        id_dim=4,
        attribute_dim=3,
        history_length=T_MAX,
        id_interest=id_interest,
        din_hidden=(7, 5),
        din_softmax=din_softmax,
        content=content,
        hidden=(16, 8),
    )
    model = Ranker(config).eval()
    spread(model)
    return model


def spread(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)


def batch(
    rows: int = 30, requests: int = 3, candidates: int = 4, behaviours: int = 24, seed: int = 1
) -> Batch:
    """Rows with missing modalities, attributes and IDs; request 0 has no history, the last a full one."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (rows, 3 * DIM)).astype(np.int8)
    blocks = codes.reshape(rows, 3, DIM).astype(np.float64)
    inv_norm = (1 / np.linalg.norm(blocks, axis=2)).astype(np.float32)
    inv_norm[rng.random(inv_norm.shape) < 0.15] = 0
    attributes = rng.integers(0, ATTRIBUTES.rows, (rows, 3)).astype(np.int32)
    id_vectors = rng.normal(size=(rows, 4)).astype(np.float32)
    known = rng.random(rows) < 0.7
    extra = np.random.default_rng(seed + 1_000)
    evidence = np.where(known, np.log1p(extra.integers(1, 40, rows)), 0).astype(np.float32)
    values = np.where(attributes > 0, extra.uniform(0.2, 2, attributes.shape), 0).astype(np.float32)
    by_row = (codes, inv_norm, attributes, id_vectors, known, evidence, values)
    for array in by_row:
        array[0] = 0
    lengths = rng.integers(1, behaviours + 1, requests)
    lengths[0], lengths[-1] = 0, behaviours
    if requests == 1:
        lengths[0] = behaviours
    mask = np.arange(behaviours) >= behaviours - lengths[:, None]
    history = np.where(mask, rng.integers(1, rows, (requests, behaviours)), 0).astype(np.int32)
    context = extra.integers(0, 7, (requests, 3)).astype(np.int32)
    query = extra.integers(-127, 128, (requests, 3 * DIM)).astype(np.int8)
    query_norm = (1 / np.linalg.norm(query.reshape(requests, 3, DIM).astype(float), axis=2)).astype(
        np.float32
    )
    query_norm[extra.random(query_norm.shape) < 0.2] = 0
    by_request = (
        rng.integers(1, rows, (requests, candidates)).astype(np.int32),
        history,
        mask,
        np.where(mask, extra.integers(0, GAP_ROWS, mask.shape), 0).astype(np.int32),
        context,
        np.where(context > 0, extra.uniform(-2, 2, context.shape), 0).astype(np.float32),
        query,
        query_norm,
    )
    return Batch(
        ItemRows(*(torch.from_numpy(a) for a in by_row)),
        *(torch.from_numpy(a) for a in by_request),
    )


def view_of(model: Ranker, drawn: Batch) -> View:
    """What the interest modules of this ranker see of this batch."""
    with torch.no_grad():
        return model._view(drawn.rows, drawn.requests)


def run(model: Ranker, drawn: Batch) -> RankerOutput:
    out: RankerOutput = model(drawn.rows, drawn.requests)
    return out


def logits(model: Ranker, drawn: Batch) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        out: npt.NDArray[np.float32] = model(drawn.rows, drawn.requests).logit.numpy()
    return out


def array(tensor: Tensor) -> npt.NDArray[np.float64]:
    return tensor.detach().numpy().astype(np.float64)


def layers(*linears: nn.Module) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """(weight, bias) of the linear layers among these modules and their children."""
    found = [m for module in linears for m in module.modules() if isinstance(m, nn.Linear)]
    none = np.zeros(0)
    return [(array(m.weight), none if m.bias is None else array(m.bias)) for m in found]
