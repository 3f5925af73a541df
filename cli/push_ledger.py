"""How far a push of a file is: a line per finished chunk, in a file that a stopped push goes on from."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from contracts.errors import InvalidInput

_VERSION = 1


@dataclass(frozen=True)
class Job:
    """What is pushed where. size, modified_ns: of the file."""

    url: str
    file: str
    size: int
    modified_ns: int
    rows: int
    chunk: int
    version: int = _VERSION


class PushLedger:
    """run: names this push, the same when it goes on, so what was sent twice is accepted once. done: per
    finished chunk its refused rows and why."""

    def __init__(self, path: Path, job: Job) -> None:
        """Goes on where the file is of the same job; else begins anew."""
        self.path = path
        self.run = secrets.token_hex(8)
        self.done: dict[int, Mapping[str, str]] = {}
        lines = self._read()
        if lines and lines[0].get("job") == asdict(job) and isinstance(lines[0].get("run"), str):
            self.run = lines[0]["run"]
            self.done = {int(line["chunk"]): line["refused"] for line in lines[1:]}
        header = [{"job": asdict(job), "run": self.run}]
        kept = [{"chunk": chunk, "refused": refused} for chunk, refused in self.done.items()]
        try:
            text = "".join(json.dumps(line) + "\n" for line in [*header, *kept])
            path.write_text(text)
            self._file = path.open("a")
        except OSError as error:
            raise InvalidInput("--ledger", str(path), f"cannot be written: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def finish(self, chunk: int, refused: Mapping[str, str]) -> None:
        """Note a chunk. refused: row -> why."""
        self.done[chunk] = refused
        self._file.write(json.dumps({"chunk": chunk, "refused": refused}) + "\n")
        self._file.flush()

    def _read(self) -> list[dict[str, Any]]:
        """Whole lines; a last one that was cut off does not count."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput("--ledger", str(self.path), f"cannot be read: {error}") from error
        lines: list[dict[str, Any]] = []
        for line in text.split("\n")[:-1]:
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise InvalidInput("--ledger", str(self.path), "is no ledger of a push") from error
        return lines
