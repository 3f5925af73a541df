"""Random numbers as a function of what they are for, never of where a tensor happens to hold them.

A draw is a hash of (seed, step, purpose) and of the identity of what it decides about: an item's row, or a
sample, a candidate's slot and a behaviour's age. So a batch that is split over ranks, padded wider or
resumed draws what the whole one drew. The hash is the finaliser of splitmix64 (Steele, Lea and Flood 2014)
over key + counter * golden ratio, in wrapping 64-bit integers.
"""

from __future__ import annotations

import hashlib

from torch import Tensor


def _signed(value: int) -> int:
    return (value & (2**64 - 1)) - ((value & 2**63) << 1)


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def stream(seed: int, step: int, purpose: str) -> int:
    """The key of one purpose's draws in one step, a signed 64-bit integer."""
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def derive(key: int | Tensor, counter: Tensor) -> Tensor:
    """Keys one level down, one per counter: key int or int64, counter int64, broadcast -> int64.

    Different counters under one key never meet: the hash is a bijection of key + counter * golden ratio.
    """
    x = counter * _GOLDEN + key
    x ^= (x >> 30) & (2**34 - 1)  # the shift of a signed integer copies its sign: mask it off
    x *= _FIRST
    x ^= (x >> 27) & (2**37 - 1)
    x *= _SECOND
    x ^= (x >> 31) & (2**33 - 1)
    return x


def uniform(key: Tensor) -> Tensor:
    """Derived keys int64 -> float32 in [0, 1), multiples of 2**-24."""
    return ((key >> 40) & (2**24 - 1)).float() * 2.0**-24
