"""A scorer whose generation names a real encoder, and that encoder: what tests of encode-on-miss share."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import numpy as np
import numpy.typing as npt

from contracts.items import Item
from contracts.window import Window
from param_server.settings import StoreSettings
from param_server.windows import Windows
from realtime_infer.encoder import Encoder
from serving.app import RunningScorer, open_scorer
from serving.client import GrpcClient, HttpClient
from serving.encode_settings import EncodeSettings
from serving.settings import ScorerSettings
from tests.encoder_bundle import picture
from tests.serving.conftest import World, until

RED, BLUE = picture((220, 20, 20)), picture((10, 60, 240))
NEW = {
    "new-1": Item("new-1", {"title": "Heat"}, {"genre": "Crime", "price": 5.0}, RED),
    "new-2": Item("new-2", {"title": "Ronin", "plot": "a case"}),
    "new-3": Item("new-3", image=BLUE),
}


@dataclass(frozen=True)
class Scorer:
    """An open scorer and a client of each of its doors."""

    running: RunningScorer
    http: HttpClient
    rpc: GrpcClient
    raw: httpx.AsyncClient

    async def count(self, name: str) -> float:
        return await metric(self.raw, name)


async def metric(raw: httpx.AsyncClient, name: str) -> float:
    """One line of /metrics, name with its labels; 0 where it is not there."""
    lines = (await raw.get("/metrics")).text.splitlines()
    found = [line for line in lines if line.startswith(name + " ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


@contextlib.asynccontextmanager
async def scoring(
    settings: ScorerSettings, store_settings: StoreSettings, target: str | None, **encode: object
) -> AsyncIterator[Scorer]:
    """A ready scorer that asks the encoder at `target`."""
    asked = EncodeSettings(encoder_target=target, **encode)  # type: ignore[arg-type]
    async with (
        open_scorer(settings, store_settings, encode_settings=asked) as running,
        HttpClient(running.http_url, deadline_s=20) as http,
        GrpcClient(running.grpc_target, deadline_s=20) as rpc,
        httpx.AsyncClient(base_url=running.http_url, timeout=20) as raw,
    ):
        await until(running.readiness.is_ready)
        yield Scorer(running, http, rpc, raw)


async def commit(world: World, encoder: Encoder, items: list[Item], sequence: int = 77) -> None:
    """What a push of these would store, announced as a worker does."""
    records = encoder.records(encoder.encode(items), np.full(len(items), sequence, np.uint64))
    windows = Windows(world.store, world.redis, 10)
    await windows.announce(
        await windows.commit(Window(encoder.space, [i.item_id for i in items], records, 1))
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def same(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> None:
    """To the bit, NaN where NaN."""
    np.testing.assert_array_equal(a, b)
