"""The ranker behind BentoML: `bentoml serve loadtests.peers.bentoml_app:RankerService --arg given=FILE`.

RankerService is as its documentation advises: the model in __init__, one worker, a synchronous API, which
runs in a thread. TunedRankerService is asynchronous, so that others are served while it waits for Redis, runs
the graph on the event loop, which is faster with one worker on one core, writes its answer with orjson and
counts nothing.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from loadtests.peers.given import Given
from loadtests.peers.ranker import Ranker, ask
from loadtests.peers.rows import row_source

_bentoml: Any = importlib.import_module("bentoml")
_orjson: Any = importlib.import_module("orjson")
_responses: Any = importlib.import_module("starlette.responses")
_given = Given.read(Path(_bentoml.use_arguments().given))
_ROUTE = "/v1/score"
_TRAFFIC = {"timeout": 30}
_NO_ACCESS_LOG = {"access": {"enabled": False}}


@_bentoml.service(workers=1, traffic=_TRAFFIC, logging=_NO_ACCESS_LOG)
class RankerService:
    """Named by the command that starts it, as is the other."""

    def __init__(self) -> None:
        self._ranker, self._rows = Ranker(_given), row_source(_given)

    @_bentoml.api(route=_ROUTE)  # type: ignore[untyped-decorator]
    def score(self, candidates: list[str], behaviours: list[dict[str, Any]]) -> dict[str, Any]:
        asked = ask([{"candidates": candidates, "behaviours": behaviours}], _given.history)
        return self._ranker.answers(asked, self._rows.read(asked.ids))[0]


@_bentoml.service(workers=1, traffic=_TRAFFIC, logging=_NO_ACCESS_LOG, metrics={"enabled": False})
class TunedRankerService:
    def __init__(self) -> None:
        self._ranker, self._rows = Ranker(_given), row_source(_given)

    @_bentoml.api(route=_ROUTE)  # type: ignore[untyped-decorator]
    async def score(self, candidates: list[str], behaviours: list[dict[str, Any]]) -> Any:
        asked = ask([{"candidates": candidates, "behaviours": behaviours}], _given.history)
        answer = self._ranker.answers(asked, await self._rows.fetch(asked.ids))[0]
        return _responses.Response(_orjson.dumps(answer), media_type="application/json")
