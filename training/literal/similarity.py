"""Content vectors of candidates and behaviours, their cosine, and DMAE's r."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from training.literal.view import LiteralContent, LiteralQuery


def literal_content(
    codes: Tensor, inv_norm: Tensor, candidates: Tensor, behaviours: Tensor, behaviour_mask: Tensor
) -> LiteralContent:
    """v_i v_j / (|v_i| |v_j|) of every candidate with every behaviour (DMAE 4.1.1, MIM 3.4).

    codes: (K, d_m) int8; inv_norm: (K,) float32, 1 / |v|, 0 = missing; candidates: (B, N) int32;
    behaviours: (B, T) int32; behaviour_mask: (B, T) bool.

    The fraction is evaluated as printed: the product of the vectors, then both norms. Products of integer
    codes are exact, so no similarity lands in another bucket than in training, which a product of vectors
    normalised beforehand would do about once in 10^5.
    """
    vectors = codes.float()
    of_candidates, of_behaviours = F.embedding(candidates, vectors), F.embedding(behaviours, vectors)
    by_candidate = F.embedding(candidates, inv_norm.unsqueeze(1))  # (B, N, 1)
    by_behaviour = F.embedding(behaviours, inv_norm.unsqueeze(1))  # (B, T, 1)
    product = of_candidates @ of_behaviours.transpose(1, 2)
    present = behaviour_mask.unsqueeze(1) & (by_behaviour > 0).transpose(1, 2)
    return LiteralContent(
        candidates=of_candidates * by_candidate,
        behaviours=of_behaviours * by_behaviour,
        cosine=(product * by_candidate) * by_behaviour.transpose(1, 2),
        mask=present & (by_candidate > 0),
    )


def literal_query(
    codes: Tensor, inv_norm: Tensor, candidates: Tensor, query_codes: Tensor, query_inv_norm: Tensor
) -> LiteralQuery:
    """The same fraction of every candidate with its request's query.

    codes: (K, d_m) int8; inv_norm: (K,) float32; candidates: (B, N) int32; query_codes: (B, d_m) int8;
    query_inv_norm: (B,) float32, 0 = nothing was searched for.
    """
    by_candidate = F.embedding(candidates, inv_norm.unsqueeze(1)).squeeze(2)
    by_query = query_inv_norm.unsqueeze(1)
    product = (F.embedding(candidates, codes.float()) @ query_codes.float().unsqueeze(2)).squeeze(2)
    return LiteralQuery((product * by_candidate) * by_query, (by_candidate > 0) & (by_query > 0))


def similarity_score(cosine: Tensor, calibration: tuple[float, float] | None = None) -> Tensor:
    """r = (cos + 1) / 2 (DMAE 4.1.1), through the ranker's calibration (scale, shift) where it has one."""
    r = (cosine + 1.0) / 2.0
    if calibration is None or calibration == (1.0, 0.0):
        return r
    scale, shift = calibration
    return (r * scale + shift).clamp(0.0, 1.0)
