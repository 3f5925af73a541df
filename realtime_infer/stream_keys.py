"""Every key of the push stream and its lifetime; the window streams are param_server.window_stream's.

| key                    | type   | holds                                          | lives until             |
| ---------------------- | ------ | ---------------------------------------------- | ----------------------- |
| rc2:{p}:partitions     | string | how many partitions the stream has             | for ever                |
| rc2:{p}:workers        | hash   | worker -> spaces it encodes for, when (JSON)   | it ends                 |
| rc2:{p<n>}:sequence    | string | the newest sequence number given               | for ever                |
| rc2:{p<n>}:gaps        | list   | `low high`: numbers it skipped (low, high]     | newest 64               |
| rc2:{p<n>}:node        | string | id of the cluster node that gave numbers last  | for ever                |
| rc2:{p<n>}:pushes      | stream | accepted pushes without an end (`push_entry`)  | settled, entry by entry |
| rc2:{p<n>}:staged      | hash   | entry id -> payload too large for its entry    | settled                 |
| rc2:{p<n>}:bytes       | string | payload bytes in that stream, staged or not    | for ever                |
| rc2:{p<n>}:receipts    | hash   | digest of item and idempotency key -> receipt  | ttl, newest ones only   |
| rc2:{p<n>}:receipt_end | list   | those digests, oldest first, and when they end | with them               |
| rc2:{p<n>}:dead        | stream | dead letters: the entry's fields, code, reason | trimmed or taken        |
| rc2:{p<n>}:dead_staged | hash   | dead letter's id -> payload                    | with its letter         |
| rc2:{p<n>}:dead_bytes  | string | payload bytes of the dead letters              | for ever                |
| rc2:{p<n>}:status:<id> | hash   | status of the item's newest push               | its end + status_ttl    |

`{p<n>}` is the partition: all keys of one partition lie in one cluster slot, so one script may touch them.
An item belongs to one partition only: the CRC-32 of its id modulo their number. The raw UTF-8 of the id comes
last, so any bytes in it are safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from param_server.keys import PREFIX

GROUP = b"encoders"
PARTITIONS = PREFIX + b"{p}:partitions"
WORKERS = PREFIX + b"{p}:workers"


@dataclass(frozen=True)
class Partition:
    """The keys of one partition of the push stream."""

    number: int = 0

    @staticmethod
    def of(item_id: bytes, count: int) -> Partition:
        """The partition of an id's UTF-8, of so many."""
        return Partition(crc32(item_id) % count)

    @property
    def _prefix(self) -> bytes:
        return PREFIX + b"{p%d}:" % self.number

    @property
    def sequence(self) -> bytes:
        return self._prefix + b"sequence"

    @property
    def gaps(self) -> bytes:
        return self._prefix + b"gaps"

    @property
    def node(self) -> bytes:
        return self._prefix + b"node"

    @property
    def pushes(self) -> bytes:
        return self._prefix + b"pushes"

    @property
    def payload_bytes(self) -> bytes:
        return self._prefix + b"bytes"

    @property
    def staged(self) -> bytes:
        return self._prefix + b"staged"

    @property
    def receipts(self) -> bytes:
        return self._prefix + b"receipts"

    @property
    def receipt_end(self) -> bytes:
        return self._prefix + b"receipt_end"

    @property
    def dead(self) -> bytes:
        return self._prefix + b"dead"

    @property
    def dead_staged(self) -> bytes:
        return self._prefix + b"dead_staged"

    @property
    def dead_bytes(self) -> bytes:
        return self._prefix + b"dead_bytes"

    def status(self, item_id: bytes) -> bytes:
        return self._prefix + b"status:" + item_id
