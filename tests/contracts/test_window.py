"""The window message: bytes by literal, round trips, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import codec
from contracts.errors import InvalidInput, RepcenterError, SpaceMismatch, UnknownVersion
from contracts.space import Modality, Space
from contracts.window import Window, decode_window, encode_window, window_space_id

SPACE = Space("cd" * 32, (Modality("text", 2),))


def records(count: int) -> codec.Rows:
    vectors = np.tile(np.array([[1.0, 0.0]], np.float32), (count, 1))
    return codec.encode_records([vectors], np.arange(count, dtype=np.uint64), np.zeros((count, 0), np.uint32))


def two() -> Window:
    dead = codec.tombstones(SPACE.dtype, np.array([9], np.uint64))
    return Window(SPACE, ["a", "é"], np.concatenate([records(1), dead]), 0x0102030405060708)


MESSAGE_HEX = (
    "5257"  # RW
    "01"  # version
    "00"  # reserved
    "f3e4fd571bd838ee"  # space id
    "0807060504030201"  # committed_ms
    "02000000"  # count
    "12000000"  # record_bytes: 12 + 4 + 2
    "01000000"
    "02000000"  # id_bytes
    "61"
    "c3a9"  # a é
    "01010000"
    "0000000000000000"
    "0402013c"
    "7f00"  # sequence 0, 1 / 127, codes 127 0
    "01018000"
    "0900000000000000"
    "00000000"
    "0000"  # a tombstone at sequence 9
)


def test_message_is_this_hex() -> None:
    assert encode_window(two()).hex() == MESSAGE_HEX


def test_round_trip() -> None:
    message = encode_window(two())
    assert window_space_id(message) == SPACE.id
    again = decode_window(message, SPACE)
    assert (again.space, again.item_ids, again.committed_ms) == (SPACE, ["a", "é"], 0x0102030405060708)
    assert again.records.tobytes() == two().records.tobytes()


def test_an_empty_window_round_trips() -> None:
    again = decode_window(encode_window(Window(SPACE, [], records(0), 1)), SPACE)
    assert again.item_ids == []
    assert len(again.records) == 0


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), max_size=12),
    st.integers(0, 2**64 - 1),
)
@settings(max_examples=80, deadline=None)
def test_any_ids_round_trip(item_ids: list[str], committed_ms: int) -> None:
    window = Window(SPACE, item_ids, records(len(item_ids)), committed_ms)
    again = decode_window(encode_window(window), SPACE)
    assert again.item_ids == item_ids
    assert again.committed_ms == committed_ms
    np.testing.assert_array_equal(again.records, window.records)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_unknown_message_version_is_refused(version: int) -> None:
    message = bytearray(encode_window(two()))
    message[2] = version
    for read in (window_space_id, lambda m: decode_window(m, SPACE)):
        with pytest.raises(UnknownVersion, match="window message"):
            read(bytes(message))


def test_unknown_record_version_within_is_refused() -> None:
    window = two()
    window.records["version"][1] = 2
    with pytest.raises(UnknownVersion, match="window message, row 1"):
        decode_window(encode_window(window), SPACE)


def test_a_message_of_another_space_is_refused() -> None:
    other = Space("ce" * 32, (Modality("text", 2),))
    with pytest.raises(SpaceMismatch, match=other.id):
        decode_window(encode_window(two()), other)


def test_records_of_another_layout_are_refused() -> None:
    with pytest.raises(SpaceMismatch):
        Window(Space("cd" * 32, (Modality("text", 3),)), ["a"], records(1), 0)
    with pytest.raises(InvalidInput, match="item_ids"):
        Window(SPACE, ["a", "b"], records(1), 0)


def test_every_truncation_and_every_extension_is_refused() -> None:
    message = encode_window(two())
    for size in range(len(message)):
        with pytest.raises(InvalidInput):
            decode_window(message[:size], SPACE)
    with pytest.raises(InvalidInput):
        decode_window(message + b"\0", SPACE)


@given(st.integers(0, len(bytes.fromhex(MESSAGE_HEX)) - 1), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_one_changed_byte_is_read_or_refused_by_a_typed_error(position: int, value: int) -> None:
    message = bytearray(encode_window(two()))
    message[position] = value
    try:
        decoded = decode_window(bytes(message), SPACE)
    except RepcenterError:
        return
    assert len(decoded.item_ids) == len(decoded.records) == 2


def test_lengths_that_claim_gigabytes_are_refused_at_once() -> None:
    message = bytearray(encode_window(two()))
    message[20:24] = b"\xff\xff\xff\xff"
    with pytest.raises(InvalidInput, match="truncated"):
        decode_window(bytes(message), SPACE)
    message = bytearray(encode_window(two()))
    message[28:32] = b"\xff\xff\xff\xff"
    with pytest.raises(InvalidInput, match="must be"):
        decode_window(bytes(message), SPACE)
