"""Whatever bytes come for an item, by any way in: an item that is kept as it was, or a typed error."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.errors import RepcenterError
from contracts.items import Item, check_image_url, check_item
from contracts.rpc.v1 import repcenter_pb2 as pb
from realtime_infer.fetch import FetchLimits, PictureSources
from realtime_infer.item_body import ItemBody
from realtime_infer.origins import web_address
from realtime_infer.push_entry import ITEM_ID, PAYLOAD, SEQUENCE, decode_entry, encode_push
from realtime_infer.rpc import item as item_of

MANY = settings(max_examples=300, deadline=None)
NAMES = ("item_id", "title", "text", "attributes", "image", "image_url", "extra")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(
        ["", "\0", "data:image/png;base64,AAAA", "data:,x", "https://a.b/c", "s3://a/b", "=", "x" * 300]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=7)
LIKELY = st.fixed_dictionaries(
    {"item_id": st.text(min_size=1, max_size=20)},
    optional={
        "title": st.text(max_size=20),
        "text": st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=3),
        "attributes": st.dictionaries(st.text(max_size=8), VALUES, max_size=3),
        "image": st.text("ABab01+/= \n", max_size=20) | st.text(max_size=10),
        "image_url": st.text(max_size=30)
        | st.sampled_from(["https://a.b/c", "s3://a/b", "data:;base64,AAAA"]),
    },
)


def parsed(body: bytes) -> Item | None:
    """As the HTTP door reads it; None where it answers with a problem."""
    try:
        return check_item(ItemBody.model_validate_json(body).item())
    except (ValidationError, RepcenterError):
        return None


def kept(item: Item) -> None:
    """What was accepted comes back from the stream as it was."""
    fields = {ITEM_ID: item.item_id.encode(), SEQUENCE: b"7", PAYLOAD: encode_push(item)}
    back = decode_entry(fields).item
    assert back is not None
    assert (back.item_id, dict(back.text)) == (item.item_id, dict(item.text))
    assert (back.image or None, back.image_url) == (item.image or None, item.image_url)
    assert back.attributes.keys() == item.attributes.keys()


def dumped(document: Any) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # an integer or a text that JSON cannot carry here
        return b'{"item_id": "a", "attributes": {"x": %d}}' % 2**70


@given(DOCUMENTS | LIKELY)
@MANY
def test_bodies_of_pushes(document: dict[str, Any]) -> None:
    item = parsed(dumped(document))
    if item is not None:
        assert item.item_id == document["item_id"]
        kept(item)


@given(
    st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
@MANY
def test_bodies_that_are_no_json(body: bytes) -> None:
    assert parsed(body) is None


@given(st.lists(LIKELY.map(dumped) | st.binary(max_size=40), max_size=6), st.sampled_from([b"\n", b"\r\n"]))
@settings(max_examples=100, deadline=None)
def test_lines_of_a_bulk_push_fail_alone(lines: list[bytes], end: bytes) -> None:
    """Lines are independent: what one holds changes nothing about another."""
    whole = [parsed(line) for line in end.join(lines).split(b"\n") if line.strip()]
    alone = [parsed(part) for line in lines for part in line.split(b"\n") if part.strip()]
    assert [item and item.item_id for item in whole] == [item and item.item_id for item in alone]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Bytes of a PushRequest, some of them changed."""
    message = pb.PushRequest()
    if draw(st.booleans()):
        message.item.item_id = draw(st.text(max_size=20))
    for name in draw(st.lists(st.text(max_size=8), max_size=3)):
        message.item.text[name] = draw(st.text(max_size=20))
        attribute = message.item.attributes[name]
        kind = draw(st.integers(0, 3))
        if kind == 1:
            attribute.text = draw(st.text(max_size=8))
        elif kind == 2:
            attribute.number = draw(st.floats())
        elif kind == 3:
            attribute.tokens.values.extend(draw(st.lists(st.text(max_size=8), max_size=3)))
    if draw(st.booleans()):
        message.item.image = draw(st.binary(max_size=20))
    if draw(st.booleans()):
        message.item.image_url = draw(
            st.text(max_size=20) | st.sampled_from(["s3://a/b", "data:;base64,AA=="])
        )
    raw = bytearray(message.SerializeToString())
    for _ in range(draw(st.integers(0, 3)) if raw else 0):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw)


@given(messages() | st.binary(max_size=60))
@MANY
def test_messages_of_pushes(raw: bytes) -> None:
    try:
        request = pb.PushRequest.FromString(raw)
    except DecodeError:
        return
    try:
        item = check_item(item_of(request))
    except RepcenterError:
        return
    assert item.item_id == request.item.item_id
    assert all(not isinstance(v, float) or math.isfinite(v) for v in item.attributes.values())
    kept(item)


@given(
    st.dictionaries(st.sampled_from([ITEM_ID, SEQUENCE, PAYLOAD, b"x"]), st.binary(max_size=80), max_size=4),
    st.sampled_from([b"", b"RP\x01\x01", b"RP\x02\x01", b"RP\x01\x02"]),
    st.binary(max_size=4),
)
@MANY
def test_entries_of_the_stream(fields: dict[bytes, bytes], magic: bytes, sequence: bytes) -> None:
    if PAYLOAD in fields:
        fields[PAYLOAD] = magic + fields[PAYLOAD]
    try:
        entry = decode_entry(fields)
    except RepcenterError:
        return
    assert entry.item_id.encode() == fields[ITEM_ID]


@given(LIKELY, st.data())
@MANY
def test_entries_with_changed_bytes(document: dict[str, Any], data: st.DataObject) -> None:
    item = parsed(dumped(document))
    if item is None:
        return
    payload = bytearray(encode_push(item))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_entry({ITEM_ID: item.item_id.encode(), SEQUENCE: b"1", PAYLOAD: bytes(payload)})
    except RepcenterError:
        return


PARTS = st.lists(
    st.sampled_from(
        ["http", "https", "file", "s3", ":", "//", "/", "\\", "@", "?", "#", "..", ".", "%2e", "%00", "[",
         "]", "::1", "127.0.0.1", "a.b", "cdn.test", "simplecache::", "\u3002", "\u202e", ":80", "x" * 5000]
    )
    | st.text(max_size=4),
    max_size=8,
)  # fmt: skip


@given(PARTS.map("".join))
@MANY
def test_references_to_pictures(url: str) -> None:
    allowed = PictureSources(
        FetchLimits(origins=("cdn.test", "http://*.cdn.test"), roots=("/data/pictures",))
    )
    try:
        allowed.check(Item("a", image_url=url))
    except RepcenterError:
        return
    assert check_image_url(url) == url
    if url.startswith("/") or url.partition("://")[0].lower() in ("file", "local"):
        assert "/data/pictures/" in url
        assert "/../" not in url
    else:
        assert web_address(url).host in ("cdn.test",) or web_address(url).host.endswith(".cdn.test")


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 50_000, b'{"item_id":"a","text":' + b"[" * 10_000]
)
def test_deep_documents_are_refused(body: bytes) -> None:
    assert parsed(body) is None
