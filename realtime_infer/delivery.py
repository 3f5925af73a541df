"""One entry of the push stream in the hands of a worker, and how it ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from contracts.errors import RepcenterError
from realtime_infer.push_entry import ITEM_ID, PAYLOAD, SEQUENCE, SIZE
from realtime_infer.push_status import PushState
from realtime_infer.stream_keys import Partition


@dataclass(frozen=True)
class Delivery:
    """deliveries: this one included."""

    partition: Partition
    entry_id: bytes
    fields: Mapping[bytes, bytes]
    deliveries: int = 1

    @property
    def pushed_ms(self) -> int:
        """When the stream's server accepted it."""
        return int(self.entry_id.partition(b"-")[0])

    @property
    def known(self) -> bool:
        """Whether it says which item it is of."""
        return ITEM_ID in self.fields and SEQUENCE in self.fields

    @property
    def staged(self) -> bool:
        """Whether its payload lies beside the entry and was not fetched yet."""
        return SIZE in self.fields and PAYLOAD not in self.fields

    @property
    def payload_bytes(self) -> int:
        size = self.fields.get(SIZE, b"")
        return int(size) if size.isdigit() else len(self.fields.get(PAYLOAD, b""))

    def with_payload(self, payload: bytes) -> Delivery:
        """The same, with the payload that was staged."""
        return dataclasses.replace(self, fields={**self.fields, PAYLOAD: payload})


@dataclass(frozen=True)
class Settlement:
    """The end of one entry. error: why, where the state is DEAD; content: digest of what its records were
    made of, where they are known to be in the table under its sequence."""

    delivery: Delivery
    state: PushState
    error: RepcenterError | None = None
    content: bytes = b""


@dataclass(frozen=True)
class Made:
    """The push of an item that was made a record last: its sequence and the digest of its content."""

    sequence: int
    content: bytes
