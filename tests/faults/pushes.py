"""What is pushed while everything is killed, and what must have become of it.

Every push says in its attribute `year` which one it is (a float32 counts them exactly), so a record tells
whose content it has. A push without an answer may have been accepted: it is repeated until it is answered,
before its item is pushed again.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pyarrow.parquet as pq

from contracts.errors import DeadlineExceeded, Overloaded, Unavailable
from contracts.items import Item
from serving.client import HttpClient, Receipt
from tests.encoder_bundle import picture

_POISON, _DELETED = 0.05, 0.12  # of the pushes; the rest are new items and updates, about half each
_NEW = 0.5
_PAUSE_S = 0.03
_DRAWN = 200


class Kind(Enum):
    GOOD = "scoreable"
    DELETE = "deleted"
    POISON = "dead"


@dataclass(frozen=True)
class Op:
    """One push. number: counts all of them from 1."""

    number: int
    item_id: str
    kind: Kind
    item: Item | None


@dataclass
class Told:
    """What a pusher was told of one item: every op with its sequence, in order."""

    answered: list[tuple[Op, int]] = field(default_factory=list)

    @property
    def newest(self) -> tuple[Op, int]:
        return self.answered[-1]

    @property
    def content(self) -> Op | None:
        """The newest that is not poison; None where all are."""
        return next((op for op, _ in reversed(self.answered) if op.kind is not Kind.POISON), None)


@dataclass(frozen=True)
class Catalogue:
    """Pictures and titles. kind: real or drawn."""

    kind: str
    pictures: list[bytes]
    titles: list[str]

    @classmethod
    def read(cls, directory: Path, most: int) -> Catalogue:
        """`images_60x80.parquet` and `items.parquet` of a directory; drawn ones where it is not there."""
        files = directory / "images_60x80.parquet", directory / "items.parquet"
        if not all(file.exists() for file in files):
            return cls.drawn()
        rows = next(pq.ParquetFile(files[0]).iter_batches(most))
        titles = pq.read_table(files[1], columns=["item_id", "title"])
        by_id = dict(zip(titles["item_id"].to_pylist(), titles["title"].to_pylist(), strict=True))
        ids = rows["item_id"].to_pylist()
        return cls("real", rows["jpeg"].to_pylist(), [by_id.get(i) or str(i) for i in ids])

    @classmethod
    def drawn(cls) -> Catalogue:
        colours = [(n * 37 % 256, n * 91 % 256, n * 151 % 256) for n in range(_DRAWN)]
        pictures = [picture(colour, side=60, kind="JPEG") for colour in colours]
        return cls("drawn", pictures, [f"drawn picture {n}" for n in range(_DRAWN)])


class Pushes:
    """`total` pushes by `pushers`, each of items of its own, drawn from a seed."""

    def __init__(
        self, catalogue: Catalogue, total: int, pushers: int, seed: int, outcomes: Counter[str]
    ) -> None:
        self._catalogue, self._total, self._pushers, self._seed = catalogue, total, pushers, seed
        self._outcomes = outcomes
        self.told: dict[str, Told] = {}
        self.answered = 0
        self.allowed = total  # beyond it pushers wait

    async def run(self, door: str) -> None:
        """Push them all, whatever happens to the door at this URL."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._pushers):
                group.create_task(self._pusher(door, number))

    async def _pusher(self, door: str, pusher: int) -> None:
        async with HttpClient(door, deadline_s=5.0) as client:
            for op in self._ops(pusher):
                while self.answered >= self.allowed:
                    await asyncio.sleep(_PAUSE_S)
                receipt = await self._until_answered(client, op)
                told = self.told.setdefault(op.item_id, Told())
                assert receipt.item_id == op.item_id
                assert not told.answered or receipt.sequence > told.newest[1], "a number went back"
                told.answered.append((op, receipt.sequence))
                self.answered += 1
                self._outcomes["acknowledged"] += 1

    def _ops(self, pusher: int) -> Iterator[Op]:
        draw = random.Random(f"{self._seed} {pusher}")
        known: list[str] = []
        for number in range(pusher + 1, self._total + 1, self._pushers):
            if not known or draw.random() < _NEW:
                known.append(f"item {number} ü")
                item_id, new = known[-1], True
            else:
                item_id, new = draw.choice(known), False
            chance = draw.random()
            if chance < _POISON:
                yield Op(number, item_id, Kind.POISON, self._poison(number, item_id, draw))
            elif chance < _POISON + _DELETED and not new:
                yield Op(number, item_id, Kind.DELETE, None)
            else:
                yield Op(number, item_id, Kind.GOOD, self._good(number, item_id))

    def _good(self, number: int, item_id: str) -> Item:
        catalogue = self._catalogue
        at = number % len(catalogue.pictures)
        text, attributes = {"title": catalogue.titles[at]}, {"year": float(number)}
        return Item(item_id, text, attributes, catalogue.pictures[at])

    def _poison(self, number: int, item_id: str, draw: random.Random) -> Item:
        """A picture cut short, bytes that are none, an attribute that is no number."""
        good = self._good(number, item_id)
        assert good.image is not None
        way = draw.randrange(3)
        if way == 0:
            return Item(item_id, good.text, good.attributes, good.image[: len(good.image) // 2])
        if way == 1:
            return Item(item_id, good.text, good.attributes, draw.randbytes(200))
        return Item(item_id, good.text, {"year": "never"}, good.image)

    async def _until_answered(self, client: HttpClient, op: Op) -> Receipt:
        while True:
            try:
                if op.item is None:
                    return await client.delete(op.item_id)
                return await client.push(op.item)
            except (Unavailable, DeadlineExceeded):
                self._outcomes["unanswered_or_refused"] += 1
            except Overloaded:
                self._outcomes["put_off"] += 1
            await asyncio.sleep(_PAUSE_S)
