"""Every key of the shelf and its lifetime, and where in it an id is.

Rows lie in hashes of about ROWS_PER_BUCKET: a small hash is one packed block of memory, so a row costs
little more than its bytes (docs/adr/0007). An id is a field of its bucket's hash, never part of a key, so
any bytes in it (colons, braces, NULs) are safe. Buckets belong to SHARDS shards; what stands in braces is
what Redis Cluster places by, so a shard's buckets and its own key are on one node.

| key                              | type   | holds                                              | until     |
| -------------------------------- | ------ | -------------------------------------------------- | --------- |
| rc2:r:{<space>.<shard>}:<number> | hash   | id -> content record, or a 12-byte tombstone       | collected |
| rc2:m:{<space>.<shard>}          | hash   | header's sha256; live records; high water, u64 LE  | collected |
| rc2:i:{<table>.<shard>}:<number> | hash   | id -> ID row                                       | collected |
| rc2:t:{<table>.<shard>}          | hash   | description; loaded rows; state                    | collected |
| rc2:u:{u.<shard>}                | hash   | users who have behaviours; behaviours              | for ever  |
| rc2:u:{u.<shard>}:<user>         | string | a user's behaviours (param_server.behaviour_rows)  | for ever  |
| rc2:{c}:spaces                   | hash   | space id -> space header                           | collected |
| rc2:{c}:high_water               | string | newest sequence of collected spaces, u64 LE        | for ever  |
| rc2:{c}:id_tables                | hash   | table name -> codec, dim, rows (JSON)              | collected |
| rc2:{c}:id_tables:sealed         | set    | names of finished tables                           | collected |
| rc2:{c}:loads                    | hash   | space and source -> how far its load is (JSON)     | load ends |
| rc2:{c}:probes                   | hash   | id of a space of own vectors -> its guard          | collected |
| rc2:{c}:generations              | hash   | generation id -> manifest                          | collected |
| rc2:{c}:scenes                   | hash   | scene -> pointer (JSON)                            | for ever  |
| rc2:{c}:activations:<scene>      | stream | the scene's moves, newest 1,000, `line` (JSON)     | for ever  |
| rc2:{c}:used                     | hash   | part -> its last use, microseconds of the server   | collected |
| rc2:{c}:published                | set    | spaces, ID tables that a generation ever named     | collected |
| rc2:{c}:pins                     | hash   | part -> why it is never collected                  | unpinned  |
| rc2:{c}:collecting               | hash   | part -> its header or description                  | removed   |
| rc2:{c}:collector                | string | name of the collection that runs                   | expires   |
| rc2:{c}:preparing                | hash   | space id -> which encoder prepares it (JSON)       | cleared   |

<space>: 16 hex characters of the space's id; <table>: 16 of the sha256 of the table's name; <shard>: bucket
modulo SHARDS, 2 hex; <number>: bucket div SHARDS, 4 hex. An id's bucket: CRC-32 of its UTF-8 modulo the count
of buckets. <user>: 16 raw bytes, the blake2b of the user's id, which so is in no key; the first is its shard.
<scene>: its raw UTF-8, last in the key. Part: g:, s: or t: and the name of a generation, space or ID table.
No table expires: a row that vanishes by itself would be a silently wrong score. A shard that is being
collected has the field "retired".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from zlib import crc32

import numpy as np
import numpy.typing as npt
from redis.crc import key_slot

from contracts.errors import InvalidInput
from contracts.items import MAX_ID_BYTES, check_item_id
from contracts.space import SHARDS, buckets_for

PREFIX = b"rc2:"
_CONTROL = PREFIX + b"{c}:"
_HEX = np.frombuffer(b"".join(b"%02x" % n for n in range(256)), np.uint8).reshape(256, 2)

Buckets = npt.NDArray[np.int64]


def spaces() -> bytes:
    return _CONTROL + b"spaces"


def high_water() -> bytes:
    return _CONTROL + b"high_water"


def id_tables() -> bytes:
    return _CONTROL + b"id_tables"


def id_tables_sealed() -> bytes:
    return _CONTROL + b"id_tables:sealed"


def loads() -> bytes:
    return _CONTROL + b"loads"


def probes() -> bytes:
    return _CONTROL + b"probes"


def generations() -> bytes:
    return _CONTROL + b"generations"


def scenes() -> bytes:
    return _CONTROL + b"scenes"


def activations(scene: str) -> bytes:
    return _CONTROL + b"activations:" + scene.encode()


def used() -> bytes:
    return _CONTROL + b"used"


def published() -> bytes:
    return _CONTROL + b"published"


def pins() -> bytes:
    return _CONTROL + b"pins"


def collecting() -> bytes:
    return _CONTROL + b"collecting"


def collector() -> bytes:
    return _CONTROL + b"collector"


def preparing() -> bytes:
    return _CONTROL + b"preparing"


def user_shard(shard: int) -> bytes:
    """The key of one of the SHARDS shards of users."""
    return PREFIX + b"u:{u.%02x}" % shard


def user(user_id: bytes) -> tuple[int, bytes]:
    """A user's shard and the key of the user's behaviours."""
    digest = hashlib.blake2b(user_id, digest_size=16, person=b"user").digest()
    return digest[0] % SHARDS, user_shard(digest[0] % SHARDS) + b":" + digest


class Family:
    """The keys of one space's records, or of one ID table's rows. All its buckets' keys are equally long."""

    def __init__(self, kind: bytes, owner: bytes, shard_kind: bytes, buckets: int) -> None:
        self.buckets = buckets
        self.shards = min(SHARDS, buckets)
        self._before = PREFIX + kind + b":{" + owner + b"."
        self.key_bytes = len(self._before) + len(b"00}:0000")
        self.shard_keys = [
            PREFIX + shard_kind + b":{" + owner + b".%02x}" % shard for shard in range(self.shards)
        ]

    @cached_property
    def slots(self) -> npt.NDArray[np.int16]:
        """(shards,) int16: the cluster slot of each shard."""
        return np.array([key_slot(key) for key in self.shard_keys], np.int16)

    def buckets_of(self, ids: Sequence[bytes]) -> Buckets:
        """K ids -> (K,) buckets; a bucket's shard is its number modulo SHARDS."""
        return np.fromiter(map(crc32, ids), np.int64, len(ids)) % self.buckets

    def keys(self, buckets: Buckets, before: bytes = b"") -> list[bytes]:
        """The keys of K buckets' hashes, each behind the bytes `before`. Without a step of Python per key."""
        shard = len(before) + len(self._before)
        rows = np.empty((len(buckets), shard + len(b"00}:0000")), np.uint8)
        rows[:] = np.frombuffer(before + self._before + b"00}:0000", np.uint8)
        rows[:, shard : shard + 2] = _HEX[buckets % SHARDS]
        rows[:, shard + 4 : shard + 6] = _HEX[buckets // SHARDS >> 8]
        rows[:, shard + 6 : shard + 8] = _HEX[buckets // SHARDS & 255]
        made: list[bytes] = rows.view(f"S{rows.shape[1]}")[:, 0].tolist()  # a key never ends with a NUL
        return made

    def key_of(self, encoded: bytes) -> bytes:
        """The key of the hash that an id's row is in."""
        return self.keys(self.buckets_of([encoded]))[0]


def records(space_id: str, buckets: int) -> Family:
    """The records of a space."""
    return Family(b"r", space_id.encode(), b"m", buckets)


def id_rows(table: str, rows: int) -> Family:
    """The rows of an ID table of `rows` rows. Any table name is safe."""
    name = hashlib.sha256(table.encode()).hexdigest()[:16].encode()
    return Family(b"i", name, b"t", buckets_for(rows))


def id_bytes(item_ids: Sequence[str]) -> list[bytes]:
    """K ids -> K byte strings of 1 to MAX_ID_BYTES; InvalidInput or TooLarge names the first bad one."""
    try:
        encoded = [item_id.encode() for item_id in item_ids]
    except (UnicodeEncodeError, AttributeError):
        encoded = []
    sizes = list(map(len, encoded))
    if item_ids and (not sizes or max(sizes) > MAX_ID_BYTES or min(sizes) == 0):
        for i, item_id in enumerate(item_ids):
            check_item_id(item_id, f"item_ids[{i}]")
        raise InvalidInput("item_ids", len(item_ids), "cannot be encoded")
    return encoded
