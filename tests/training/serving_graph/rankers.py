"""Small rankers of every kind with weights as large as trained ones, and requests with every kind of hole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from contracts.features import GAP_ROWS
from training.graph import Inputs
from training.models.columns import AttributeTable
from training.models.config import ContentConfig, RankerConfig
from training.models.id_interest import IdInterestKind
from training.models.items import ItemContentConfig
from training.models.ranker import Ranker
from training.models.similarity import side_by_side

MODALITIES = side_by_side([("text", 24), ("image", 20), ("fused", 16)])
ATTRIBUTES = AttributeTable((1, 3), 12)
CONTEXT = AttributeTable((1, 2), 9)
ID_DIM = 5
FEATURES: dict[str, Any] = {
    "attributes": replace(ATTRIBUTES, scaled=True),
    "context": replace(CONTEXT, scaled=True),
    "id_trust": True,
    "item_content": ItemContentConfig(modalities=("image", "fused"), dim=3),
    "time_gaps": True,
}


def ranker(
    *content: ContentConfig,
    id_interest: IdInterestKind = "din_position",
    din_hidden: tuple[int, ...] = (11, 6),
    din_softmax: bool = False,
    attributes: AttributeTable = ATTRIBUTES,
    history_length: int = 40,
    seed: int = 0,
    **features: Any,
) -> Ranker:
    config = RankerConfig(
        modalities=MODALITIES,
        attributes=attributes,
        id_dim=ID_DIM,
        attribute_dim=3,
        history_length=history_length,
        id_interest=id_interest,
        din_hidden=din_hidden,
        din_softmax=din_softmax,
        content=content,
        hidden=(13, 7),
        **features,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Ranker(config)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if parameter.dim() != 1 or "bias" in name or "out_of_vocabulary" in name:
                    parameter.copy_(2.0 * parameter + 0.05 * torch.randn_like(parameter))
    return made.eval()


def requests(b: int, n: int, t: int, attributes: AttributeTable = ATTRIBUTES, seed: int = 0) -> Inputs:
    """B requests over shared items; short histories, items without an image, any content or an ID."""
    rng = np.random.default_rng(seed)
    rows = 1 + n + t
    width = sum(m.dim for m in MODALITIES)
    centres = rng.normal(size=(4, width))
    codes = np.clip(30 * (centres[rng.integers(0, 4, rows)] + rng.normal(size=(rows, width))), -127, 127)
    codes = codes.round().astype(np.int8)
    squares = [(codes[:, m.start : m.start + m.dim].astype(np.float64) ** 2).sum(1) for m in MODALITIES]
    inv_norm = (1 / np.sqrt(np.stack(squares, axis=1))).astype(np.float32)
    inv_norm[1::7, 1] = 0
    inv_norm[3::11] = 0
    slots = rng.integers(0, attributes.rows, (rows, sum(attributes.slots))).astype(np.int32)
    ids = rng.integers(-127, 128, (rows, ID_DIM)).astype(np.int8)
    known = rng.random(rows) < 0.8
    mask = np.arange(t)[::-1][None] < rng.integers(0, t + 1, (b, 1))
    mask[0] = True
    behaviours = np.where(mask, rng.integers(1, rows, (b, t)), 0).astype(np.int32)
    inputs: Inputs = {
        "codes": codes,
        "inv_norm": inv_norm,
        "attributes": slots,
        "id_codes": ids,
        "id_scale": rng.uniform(2e-3, 8e-3, rows).astype(np.float32),
        "id_known": known,
        "candidates": rng.integers(1, rows, (b, n)).astype(np.int32),
        "behaviours": behaviours,
        "behaviour_mask": mask,
        "attribute_values": np.where(slots > 0, rng.uniform(-2, 2, slots.shape), 0).astype(np.float32),
        "id_evidence": np.where(known, np.log1p(rng.integers(1, 90, rows)), 0).astype(np.float32),
        "gaps": np.where(mask, rng.integers(0, GAP_ROWS, mask.shape), 0).astype(np.int32),
    }
    context = rng.integers(0, CONTEXT.rows, (b, sum(CONTEXT.slots))).astype(np.int32)
    query = rng.integers(-127, 128, (b, width)).astype(np.int8)
    asked = [
        1 / np.linalg.norm(query[:, m.start : m.start + m.dim].astype(float), axis=1) for m in MODALITIES
    ]
    inputs |= {
        "context": context,
        "context_values": np.where(context > 0, rng.uniform(-2, 2, context.shape), 0).astype(np.float32),
        "query_codes": query,
        "query_inv_norm": (np.stack(asked, axis=1) * (rng.random((b, 3)) < 0.8)).astype(np.float32),
    }
    for name in ("codes", "inv_norm", "attributes", "id_codes", "id_scale", "id_known"):
        inputs[name][0] = 0
    return inputs
