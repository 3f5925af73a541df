"""The stored behaviours of a user whom a request names without giving behaviours: one more round trip."""

from __future__ import annotations

from dataclasses import replace

from contracts.request import ScoreRequest
from param_server.behaviours import Behaviours


async def with_stored(
    stored: Behaviours | None, request: ScoreRequest, newest: int
) -> tuple[ScoreRequest, bool]:
    """The request with its user's newest stored behaviours, at most `newest`, and whether it took them.

    Of a request that says its time, those after it are left out: a replay sees what there was.
    The request as it is where it gives behaviours, names no user, or stored is None. What the request gives
    always wins: nothing is mixed. Raises Unavailable, UnknownVersion: a history is never silently left out.
    """
    if stored is None or request.user_id is None or request.behaviours:
        return request, False
    (behaviours,) = await stored.read([request.user_id], newest)
    if request.timestamp_ms is not None:
        behaviours = [b for b in behaviours if (b.timestamp_ms or 0) <= request.timestamp_ms]
    return replace(request, behaviours=behaviours), True
