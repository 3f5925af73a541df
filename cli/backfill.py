"""`repcenter rollover` and `repcenter backfill`: a catalogue into a space, pushes into the next."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from cli.grid import grid
from cli.progress import stage
from cli.shelf import with_redis, with_servers
from contracts.errors import Unavailable
from contracts.space import DEFAULT_BUCKETS
from param_server.rollover import Preparing, Rollovers
from param_server.server import Server
from param_server.store import Store
from realtime_infer.backfill import BackfillReport, backfill
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.roster import Present, Roster
from realtime_infer.settings import EncoderSettings

_LOOK_S = 0.2


async def begin_rollover(
    table: Server, stream: Server, encoder: Encoder, uri: str, wait_s: float
) -> list[str]:
    """List the encoder's space, then wait until every worker encodes for it too -> their names.

    Raises Unavailable, naming the workers that do not, after wait_s; the space stays listed.
    """
    await Store(table).create_space(encoder.space)
    space = encoder.space
    await Rollovers(table).begin(space.id, uri, encoder.digest, space.buckets)
    deadline = time.monotonic() + wait_s
    while True:
        present = await Roster(stream).present()
        waiting = [worker.consumer for worker in present if space.id not in worker.spaces]
        if not waiting:
            return [worker.consumer for worker in present]
        if time.monotonic() > deadline:
            raise Unavailable(
                f"workers that do not encode for space {space.id} yet: {', '.join(waiting)}; look at their "
                "logs, then begin again"
            )
        await asyncio.sleep(_LOOK_S)


def begin(var: Path, uri: str, digest: str | None, buckets: int | None, wait_s: float, as_json: bool) -> None:
    """From now on every push goes to this encoder's space too."""
    encoder = Encoder.open(uri, digest, buckets=buckets or DEFAULT_BUCKETS)

    workers = with_servers(var, lambda table, stream: begin_rollover(table, stream, encoder, uri, wait_s))
    if as_json:
        print(json.dumps({"space": encoder.space.id, "workers": workers}))
    else:
        names = ", ".join(workers) or "no worker runs now"
        print(f"pushes go to space {encoder.space.id} too ({names})")
        print(f"now: repcenter backfill DATA --encoder {uri}")


def show(var: Path, as_json: bool) -> None:
    """Spaces in preparation and who encodes for them."""

    async def read(table: Server, stream: Server) -> tuple[list[Preparing], list[Present]]:
        return await Rollovers(table).list(), await Roster(stream).present()

    preparing, present = with_servers(var, read)
    table = grid("space", "encoder", "buckets", "workers", "not yet", title="Spaces in preparation")
    rows = []
    for entry in preparing:
        ready = [w.consumer for w in present if entry.space_id in w.spaces]
        not_yet = [w.consumer for w in present if entry.space_id not in w.spaces]
        rows.append({**asdict(entry), "workers": ready, "not_yet": not_yet})
        names = ", ".join(ready), ", ".join(not_yet)
        table.add_row(entry.space_id, entry.encoder_digest[:12], str(entry.buckets), *names)
    if as_json:
        print(json.dumps(rows))
    else:
        Console(markup=False).print(table)


def clear(var: Path, space_id: str) -> None:
    """Pushes no longer go to this space, unless a scene serves it by now."""

    with_redis(var, lambda redis: Rollovers(redis).clear(space_id))
    print(f"space {space_id} is not in preparation any more")


def run_backfill(
    var: Path,
    data: Path,
    uri: str,
    digest: str | None,
    buckets: int | None,
    offline: str | None,
    *,
    following: bool,
    restart: bool,
    batch_size: int,
    wait_s: float,
    as_json: bool,
) -> None:
    """The watermark is taken before the catalogue is read, so pushes while it is read win."""
    from training.data.catalogue import load_catalogue

    console = Console(stderr=as_json)
    encoder = Encoder.open(uri, digest, buckets=buckets or DEFAULT_BUCKETS)
    root = offline or str((var / "offline").resolve())

    async def run(table: Server, stream: Server) -> BackfillReport:
        if following:
            await begin_rollover(table, stream, encoder, uri, wait_s)
        watermark = await Ingest(stream, EncoderSettings()).watermark(await Store(table).high_water())
        catalogue = await asyncio.to_thread(load_catalogue, data)
        with stage(console, f"Encoding {len(catalogue):,} items into space {encoder.space.id}") as advance:
            return await backfill(
                (catalogue.item(row) for row in range(len(catalogue))),
                encoder,
                Store(table),
                stream,
                root,
                batch_size=batch_size,
                resume=not restart,
                watermark=watermark,
                progress=lambda report: advance(report.items, len(catalogue)),
            )

    report = with_servers(var, run)
    if as_json:
        print(json.dumps(asdict(report)))
        return
    console.print(
        f"space {report.space_id}: {report.committed:,} written, {report.skipped:,} there already, "
        f"{report.superseded:,} newer by a push, {report.failed:,} failed",
        highlight=False,
    )
    for item_id, reason in report.failures[:20]:
        console.print(f"{item_id}: {reason}", markup=False, highlight=False)
