"""`repcenter bench serve`: a door beside the bare graph that it serves, on pinned cores, in one run."""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cli.serve_world import ServeWorld, is_there, publish_world, serve_world
from cli.served import Cores, Served, cores, on_core, served
from contracts import kernels
from contracts.errors import Conflict
from contracts.onnx_model import OnnxModel
from loadtests.loops import Load, closed_loop, open_loop
from loadtests.wire import OK, Door, Wire, payload_of, scores_of, wire_to
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings

CANDIDATES, BEHAVIOURS = 100, 64
GROWTH = (*((n, BEHAVIOURS) for n in (10, 500, 1_000)), *((CANDIDATES, t) for t in (16, 256, 1_000)))
AGREEMENT = 1e-4  # between a served score and the literal graph's
SETTINGS: dict[str, object] = {"REPCENTER_WORKERS": 1, "REPCENTER_THREADS": 1}
SHARED_ROWS = 64  # REPCENTER_BATCH_ROWS of the scorer whose requests share runs
SHARING = ((10, 16), (10, BEHAVIOURS), (50, BEHAVIOURS))
MAX_WAIT_MS = 10  # REPCENTER_MAX_WAIT_MS of the scorer that is overloaded
_REQUESTS = 32
_CONNECTIONS = 4
_CROWD = 16  # callers, so that requests wait and can share
_DEADLINE_S = 1.0
_WARM_S = 0.5

Say = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BenchOptions:
    """door; rounds: of the bare graph and the door in turn; seconds: of each; half_load_s: of the open loop;
    overload_s: at twice the capacity, 0 = left out; growth: other N and T; sharing: N and T at which a scorer
    whose requests share runs is beside one whose do not."""

    door: Door = "http"
    rounds: int = 5
    seconds: float = 2.0
    half_load_s: float = 20.0
    overload_s: float = 0.0
    growth: Sequence[tuple[int, int]] = GROWTH
    sharing: Sequence[tuple[int, int]] = SHARING


@dataclass(frozen=True, eq=False)
class _Case:
    """Requests of one shape: the bare graph's inputs, the door's payloads, the scores that are right."""

    inputs: Sequence[Mapping[str, Any]]
    payloads: Sequence[bytes]
    expected: Sequence[npt.NDArray[np.float32]]


def run(options: BenchOptions, var: Path, say: Say) -> dict[str, Any]:
    """Everything under `var`; the ranker is trained there once. Raises Conflict where a score is wrong.

    `graph_rps`, `served_rps`: requests a second of a bare session and through the door by `_CONNECTIONS`
    callers, medians of rounds in turn; `efficiency`: one over the other; `overhead_cpu_ms`: the server's CPU
    time of a request less the bare session's; `p50_ms`, `p99_ms`: at half of served_rps in an open loop, from
    when a request was due.
    """
    steps = 3 + len(options.growth) + len(options.sharing) + bool(options.overload_s)
    say("opening the ranker" if is_there(var / "world") else "training a ranker", 0, steps)
    world, where = serve_world(var / "world"), cores()
    library = kernels.build(var / "kernels")
    graph = OnnxModel(world.graph, kernels=library)
    with tempfile.TemporaryDirectory() as scratch, EmbeddedServer.start(Path(scratch) / "valkey") as server:
        settings = StoreSettings(redis_url=server.url)
        publish_world(world, settings)
        with served(server.url, var, where.server, SETTINGS) as scorer:
            bench = _Bench(options, world, graph, scorer, where)
            say(f"N = {CANDIDATES}, T = {BEHAVIOURS}", 1, steps)
            result = bench.main()
            say("half load", 2, steps)
            result |= bench.half_load(result["served_rps"])
            result["growth"] = []
            for n, (count, length) in enumerate(options.growth):
                say(f"N = {count}, T = {length}", 3 + n, steps)
                result["growth"].append(bench.grown(count, length))
            together = {**SETTINGS, "REPCENTER_BATCH_ROWS": SHARED_ROWS}
            with served(server.url, var / "sharing", where.server, together) as sharing:
                other = _Bench(options, world, graph, sharing, where, bench.case)
                result["sharing"] = []
                for n, (count, length) in enumerate(options.sharing):
                    say(f"sharing runs, N = {count}, T = {length}", 3 + len(options.growth) + n, steps)
                    result["sharing"].append(bench.beside(other, count, length))
            bench.compared += other.compared
        if options.overload_s:
            say("twice the capacity", steps - 1, steps)
            strict = {**SETTINGS, "REPCENTER_MAX_WAIT_MS": MAX_WAIT_MS}
            with served(server.url, var, where.server, strict) as scorer:
                other = _Bench(options, world, graph, scorer, where, bench.case)
                result["overload"] = other.overload(result["served_rps"])
            bench.compared += other.compared
        say("done", steps, steps)
    return {
        "door": options.door,
        "n": CANDIDATES,
        "t": BEHAVIOURS,
        "pinned": where.server is not None,
        "kernels": library is not None,
        **result,
        "wrong_scores": bench.wrong,
        "compared": bench.compared,
    }


def lines(result: Mapping[str, Any]) -> str:
    """The result as plain text."""
    columns = ("n", "t", "graph_rps", "served_rps", "efficiency", "graph_cpu_ms", "overhead_cpu_ms")
    cases = [result, *result["growth"]]
    text = ["".join(f"{c:>16}" for c in columns)]
    text += ["".join(f"{case[c]!s:>16}" for c in columns) for case in cases]
    half = result["half_load"]
    text += [f"half load, {half['rate']} requests/s: p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms"]
    text += [
        f"runs shared up to {SHARED_ROWS} candidates, N = {s['n']}, T = {s['t']}: {s['alone_rps']} -> "
        f"{s['shared_rps']} requests/s, {s['gain']} times"
        for s in result["sharing"]
    ]
    if over := result.get("overload"):
        text += [
            f"twice the capacity, {over['rate']} requests/s for {over['seconds']} s: {over['outcomes']}, "
            f"p99 of the admitted {over['admitted_p99_ms']} ms, of refusals {over['refused_p99_ms']} ms"
        ]
    text += [f"{result['compared']:,} scores compared, {result['wrong_scores']} wrong"]
    return "\n".join(text)


class _Bench:
    def __init__(
        self,
        options: BenchOptions,
        world: ServeWorld,
        graph: OnnxModel,
        scorer: Served,
        where: Cores,
        case: _Case | None = None,
    ) -> None:
        """case: of N = 100, T = 64, where it is made already."""
        self._options, self._world, self._graph, self._scorer = options, world, graph, scorer
        self._cores = where
        self._where = scorer.http_url if options.door == "http" else scorer.grpc_target
        self.wrong, self.compared = 0, 0
        self.case = case or self._case(CANDIDATES, BEHAVIOURS)

    def main(self) -> dict[str, Any]:
        return self._in_turn(self.case, self._options.rounds, self._options.seconds)

    def grown(self, candidates: int, behaviours: int) -> dict[str, Any]:
        case = self._case(candidates, behaviours, 8)
        found = self._in_turn(case, max(1, self._options.rounds - 2), self._options.seconds)
        return {"n": candidates, "t": behaviours, **found}

    def beside(self, sharing: _Bench, candidates: int, behaviours: int) -> dict[str, Any]:
        """A crowd of callers at this scorer and at one whose requests share runs, in turn."""
        case, seconds = self._case(candidates, behaviours), self._options.seconds
        pairs = [
            tuple(bench._closed(case, seconds, _CROWD)[0] for bench in (self, sharing))
            for _ in range(self._options.rounds)
        ]
        alone, shared = (statistics.median(column) for column in zip(*pairs, strict=True))
        return {
            "n": candidates,
            "t": behaviours,
            "alone_rps": round(alone, 1),
            "shared_rps": round(shared, 1),
            "gain": round(shared / alone, 3),
        }

    def half_load(self, served_rps: float) -> dict[str, Any]:
        load = self._drive(
            lambda wire: open_loop(wire, self.case.payloads, served_rps / 2, self._options.half_load_s)
        )
        self._check(self.case, load)
        p50, p99 = load.ms(50, OK), load.ms(99, OK)
        return {
            "p50_ms": None if p50 is None else round(p50, 3),
            "p99_ms": None if p99 is None else round(p99, 3),
            "half_load": {"rate": round(served_rps / 2, 1), "outcomes": load.outcomes},
        }

    def overload(self, served_rps: float) -> dict[str, Any]:
        """Twice the capacity in an open loop: what is admitted, how long it and a refusal take."""
        self._drive(lambda wire: closed_loop(wire, self.case.payloads, 1, _WARM_S))
        load = self._drive(
            lambda wire: open_loop(wire, self.case.payloads, 2 * served_rps, self._options.overload_s)
        )
        self._check(self.case, load)
        admitted, refused = load.ms(99, OK), load.ms(99, "overloaded")
        return {
            "rate": round(2 * served_rps, 1),
            "max_wait_ms": MAX_WAIT_MS,
            "seconds": round(load.seconds, 1),
            "outcomes": load.outcomes,
            "admitted_rps": round(load.per_s, 1),
            "admitted_p99_ms": None if admitted is None else round(admitted, 3),
            "refused_p99_ms": None if refused is None else round(refused, 3),
        }

    def _case(self, candidates: int, behaviours: int, count: int = _REQUESTS) -> _Case:
        requests = [self._world.request(candidates, behaviours, seed) for seed in range(count)]
        return _Case(
            [self._world.inputs(request) for request in requests],
            [payload_of(self._options.door, request, _DEADLINE_S) for request in requests],
            self._world.oracle(requests),
        )

    def _in_turn(self, case: _Case, rounds: int, seconds: float) -> dict[str, Any]:
        self._bare(case, _WARM_S)
        self._closed(case, _WARM_S)
        bare, door = [], []
        for _ in range(rounds):
            bare.append(self._bare(case, seconds))
            door.append(self._closed(case, seconds))
        graph_rps, graph_cpu = (statistics.median(column) for column in zip(*bare, strict=True))
        served_rps, served_cpu = (statistics.median(column) for column in zip(*door, strict=True))
        return {
            "graph_rps": round(graph_rps, 1),
            "served_rps": round(served_rps, 1),
            "efficiency": round(served_rps / graph_rps, 3),
            "graph_cpu_ms": round(graph_cpu, 4),
            "served_cpu_ms": round(served_cpu, 4),
            "overhead_cpu_ms": round(served_cpu - graph_cpu, 4),
        }

    def _bare(self, case: _Case, seconds: float) -> tuple[float, float]:
        """Requests a second and CPU milliseconds of one, on the server's core."""
        with on_core(self._cores.server):
            began, cpu, runs = time.perf_counter(), time.thread_time(), 0
            while (taken := time.perf_counter() - began) < seconds:
                self._graph.run(case.inputs[runs % len(case.inputs)], ["score"])
                runs += 1
            return runs / taken, (time.thread_time() - cpu) / runs * 1e3

    def _closed(self, case: _Case, seconds: float, connections: int = _CONNECTIONS) -> tuple[float, float]:
        cpu = self._scorer.cpu_s()
        load = self._drive(lambda wire: closed_loop(wire, case.payloads, connections, seconds))
        cpu = self._scorer.cpu_s() - cpu
        self._check(case, load)
        if load.outcomes.keys() != {OK}:
            raise Conflict(f"the scorer answered {load.outcomes}")
        return load.per_s, cpu / len(load.answers) * 1e3

    def _drive(self, loop: Callable[[Wire], Any]) -> Load:
        async def drive() -> Load:
            wire = wire_to(self._options.door, self._where, _DEADLINE_S)
            try:
                load: Load = await loop(wire)
                return load
            finally:
                await wire.close()

        gc.collect()
        gc.disable()  # answers pile up here: the client's pauses are not the server's
        try:
            with on_core(self._cores.client):
                return asyncio.run(drive())
        finally:
            gc.enable()

    def _check(self, case: _Case, load: Load) -> None:
        """Every score against the literal graph's."""
        for number, answer, _ in load.answers:
            if answer.outcome != OK:
                continue
            scores = scores_of(self._options.door, answer)
            self.compared += len(scores)
            off = ~(np.abs(scores - case.expected[number]) <= AGREEMENT)
            self.wrong += int(np.count_nonzero(off))
        if self.wrong:
            raise Conflict(f"{self.wrong} of {self.compared} scores differ from the literal graph's")
