"""Small random rows and requests for the model tests, weights large enough that a mistake shows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.models.config import ContentConfig, RankerConfig
from training.models.id_interest import IdInterestKind
from training.models.items import AttributeTable, ItemRows
from training.models.ranker import Ranker
from training.models.similarity import side_by_side
from training.models.view import View

DIM = 12
MODALITIES = side_by_side((("text", DIM), ("image", DIM), ("fused", DIM)))
ATTRIBUTES = AttributeTable((2, 1), 9)
T_MAX = 40


class Batch(NamedTuple):
    rows: ItemRows
    candidates: Tensor
    behaviours: Tensor
    behaviour_mask: Tensor


def ranker(
    *content: ContentConfig,
    id_interest: IdInterestKind = "din_position",
    seed: int = 0,
    din_softmax: bool = False,
) -> Ranker:
    """In eval mode, every parameter drawn anew with a spread that keeps logits around 1."""
    torch.manual_seed(seed)
    config = RankerConfig(
        modalities=MODALITIES,
        attributes=ATTRIBUTES,
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
    for array in (codes, inv_norm, attributes, id_vectors, known):
        array[0] = 0
    lengths = rng.integers(1, behaviours + 1, requests)
    lengths[0], lengths[-1] = 0, behaviours
    if requests == 1:
        lengths[0] = behaviours
    mask = np.arange(behaviours) >= behaviours - lengths[:, None]
    history = np.where(mask, rng.integers(1, rows, (requests, behaviours)), 0).astype(np.int32)
    return Batch(
        ItemRows(*(torch.from_numpy(a) for a in (codes, inv_norm, attributes, id_vectors, known))),
        torch.from_numpy(rng.integers(1, rows, (requests, candidates)).astype(np.int32)),
        torch.from_numpy(history),
        torch.from_numpy(mask),
    )


def view_of(model: Ranker, drawn: Batch) -> View:
    """What the interest modules of this ranker see of this batch."""
    with torch.no_grad():
        return model._view(*drawn)


def logits(model: Ranker, drawn: Batch) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        out: npt.NDArray[np.float32] = model(*drawn).logit.numpy()
    return out


def array(tensor: Tensor) -> npt.NDArray[np.float64]:
    return tensor.detach().numpy().astype(np.float64)


def layers(*linears: nn.Module) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """(weight, bias) of the linear layers among these modules and their children."""
    found = [m for module in linears for m in module.modules() if isinstance(m, nn.Linear)]
    return [(array(m.weight), array(m.bias)) for m in found]
