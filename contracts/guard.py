"""The quantisation guard: how much a row lost when it was stored, and which rows lost too much.

Two losses per item and modality: the cosine error, 1 - cos(vector, stored vector), and the bucket flips: the
share of fixed probe vectors for which DMAE's bucket floor(r (N_B - 1)), r = (cos + 1) / 2, is another one
than before storing (equation 2, N_B = 50). A small error can flip a bucket, so the first does not tell the
second. A row above a limit keeps its place in the table; its `guard` byte says which modality it was.

Probes and limits are sealed together (probes.npz), so that everyone who fills a space flags the same rows:
`<modality>` (P, d_m) float32 unit vectors, `limits` (2,) float64: cosine error, share of flips.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows, decode_vectors, is_tombstone
from contracts.errors import BrokenBundle, InvalidInput
from contracts.space import Space

BUCKETS = 50  # N_B of DMAE
PROBES = 64  # per modality
PROBES_FILE = "probes.npz"
_LIMITS = "limits"

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GuardLimits:
    """Above either a row is flagged. A vector of 128 even components loses 2e-5 and 1 % of its buckets; one
    that a single component governs, ten times that."""

    cosine_error: float = 1e-3
    flips: float = 0.125

    def __post_init__(self) -> None:
        for name, value in (("cosine_error", self.cosine_error), ("flips", self.flips)):
            if not 0 <= value <= 2:
                raise InvalidInput(f"limits.{name}", value, "must be 0 to 2")


@dataclass(frozen=True)
class Loss:
    """What K rows lost: cosine_error (K, M) float64; flips (K, M) float64, shares of the probes; both 0
    where the modality is missing."""

    cosine_error: npt.NDArray[np.float64]
    flips: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Guard:
    """probes: modality -> (P, d_m) float32 unit vectors; one without probes is held to its cosine error."""

    probes: Mapping[str, Matrix] = field(default_factory=dict)
    limits: GuardLimits = field(default_factory=GuardLimits)

    def check_space(self, space: Space) -> None:
        """InvalidInput where the probes are not of this space's modalities."""
        dims = {m.name: m.dim for m in space.modalities}
        for name, block in self.probes.items():
            if block.ndim != 2 or block.shape[1] != dims.get(name) or not np.isfinite(block).all():
                raise InvalidInput(f"probes.{name}", block.shape, f"must be finite, of the dims {dims}")

    def loss(self, vectors: Sequence[Matrix], rows: Rows, space: Space) -> Loss:
        """Unit vectors before storing, one (K, d_m) per modality, and their records (K,) -> the losses."""
        shape = (len(rows), len(space.modalities))
        errors, flips = np.zeros(shape), np.zeros(shape)
        stored = decode_vectors(rows, space.dims)
        for m, (modality, before, after) in enumerate(zip(space.modalities, vectors, stored, strict=True)):
            there = rows["inv_norm"][:, m] > 0
            away = before - after  # of unit vectors 1 - cos = |away|^2 / 2, without cancellation
            errors[there, m] = np.einsum("kd,kd->k", away, away)[there] / 2
            probes = self.probes.get(modality.name)
            if probes is not None and len(probes):
                other = buckets_of(before @ probes.T) != buckets_of(after @ probes.T)
                flips[there, m] = other[there].mean(axis=1)
        return Loss(errors, flips)

    def mark(self, vectors: Sequence[Matrix], rows: Rows, space: Space) -> Loss:
        """`loss`, and the guard byte of each row set by it, in place."""
        loss = self.loss(vectors, rows, space)
        failed = (loss.cosine_error > self.limits.cosine_error) | (loss.flips > self.limits.flips)
        bits = np.uint8(1) << np.arange(failed.shape[1], dtype=np.uint8)
        rows["guard"] = np.where(failed, bits, 0).sum(axis=1, dtype=np.uint8)
        return loss


def buckets_of(cosines: Matrix) -> npt.NDArray[np.int32]:
    """Cosines of any shape -> DMAE's similarity buckets, 0 to N_B - 1."""
    r = (np.clip(cosines, np.float32(-1), np.float32(1)) + np.float32(1)) / np.float32(2)
    out: npt.NDArray[np.int32] = (r * np.float32(BUCKETS - 1)).astype(np.int32)  # not negative: cut is floor
    return out


def flagged(rows: Rows, modalities: Sequence[str]) -> dict[str, int]:
    """Rows whose guard byte is set, by modality."""
    guard = np.where(is_tombstone(rows), np.uint8(0), rows["guard"])
    return {name: int(((guard >> m) & 1).sum()) for m, name in enumerate(modalities)}


def choose_probes(vectors: Mapping[str, Matrix], seed: int, count: int = PROBES) -> dict[str, Matrix]:
    """Up to `count` unit vectors per modality out of its (K, d) ones; zero rows are missing, never chosen."""
    chosen: dict[str, Matrix] = {}
    for name in sorted(vectors):
        norms = np.linalg.norm(vectors[name], axis=1)
        there = np.flatnonzero(norms > 0)
        places = np.random.default_rng(seed).permutation(there)[:count]
        chosen[name] = (vectors[name][places] / norms[places, None]).astype(np.float32)
    return chosen


def guard_bytes(guard: Guard) -> bytes:
    """The bytes of probes.npz."""
    if _LIMITS in guard.probes:
        raise InvalidInput("probes", _LIMITS, "is no name of a modality")
    limits = np.array([guard.limits.cosine_error, guard.limits.flips])
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **{_LIMITS: limits}, **guard.probes)
    return sink.getvalue()


def parse_guard(data: bytes, space: Space, where: str = PROBES_FILE) -> Guard:
    """`guard_bytes` back, for this space; BrokenBundle where the bytes are not that."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            named = {name: arrays[name] for name in arrays.files}
        cosine_error, flips = (float(value) for value in named.pop(_LIMITS))
        probes = {name: block.astype(np.float32) for name, block in named.items()}
        guard = Guard(probes, GuardLimits(cosine_error, flips))
        guard.check_space(space)
    except (ValueError, TypeError, KeyError, EOFError, OSError, zipfile.BadZipFile, InvalidInput) as error:
        raise BrokenBundle(f"{where} cannot be read: {error}") from error
    return guard


def write_guard(path: Path, guard: Guard) -> None:
    """probes.npz, to be sealed beside the graphs whose vectors it guards."""
    path.write_bytes(guard_bytes(guard))


def read_guard(path: Path, space: Space) -> Guard:
    """`write_guard` back, for this space; BrokenBundle where the file is not that."""
    return parse_guard(path.read_bytes(), space, path.name)
