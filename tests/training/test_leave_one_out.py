from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from contracts.codec import decode_vectors, encode_records
from contracts.errors import InvalidInput, TooLarge
from contracts.items import AttributeField
from contracts.space import Modality, Space
from tests.training import tiny
from tests.training.data import tables
from training.co_likes import CoLikes, Likes
from training.data.dataset import Dataset
from training.data.interactions import TEST
from training.feature_blocks import FeatureBlock, fit_feature_map, kernel
from training.item_features import Features
from training.leave_one_out import LeaveOneOut, LeaveOneOutConfig, WeightedRidge, leave_one_out_vectors
from training.metrics import auc
from training.recipes.loo_vectors import attribute_blocks, choose_config, loo_records, loo_vectors
from training.similarity_auc import similarity_auc

ITEMS, KINDS, USERS = 120, 4, 150
KIND = np.arange(ITEMS) % KINDS
NEW = np.arange(ITEMS) >= 100
CONFIG = LeaveOneOutConfig(ridge=0.5, evidence=5.0, landmarks=16)
Floats = npt.NDArray[np.float32]


def planted(seed: int = 0) -> Likes:
    """Users of one kind like items of that kind, and few others; item 7 is liked by nobody."""
    rng = np.random.default_rng(seed)
    chance = np.where((np.arange(USERS) % KINDS)[:, None] == KIND, 0.4, 0.02)
    chance[:, NEW | (np.arange(ITEMS) == 7)] = 0
    pairs = np.argwhere(rng.random((USERS, ITEMS)) < chance)
    return Likes(pairs[:, 0], pairs[:, 1], ITEMS)


def block(
    name: str = "text", *, noise: float = 1.0, told: float = 1.0, dim: int = 12, seed: int = 1
) -> FeatureBlock:
    """Features that show the kind, `told` times its centre plus noise; item 3 has none."""
    rng = np.random.default_rng(seed)
    values = told * rng.normal(size=(KINDS, dim))[KIND] + noise * rng.normal(size=(ITEMS, dim))
    return FeatureBlock(name, values.astype(np.float32), np.arange(ITEMS) != 3)


def same_kind(vectors: Floats, rows: npt.NDArray[np.bool_]) -> float:
    """Mean cosine within kinds less that between them."""
    cosines, alike = vectors[rows] @ vectors[rows].T, KIND[rows][:, None] == KIND[rows]
    off = ~np.eye(len(cosines), dtype=bool)
    return float(cosines[alike & off].mean() - cosines[~alike].mean())


def given(
    blocks: list[FeatureBlock], rows: npt.NDArray[np.int64]
) -> dict[str, tuple[Floats, npt.NDArray[np.bool_]]]:
    return {b.name: (b.values[rows], b.present[rows]) for b in blocks}


def test_closed_form_equals_refitting_without_the_row_and_its_column() -> None:
    lift = CoLikes(planted())
    size = len(lift)
    rng = np.random.default_rng(0)
    rows, basis = rng.normal(size=(size, 9)), rng.normal(size=(size, 5))
    weights = rng.uniform(0.05, 1, size)
    matrix = np.vstack([part for _, part in lift.blocks()]).astype(np.float64)
    ridge = WeightedRidge(rows, lift.times(basis), weights, 0.7)
    row_alone = ridge.left_out()
    both = row_alone - ridge.own_column(lift)[:, None] * basis
    in_sample = rows @ ridge.coefficients
    for i in range(0, size, 7):
        kept = np.arange(size) != i
        for blind, expected in ((False, row_alone[i]), (True, both[i])):
            seen = matrix.copy()
            if blind:
                seen[:, i] = 0
            gram = rows[kept].T @ (rows[kept] * weights[kept, None]) + 0.7 * np.eye(9)
            refit = np.linalg.solve(gram, rows[kept].T @ ((seen @ basis)[kept] * weights[kept, None]))
            assert np.allclose(rows[i] @ refit, expected, atol=1e-9)
        assert not np.allclose(in_sample[i], row_alone[i], atol=1e-3)


def test_left_out_vectors_of_noise_know_nothing_and_in_sample_ones_pretend_to() -> None:
    noise = [block(told=0.0, dim=60)]
    loo = leave_one_out_vectors(noise, planted(), NEW, dim=8, config=replace(CONFIG, ridge=0.01))
    trained = loo.trained & (np.arange(ITEMS) != 3)
    assert same_kind(loo.in_sample, trained) > 0.4
    assert abs(same_kind(loo.vectors, trained)) < 0.1
    assert abs(same_kind(loo.vectors, NEW)) < 0.15
    assert loo.fit.cosine_in_sample > loo.fit.cosine_leave_one_out + 0.3


def test_trained_and_new_items_are_equally_well_known() -> None:
    loo = leave_one_out_vectors([block()], planted(), NEW, dim=8, config=CONFIG)
    trained = loo.trained & (np.arange(ITEMS) != 3)
    warm, new = same_kind(loo.vectors, trained), same_kind(loo.vectors, NEW)
    assert new > 0.5
    assert abs(warm - new) < 0.2
    across = loo.vectors[NEW] @ loo.vectors[trained].T  # one space
    alike = KIND[NEW][:, None] == KIND[trained]
    assert across[alike].mean() - across[~alike].mean() > 0.5


def test_vectors_are_unit_rows_and_counted() -> None:
    blocks = [block(), replace(block("image", seed=2), present=np.zeros(ITEMS, dtype=bool))]
    blocks[1].values[:] = np.nan  # what lies in absent features changes nothing
    loo = leave_one_out_vectors(blocks, planted(), NEW, dim=128, config=CONFIG)
    lengths = np.linalg.norm(loo.vectors, axis=1)
    assert loo.vectors.dtype == np.float32
    assert loo.vectors.shape == (ITEMS, 128)
    assert np.allclose(lengths[np.arange(ITEMS) != 3], 1, atol=1e-6)
    assert not loo.vectors[3].any()
    assert (loo.fit.items, loo.fit.trained, loo.fit.new) == (ITEMS, int(loo.trained.sum()), 20)
    assert (loo.fit.without_features, loo.fit.without_likes) == (1, 1)
    assert loo.fit.zero_blocks == ("image",)
    assert 0 < loo.fit.largest_leverage < 1
    assert not loo.trained[7]
    assert np.array_equal(loo.vectors[7], loo.in_sample[7])
    again = leave_one_out_vectors(blocks, planted(), NEW, dim=128, config=CONFIG)
    assert np.array_equal(loo.vectors, again.vectors)


def test_new_items_are_served_from_their_features_alone() -> None:
    blocks = [block(), replace(block("genre", dim=3, seed=4), centred=False, joint=True)]
    loo = leave_one_out_vectors(blocks, planted(), NEW, dim=8, config=CONFIG)
    rows = np.flatnonzero(NEW)
    assert np.array_equal(loo.content.vectors(given(blocks, rows)), loo.vectors[NEW])
    alone = loo.content.vectors(given(blocks, rows[:1]))
    assert np.allclose(alone, loo.vectors[rows[:1]], atol=1e-6)
    nothing = {b.name: (b.values[:1], np.zeros(1, dtype=bool)) for b in blocks}
    assert not loo.content.vectors(nothing).any()
    with pytest.raises(InvalidInput, match="blocks: must be"):
        loo.content.vectors(given(blocks[:1], rows))


def test_without_joint_blocks_the_map_is_linear_in_each_block() -> None:
    blocks = [block(), replace(block("image", dim=5, seed=2), weight=0.3)]
    loo = leave_one_out_vectors(blocks, planted(), NEW, dim=8, config=CONFIG)
    spans, scalings = loo.content.features.slices(), loo.content.features.blocks
    total = np.tile(loo.content.weights[-1], (ITEMS, 1))
    for b in blocks:
        centred = b.values - scalings[b.name].mean
        unit = b.weight * centred / np.linalg.norm(centred, axis=1, keepdims=True)
        total += np.where(b.present[:, None], unit @ loo.content.weights[spans[b.name]], 0)
    total /= np.linalg.norm(total, axis=1, keepdims=True)
    assert np.allclose(total[NEW], loo.vectors[NEW], atol=1e-5)


def test_items_with_equal_features_get_equal_new_vectors() -> None:
    twins = block()
    twins.values[101] = twins.values[100]
    twins.values[1] = twins.values[0]  # trained ones see each other, never themselves
    loo = leave_one_out_vectors([replace(twins, joint=True)], planted(), NEW, dim=8, config=CONFIG)
    assert np.allclose(loo.vectors[100], loo.vectors[101], atol=1e-6)
    assert not np.allclose(loo.vectors[0], loo.vectors[1], atol=1e-3)


def test_the_joint_kernel_is_exact_with_all_items_as_landmarks() -> None:
    joint = replace(block(dim=4), joint=True, weight=0.8)
    rows = np.arange(100)
    features = fit_feature_map([joint], rows, landmarks=1000, width=1.0, seed=0)
    radial = features.rows(given([joint], rows))[0][:, 4:-1]
    unit = features.blocks["text"].rows(joint.values[rows], joint.present[rows])
    there = np.flatnonzero(joint.present[rows])
    exact = kernel(unit[there], unit[there], 1.0)
    assert np.allclose(radial[there] @ radial[there].T, exact, atol=1e-4)
    assert not radial[3].any()


def test_blocks_that_say_nothing_are_harmless() -> None:
    flat = FeatureBlock("flat", np.ones((ITEMS, 3), dtype=np.float32), np.ones(ITEMS, dtype=bool), joint=True)
    loo = leave_one_out_vectors([flat, block()], planted(), NEW, dim=8, config=CONFIG)
    plain = leave_one_out_vectors([block()], planted(), NEW, dim=8, config=CONFIG)
    assert loo.fit.zero_blocks == ("flat",)
    assert np.allclose(loo.vectors, plain.vectors, atol=1e-5)


def test_bad_input_is_named() -> None:
    good, likes = block(), planted()

    def fit(blocks: list[FeatureBlock], likes: Likes = likes, dim: int = 8) -> LeaveOneOut:
        return leave_one_out_vectors(blocks, likes, NEW, dim=dim, config=CONFIG)

    broken = block()
    broken.values[5, 2] = np.inf
    with pytest.raises(InvalidInput, match=r"blocks\.text\[5\]: holds a value that is not finite"):
        fit([broken])
    with pytest.raises(InvalidInput, match=r"likes: holds likes of new items \(got 1\)"):
        fit([good], Likes(np.r_[likes.users, USERS], np.r_[likes.items, 110], ITEMS))
    with pytest.raises(InvalidInput, match=r"blocks\.text: must hold 120 items"):
        fit([FeatureBlock("text", good.values[:9], good.present[:9])])
    with pytest.raises(InvalidInput, match=r"blocks\.text: must be \(I, d\)"):
        fit([replace(good, present=good.present[:9])])
    with pytest.raises(InvalidInput, match=r"blocks\.text\.weight"):
        fit([replace(good, weight=-1.0)])
    with pytest.raises(InvalidInput, match="each named once"):
        fit([good, good])
    with pytest.raises(InvalidInput, match="blocks: must be at least one"):
        fit([])
    with pytest.raises(InvalidInput, match="dim: must be 1 to 1040"):
        fit([good], dim=0)
    with pytest.raises(TooLarge, match="blocks: 9000 features"):
        fit([FeatureBlock("text", np.zeros((ITEMS, 9000), dtype=np.float32), good.present)])
    for name in ("ridge", "width", "evidence", "spectrum", "landmarks"):
        wrong: dict[str, Any] = {name: -1}
        with pytest.raises(InvalidInput, match=name):
            LeaveOneOutConfig(**wrong)


def test_similarity_auc_finds_the_planted_kind() -> None:
    samples = tiny.samples()
    told = np.eye(tiny.KINDS, dtype=np.float32)[tiny.KIND]
    measured = similarity_auc(told, samples, TEST, tiny.NEW)
    assert measured["mean"] == measured["max"] == measured["max_new"] == measured["mean_warm"] == 1
    drawn = tiny.unit(np.random.default_rng(0).normal(size=(tiny.ITEMS, 8)))
    drawn[2] = 0
    labels, mean, largest = [], [], []
    for row in np.flatnonzero(samples.splits == TEST):
        liked = samples.liked[samples.starts[row] : samples.ends[row]] - 1
        liked = liked[liked != 2]
        for n in np.flatnonzero(samples.candidate_mask[row]) if len(liked) else ():
            cosines = drawn[liked] @ drawn[samples.candidates[row, n] - 1]
            labels.append(samples.labels[row, n])
            mean.append(cosines.mean())
            largest.append(cosines.max())
    measured = similarity_auc(drawn, samples, TEST, tiny.NEW)
    assert measured["mean"] == pytest.approx(auc(labels, mean), abs=1e-3)
    assert measured["max"] == pytest.approx(auc(labels, largest), abs=1e-3)
    with pytest.raises(InvalidInput, match="new: must match vectors"):
        similarity_auc(told, samples, TEST, tiny.NEW[:5])


def real_like() -> tuple[Dataset, Features, Features]:
    """Likes of one kind per user in train, val and test; a categorical and a numeric attribute."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(2000):
        user = int(rng.integers(USERS))
        split = 0 if n < 1500 else 1 if n < 1700 else 2
        mine = np.flatnonzero(user % KINDS == KIND)
        for item, label in ((rng.choice(mine), 1), (rng.integers(ITEMS), 0)):
            rows.append((user, int(item), n, label, n, split))
    data = tables.dataset(rows, items=ITEMS, users=USERS)
    fields = (AttributeField("genre", "categorical", 2), AttributeField("year", "numeric"))
    years = [None if i == 9 else 1950.0 + i % 40 for i in range(ITEMS)]
    columns = {"genre": pa.array([f"g{k}|all" for k in KIND]), "year": pa.array(years)}
    catalogue = replace(data.catalogue, attribute_fields=fields, columns=columns)
    text, image = block(noise=2.0), block("image", noise=4.0, seed=2)
    return (
        Dataset(catalogue, data.interactions),
        Features(text.values, text.present),
        Features(image.values, image.present),
    )


def test_records_carry_the_vectors_and_the_attributes() -> None:
    data, text, image = real_like()
    loo = loo_vectors(data, NEW, text, image, dim=16, config=CONFIG)
    space, records = loo_records(data, loo)
    assert [(m.name, m.dim) for m in space.modalities] == [("loo", 16)]
    assert records.dtype == space.dtype
    assert records["attributes"].shape == (ITEMS, 3)
    decoded = decode_vectors(records, space.dims)[0]
    assert (np.einsum("id,id->i", decoded, loo.vectors) > 0.999).all()
    assert np.isnan(records["attributes"][9, 2:].view(np.float32)).all()

    base = Space("2" * 64, (Modality("text", 12), Modality("image", 12)), data.catalogue.attribute_fields)
    stored = encode_records(
        [text.values, image.values], np.ones(ITEMS, dtype=np.uint64), records["attributes"]
    )
    both, joined = loo_records(data, loo, base=(base, stored), keep=("image",))
    assert [m.name for m in both.modalities] == ["image", "loo"]
    assert both.id != space.id
    assert np.array_equal(joined["codes"][:, :12], stored["codes"][:, 12:])
    assert np.array_equal(joined["codes"][:, 12:], records["codes"])
    with pytest.raises(InvalidInput, match="keep: must be among text, image"):
        loo_records(data, loo, base=(base, stored), keep=("fused",))
    with pytest.raises(InvalidInput, match="keep: needs a base"):
        loo_records(data, loo, keep=("text",))
    with pytest.raises(InvalidInput, match="base: must have the catalogue's attributes"):
        loo_records(
            data, loo, base=(replace(base, attributes=(AttributeField("genre", "categorical", 3),)), stored)
        )


def test_no_interaction_of_a_new_item_or_after_training_changes_a_vector() -> None:
    data, text, image = real_like()
    loo = loo_vectors(data, NEW, text, image, dim=16, config=CONFIG)
    log = data.interactions
    labels = log.labels.copy()
    hidden = NEW[log.items] | (log.splits != 0)
    labels[hidden] = 1 - labels[hidden]
    flipped = Dataset(data.catalogue, replace(log, labels=labels))
    assert np.array_equal(loo_vectors(flipped, NEW, text, image, dim=16, config=CONFIG).vectors, loo.vectors)
    seen = log.labels.copy()
    seen[~hidden] = 1
    told = Dataset(data.catalogue, replace(log, labels=seen))
    assert not np.allclose(loo_vectors(told, NEW, text, image, dim=16, config=CONFIG).vectors, loo.vectors)


def test_attributes_help_and_can_be_left_out_for_the_head() -> None:
    data, text, image = real_like()
    with_attributes = loo_vectors(data, NEW, text, image, dim=16, config=CONFIG)
    without = loo_vectors(data, NEW, text, image, attributes=False, dim=16, config=CONFIG)
    assert set(without.content.features.blocks) == {"text", "image"}
    assert same_kind(with_attributes.vectors, NEW) > same_kind(without.vectors, NEW) + 0.1


def test_attribute_blocks_know_only_what_the_fitted_items_show() -> None:
    data, _, _ = real_like()
    fields = data.catalogue.attribute_fields
    slots = np.zeros((5, 3), dtype=np.uint32)
    slots[:, 0] = [7, 7, 9, 8, 8]
    slots[:, 2] = np.array([1990, 2000, np.nan, 2010, 2050], dtype=np.float32).view(np.uint32)
    genre, year = attribute_blocks(slots, fields, np.array([1, 1, 1, 0, 0], dtype=bool))
    assert genre.values.tolist() == [[1], [1], [0], [0], [0]]
    assert genre.present.tolist() == [True, True, False, False, False]
    assert year.present.tolist() == [True, True, False, True, True]
    assert np.array_equal(year.values[3], year.values[4])  # beyond the fitted range
    assert attribute_blocks(np.zeros((5, 3), dtype=np.uint32), fields[:1], np.ones(5, dtype=bool)) == []


def test_the_config_is_chosen_on_warm_items() -> None:
    data, text, image = real_like()
    good, bad = CONFIG, replace(CONFIG, ridge=1e6, evidence=1e6, spectrum=2.0)
    chosen, aucs = choose_config(data, NEW, text, image, [bad, good], attributes=False, dim=16)
    assert chosen is good
    assert aucs[1] > aucs[0]
    assert 0.6 < aucs[1] < 1
    with pytest.raises(InvalidInput, match="configs"):
        choose_config(data, NEW, text, image, [])
