"""How close a candidate's content is to each behaviour's: the similarity of CiUBM, DMAE and SimTier.

cos(n, j) = (codes_n . codes_j) * inv_norm_n * inv_norm_j on raw int8 codes, in exactly this order: the
dot product of integers is exact in float32 (d <= 1,040), so training, export and serving agree to the bit
and no bucket of DMAE flips between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from contracts.errors import InvalidInput


@dataclass(frozen=True)
class Modality:
    """One kind of content vector and its columns [start, start + dim) in `codes`."""

    name: str
    start: int
    dim: int

    def __post_init__(self) -> None:
        if self.start < 0:
            raise InvalidInput(f"modalities.{self.name}.start", self.start, "must not be negative")
        if not 1 <= self.dim <= 1040:  # raw int8 dot products stay exact in fp32 up to here
            raise InvalidInput(f"modalities.{self.name}.dim", self.dim, "must be 1 to 1040")


def side_by_side(names_and_dims: Iterable[tuple[str, int]]) -> tuple[Modality, ...]:
    """A space's modalities in its order, e.g. (("text", 128), ("image", 128)) -> their columns."""
    start, out = 0, []
    for name, dim in names_and_dims:
        out.append(Modality(name, start, dim))
        start += dim
    return tuple(out)


class Compared(NamedTuple):
    """One modality of the candidates beside that of the behaviours. Codes are raw, as float32."""

    candidate_codes: Tensor  # (B, N, d_m)
    candidate_inv_norm: Tensor  # (B, N), 0 = missing
    behaviour_codes: Tensor  # (B, T, d_m)
    behaviour_inv_norm: Tensor  # (B, T), 0 = missing
    cosine: Tensor  # (B, N, T), 0 where either is missing
    mask: Tensor  # (B, N, T) bool: a real behaviour, and both vectors are there


def compare(
    codes: Tensor,
    inv_norm: Tensor,
    candidates: Tensor,
    behaviours: Tensor,
    behaviour_mask: Tensor,
) -> Compared:
    """One modality of K rows, gathered and compared in one batched matmul.

    codes: (K, d_m) int8; inv_norm: (K,) float32; candidates: (B, N) int32; behaviours: (B, T) int32;
    behaviour_mask: (B, T) bool. Under autocast too everything here is float32.
    """
    if torch.is_autocast_enabled(codes.device.type):
        with torch.autocast(codes.device.type, enabled=False):
            return compare(codes, inv_norm, candidates, behaviours, behaviour_mask)
    candidate_codes = _take(codes, candidates).float()
    behaviour_codes = _take(codes, behaviours).float()
    candidate_inv_norm = _take(inv_norm, candidates)
    behaviour_inv_norm = _take(inv_norm, behaviours)
    dot = torch.matmul(candidate_codes, behaviour_codes.transpose(1, 2))
    cosine = (dot * candidate_inv_norm.unsqueeze(2)) * behaviour_inv_norm.unsqueeze(1)
    present = behaviour_mask & (behaviour_inv_norm > 0)
    mask = present.unsqueeze(1) & (candidate_inv_norm > 0).unsqueeze(2)
    return Compared(candidate_codes, candidate_inv_norm, behaviour_codes, behaviour_inv_norm, cosine, mask)


def query_cosine(
    codes: Tensor, inv_norm: Tensor, candidates: Tensor, query_codes: Tensor, query_inv_norm: Tensor
) -> Tensor:
    """One modality of K rows against one query per request, and whether both are there: (B, N, 2).

    codes: (K, d_m) int8; inv_norm: (K,) float32; candidates: (B, N) int32; query_codes: (B, d_m) int8;
    query_inv_norm: (B,) float32. Under autocast too everything here is float32.
    """
    if torch.is_autocast_enabled(codes.device.type):
        with torch.autocast(codes.device.type, enabled=False):
            return query_cosine(codes, inv_norm, candidates, query_codes, query_inv_norm)
    shown = _take(inv_norm, candidates)
    dot = torch.matmul(_take(codes, candidates).float(), query_codes.float().unsqueeze(2)).squeeze(2)
    cosine = (dot * shown) * query_inv_norm.unsqueeze(1)
    there = (shown > 0) & (query_inv_norm > 0).unsqueeze(1)
    return torch.stack([cosine, there.float()], dim=2)


def unit_interval(cosine: Tensor, calibration: tuple[float, float] = (1.0, 0.0)) -> Tensor:
    """r = (cos + 1) / 2 (DMAE 4.1), then scale * r + shift clipped to [0, 1] where a calibration is given."""
    r = (cosine + 1.0) * 0.5
    scale, shift = calibration
    return r if (scale, shift) == (1.0, 0.0) else (r * scale + shift).clamp(0.0, 1.0)


def histogram(
    r: Tensor, mask: Tensor, ages: Tensor, *, intervals: int, regions: int, history_length: int
) -> Tensor:
    """Behaviours counted by age region and similarity interval (DMAE eq 10, times T).

    r, mask: (B, N, T); ages: (T,) int64 -> (B, N, regions * intervals) float32 counts, region-major;
    region 0 is the newest. Intervals are ((j-1)/n, j/n], the first one closed.
    """
    interval = (torch.ceil(r * intervals) - 1.0).clamp(0, intervals - 1).long()
    region = torch.div(ages * regions, history_length, rounding_mode="floor")
    cell = interval + region * intervals
    counts = r.new_zeros(r.shape[0], r.shape[1], regions * intervals)
    return counts.scatter_add(2, cell, mask.to(r.dtype))


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """rows: (K, ...), index: (B, X) int32 -> (B, X, ...)."""
    return rows.index_select(0, index.reshape(-1)).view(*index.shape, *rows.shape[1:])
