"""What a pusher is told: the receipt, and where the newest push of an item is on its way to the table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PushState(StrEnum):
    """queued -> encoding -> scoreable | deleted | dead. The last three are final."""

    QUEUED = "queued"
    ENCODING = "encoding"
    SCOREABLE = "scoreable"
    DELETED = "deleted"
    DEAD = "dead"

    @property
    def final(self) -> bool:
        return self in (PushState.SCOREABLE, PushState.DELETED, PushState.DEAD)


@dataclass(frozen=True)
class Receipt:
    """The push is on disk. sequence: newer ones of the same item win; replayed: its idempotency key was
    known, and this is the receipt of the push that came with it first."""

    item_id: str
    sequence: int
    replayed: bool = False


@dataclass(frozen=True)
class PushStatus:
    """sequence: of the newest push; reason: why it is dead, else ""; updated_ms: 0 where unknown."""

    item_id: str
    state: PushState
    sequence: int
    reason: str
    updated_ms: int
