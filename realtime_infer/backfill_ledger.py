"""What a backfill has done, as empty marker files beside the offline table (a directory or object store):

`<root>/_backfill/<space id>/<watermark, 20 digits>/<batch, 8 digits>-<content digest>` once a batch is in
both tables, and `…/finished` at the end. A marker is written last, so what it claims is there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import orjson

from contracts.items import Item

_FOLDER = "_backfill"
_FINISHED = "finished"
_RUN = re.compile(r"\d{20}")
_MARKER = re.compile(r"(\d{8})-([0-9a-f]{32})")


@dataclass(frozen=True)
class DoneBatch:
    """A batch that a run finished. digest: of its items."""

    watermark: int
    digest: str


@dataclass(frozen=True)
class Done:
    """All earlier runs in one space. unfinished: the newest run's watermark, where it was interrupted;
    newest: the newest run's watermark, 0 where there was none; batches: the newest state by batch number."""

    unfinished: int | None
    newest: int
    batches: Mapping[int, DoneBatch]


class BackfillLedger:
    """The marker files of one space. Blocking I/O: call from a thread."""

    def __init__(self, root: str, space_id: str) -> None:
        self._filesystem: Any
        self._filesystem, base = fsspec.core.url_to_fs(root)
        self._base = f"{base.rstrip('/')}/{_FOLDER}/{space_id}"

    def read(self) -> Done:
        """What earlier runs have done."""
        runs = sorted(int(name) for name in self._names(self._base) if _RUN.fullmatch(name))
        batches: dict[int, DoneBatch] = {}
        names: list[str] = []
        for watermark in runs:
            names = self._names(self._run(watermark))
            for name in names:
                if found := _MARKER.fullmatch(name):
                    batches[int(found[1])] = DoneBatch(watermark, found[2])
        unfinished = runs[-1] if runs and _FINISHED not in names else None
        return Done(unfinished, runs[-1] if runs else 0, batches)

    def begin(self, watermark: int) -> None:
        """Remember that a run with this watermark has begun."""
        self._mark(watermark, "begun")

    def done(self, watermark: int, number: int, digest: str) -> None:
        """A batch is in both tables."""
        self._mark(watermark, f"{number:08d}-{digest}")

    def finish(self, watermark: int) -> None:
        """Every batch is."""
        self._mark(watermark, _FINISHED)

    def _run(self, watermark: int) -> str:
        return f"{self._base}/{watermark:020d}"

    def _mark(self, watermark: int, name: str) -> None:
        self._filesystem.makedirs(self._run(watermark), exist_ok=True)
        self._filesystem.pipe_file(f"{self._run(watermark)}/{name}", b"")

    def _names(self, folder: str) -> list[str]:
        self._filesystem.invalidate_cache(folder)
        if not self._filesystem.isdir(folder):
            return []
        return [path.rstrip("/").rpartition("/")[2] for path in self._filesystem.ls(folder, detail=False)]


def batch_digest(items: Sequence[Item]) -> str:
    """32 hex characters over everything that the encoder reads of a batch, in order."""
    digest = hashlib.sha256()
    for item in items:
        head = orjson.dumps(
            [item.item_id, dict(item.text), {n: _value(v) for n, v in item.attributes.items()}],
            option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY,
        )
        image = b"" if item.image is None else b"\1" + item.image
        if item.image_url is not None:
            image = b"\2" + item.image_url.encode()
        digest.update(len(head).to_bytes(8, "little") + len(image).to_bytes(8, "little") + head + image)
    return digest.hexdigest()[:32]


def _value(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
