"""The ranker behind LitServe: `python -m loadtests.peers.litserve_app GIVEN PORT`.

As its documentation advises: the model in setup(), one worker per device, predict() gives what is answered.
Tuned: the answer is a response, written by orjson; max_batch_size gathers requests. `fast_queue` is its fast
path between processes; 0.2.19 takes the word and does nothing (Lightning-AI/LitServe issue 751).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.peers.given import Given
from loadtests.peers.ranker import Answer, Body, Ranker, ask
from loadtests.peers.rows import row_source

_litserve: Any = importlib.import_module("litserve")
_orjson: Any = importlib.import_module("orjson")
_responses: Any = importlib.import_module("fastapi.responses")
_PATH = "/v1/score"


class RankerApi(_litserve.LitAPI):  # type: ignore[misc]
    """One request at a time, its answer written by FastAPI. The worker's process calls setup()."""

    def __init__(self, given: Given, **options: Any) -> None:
        super().__init__(api_path=_PATH, **options)
        self._given = given

    def setup(self, device: str) -> None:
        self._ranker, self._rows = Ranker(self._given), row_source(self._given)

    def predict(self, body: Body) -> Answer:
        return self._scores([body])[0]

    def _scores(self, bodies: Sequence[Body]) -> list[Answer]:
        asked = ask(bodies, self._given.history)
        return self._ranker.answers(asked, self._rows.read(asked.ids))


class TunedRankerApi(RankerApi):
    """The answer is bytes before it goes from the worker to the server."""

    def encode_response(self, output: Answer) -> Any:
        return _responses.Response(_orjson.dumps(output), media_type="application/json")


class BatchedRankerApi(TunedRankerApi):
    """What waits together is scored in one run of the graph."""

    def batch(self, inputs: Sequence[Body]) -> Sequence[Body]:
        return inputs

    def predict(self, bodies: Any) -> Any:
        return self._scores(bodies)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        return output


def main(given: Given, port: int) -> None:
    if given.batch > 1:
        api: Any = BatchedRankerApi(given, max_batch_size=given.batch, batch_timeout=given.batch_s)
    else:
        api = (TunedRankerApi if given.tuned else RankerApi)(given)
    server = _litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=1, timeout=30, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=1,
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )


if __name__ == "__main__":
    main(Given.read(Path(sys.argv[1])), int(sys.argv[2]))
