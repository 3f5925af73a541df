"""kill -9 of workers, sink, write door and both servers at random moments, under pushes of real pictures.

    make test-faults SEED=7 PICTURES=../shared/data/fashion_items

Every acknowledged push is scoreable with the newest content, deleted, or dead with a reason; the offline
table has everything once, without a gap; what was visible of an item never goes back. The seed is in the
test's name; without those pictures they are drawn, and the counts say so.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.codec import ID_INT8
from contracts.errors import RepcenterError, Unavailable
from contracts.manifest import Generation, IdTable
from contracts.request import ScoreRequest
from param_server.connection import connect_one
from param_server.generations import Generations
from param_server.id_rows import read_id_rows
from param_server.offline import OfflineTable
from param_server.settings import StoreSettings
from param_server.store import Store
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.settings import EncoderSettings
from serving.client import HttpClient
from tests.faults.aftermath import check_ends, check_offline_table, check_scores
from tests.faults.faulty_server import FaultyServer
from tests.faults.pushes import Catalogue, Pushes
from tests.faults.services import Service, supervise
from tests.ranker_bundle import make_ranker_bundle

PICTURES = Path(os.environ.get("PICTURES", "../shared/data/fashion_items"))
SEED = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
_LONGEST_DOWN_S = 1.0
_PUSHERS = 8
_LOOK_S = 0.05
_ID_DIM = 4


async def test_a_kill_of_each_part(
    table_server: FaultyServer,
    stream_server: FaultyServer,
    bundle: Bundle,
    tmp_path: Path,
    outcomes: Counter[str],
) -> None:
    storm = Storm(table_server, stream_server, bundle, tmp_path, outcomes, seed=1, workers=1)
    await storm.run(Catalogue.drawn(), pushes=200, rounds=1)


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [SEED])
async def test_ten_thousand_pushes_while_everything_is_killed(
    table_server: FaultyServer,
    stream_server: FaultyServer,
    bundle: Bundle,
    tmp_path: Path,
    outcomes: Counter[str],
    seed: int,
) -> None:
    catalogue = Catalogue.read(PICTURES, most=6_000)
    outcomes[f"{catalogue.kind}_pictures"] = len(catalogue.pictures)
    storm = Storm(table_server, stream_server, bundle, tmp_path, outcomes, seed, workers=2)
    await storm.run(catalogue, pushes=10_000, rounds=8)


class Storm:
    """A stack of processes over two servers, all of which are killed in turn while items are pushed."""

    def __init__(
        self,
        table_server: FaultyServer,
        stream_server: FaultyServer,
        bundle: Bundle,
        directory: Path,
        outcomes: Counter[str],
        seed: int,
        workers: int,
    ) -> None:
        self._table_server, self._stream_server = table_server, stream_server
        self._bundle, self._directory, self._outcomes, self._seed = bundle, directory, outcomes, seed
        self._encoder = Encoder.open(str(bundle.path), bundle.digest)
        self._ranker = make_ranker_bundle(
            directory / "ranker", self._encoder.space, ["nobody"], id_dim=_ID_DIM
        )
        self._offline = directory / "offline"
        self._draw, self._workers = random.Random(seed), workers

    async def run(self, catalogue: Catalogue, pushes: int, rounds: int) -> None:
        """All of it, and what must hold afterwards."""
        table, stream = (
            connect_one(s.url, StoreSettings()) for s in (self._table_server, self._stream_server)
        )
        await self._publish(table)
        pushed = Pushes(catalogue, pushes, _PUSHERS, self._seed, self._outcomes)
        with ExitStack() as closing:
            services = {name: closing.enter_context(service) for name, service in self._services()}
            door, scorer = services["door"].url, services["scorer"].url
            for service in services.values():
                service.start()
            for service in services.values():
                await service.ready()
            about = [
                asyncio.create_task(supervise(list(services.values()))),
                asyncio.create_task(self._never_back(table, pushed)),
                asyncio.create_task(self._score(scorer, pushed)),
            ]
            pushing = asyncio.create_task(pushed.run(door))
            await self._kill(services, pushed, pushes, rounds, pushing)
            await pushing
            for service in services.values():
                await service.ready()
            ingest = Ingest(stream, EncoderSettings())
            await check_ends(stream, ingest, pushed.told, self._outcomes)
            await check_scores(table, scorer, self._encoder, self._ranker, pushed.told, self._outcomes)
            offline = OfflineTable(str(self._offline))
            await check_offline_table(table, stream, offline, self._encoder, pushed.told, self._outcomes)
            for task in about:
                assert not task.done(), task
                task.cancel()
        await table.aclose()
        await stream.aclose()

    async def _publish(self, table: Redis) -> None:
        """A generation of the small encoder and ranker, active."""
        store, generations, space = Store(table), Generations(table), self._encoder.space
        await store.create_space(space)
        rows = IdTable("nobody", ID_INT8, _ID_DIM, 1)
        await store.load_id_rows(
            rows, *read_id_rows(self._ranker.file("id_rows.parquet"), rows.codec, rows.dim)
        )
        await store.seal_id_table(rows)
        encoder, ranker = self._bundle, self._ranker
        generation = Generation(
            1, str(encoder.path), encoder.digest, space, str(ranker.path), ranker.digest, rows
        )
        await generations.activate("default", await generations.publish(generation))

    def _services(self) -> list[tuple[str, Service]]:
        common = {
            "redis_url": self._table_server.url,
            "stream_url": self._stream_server.url,
            "var_dir": self._directory / "var",
            "reclaim_idle_ms": 1_000,
            "max_windows": 1_000_000,
            "max_dead_letters": 1_000_000,
            "offline_uri": self._offline,
            "sink_roll_s": 0.3,
            "sink_poll_s": 0.2,
            "sink_lease_s": 1.0,
            "sink_compact_s": 3.0,
            "kernels": "false",
            "workers": 1,
        }
        named = [(f"worker-{n}", "worker") for n in range(self._workers)]
        named += [(name, name) for name in ("door", "sink", "scorer")]
        return [
            (name, Service(command, self._directory / f"{name}.log", {**common, "consumer": name}))
            for name, command in named
        ]

    async def _kill(
        self,
        services: Mapping[str, Service],
        pushed: Pushes,
        pushes: int,
        rounds: int,
        pushing: asyncio.Task[None],
    ) -> None:
        """Each victim once a round, one or two at a time, at random moments of the pushing."""
        servers = {"table server": self._table_server, "stream server": self._stream_server}
        victims: dict[str, Service | FaultyServer] = {
            **{name: service for name, service in services.items() if name != "scorer"},
            **servers,
        }
        turns = [name for _ in range(rounds) for name in self._draw.sample(sorted(victims), len(victims))]
        groups: list[list[str]] = []
        while turns:
            size = self._draw.choice((1, 1, 2))
            groups.append(sorted({turns.pop() for _ in range(min(size, len(turns)))}))
        moments = sorted(self._draw.sample(range(pushes // 20, pushes * 19 // 20), len(groups)))
        for fallen, at, following in zip(groups, moments, [*moments[1:], pushes], strict=True):
            pushed.allowed = following
            while pushed.answered < at and not pushing.done():
                await asyncio.sleep(0.002)
            for name in fallen:
                victims[name].kill()
                self._outcomes[f"kills_of_{name.split('-')[0].replace(' ', '_')}"] += 1
            await asyncio.sleep(self._draw.uniform(0, _LONGEST_DOWN_S))
            for name in sorted(fallen, key=lambda name: name not in servers):
                victims[name].start()

    async def _never_back(self, table: Redis, pushed: Pushes) -> None:
        """The visible sequence of an item never goes back, whoever dies."""
        store, seen, draw = Store(table), dict[str, int](), random.Random(self._seed)
        while True:
            await asyncio.sleep(_LOOK_S)
            items = sorted(pushed.told)
            some = draw.sample(items, min(100, len(items)))
            if not some:
                continue
            try:
                sequences = (await store.sequences(self._encoder.space, some)).tolist()
            except Unavailable:
                continue
            for item_id, sequence in zip(some, sequences, strict=True):
                assert sequence >= seen.get(item_id, 0), f"{item_id} went back to {sequence}"
                seen[item_id] = sequence
            self._outcomes["looks_at_sequences"] += len(some)

    async def _score(self, scorer: str, pushed: Pushes) -> None:
        """Scores all the time, so that the scorer's copies of rows are in use."""
        draw = random.Random(self._seed)
        async with HttpClient(scorer, deadline_s=2.0) as client:
            while True:
                await asyncio.sleep(_LOOK_S)
                items = sorted(pushed.told)
                if items:
                    try:
                        await client.score(ScoreRequest(draw.sample(items, min(50, len(items)))))
                    except RepcenterError:
                        self._outcomes["scores_refused"] += 1
                    else:
                        self._outcomes["scores_meanwhile"] += 1
