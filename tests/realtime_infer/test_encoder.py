from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.bundle import Bundle, seal, write_golden
from contracts.codec import decode_vectors
from contracts.errors import BrokenBundle, InvalidInput
from contracts.guard import Guard, GuardLimits
from contracts.items import AttributeValue, Item, attribute_slots
from realtime_infer.encoder import Encoder
from realtime_infer.isolate import run_isolated
from tests.contracts.pictures import readable, refused
from tests.encoder_bundle import ASCII_TOKENS, ATTRIBUTES, make_encoder_bundle, picture

RED, BLUE = picture((220, 20, 20)), picture((20, 20, 220))


def test_vectors_are_unit_and_a_missing_modality_is_zero(encoder: Encoder) -> None:
    encoded = encoder.encode(
        [Item("t", {"title": "Heat"}), Item("i", image=RED), Item("b", {"title": "Heat"}, image=RED)]
    )
    norms = np.stack([np.linalg.norm(block, axis=1) for block in encoded.vectors], axis=1)
    np.testing.assert_allclose(norms, [[1, 0, 1], [0, 1, 1], [1, 1, 1]], atol=1e-5)
    assert encoded.failures == {}
    assert [block.dtype for block in encoded.vectors] == [np.float32] * 3


def test_content_moves_the_vectors(encoder: Encoder) -> None:
    items = [Item("a", {"title": "Heat"}, image=RED), Item("b", {"title": "Casino"}, image=BLUE)]
    for block in encoder.encode(items).vectors:
        assert float(block[0] @ block[1]) < 0.999


def test_a_poison_item_fails_alone_and_its_neighbours_do_not_notice(encoder: Encoder) -> None:
    good = [Item("a", {"title": "Heat"}, image=RED), Item("b", {"title": "Casino"}, {"year": 1995.0})]
    poison = [
        Item("p1", {"title": "fine"}, image=b"not a picture"),
        Item("p2"),
        Item("p3", {"genre": "no field of the template"}),
        Item("p4", {"title": "fine"}, {"year": "nineteen"}),
        Item("p5", {"title": "\ud800"}),
        Item("p6", {"title": "fine"}, image=b""),
    ]
    mixed = encoder.encode([poison[0], good[0], *poison[1:4], good[1], *poison[4:]])
    assert mixed.good.tolist() == [1, 5]
    assert sorted(mixed.failures) == [0, 2, 3, 4, 6, 7]
    assert all(isinstance(error, InvalidInput) for error in mixed.failures.values())
    alone = encoder.encode(good)
    for block, expected in zip(mixed.vectors, alone.vectors, strict=True):
        np.testing.assert_allclose(block[mixed.good], expected, atol=1e-6)
        assert not block[sorted(mixed.failures)].any()
    np.testing.assert_array_equal(mixed.attributes[mixed.good], alone.attributes)


def test_records_hold_vectors_sequences_and_attributes(encoder: Encoder) -> None:
    attributes: dict[str, AttributeValue] = {"genres": ["Crime", "Drama"], "year": 1995.0}
    encoded = encoder.encode([Item("p"), Item("a", {"title": "Heat"}, attributes, RED)])
    rows = encoder.records(encoded, np.array([8, 9], dtype=np.uint64))
    assert rows.dtype == encoder.space.dtype
    assert rows["sequence"].tolist() == [9]
    np.testing.assert_array_equal(rows["attributes"][0], attribute_slots(attributes, ATTRIBUTES))
    for stored, block in zip(decode_vectors(rows, encoder.space.dims), encoded.vectors, strict=True):
        assert float(stored[0] @ block[1]) > 0.999


def test_nothing_gives_nothing(encoder: Encoder) -> None:
    encoded = encoder.encode([])
    assert [block.shape for block in encoded.vectors] == [(0, 16)] * 3
    assert len(encoder.records(encoded, np.zeros(0, np.uint64))) == 0


def test_hostile_pictures_fail_alone_and_odd_ones_are_encoded(encoder: Encoder) -> None:
    odd, hostile = list(readable().values()), list(refused().values())
    items = [Item(str(i), {"title": "x"}, image=data) for i, data in enumerate([*odd, *hostile])]
    encoded = encoder.encode(items)
    assert encoded.good.tolist() == list(range(len(odd)))


def test_a_bundle_of_another_kind_or_with_a_wrong_proof_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "other").mkdir()
    write_golden(tmp_path / "other", {"x": ({"a": np.zeros(1)}, {"b": np.zeros(1)})})
    other = seal(tmp_path / "other", "ranker", {})
    with pytest.raises(BrokenBundle, match="ranker bundle, not an encoder"):
        Encoder.open(str(other.path))
    with pytest.raises(BrokenBundle, match="expected 0000"):
        Encoder.open(str(bundle.path), "0" * 64)
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in bundle.manifest.files:
        (broken / name).write_bytes(bundle.file(name).read_bytes())
    golden = bundle.golden()
    golden["head"][1]["fused"][0, 0] += 0.1
    write_golden(broken, golden)
    seal(broken, "encoder", dict(bundle.manifest.content))
    with pytest.raises(BrokenBundle, match="fused differs from golden"):
        Encoder.open(str(broken))


def test_an_item_on_which_the_graph_raises_is_found(tmp_path: Path) -> None:
    """Bytes above the embedding's rows make ONNX Runtime raise for the whole batch."""
    fragile = Encoder.open(str(make_encoder_bundle(tmp_path / "fragile", known_tokens=ASCII_TOKENS).path))
    items = [Item(str(i), {"title": "plain"}) for i in range(9)]
    items[4] = Item("4", {"title": "\u00e9\u00ff"})
    with pytest.raises(Exception, match=r"(?i)gather|indices|range|bounds"):
        fragile.encode(items)
    prepared = fragile.prepare(items, {})
    good, rows, failures = run_isolated(fragile, prepared, np.arange(1, 10, dtype=np.uint64))
    assert good.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert rows["sequence"].tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert list(failures) == [4]
    assert "the encoder failed on it" in str(failures[4])


def test_rows_that_lose_too_much_are_flagged(bundle: Bundle) -> None:
    encoder = Encoder.open(str(bundle.path), bundle.digest)
    assert [block.shape[1] for block in encoder.guard.probes.values()] == [16, 16, 16]
    encoded = encoder.encode([Item("t", {"title": "Heat"}), Item("b", {"title": "Heat"}, image=RED)])
    sequences = np.ones(2, np.uint64)
    assert encoder.records(encoded, sequences)["guard"].tolist() == [0, 0]
    encoder.guard = Guard(encoder.guard.probes, GuardLimits(cosine_error=0.0))
    assert encoder.records(encoded, sequences)["guard"].tolist() == [0b101, 0b111]


def test_a_bundle_without_probes_is_held_to_the_cosine_error(bundle: Bundle, tmp_path: Path) -> None:
    for name in bundle.manifest.files:
        if name != "probes.npz":
            (tmp_path / name).write_bytes(bundle.file(name).read_bytes())
    older = seal(tmp_path, "encoder", bundle.manifest.content)
    encoder = Encoder.open(str(tmp_path), older.digest)
    assert (dict(encoder.guard.probes), encoder.guard.limits) == ({}, GuardLimits())
