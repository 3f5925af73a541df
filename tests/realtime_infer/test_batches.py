"""How large batches are: learnt from the encoder's time, and what one run of a graph may hold."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contracts.items import Item
from realtime_infer.batch import Batch, Push, SpaceBatch, encode, parts
from realtime_infer.batch_size import BatchSize
from realtime_infer.delivery import Delivery
from realtime_infer.encoder import Encoder, Prepared
from realtime_infer.pictures import decode_here
from realtime_infer.stream_keys import Partition
from tests.encoder_bundle import picture


def settled(most: int, budget_s: float, fixed_s: float, item_s: float) -> int:
    """Where the size comes to rest under an endless backlog. fixed_s: what a batch costs at least."""
    size = BatchSize(most, budget_s)
    for _ in range(200):
        size.took(size.now, fixed_s + item_s * size.now)
    return size.now


def test_the_size_follows_what_the_device_can_do() -> None:
    assert 9 <= settled(256, 0.2, 0.0, 0.02) <= 11  # a processor: 20 ms an item
    assert settled(256, 0.2, 0.02, 0.0001) == 256  # an accelerator
    assert settled(32, 0.2, 0.0, 0.0001) == 32
    assert settled(256, 0.2, 0.0, 5.0) == 1


def test_batches_that_were_not_full_teach_nothing_but_that_they_were_too_slow() -> None:
    size = BatchSize(256, 0.2)
    first = size.now
    for _ in range(10):
        size.took(2, 0.001)
    assert size.now == first
    size.took(4, 0.8)
    assert size.now == 1


def prepared(tokens: list[int], side: int = 0) -> Prepared:
    count = len(tokens)
    return Prepared(
        [str(i) for i in range(count)],
        np.zeros((count, 0), np.uint32),
        {i: np.ones(length, np.int64) for i, length in enumerate(tokens) if length},
        {i: np.zeros((side, side, 3), np.uint8) for i in range(count)} if side else {},
        {},
    )


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 200), st.integers(0, 4))
def test_parts_cover_everything_once_within_their_bounds(tokens: list[int], most: int, side: int) -> None:
    found = list(parts(prepared(tokens, side), most, 3 * 16))
    assert [i for start, stop in found for i in range(start, stop)] == list(range(len(tokens)))
    for start, stop in found:
        if stop - start > 1:
            assert max(tokens[start:stop]) * (stop - start) <= most
            assert side * side * (stop - start) <= 3 * 16


def test_a_batch_in_parts_gives_the_same_records(encoder: Encoder) -> None:
    items = [Item(f"i{n}", {"title": "word " * n}, image=picture((9 * n, 20, 20))) for n in range(1, 9)]
    items[3] = Item("i4", {"nothing": "of the template"})
    pushes = [Push(Delivery(Partition(), b"0-0", {}), item, n + 1, b"") for n, item in enumerate(items)]
    ready = encoder.prepare(items, decode_here(items, encoder.picture_size))
    work = SpaceBatch(encoder, {}, np.arange(len(items)), ready)
    whole = encode(work, Batch(pushes, [], []), 1 << 20, 1 << 30)
    split = encode(work, Batch(pushes, [], []), 12, 2 * ready.pixels[0].shape[0] * ready.pixels[0].shape[1])
    assert whole.failures.keys() == split.failures.keys() == {3}
    assert whole.window.item_ids == split.window.item_ids
    codes = whole.window.records.view(np.uint8).astype(int), split.window.records.view(np.uint8).astype(int)
    assert np.mean(codes[0] != codes[1]) < 0.01  # padding may move a float across a rounding edge
