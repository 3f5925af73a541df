"""Every key of the shelf and its lifetime. `<id>` is the raw UTF-8 of the id and always comes last, so any
bytes in it (colons, braces, NULs) are safe; what precedes it has a fixed length.

| key                          | type   | holds                                           | lives until     |
| ---------------------------- | ------ | ----------------------------------------------- | --------------- |
| rc1:r:<space, 16 hex>:<id>   | string | content record, or a tombstone's 12-byte header | space collected |
| rc1:i:<table, 16 hex>:<id>   | string | ID row                                          | table collected |
| rc1:{c}:spaces               | hash   | space id -> space header                        | space collected |
| rc1:{c}:live                 | hash   | space id -> count of live records               | space collected |
| rc1:{c}:high_water           | string | newest sequence ever committed, u64 LE          | for ever        |
| rc1:{c}:id_tables            | hash   | table name -> codec, dim, rows, a base (JSON)   | table collected |
| rc1:{c}:id_tables:loaded     | hash   | table name -> count of loaded rows              | table collected |
| rc1:{c}:id_tables:sealed     | set    | names of finished tables                        | table collected |
| rc1:{c}:generations          | hash   | generation id -> manifest                       | collected       |
| rc1:{c}:scenes               | hash   | scene -> pointer (JSON)                         | for ever        |

Nothing here expires: a row that vanishes by itself would be a silently wrong score. `{c}` keeps the
control keys in one cluster slot, so that one script may touch several.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from contracts.errors import InvalidInput
from contracts.items import MAX_ID_BYTES, check_item_id

PREFIX = b"rc1:"
_CONTROL = PREFIX + b"{c}:"


def spaces() -> bytes:
    return _CONTROL + b"spaces"


def live_counts() -> bytes:
    return _CONTROL + b"live"


def high_water() -> bytes:
    return _CONTROL + b"high_water"


def id_tables() -> bytes:
    return _CONTROL + b"id_tables"


def id_tables_loaded() -> bytes:
    return _CONTROL + b"id_tables:loaded"


def id_tables_sealed() -> bytes:
    return _CONTROL + b"id_tables:sealed"


def generations() -> bytes:
    return _CONTROL + b"generations"


def scenes() -> bytes:
    return _CONTROL + b"scenes"


def record_prefix(space_id: str) -> bytes:
    """What the keys of a space's records begin with; append the id's UTF-8."""
    return PREFIX + b"r:" + space_id.encode() + b":"


def id_row_prefix(table: str) -> bytes:
    """What the keys of an ID table's rows begin with; append the id's UTF-8. Any table name is safe."""
    return PREFIX + b"i:" + hashlib.sha256(table.encode()).hexdigest()[:16].encode() + b":"


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
