"""The answer to "what are the vectors of these": an encoder's doors translate it, the client gives it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import RepcenterError


@dataclass(frozen=True, eq=False)
class EncodedItem:
    """vectors: (d,) float32 by modality, those that the item has; flagged: modalities that lose too much when
    they are quantised; record: what a push would store, with sequence 0; empty where it was not asked for."""

    vectors: dict[str, npt.NDArray[np.float32]]
    flagged: list[str]
    record: bytes = b""


@dataclass(frozen=True, eq=False)
class EncodedItems:
    """items: in the order asked, each one or why it has no vectors."""

    space_id: str
    encoder_digest: str
    items: list[EncodedItem | RepcenterError]
