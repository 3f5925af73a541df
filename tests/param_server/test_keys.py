from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import InvalidInput, TooLarge
from param_server import keys
from param_server.hget import hgets


def test_keys_are_pinned() -> None:
    family = keys.records("00112233aabbccdd", 16_896)
    assert family.key_of(b"item") == b"rc2:r:{00112233aabbccdd.1e}:0017"  # 0x1f1b251e modulo 16,896
    assert family.keys(np.array([0, 255, 256, 0xABCDEF])) == [
        b"rc2:r:{00112233aabbccdd.00}:0000",
        b"rc2:r:{00112233aabbccdd.ff}:0000",
        b"rc2:r:{00112233aabbccdd.00}:0001",
        b"rc2:r:{00112233aabbccdd.ef}:abcd",
    ]
    assert family.shard_keys[255] == b"rc2:m:{00112233aabbccdd.ff}"
    assert len(family.shard_keys) == 256
    assert keys.spaces() == b"rc2:{c}:spaces"
    assert keys.high_water() == b"rc2:{c}:high_water"
    assert keys.scenes() == b"rc2:{c}:scenes"
    assert keys.generations() == b"rc2:{c}:generations"


def test_a_small_family_has_as_many_shards_as_buckets() -> None:
    family = keys.records("0" * 16, 7)
    assert len(family.shard_keys) == 7
    buckets = family.buckets_of([b"%d" % i for i in range(100)])
    assert set(buckets.tolist()) == set(range(7))
    assert {key[:28] for key in family.keys(buckets)} == {
        b"rc2:r:{%s.%02x}:" % (b"0" * 16, i) for i in range(7)
    }


def test_any_name_of_an_id_table_is_safe() -> None:
    one, other = keys.id_rows("a", 10), keys.id_rows("x{" * 300, 10)
    assert one.key_bytes == other.key_bytes == len(one.key_of(b"i"))
    assert not set(one.shard_keys) & set(other.shard_keys)


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


def test_packed_commands_are_the_protocol_byte_for_byte() -> None:
    family = keys.records("0" * 16, 1)
    key = b"$32\r\nrc2:r:{0000000000000000.00}:0000\r\n"
    assert hgets([family], [b"a", b"\r\n" * 20]).packed() == (
        b"*3\r\n$4\r\nHGET\r\n" + key + b"$1\r\na\r\n"
        b"*3\r\n$4\r\nHGET\r\n" + key + b"$40\r\n" + b"\r\n" * 20 + b"\r\n"
    )
