"""Feast beside us: `feast_bench.py` in an environment and a process of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import Unavailable
from param_server import feast_bench
from param_server.bench_server import serving
from param_server.peer_environment import FAILURES, peer_python, why
from param_server.turns import Sample

FEAST = "feast[redis]==0.67.0"
T = TypeVar("T")


class Feast:
    """Feast in an environment and a process of its own, its rows on a server of its own of the same kind."""

    def __init__(self, directory: Path, file: Path, address: str) -> None:
        table = pq.read_table(file)
        rows = file.with_name("feast.parquet")
        columns = {"item_id": table["item_id"], "row": table["record"].cast(pa.binary())}
        pq.write_table(pa.table(columns), rows)
        python = str(peer_python(directory, [FEAST]))
        self._errors = file.with_name("feast.log")
        with self._errors.open("wb") as log:
            self._process = subprocess.Popen(
                [python, feast_bench.__file__, str(rows), address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.load_records_per_s = float(self._answer())

    async def read(self, counts: Sequence[int], way: str = "dict") -> list[Sample]:
        """Reads of so many rows each, one after another. way: of feast_bench."""
        return await asyncio.to_thread(self._read, counts, way)

    def _read(self, counts: Sequence[int], way: str) -> list[Sample]:
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps([way, *counts]) + "\n")
            self._process.stdin.flush()
        return [(clock, cpu) for clock, cpu in self._answer()]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            self.close()
            raise Unavailable(f"Feast: {self._errors.read_text(errors='replace')[-300:].strip()}")
        return json.loads(line)


async def with_feast(
    directory: Path, file: Path, binary: Path, read: Callable[[Feast], Awaitable[T]]
) -> tuple[T | None, str]:
    """What `read` finds with Feast beside it, and which Feast that was; or None and why."""
    try:
        with serving(file.parent, binary) as (_, address):
            feast = await asyncio.to_thread(Feast, directory, file, address)
            try:
                return await read(feast), FEAST
            finally:
                feast.close()
    except (*FAILURES, Unavailable) as error:
        return None, why(error)
