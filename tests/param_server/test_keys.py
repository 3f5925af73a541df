from __future__ import annotations

import pytest

from contracts.errors import InvalidInput, TooLarge
from param_server import keys
from param_server.mget import pack_mget


def test_keys_of_records_are_pinned() -> None:
    assert keys.record_prefix("00112233aabbccdd") == b"rc1:r:00112233aabbccdd:"
    assert keys.spaces() == b"rc1:{c}:spaces"
    assert keys.high_water() == b"rc1:{c}:high_water"
    assert keys.scenes() == b"rc1:{c}:scenes"
    assert keys.generations() == b"rc1:{c}:generations"


def test_names_of_id_tables_cannot_run_into_ids() -> None:
    assert keys.id_row_prefix("a") + b"b:c" != keys.id_row_prefix("a:b") + b"c"
    assert len(keys.id_row_prefix("x" * 300)) == len(keys.id_row_prefix("x")) == len(b"rc1:i:") + 16 + 1


@pytest.mark.parametrize(
    "item_id", ["{a}{b}", "nul\0inside", "\U0001f9e6", "ä" * 128, "x" * 256, " ", "a:b\r\n"]
)
def test_any_unicode_id_is_usable(item_id: str) -> None:
    assert keys.id_bytes([item_id]) == [item_id.encode()]


@pytest.mark.parametrize(
    ("item_id", "error"),
    [
        ("", InvalidInput),
        ("x" * 257, TooLarge),
        ("é" * 129, TooLarge),
        ("\ud800", InvalidInput),
        (7, InvalidInput),
    ],
)
def test_a_bad_id_is_named_by_its_place(item_id: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"item_ids\[1\]"):
        keys.id_bytes(["good", item_id])  # type: ignore[list-item]


def test_a_packed_mget_is_the_protocol_byte_for_byte() -> None:
    assert pack_mget([b"p:", b"q:"], [b"a", b"bc\r\n"]) == (
        b"*5\r\n$4\r\nMGET\r\n$3\r\np:a\r\n$6\r\np:bc\r\n\r\n$3\r\nq:a\r\n$6\r\nq:bc\r\n\r\n"
    )
