"""`repcenter push items.parquet`: uploads of some items each, several at a time, resumable."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cli.progress import Advance, stage
from cli.push_ledger import Job, PushLedger
from cli.settings import ClientSettings
from contracts.errors import DeadlineExceeded, InvalidInput, Overloaded, RepcenterError, Unavailable
from contracts.items import Item
from serving.client import HttpClient

if TYPE_CHECKING:
    from training.data.catalogue import Catalogue

_CHUNK = 64
_UPLOAD_BYTES = 8 << 20
_SHOWN = 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_AGAIN = (Overloaded, Unavailable, DeadlineExceeded)


@dataclass
class Summary:
    """items: in the file; resumed: pushed by an earlier run; replayed: of this run, known to the door."""

    items: int
    resumed: int = 0
    accepted: int = 0
    replayed: int = 0
    refused: int = 0
    seconds: float = 0.0
    items_per_s: float = 0.0


def push_file(
    url: str,
    path: Path,
    *,
    concurrency: int,
    patience_s: float,
    ledger: Path | None,
    restart: bool,
    as_json: bool,
) -> None:
    """Push every item of a file; InvalidInput at the end where some were refused.

    patience_s: how long a door that refuses or is gone is asked again, without any progress.
    """
    from training.data.catalogue import load_catalogue

    file = path / "items.parquet" if path.is_dir() else path
    if file.name != "items.parquet":
        raise InvalidInput("items", str(path), "must be items.parquet or the directory that holds it")
    catalogue = load_catalogue(file.parent)
    found = file.stat()
    job = Job(url, str(file.resolve()), found.st_size, found.st_mtime_ns, len(catalogue), _CHUNK)
    if ledger is None:
        named = hashlib.blake2b(url.encode(), digest_size=4).hexdigest()
        ledger = file.with_name(f"{file.name}.{named}.pushed")
    if restart:
        ledger.unlink(missing_ok=True)
    console = Console(stderr=as_json)
    with PushLedger(ledger, job) as noted:
        summary = Summary(len(catalogue), resumed=sum(_size(job, chunk) for chunk in noted.done))
        if summary.resumed:
            console.print(f"{summary.resumed:,} items were pushed before; the rest follows")
        began = time.monotonic()
        with stage(console, f"Pushing {len(catalogue):,} items to {url}") as advance:
            pushing = _Pushing(url, catalogue, job, noted, summary, advance, patience_s)
            asyncio.run(pushing.run(concurrency))
        refused = {row: why for of_chunk in noted.done.values() for row, why in of_chunk.items()}
    ledger.unlink(missing_ok=True)
    summary.refused = len(refused)
    summary.seconds = time.monotonic() - began
    summary.items_per_s = (summary.items - summary.resumed) / max(summary.seconds, 1e-9)
    if as_json:
        print(json.dumps(asdict(summary)))
    else:
        console.print(
            f"{summary.accepted:,} accepted, {summary.refused:,} refused, {summary.items_per_s:,.0f} items/s"
        )
    for row, why in list(refused.items())[:_SHOWN]:
        console.print(f"row {row}, {catalogue.item_ids[int(row)]}: {why}", markup=False, highlight=False)
    if refused:
        raise InvalidInput("items", len(refused), f"could not be pushed, of {len(catalogue)}")


def _size(job: Job, chunk: int) -> int:
    return min(job.chunk, job.rows - chunk * job.chunk)


class _Pushing:
    """One run over the chunks that are not done."""

    def __init__(
        self,
        url: str,
        catalogue: Catalogue,
        job: Job,
        ledger: PushLedger,
        summary: Summary,
        advance: Advance,
        patience_s: float,
    ) -> None:
        self._url = url
        self._catalogue = catalogue
        self._job = job
        self._ledger = ledger
        self._summary = summary
        self._advance = advance
        self._patience_s = patience_s
        self._progress = time.monotonic()
        self._done = summary.resumed

    async def run(self, concurrency: int) -> None:
        """Raises what does not pass, such as Unavailable after the patience."""
        left = iter([n for n in range(-(-self._job.rows // self._job.chunk)) if n not in self._ledger.done])

        async def upload() -> None:
            for chunk in left:
                await self._chunk(client, chunk)

        async with HttpClient(self._url, credentials=ClientSettings().credentials()) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(concurrency):
                        group.create_task(upload())
            except* RepcenterError as errors:
                error = errors.exceptions[0]
                while isinstance(error, ExceptionGroup):
                    error = error.exceptions[0]
                raise error from None

    async def _chunk(self, client: HttpClient, chunk: int) -> None:
        start = chunk * self._job.chunk
        rows = list(range(start, start + _size(self._job, chunk)))
        refused: dict[str, str] = {}
        while rows:
            count, items = await asyncio.to_thread(self._next, rows)
            await self._upload(client, rows[:count], items, refused)
            rows = rows[count:]
        self._ledger.finish(chunk, refused)

    def _next(self, rows: Sequence[int]) -> tuple[int, list[Item]]:
        """As many of the rows as one upload holds."""
        items, size = list[Item](), 0
        for row in rows:
            item = self._catalogue.item(row)
            size += len(item.image or b"")
            if items and size > _UPLOAD_BYTES:
                break
            items.append(item)
        return len(items), items

    async def _upload(
        self, client: HttpClient, rows: Sequence[int], items: Sequence[Item], refused: dict[str, str]
    ) -> None:
        left, pause = list(range(len(rows))), _FIRST_PAUSE_S
        while left:
            keys = [f"{self._ledger.run}/{rows[i]}" for i in left]
            try:
                results = await client.push_many([items[i] for i in left], keys)
            except _AGAIN as error:
                results = [error] * len(left)
            again, waiting = list[int](), None
            for i, result in zip(left, results, strict=True):
                if isinstance(result, _AGAIN):
                    again.append(i)
                    waiting = result
                    continue
                self._progress = time.monotonic()
                self._done += 1
                if isinstance(result, RepcenterError):
                    refused[str(rows[i])] = str(result)
                else:
                    self._summary.accepted += 1
                    self._summary.replayed += result.replayed
            self._advance(self._done, self._job.rows)
            left = again
            if waiting is not None:
                if time.monotonic() - self._progress > self._patience_s:
                    raise waiting
                await asyncio.sleep(waiting.retry_after_s if isinstance(waiting, Overloaded) else pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
