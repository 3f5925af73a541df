"""Encode a batch so that an item on which the encoder itself fails is found and fails alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows
from contracts.errors import InvalidInput, RepcenterError
from contracts.items import Item
from realtime_infer.encoder import Encoder


def encode_isolated(
    encoder: Encoder, items: Sequence[Item], sequences: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], Rows, dict[int, RepcenterError]]:
    """K items, (K,) sequences -> positions (G,) of the good ones, their records (G,), failures by position.

    Where encode() raises, the batch is halved until the item is alone. Before that item is blamed the
    golden inputs are replayed: where they fail too, the encoder is broken and BrokenBundle is raised.
    """
    try:
        encoded = encoder.encode(items)
        return encoded.good, encoder.records(encoded, sequences), dict(encoded.failures)
    except Exception as error:  # a graph, the tokeniser or memory: anything may be raised
        if len(items) == 1:
            encoder.check()
            reason = f"the encoder failed on it ({type(error).__name__}: {str(error)[:200]})"
            blamed = InvalidInput("item", items[0].item_id, reason)
            return np.zeros(0, np.int64), np.zeros(0, encoder.space.dtype), {0: blamed}
    half = len(items) // 2
    good, rows, failures = encode_isolated(encoder, items[:half], sequences[:half])
    more_good, more_rows, more_failures = encode_isolated(encoder, items[half:], sequences[half:])
    failures |= {half + i: failure for i, failure in more_failures.items()}
    return np.concatenate([good, more_good + half]), np.concatenate([rows, more_rows]), failures
