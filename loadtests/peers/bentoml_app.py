"""The ranker behind BentoML: `bentoml serve loadtests.peers.bentoml_app:RankerService --arg given=FILE`.

As its documentation advises: the model in __init__, one worker, an asynchronous API for what waits on a
store. The graph runs on the event loop: with one worker on one core that was faster than the thread pool of
a synchronous API. Access log and metrics are off, answers are responses of Starlette.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from loadtests.peers.given import Given
from loadtests.peers.ranker import Ranker
from loadtests.peers.rows import row_source

_bentoml: Any = importlib.import_module("bentoml")
_orjson: Any = importlib.import_module("orjson")
_responses: Any = importlib.import_module("starlette.responses")
_given = Given.read(Path(_bentoml.use_arguments().given))


@_bentoml.service(
    workers=1, traffic={"timeout": 30}, metrics={"enabled": False}, logging={"access": {"enabled": False}}
)
class RankerService:
    """Named by the command that starts it."""

    def __init__(self) -> None:
        self._ranker, self._rows = Ranker(_given), row_source(_given)

    @_bentoml.api(route="/v1/score")  # type: ignore[untyped-decorator]
    async def score(self, candidates: list[str], behaviours: list[dict[str, Any]]) -> Any:
        asked = self._ranker.asked([{"candidates": candidates, "behaviours": behaviours}])
        answer = self._ranker.answers(asked, await self._rows.fetch(asked.ids))[0]
        return _responses.Response(_orjson.dumps(answer), media_type="application/json")
