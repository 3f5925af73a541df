"""How often ids were asked for lately: a count-min sketch whose counts halve again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MOST = 255
_ROWS = 4
_FACTORS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64
)[:, None]

Counts = npt.NDArray[np.uint8]


class Frequency:
    """Counters of one byte in four rows of at least `width`, halved after `width / 2` questions.

    So few counters are shared, and an id that was asked for once is rarely taken for one asked for twice. Ids
    are hashed with a key of this process: nobody can choose ids that collide.
    """

    def __init__(self, width: int) -> None:
        bits = _bits(width)
        self._shift = np.uint64(64 - bits)
        self._counts = np.zeros((_ROWS, 1 << bits), np.uint8)
        self._row = np.arange(_ROWS)[:, None]
        self._added = 0

    @staticmethod
    def bytes_of(width: int) -> int:
        """What the counters take."""
        return _ROWS << _bits(width)

    def add(self, ids: Sequence[str]) -> None:
        """One more question for each of K distinct ids."""
        places = self._places(ids)
        counts = self._counts[self._row, places]
        least = np.minimum(counts.min(axis=0), MOST - 1) + np.uint8(1)
        self._counts[self._row, places] = np.maximum(counts, least)
        self._added += len(ids)
        if self._added > self._counts.shape[1] // 2:
            self._added = 0
            self._counts >>= 1

    def estimate(self, ids: Sequence[str]) -> Counts:
        """K ids -> (K,) uint8."""
        counts: Counts = self._counts[self._row, self._places(ids)].min(axis=0)
        return counts

    def expect(self, ids: Sequence[str], counts: Counts) -> None:
        """Estimates of K ids are at least `counts` (K,) from now on."""
        places = self._places(ids)
        self._counts[self._row, places] = np.maximum(self._counts[self._row, places], counts)

    def counters(self) -> Counts:
        """What its memory is made of."""
        return self._counts

    def _places(self, ids: Sequence[str]) -> npt.NDArray[np.uint64]:
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64)
        places: npt.NDArray[np.uint64] = (hashes * _FACTORS) >> self._shift
        return places


def _bits(width: int) -> int:
    return max(6, (width - 1).bit_length())
