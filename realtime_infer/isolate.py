"""Encode a batch so that an item on which the encoder itself fails is found and fails alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows
from contracts.errors import InvalidInput, RepcenterError
from realtime_infer.encoder import Encoder, Prepared

Isolated = tuple[npt.NDArray[np.int64], Rows, dict[int, RepcenterError]]


def run_isolated(encoder: Encoder, prepared: Prepared, sequences: npt.NDArray[np.uint64]) -> Isolated:
    """K items, (K,) sequences -> positions (G,) of the good ones, their records (G,), failures by position.

    Where run() raises, the batch is halved until the item is alone. Before that item is blamed the golden
    inputs are replayed: where they fail too, the encoder is broken and BrokenBundle is raised.
    """
    try:
        encoded = encoder.run(prepared)
        return encoded.good, encoder.records(encoded, sequences), dict(encoded.failures)
    except Exception as error:  # a graph or memory: anything may be raised
        if len(prepared) == 1:
            encoder.check()
            reason = f"the encoder failed on it ({type(error).__name__}: {str(error)[:200]})"
            blamed = InvalidInput("item", prepared.item_ids[0], reason)
            return np.zeros(0, np.int64), np.zeros(0, encoder.space.dtype), {0: blamed}
    half = len(prepared) // 2
    good, rows, failures = run_isolated(encoder, prepared.part(0, half), sequences[:half])
    rest = prepared.part(half, len(prepared))
    more_good, more_rows, more_failures = run_isolated(encoder, rest, sequences[half:])
    failures |= {half + i: failure for i, failure in more_failures.items()}
    return np.concatenate([good, more_good + half]), np.concatenate([rows, more_rows]), failures
