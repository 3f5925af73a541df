"""`repcenter bench peers`: the scorer beside LitServe and BentoML: same requests, rows, graph and core."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from cli.peer_case import BATCH_S, CACHED, CONNECTIONS, STORED, Case, Contender, Round, compared, peer_cases
from cli.peer_rows import PREFIX, check_plain, load_rows, peer_rows, write_rows
from cli.peer_server import PEERS, Peer, peer_environment, peer_server, peer_versions
from cli.process_tree import ProcessTree, ending_on_sigterm
from cli.serve_bench import AGREEMENT, BEHAVIOURS, CANDIDATES, SETTINGS
from cli.serve_world import LONGEST_HISTORY, ServeWorld, is_there, publish_world, serve_world
from cli.served import Cores, cores, on_core, served
from contracts import kernels
from contracts.errors import Conflict, Unavailable
from loadtests.loops import Load, closed_loop, open_loop
from loadtests.peers.given import Given
from loadtests.wire import OK, HttpWire, Wire, payload_of
from param_server.embedded import EmbeddedServer
from param_server.peer_environment import FAILURES, why
from param_server.settings import StoreSettings

_REQUESTS = 32
_DEADLINE_S = 1.0
_WARM_S = 0.5
_AWAKE_S = 30.0

Say = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PeerOptions:
    """rounds: of all servers, there and back; seconds: of each; others: further numbers of connections,
    three rounds fewer; open_s: of the open loop, 0 = left out."""

    rounds: int = 5
    seconds: float = 2.0
    others: Sequence[int] = (1, 8)
    open_s: float = 5.0


def run(options: PeerOptions, var: Path, say: Say) -> dict[str, Any]:
    """Everything under `var`: bench serve's ranker, the peers' environments, what they are given, their logs.

    A peer that cannot be installed or does not start is left out. Raises Conflict where a score is wrong or a
    request fails, Unavailable off Linux.
    """
    ProcessTree(os.getpid())  # before anything is installed
    steps = 3 + 2 * len(PEERS) + options.rounds + len(options.others) + bool(options.open_s)
    done = iter(range(steps))
    say("opening the ranker" if is_there(var / "serve" / "world") else "training a ranker", next(done), steps)
    world, where = serve_world(var / "serve" / "world"), cores()
    left_out: dict[str, str] = {}
    pythons: dict[Peer, Path] = {}
    for peer in PEERS:
        say(f"{peer}'s environment", next(done), steps)
        try:
            pythons[peer] = peer_environment(peer, var / peer)
        except FAILURES as error:
            left_out[peer] = why(error)
    say("scores by the literal graph", next(done), steps)
    bench = _Bench(world, where)
    with ending_on_sigterm(), ExitStack() as stack:
        say("starting ours", next(done), steps)
        start = _Start(world, var, where, bench.payloads[0], stack)
        contenders = [start.ours(case) for case in (CACHED, STORED)]
        for peer, python in pythons.items():
            say(f"starting {peer}", next(done), steps)
            try:
                contenders += [start.theirs(peer, python, case) for case in peer_cases(peer)]
            except Unavailable as error:
                left_out[peer] = str(error)
        for turn in range(options.rounds):
            say(f"{CONNECTIONS} connections, round {turn + 1}", next(done), steps)
            bench.turn(contenders[:: -1 if turn % 2 else 1], CONNECTIONS, options.seconds)
        for connections in options.others:
            say(f"{connections} connections", next(done), steps)
            for turn in range(max(1, options.rounds - 3)):
                bench.turn(contenders[:: -1 if turn % 2 else 1], connections, options.seconds)
        half_load = None
        if options.open_s:
            say("open loop", next(done), steps)
            half_load = bench.half_load(contenders, options.open_s)
    say("done", steps, steps)
    return {
        **compared(contenders),
        "n": CANDIDATES,
        "t": BEHAVIOURS,
        "connections": CONNECTIONS,
        "cases": [contender.figures() for contender in contenders],
        "half_load": half_load,
        "left_out": left_out,
        "pinned": where.server is not None,
        "kernels": bool(start.kernels),
        "versions": {peer: peer_versions(peer, python) for peer, python in pythons.items()},
        "cpu": _processor(),
        "compared": bench.compared,
    }


class _Start:
    """Starts contenders and stops each until its turn; all of them end with the stack."""

    def __init__(self, world: ServeWorld, var: Path, where: Cores, payload: bytes, stack: ExitStack) -> None:
        self._world, self._where, self._payload, self._stack = world, where, payload, stack
        self._folder = var / "peers"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self.kernels = kernels.build(var / "serve" / "kernels")
        check_plain(world.spec.schema)
        rows = peer_rows(world.records, world.id_rows)
        self._rows = self._folder / "rows.npz"
        write_rows(world.item_ids, rows, self._rows)
        with on_core(where.client):
            server = stack.enter_context(EmbeddedServer.start(self._folder / "valkey"))
        self._redis_url = server.url
        publish_world(world, StoreSettings(redis_url=server.url))
        load_rows(world.item_ids, rows, server.url)

    def ours(self, case: Case) -> Contender:
        settings = SETTINGS if case == CACHED else {**SETTINGS, "REPCENTER_CACHE_BYTES": 0}
        scorer = self._stack.enter_context(
            served(self._redis_url, self._folder / case.name, self._where.server, settings)
        )
        return self._stopped(Contender(case, f"{scorer.http_url}/v1/score", ProcessTree(scorer.pid)))

    def theirs(self, peer: Peer, python: Path, case: Case) -> Contender:
        serving = case.graph == "serving"
        given = Given(
            graph=str((self._world.graph if serving else self._world.literal).resolve()),
            rows=str(self._rows.resolve()),
            kernels=str(self.kernels.resolve()) if serving and self.kernels else "",
            redis_url=self._redis_url if case.rows == "redis" else "",
            prefix=PREFIX,
            history=LONGEST_HISTORY,
            tuned=case.tuned,
            batch=case.batch,
            batch_s=BATCH_S,
        )
        found = peer_server(peer, python, given, self._payload, self._folder / case.name, self._where.server)
        server = self._stack.enter_context(found)
        return self._stopped(Contender(case, server.url, server.tree))

    def _stopped(self, contender: Contender) -> Contender:
        self._stack.callback(contender.tree.resume)
        contender.tree.pause()
        return contender


class _Bench:
    def __init__(self, world: ServeWorld, where: Cores) -> None:
        requests = [world.request(CANDIDATES, BEHAVIOURS, seed) for seed in range(_REQUESTS)]
        self._where = where
        self.payloads = [payload_of("http", request, _DEADLINE_S) for request in requests]
        self._expected = world.oracle(requests)
        self.compared = 0

    def turn(self, contenders: Sequence[Contender], connections: int, seconds: float) -> None:
        """A round of each."""
        for contender in contenders:
            load, cpu_s = self._drive(
                contender, lambda wire: closed_loop(wire, self.payloads, connections, seconds)
            )
            count = len(load.answers)
            found = Round(load.per_s, cpu_s / count * 1e3, load.ms(50, OK) or 0.0, load.ms(99, OK) or 0.0)
            contender.rounds.setdefault(connections, []).append(found)

    def half_load(self, contenders: Sequence[Contender], seconds: float) -> dict[str, Any]:
        """Those with the serving graph at one rate: half of what the slowest of them can do."""
        ready = [contender for contender in contenders if contender.case.graph == "serving"]
        rate = min(contender.median(CONNECTIONS).rps for contender in ready) / 2
        waits = {}
        for contender in ready:
            load, _ = self._drive(contender, lambda wire: open_loop(wire, self.payloads, rate, seconds))
            waits[contender.case.name] = {
                "p50_ms": round(load.ms(50, OK) or 0.0, 3),
                "p99_ms": round(load.ms(99, OK) or 0.0, 3),
            }
        return {"rate": round(rate, 1), "seconds": seconds, "waits": waits}

    def _drive(self, contender: Contender, loop: Callable[[Wire], Awaitable[Load]]) -> tuple[Load, float]:
        """The load, and the CPU seconds that it took of all processes of the server; it runs for as long."""

        async def drive() -> tuple[Load, float]:
            wire = HttpWire(contender.url)
            try:
                await self._awake(contender, wire)
                await closed_loop(wire, self.payloads, CONNECTIONS, _WARM_S)
                before = contender.tree.cpu_s()
                load = await loop(wire)
                return load, contender.tree.since(before)
            finally:
                await wire.close()

        contender.tree.resume()
        try:
            with on_core(self._where.client):
                load, cpu_s = asyncio.run(drive())
        finally:
            contender.tree.pause()
        self._check(contender.case, load)
        return load, cpu_s

    async def _awake(self, contender: Contender, wire: Wire) -> None:
        """Until it answers: what was stopped finds its timers late and connections old."""
        deadline = time.monotonic() + _AWAKE_S
        while True:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + _AWAKE_S):
                outcome = (await wire.call(self.payloads[0])).outcome
            if outcome == OK:
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"{contender.case.name} answers {outcome} after it was stopped")
            await asyncio.sleep(0.02)

    def _check(self, case: Case, load: Load) -> None:
        """Every answer is one, every score is the literal graph's, every candidate was found."""
        if load.outcomes.keys() != {OK}:
            raise Conflict(f"{case.name} answered {load.outcomes}")
        for number, answer, _ in load.answers:
            found = orjson.loads(answer.body)
            scores: npt.NDArray[np.float32] = np.array(found["scores"], dtype=np.float32)
            expected = self._expected[number]
            right = scores.shape == expected.shape and (np.abs(scores - expected) <= AGREEMENT).all()
            if not right or found["statuses"] != ["ok"] * len(expected):
                raise Conflict(f"{case.name}: scores of request {number} differ from the literal graph's")
            self.compared += len(scores)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
