"""The finished cases of a benchmark that was interrupted, so that it goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


class BenchLedger:
    """A file of JSON lines. It belongs to one build and one set of options: `fingerprint` of them."""

    def __init__(self, folder: Path, *options: object) -> None:
        self._path = folder / f"{fingerprint(*options)}.jsonl"
        self._done: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:  # the last line of a run that was killed
                    break
                self._done[entry["name"]] = entry["found"]

    def get(self, name: str) -> dict[str, Any] | None:
        """What a case found, None where it has not been done."""
        return self._done.get(name)

    def add(self, name: str, found: dict[str, Any]) -> None:
        """A case is done."""
        self._done[name] = found
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as stream:
            stream.write(json.dumps({"name": name, "found": found}) + "\n")

    def finish(self) -> None:
        """The benchmark is done: the next one measures everything again."""
        self._path.unlink(missing_ok=True)


def fingerprint(*options: object) -> str:
    """Changes with the options and with any source file of this room."""
    digest = hashlib.sha256(repr(options).encode())
    for source in sorted(Path(__file__).parent.glob("*.[pl]*")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
