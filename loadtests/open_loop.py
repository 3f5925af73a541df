"""An open loop: requests start when they are due, whether or not earlier ones have answered.

    python -m loadtests.open_loop --ids var/ids.json --url http://127.0.0.1:8080 --rate 50 --seconds 20

Latency counts from the intended start, so a stalled server cannot hide behind requests that were
never sent (coordinated omission). Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from contracts.errors import RepcenterError
from contracts.request import ScoreRequest
from loadtests.shapes import Traffic, read_item_ids
from serving.client import GrpcClient, HttpClient

_MOST_IN_FLIGHT = 2_000


@dataclass
class Outcomes:
    """latencies_ms: of answered requests, from their intended start; late_ms: how late each one left."""

    latencies_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def to_json(self, rate: float, seconds: float) -> dict[str, object]:
        """Percentiles in milliseconds, null where nothing was answered."""
        named: dict[str, float | None] = {}
        for name, values in (("", self.latencies_ms), ("late_", self.late_ms)):
            for share in (50, 90, 99):
                percentile = float(np.percentile(values, share)) if values else None
                named[f"{name}p{share}_ms"] = None if percentile is None else round(percentile, 3)
        return {
            "rate": rate,
            "seconds": round(seconds, 3),
            "sent": len(self.latencies_ms) + self.errors.total(),
            "ok": len(self.latencies_ms),
            "errors": dict(self.errors),
            **named,
        }


async def drive(
    client: HttpClient | GrpcClient, traffic: Traffic, rate: float, seconds: float, deadline_s: float
) -> Outcomes:
    """Poisson arrivals at `rate` per second; a request beyond the most in flight is not sent and counted."""
    outcomes = Outcomes()
    rng = np.random.default_rng(0)
    gaps = rng.exponential(1 / rate, size=max(1, round(rate * seconds)))
    requests = [traffic.request() for _ in gaps]
    begin = time.perf_counter() + 0.05
    running: set[asyncio.Task[None]] = set()
    for due, request in zip((begin + np.cumsum(gaps)).tolist(), requests, strict=True):
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if len(running) >= _MOST_IN_FLIGHT:
            outcomes.errors["not_sent"] += 1
            continue
        task = asyncio.create_task(_one(client, request, due, deadline_s, outcomes))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return outcomes


async def _one(
    client: HttpClient | GrpcClient, request: ScoreRequest, due: float, deadline_s: float, outcomes: Outcomes
) -> None:
    late_ms = (time.perf_counter() - due) * 1e3
    try:
        await client.score(request, deadline_s=deadline_s)
    except RepcenterError as error:
        outcomes.errors[error.code] += 1
    else:
        outcomes.latencies_ms.append((time.perf_counter() - due) * 1e3)
    outcomes.late_ms.append(late_ms)


async def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Warm the connection, drive, and give the JSON line's object."""
    traffic = Traffic(read_item_ids(arguments.ids), arguments.seed, arguments.scene)
    client: HttpClient | GrpcClient
    client = GrpcClient(arguments.grpc) if arguments.grpc else HttpClient(arguments.url)
    async with client:
        await client.score(traffic.request())
        began = time.perf_counter()
        outcomes = await drive(
            client, traffic, arguments.rate, arguments.seconds, arguments.deadline_ms / 1e3
        )
        door = "grpc" if arguments.grpc else "http"
        return {"door": door, **outcomes.to_json(arguments.rate, time.perf_counter() - began)}


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m loadtests.open_loop", description="Open-loop scorer load."
    )
    options.add_argument("--ids", required=True, help='JSON file {"item_ids": […]}, most popular first')
    door = options.add_mutually_exclusive_group()
    door.add_argument("--url", default="http://127.0.0.1:8080", help="HTTP door (default %(default)s)")
    door.add_argument("--grpc", help="gRPC door, host:port; instead of --url")
    options.add_argument("--rate", type=_positive, default=50.0, help="requests per second (%(default)s)")
    options.add_argument("--seconds", type=_positive, default=10.0, help="how long (%(default)s)")
    options.add_argument(
        "--deadline-ms", type=_positive, default=1_000.0, help="of each request (%(default)s)"
    )
    options.add_argument("--scene", default="default", help="scene to score in (%(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of the traffic (%(default)s)")
    return options


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 1,000,000 (got {text})")
    return value


def main() -> int:
    try:
        line = asyncio.run(measure(parser().parse_args()))
    except RepcenterError as error:
        print(f"open_loop: {error}", file=sys.stderr)
        return 1
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
