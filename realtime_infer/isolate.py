"""Encode a batch so that an item on which the encoder itself fails is found and fails alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows
from contracts.errors import InvalidInput, RepcenterError
from realtime_infer.encoder import Encoded, Encoder, Prepared

Isolated = tuple[npt.NDArray[np.int64], Rows, dict[int, RepcenterError]]


def run_isolated(encoder: Encoder, prepared: Prepared, sequences: npt.NDArray[np.uint64]) -> Isolated:
    """K items, (K,) sequences -> positions (G,) of the good, their records (G,), failures by position."""
    encoded = vectors_isolated(encoder, prepared)
    return encoded.good, encoder.records(encoded, sequences), dict(encoded.failures)


def vectors_isolated(encoder: Encoder, prepared: Prepared) -> Encoded:
    """As Encoder.run(), where the item on which it raises fails alone.

    Where run() raises, the batch is halved until the item is alone. Before that item is blamed the golden
    inputs are replayed: where they fail too, the encoder is broken and BrokenBundle is raised.
    """
    try:
        return encoder.run(prepared)
    except Exception as error:  # a graph or memory: anything may be raised
        if len(prepared) == 1:
            encoder.check()
            reason = f"the encoder failed on it ({type(error).__name__}: {str(error)[:200]})"
            blamed = InvalidInput("item", prepared.item_ids[0], reason)
            nothing = [np.zeros((1, dim), np.float32) for dim in encoder.space.dims]
            return Encoded(nothing, np.zeros_like(prepared.attributes), {0: blamed})
    half = len(prepared) // 2
    first = vectors_isolated(encoder, prepared.part(0, half))
    rest = vectors_isolated(encoder, prepared.part(half, len(prepared)))
    return Encoded(
        [np.concatenate(blocks) for blocks in zip(first.vectors, rest.vectors, strict=True)],
        np.concatenate([first.attributes, rest.attributes]),
        {**first.failures, **{half + i: failure for i, failure in rest.failures.items()}},
    )
