"""Why a candidate scored as it did: what was computed on the way, and what is left without each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_EXPLAINED = 20  # candidates of one request


@dataclass(frozen=True)
class Weighed:
    """A behaviour and its number. age: 0 is the newest."""

    item_id: str
    age: int
    value: float


@dataclass(frozen=True)
class Explanation:
    """One candidate. position: in the request.

    contributions: by part of the ranker (item, id_interest, ciubm, dmae, …, context), the logit less the
    logit with zeros in that part's place. They need not sum up to the logit.
    behaviours: the most telling ones, largest first, by what the number is: `similarity.<modality>` (cosine
    with the candidate), `weights.id_interest` (DIN), `weights.ciubm.<modality>`, `attention.<modality>`
    (DMAE, under the other modality's context).
    distributions: DMAE's interest distribution by `distribution.<modality>`, the share of the behaviours by
    region of age (l rows, newest first) and interval of similarity (n columns, least similar first).
    """

    item_id: str
    position: int
    score: float
    logit: float
    contributions: Mapping[str, float]
    behaviours: Mapping[str, Sequence[Weighed]]
    distributions: Mapping[str, Sequence[Sequence[float]]]
