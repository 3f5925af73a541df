"""What a peer is given: where its graph and its rows are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Given:
    """Paths of the graph, of the rows and of compiled operators ("" = none).

    redis_url: rows are read there, one string under `prefix` + id each; "" = from the file, held in memory.
    history: behaviours that the graph reads at most. batch: requests of one run at most, where a server
    gathers them; they wait `batch_s` for each other. tuned: with what was found to be faster than the code
    that the server's documentation shows.
    """

    graph: str
    rows: str
    kernels: str
    redis_url: str
    prefix: str
    history: int
    tuned: bool = False
    batch: int = 1
    batch_s: float = 0.0

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> Given:
        return cls(**json.loads(file.read_text()))
