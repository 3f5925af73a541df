"""How `repcenter bench user-states` keeps states: as the scorer does."""

from __future__ import annotations

from contracts.features import Inputs
from contracts.user_side import UserSide
from serving.user_states import CachedUserSide, UserStates
from training.user_side_bench import Scores

_BYTES = 1 << 28


def kept_states(side: UserSide) -> tuple[Scores, Scores]:
    """Scores of a request whose state is kept, once it was asked for; and of one whose state is not."""
    kept, forgetful = (CachedUserSide(side, UserStates(limit), "bench") for limit in (_BYTES, 0))

    def hit(inputs: Inputs) -> Inputs:
        return kept.run(inputs, ["score"])

    def miss(inputs: Inputs) -> Inputs:
        return forgetful.run(inputs, ["score"])

    return hit, miss
