"""Every key of the push stream and its lifetime; the window streams are param_server.window_stream's.

| key                    | type   | holds                                          | lives until             |
| ---------------------- | ------ | ---------------------------------------------- | ----------------------- |
| rc2:{p<n>}:sequence    | string | the newest sequence number given               | for ever                |
| rc2:{p<n>}:gaps        | list   | `low high`: numbers it skipped (low, high]     | newest 64               |
| rc2:{p<n>}:pushes      | stream | accepted pushes without an end (`push_entry`)  | settled, entry by entry |
| rc2:{p<n>}:bytes       | string | payload bytes in that stream                   | for ever                |
| rc2:{p<n>}:dead        | stream | dead letters: the entry's fields, code, reason | newest max_dead_letters |
| rc2:{p<n>}:status:<id> | hash   | status of the item's newest push               | its end + status_ttl    |

`{p<n>}` is the partition: all keys of one partition lie in one cluster slot, so one script may touch them.
An item belongs to one partition only. The raw UTF-8 of the id comes last, so any bytes in it are safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from param_server.keys import PREFIX

GROUP = b"encoders"


@dataclass(frozen=True)
class Partition:
    """The keys of one partition of the push stream."""

    number: int = 0

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
    def pushes(self) -> bytes:
        return self._prefix + b"pushes"

    @property
    def payload_bytes(self) -> bytes:
        return self._prefix + b"bytes"

    @property
    def dead(self) -> bytes:
        return self._prefix + b"dead"

    def status(self, item_id: bytes) -> bytes:
        return self._prefix + b"status:" + item_id
