"""What `repcenter bench peers` measures: a server, its graph, where its rows are; rounds; what they say."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cli.process_tree import ProcessTree

CONNECTIONS = 4  # of the figures that are compared
BATCH, BATCH_S = 4, 0.001

Server = Literal["ours", "litserve", "bentoml"]


@dataclass(frozen=True)
class Case:
    """rows: in the server's process (ours: in its row cache) or read from Redis for every request. tuned: a
    peer's code beyond what its documentation shows. batch: requests that it may gather into one run."""

    server: Server
    graph: Literal["serving", "literal"]
    rows: Literal["process", "redis"]
    tuned: bool = False
    batch: int = 1

    @property
    def name(self) -> str:
        how = ("-tuned" if self.tuned else "") + (f"-{self.batch}" if self.batch > 1 else "")
        return f"{self.server}-{self.graph}-{self.rows}{how}"


CACHED, STORED = Case("ours", "serving", "process"), Case("ours", "serving", "redis")


def peer_cases(peer: Literal["litserve", "bentoml"]) -> list[Case]:
    """The literal graph as the documentation shows; the serving graph also tuned, with both places of rows.

    LitServe gathers requests too; BentoML gathers only what an API takes as a list.
    """
    cases = [
        Case(peer, "serving", "process"),
        Case(peer, "serving", "redis"),
        Case(peer, "serving", "process", tuned=True),
        Case(peer, "serving", "redis", tuned=True),
        Case(peer, "literal", "process"),
        Case(peer, "literal", "redis"),
    ]
    if peer == "litserve":
        cases.append(Case(peer, "serving", "process", tuned=True, batch=BATCH))
    return cases


@dataclass(frozen=True)
class Round:
    """Requests a second, CPU milliseconds of one in all of the server's processes, milliseconds waited."""

    rps: float
    cpu_ms: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, eq=False)
class Contender:
    """A server that is there, stopped while others are measured. url: of its score route."""

    case: Case
    url: str
    tree: ProcessTree
    rounds: dict[int, list[Round]] = field(default_factory=dict)

    def median(self, connections: int) -> Round:
        """Of every figure by itself."""
        columns = zip(*(asdict(found).values() for found in self.rounds[connections]), strict=True)
        return Round(*(round(statistics.median(column), 3) for column in columns))

    def figures(self) -> dict[str, Any]:
        by_connections = {str(number): asdict(self.median(number)) for number in sorted(self.rounds)}
        return {**asdict(self.case), "by_connections": by_connections}


def compared(contenders: Sequence[Contender]) -> dict[str, float | None]:
    """The scorer with its row cache beside the best of each peer, whatever its code, rows and batches.

    `ratio_serving_graph`, `ratio_literal`: over the best peer with that graph. `ratio_documented`: with the
    serving graph and the code that its documentation shows. `ratio_redis`: with the serving graph, where both
    read every row from Redis. `ratio_cpu`: the least CPU of a request among the peers with the serving graph
    over the scorer's, which others on the machine blur less. None where nobody is there.
    """

    def best(wanted: Callable[[Case], bool]) -> float | None:
        return max((c.median(CONNECTIONS).rps for c in contenders if wanted(c.case)), default=None)

    def rps(server: Server) -> float | None:
        return best(lambda case: case.server == server and case.graph == "serving")

    def ratio(ours: Case, wanted: Callable[[Case], bool]) -> float | None:
        mine = best(lambda case: case == ours)
        theirs = best(lambda case: case.server != "ours" and wanted(case))
        return round(mine / theirs, 2) if mine and theirs else None

    def cpu_ms(wanted: Callable[[Case], bool]) -> float | None:
        return min((c.median(CONNECTIONS).cpu_ms for c in contenders if wanted(c.case)), default=None)

    mine = cpu_ms(lambda case: case == CACHED)
    theirs = cpu_ms(lambda case: case.server != "ours" and case.graph == "serving")
    return {
        "ours_rps": best(lambda case: case == CACHED),
        "litserve_rps": rps("litserve"),
        "bentoml_rps": rps("bentoml"),
        "ratio_serving_graph": ratio(CACHED, lambda case: case.graph == "serving"),
        "ratio_documented": ratio(CACHED, lambda case: case.graph == "serving" and not case.tuned),
        "ratio_literal": ratio(CACHED, lambda case: case.graph == "literal"),
        "ratio_redis": ratio(STORED, lambda case: case.graph == "serving" and case.rows == "redis"),
        "ratio_cpu": round(theirs / mine, 2) if mine and theirs else None,
    }
