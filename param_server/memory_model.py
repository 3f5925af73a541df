"""What a server needs for a key, in bytes as it counts them itself: allocator classes, listpacks, key tables.

Read from the sources of Redis 7.0 and Valkey 9.1. Redis: an object of 16 bytes, the key as a string of its
own, a dict entry of 24, a slot of 8 in a table of a power of two. Valkey: the key inside the object, slots in
buckets of 64 bytes for 7, chained where they run over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Sizes = npt.NDArray[np.int64]
Allocator = Literal["jemalloc", "libc"]

_WORD = 8
_SMALL = 128  # jemalloc: classes of 16 bytes up to here, then four to each doubling
_PAGE_CLASSES = 4
_EMBEDDED = {"redis": 64, "valkey": 128}  # bytes of an object up to which its value lies inside it


@dataclass(frozen=True)
class ServerKind:
    """Which server, and the allocator that INFO memory names (mem_allocator)."""

    name: Literal["redis", "valkey"]
    allocator: Allocator

    def allocated(self, size: Sizes | int) -> Sizes:
        """Bytes that allocations of these sizes take; 0 for 0."""
        wanted = np.asarray(size, np.int64)
        if self.allocator == "libc":  # glibc: chunks of 16 with a word of their own, 24 usable at least
            taken = np.maximum(24, (wanted + _WORD + 15) // 16 * 16 - _WORD)
        else:
            exponent = np.ceil(np.log2(np.maximum(wanted, _SMALL + 1))).astype(np.int64)
            step = np.where(wanted <= _SMALL, 16, (np.int64(1) << exponent) // (2 * _PAGE_CLASSES))
            taken = np.where(wanted <= 8, 8, (wanted + step - 1) // step * step)
        return np.where(wanted > 0, taken, 0)

    def key(self, key_bytes: int, value: Sizes | int) -> Sizes:
        """A key with values of these sizes, each an allocation: object, key, entry; not its slot."""
        name = _string(key_bytes)
        if self.name == "redis":
            return self.allocated(16) + self.allocated(name) + self.allocated(24) + self.allocated(value)
        return self.allocated(16 + 1 + name) + self.allocated(value)

    def slots(self, keys: float) -> float:
        """The table of keys that finds so many of them."""
        if keys < 1:
            return 0.0
        if self.name == "redis":
            return _WORD * 2.0 ** math.ceil(math.log2(max(4.0, keys)))
        buckets = 2.0 ** math.ceil(math.log2(max(1.0, keys / 7)))
        return 64 * (buckets + _overflows(keys / buckets) * buckets)

    def text(self, key_bytes: int, size: int) -> int:
        """A key that holds a string: raw, as a script's SET leaves it."""
        inside = 3 + size + 1  # an embedded string has a header of 3 at least
        if self.name == "redis" and 16 + inside <= _EMBEDDED[self.name]:
            return int(self.key(key_bytes, 0) - self.allocated(16) + self.allocated(16 + inside))
        whole = 8 + 1 + _string(key_bytes) + inside  # such an object needs no pointer
        if self.name == "valkey" and whole <= _EMBEDDED[self.name]:
            return int(self.allocated(whole))
        return int(self.key(key_bytes, _string(size)))


def listpack(fields: int, value: int, entries: Sizes) -> Sizes:
    """A packed hash of so many entries, whose fields and values are strings of these lengths."""
    return 7 + entries * (listpack_entry(fields) + listpack_entry(value))


def listpack_entry(size: int) -> int:
    """A string of so many bytes: its header, itself, and its own length once more, for walking back."""
    header = 1 if size < 64 else 2 if size < 4096 else 5
    whole = header + size
    back = next(n for n in range(1, 6) if whole < 128**n)
    return whole + back


def poisson(mean: float) -> tuple[Sizes, npt.NDArray[np.float64]]:
    """Counts (C,) and their probabilities (C,)."""
    counts = np.arange(0, math.ceil(mean + 12 * math.sqrt(mean) + 24), dtype=np.int64)
    logs = counts * math.log(mean) - mean - np.array([math.lgamma(n + 1) for n in counts.tolist()])
    return counts, np.exp(logs)


def _string(size: int) -> int:
    """A simple dynamic string: header, bytes, a NUL."""
    header = 1 if size < 32 else 3 if size < 256 else 5 if size < 65_536 else 9
    return header + size + 1


def _overflows(mean: float) -> float:
    """Chained buckets per bucket: 7 entries lie in the first, 6 beside each pointer to a further one."""
    counts, shares = poisson(mean)
    further = np.where(counts <= 7, 0, np.ceil((counts - 7) / 6))
    return float((further * shares).sum())
