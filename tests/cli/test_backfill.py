"""`repcenter rollover` and `repcenter backfill` as processes, beside a real worker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from redis.asyncio import Redis

from contracts.items import Item
from param_server.embedded import EmbeddedServer
from param_server.store import Store
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.roster import Roster
from realtime_infer.settings import EncoderSettings
from tests.encoder_bundle import make_encoder_bundle
from tests.realtime_infer.workers import ended, process, wait_line


async def command(server: EmbeddedServer, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REPCENTER_")}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "cli.main", *words],
        env={**environment, "REPCENTER_REDIS_URL": server.url, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=90,
    )


async def test_a_rollover_from_the_command_line(server: EmbeddedServer, redis: Redis, tmp_path: Path) -> None:
    """Begin beside a running worker, fill the next space, push in between, end."""

    first = make_encoder_bundle(tmp_path / "first")
    second = make_encoder_bundle(tmp_path / "second", seed=1)
    uri, space = str(second.path), Encoder.open(str(second.path)).space
    ids = [f"i{n}" for n in range(30)]
    pq.write_table(
        pa.table({"item_id": ids, "title": [f"film {i}" for i in ids]}), tmp_path / "items.parquet"
    )
    store, ingest = Store(redis), Ingest(redis, EncoderSettings())
    with process("run_worker", server.url, encoder_uri=first.path, scene_poll_s=0.1, consumer="w1") as worker:
        wait_line(worker, "ready ")
        offline = str(tmp_path / "offline")
        words = ("backfill", str(tmp_path), "--encoder", uri, "--offline", offline, "--json")
        done = await command(server, *words, "--next", "--batch-size", "8")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["space_id"], report["committed"], report["failed"]) == (space.id, 30, 0)
        shown = json.loads((await command(server, "rollover", "show", "--json")).stdout)
        assert [(e["space_id"], e["workers"], e["not_yet"]) for e in shown] == [(space.id, ["w1"], [])]
        receipt = await ingest.push(Item("i3", {"title": "pushed meanwhile"}))
        await ended(ingest, ["i3"])
        assert (await store.sequences(space, ["i3"])).tolist() == [receipt.sequence]
        assert (await store.fetch(space, None, ids)).found.all()
        assert (await command(server, "rollover", "clear", space.id)).returncode == 0
        assert json.loads((await command(server, "rollover", "show", "--json")).stdout) == []
    assert (await command(server, "rollover", "clear", space.id)).returncode == 1


async def test_a_rollover_that_a_worker_cannot_join_says_which(
    server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:

    await Roster(redis).say("stuck", ["0011223344556677"])
    made = make_encoder_bundle(tmp_path / "next", seed=1)
    done = await command(server, "rollover", "begin", str(made.path), "--wait", "0.5")
    assert done.returncode == 1
    assert "stuck" in done.stderr
    assert "Traceback" not in done.stderr
