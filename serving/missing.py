"""Candidates that the tables know by neither content nor ID row: what the request wants done about them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from contracts.errors import NotFound
from contracts.features import Assembled
from contracts.request import ScoreRequest
from contracts.scores import DEFAULT, MISSING
from param_server.store import Fetched


def refuse_missing(request: ScoreRequest, assembled: Assembled, fetched: Fetched) -> None:
    """NotFound that names the first one, where the request's policy is to fail."""
    if request.missing != "fail":
        return
    known = np.ones(len(assembled.item_ids) + 1, dtype=np.bool_)
    known[1:] = fetched.found | fetched.id_found
    unknown = np.flatnonzero(~known[assembled.candidates[0]])
    if len(unknown):
        what = f"record or ID row of {len(unknown)} of {len(request.candidates)} candidates, the first is"
        raise NotFound(what, request.candidates[int(unknown[0])])


def fill_missing(
    request: ScoreRequest, scores: npt.NDArray[np.float32], statuses: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """scores, statuses: (N,). Missing ones with the request's default score, where it gives one."""
    if request.default_score is None:
        return scores, statuses
    missing = statuses == MISSING
    return (
        np.where(missing, np.float32(request.default_score), scores),
        np.where(missing, np.uint8(DEFAULT), statuses),
    )
