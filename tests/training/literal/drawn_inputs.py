"""Graph inputs with every optional one, drawn like the batches of the model tests."""

from __future__ import annotations

import numpy as np

from tests.training.models.drawn import batch
from training.graph import Inputs


def drawn_inputs(rows: int, requests: int, candidates: int, behaviours: int) -> Inputs:
    drawn = batch(rows, requests, candidates, behaviours, seed=rows)
    rng = np.random.default_rng(rows)
    by_row = ("codes", "inv_norm", "attributes", "id_known", "id_evidence", "attribute_values")
    return {
        **{name: getattr(drawn.rows, name).numpy() for name in by_row},
        "id_codes": rng.integers(-127, 128, (rows, 4)).astype(np.int8),
        "id_scale": rng.random(rows).astype(np.float32) / 127,
        **{name: value.numpy() for name, value in drawn.requests._asdict().items() if value is not None},
    }
