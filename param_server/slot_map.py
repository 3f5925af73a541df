"""Which node of a Redis Cluster has which slot: as the nodes tell it, and as their refusals correct it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = logging.getLogger(__name__)

Address = tuple[str, int]
Ask = Callable[[Address], Awaitable[list[Any]]]  # a node's answer to CLUSTER SLOTS

LOST = (RedisConnectionError, RedisTimeoutError, OSError)


class SlotMap:
    """seeds: addresses to ask while no other is known. version grows whenever the nodes were asked."""

    def __init__(self, seeds: Sequence[Address]) -> None:
        self._seeds = list(seeds)
        self._addresses: list[Address] = []  # only grows, so a place in it stays right
        self._owners = np.full(REDIS_CLUSTER_HASH_SLOTS, -1, np.int16)  # slot -> place in _addresses
        self._known: list[Address] = []  # every node of the last answer, replicas too
        self._asking = asyncio.Lock()
        self.replicas: dict[Address, list[Address]] = {}  # of each primary
        self.version = 0
        self.trouble = ""  # why the last look found nothing

    def owners(self, slots: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        """(K,) slots -> (K,) places of their nodes, -1 where none has it."""
        return self._owners[slots]

    def address(self, place: int) -> Address:
        return self._addresses[place]

    def owner(self, slot: int) -> Address | None:
        place = int(self._owners[slot])
        return None if place < 0 else self._addresses[place]

    def slots_of_primaries(self) -> dict[Address, int]:
        """How many slots each primary has."""
        places, counts = np.unique(self._owners[self._owners >= 0], return_counts=True)
        found = zip(places.tolist(), counts.tolist(), strict=True)
        return {self._addresses[place]: count for place, count in found}

    def move(self, slot: int, address: Address) -> None:
        """A node said where this slot is."""
        self._owners[slot] = self._place(address)

    async def look(self, seen: int, ask: Ask) -> None:
        """Ask the nodes, one after another until one answers, unless someone did since version `seen`.

        Where none answers the map stays as it was, and `trouble` says why. Raises what cannot heal: a refused
        password, a server that is no cluster.
        """
        async with self._asking:
            if self.version > seen:
                return
            nodes = list(dict.fromkeys([*self._known, *self._seeds]))
            turn = self.version % len(nodes)  # not the same one again: it may be cut off from the others
            for address in nodes[turn:] + nodes[:turn]:
                try:
                    rows = await ask(address)
                except AuthenticationError:
                    raise
                except LOST as error:
                    self.trouble = f"{address[0]}:{address[1]}: {error}"
                    continue
                if rows:
                    self._take(rows, address[0])
                    break
                self.trouble = f"{address[0]}:{address[1]} knows of no slots"
            else:
                log.warning("no node of the cluster answers; %s", self.trouble)
            self.version += 1

    def _take(self, rows: list[Any], host: str) -> None:
        """host: of the node that answered; an address without one is on it too."""
        owners = np.full_like(self._owners, -1)
        self._known, self.replicas = [], {}
        for first, last, *nodes in rows:
            primary, *replicas = [(_text(node[0]) or host, int(node[1])) for node in nodes]
            owners[first : last + 1] = self._place(primary)
            self.replicas[primary] = replicas
            self._known += [primary, *replicas]
        self._owners = owners

    def _place(self, address: Address) -> int:
        if address not in self._addresses:
            self._addresses.append(address)
        return self._addresses.index(address)


def _text(host: bytes | None) -> str:
    text = (host or b"").decode()
    return "" if text == "?" else text
