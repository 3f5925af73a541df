from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidInput, RepcenterError, UnknownVersion
from contracts.items import Item
from realtime_infer.push_entry import ITEM_ID, PAYLOAD, SEQUENCE, decode_entry, encode_delete, encode_push


def fields(payload: bytes, item_id: bytes = b"a", sequence: bytes = b"7") -> dict[bytes, bytes]:
    return {ITEM_ID: item_id, SEQUENCE: sequence, PAYLOAD: payload}


def test_the_bytes_of_a_push_are_fixed() -> None:
    item = Item("a", {"title": "Héat"}, {"year": 1995.0, "genres": ("Crime",)}, b"\xff\x00png")
    head = '{"attributes":{"genres":["Crime"],"year":1995.0},"text":{"title":"Héat"}}'.encode()
    assert (
        encode_push(item) == b"RP\x01\x01" + b"\x4a\x00\x00\x00" + b"\x05\x00\x00\x00" + head + b"\xff\x00png"
    )
    assert encode_delete() == bytes.fromhex("52500102" + "00000000" + "00000000")
    named = b'{"attributes":{},"image_url":"s3://pictures/a.jpg","text":{}}'
    assert encode_push(Item("a", image_url="s3://pictures/a.jpg")) == (
        b"RP\x02\x01" + bytes([len(named)]) + bytes(7) + named
    )


def test_a_push_comes_back() -> None:
    item = Item("ä\0:{}", {"title": "Heat"}, {"year": 1995.0, "genres": ["Crime", "Drama"]}, b"picture")
    entry = decode_entry(fields(encode_push(item), "ä\0:{}".encode()))
    assert entry.item == item
    assert (entry.item_id, entry.sequence) == ("ä\0:{}", 7)
    assert decode_entry(fields(encode_delete())).item is None
    named = Item("a", {"title": "Heat"}, image_url="https://cdn.example.com/ü.jpg?a=b#c")
    assert decode_entry(fields(encode_push(named))).item == named


@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=30), max_size=4),
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.one_of(st.text(max_size=8), st.floats(-1e6, 1e6), st.lists(st.text(max_size=8), max_size=3)),
        max_size=4,
    ),
    st.one_of(st.none(), st.binary(min_size=1, max_size=40)),
)
def test_any_item_comes_back(
    text: dict[str, str], attributes: dict[str, object], image: bytes | None
) -> None:
    item = Item("a", text, attributes, image)  # type: ignore[arg-type]
    assert decode_entry(fields(encode_push(item))).item == item


@given(st.binary(max_size=60))
def test_foreign_bytes_are_refused_by_a_typed_error(payload: bytes) -> None:
    with pytest.raises(RepcenterError):
        decode_entry(fields(b"RP\x01\x01" + payload))


def test_unknown_versions_and_kinds_are_refused() -> None:
    good = encode_push(Item("a", {"title": "x"}))
    with pytest.raises(UnknownVersion, match="push entry: version 3"):
        decode_entry(fields(good[:2] + b"\x03" + good[3:]))
    with pytest.raises(UnknownVersion, match="kind"):
        decode_entry(fields(good[:3] + b"\x09" + good[4:]))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        fields(b""),
        fields(b"XX" + encode_delete()[2:]),
        fields(encode_push(Item("a", {"title": "x"}))[:-1]),
        fields(encode_push(Item("a", {"title": "x"})) + b"!"),
        fields(encode_delete(), sequence=b"seven"),
        fields(encode_delete(), item_id=b"\xff"),
        fields(b"RP\x02" + encode_push(Item("a", {"title": "x"}))[3:]),
    ],
)
def test_malformed_entries_are_refused(broken: dict[bytes, bytes]) -> None:
    with pytest.raises(InvalidInput, match="push entry"):
        decode_entry(broken)
