from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from contracts.errors import InvalidInput
from contracts.features import OPTIONAL_INPUTS, REQUIRED_INPUTS
from tests.training.models.drawn import (
    ATTRIBUTES,
    FEATURES,
    MODALITIES,
    T_MAX,
    Batch,
    batch,
    logits,
    ranker,
)
from training.losses import masked_bce
from training.models import builders
from training.models.ciubm import CiubmConfig
from training.models.config import ContentConfig, RankerConfig
from training.models.dmae import DmaeConfig
from training.models.id_interest import IdInterestKind
from training.models.query import QueryConfig
from training.models.ranker import Ranker
from training.models.recency import RecencySimilarityConfig
from training.models.simtier import SimTierConfig
from training.models.target_vector import TargetVectorConfig

DMAE = DmaeConfig(dim=8)
SETS: list[tuple[ContentConfig, ...]] = [
    (),
    (CiubmConfig(),),
    (CiubmConfig(weighting="softmax"),),
    (DMAE,),
    (DmaeConfig(dim=8, residual=True, layernorm=True),),
    (SimTierConfig(windows=3),),
    (RecencySimilarityConfig(starts=(0, 2, 5), modalities=("text", "fused")),),
    (QueryConfig(modalities=("image", "fused")),),
    (TargetVectorConfig(projection=4), CiubmConfig(projection=4), DMAE, SimTierConfig()),
]
EXTRAS = [{}, FEATURES]
KINDS: list[IdInterestKind] = ["none", "mean", "din", "din_position"]
by_content = pytest.mark.parametrize(
    "content", SETS, ids=lambda c: "+".join(type(x).__name__ for x in c) or "id"
)
by_features = pytest.mark.parametrize("features", EXTRAS, ids=["plain", "features"])
by_id = pytest.mark.parametrize("kind", KINDS)


@by_content
@by_id
def test_any_id_module_combines_with_any_content(
    content: tuple[ContentConfig, ...], kind: IdInterestKind
) -> None:
    model = ranker(*content, id_interest=kind)
    out = logits(model, batch())
    assert out.shape == (3, 4)
    assert np.isfinite(out).all()
    assert out.std() > 0


@by_features
@by_content
def test_more_padding_changes_nothing(content: tuple[ContentConfig, ...], features: dict[str, Any]) -> None:
    model, drawn = ranker(*content, **features), batch(behaviours=9)
    for further in (1, 7, T_MAX - 9):
        pad = (further, 0)
        longer = drawn._replace(
            behaviours=torch.nn.functional.pad(drawn.behaviours, pad),
            behaviour_mask=torch.nn.functional.pad(drawn.behaviour_mask, pad),
            gaps=torch.nn.functional.pad(drawn.gaps, pad),
        )
        np.testing.assert_allclose(logits(model, longer), logits(model, drawn), rtol=1e-5, atol=1e-6)


@by_features
@by_content
def test_what_stands_in_padded_slots_changes_nothing(
    content: tuple[ContentConfig, ...], features: dict[str, Any]
) -> None:
    model, drawn = ranker(*content, **features), batch()
    noise = torch.randint(1, 30, drawn.behaviours.shape, dtype=torch.int32)
    filled = drawn._replace(behaviours=torch.where(drawn.behaviour_mask, drawn.behaviours, noise))
    assert not torch.equal(filled.behaviours, drawn.behaviours)
    np.testing.assert_allclose(logits(model, filled), logits(model, drawn), rtol=1e-6, atol=1e-6)


@by_features
@by_content
def test_requests_together_are_requests_alone(
    content: tuple[ContentConfig, ...], features: dict[str, Any]
) -> None:
    model, drawn = ranker(*content, **features), batch()
    together = logits(model, drawn)
    for b in range(3):
        one = Batch(drawn.rows, *(x[b : b + 1] for x in drawn[1:]))
        np.testing.assert_allclose(logits(model, one), together[b : b + 1], rtol=1e-5, atol=1e-6)
    for n in range(4):
        one = drawn._replace(candidates=drawn.candidates[:, n : n + 1])
        np.testing.assert_allclose(logits(model, one), together[:, n : n + 1], rtol=1e-5, atol=1e-6)


@by_features
@by_content
def test_the_order_of_rows_means_nothing(
    content: tuple[ContentConfig, ...], features: dict[str, Any]
) -> None:
    model, drawn = ranker(*content, **features), batch()
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(29)])
    place = torch.argsort(order).int()
    moved = Batch(
        type(drawn.rows)(*(x[order] for x in drawn.rows if x is not None)),
        place[drawn.candidates],
        place[drawn.behaviours],
        *drawn[3:],
    )
    np.testing.assert_allclose(logits(model, moved), logits(model, drawn), rtol=1e-5, atol=1e-6)


@by_content
def test_a_missing_modality_is_not_read(content: tuple[ContentConfig, ...]) -> None:
    """Codes behind inv_norm = 0 may hold anything."""
    model, drawn = ranker(*content), batch()
    missing = (drawn.rows.inv_norm == 0).repeat_interleave(12, dim=1)
    other = torch.where(missing, -drawn.rows.codes, drawn.rows.codes)
    assert not torch.equal(other, drawn.rows.codes)
    changed = drawn._replace(rows=drawn.rows._replace(codes=other))
    np.testing.assert_array_equal(logits(model, changed), logits(model, drawn))
    nothing = drawn._replace(rows=drawn.rows._replace(inv_norm=torch.zeros_like(drawn.rows.inv_norm)))
    assert np.isfinite(logits(model, nothing)).all()


def test_every_input_that_is_read_counts() -> None:
    """What a ranker declares to read moves its logits; what it does not declare may be anything."""
    drawn = batch(requests=6)
    model, plain = ranker(QueryConfig(), **FEATURES), ranker()
    before, untouched = logits(model, drawn), logits(plain, drawn)
    for name in ("gaps", "context", "context_values", "query_codes", "query_inv_norm"):
        changed = drawn._replace(**{name: getattr(drawn, name) * 0 + (name == "query_codes")})
        assert np.abs(logits(model, changed) - before).max() > 1e-4, name
        np.testing.assert_array_equal(logits(plain, changed), untouched)
    for name in ("id_evidence", "attribute_values"):
        changed = drawn._replace(rows=drawn.rows._replace(**{name: getattr(drawn.rows, name) * 0.5}))
        assert np.abs(logits(model, changed) - before).max() > 1e-4, name
        np.testing.assert_array_equal(logits(plain, changed), untouched)
    assert set(model.config.inputs) == {*REQUIRED_INPUTS, *OPTIONAL_INPUTS}
    assert plain.config.inputs == REQUIRED_INPUTS
    asked = drawn.requests
    for name, without in (
        ("gaps", asked._replace(gaps=None)),
        ("context", asked._replace(context=None)),
        ("query_codes", asked._replace(query_codes=None)),
    ):
        with pytest.raises(InvalidInput, match=f"{name}: must be given"):
            model(drawn.rows, without)


@by_content
def test_histories_count(content: tuple[ContentConfig, ...]) -> None:
    """The newest behaviour of a full history matters, so invariances above are not for want of reading."""
    model, drawn = ranker(*content), batch()
    changed = drawn._replace(behaviours=drawn.behaviours.clone())
    changed.behaviours[2, -1] = 1 + drawn.behaviours[2, -1] % 29
    difference = np.abs(logits(model, changed) - logits(model, drawn))
    assert difference[2].max() > 1e-5
    assert difference[:2].max() == 0


@by_features
@by_content
def test_gradients_are_finite_with_empty_histories(
    content: tuple[ContentConfig, ...], features: dict[str, Any]
) -> None:
    model = ranker(*content, **features).train()
    drawn = batch()
    empty = drawn._replace(
        behaviours=torch.zeros_like(drawn.behaviours), behaviour_mask=torch.zeros_like(drawn.behaviour_mask)
    )
    bare = empty._replace(rows=empty.rows._replace(inv_norm=torch.zeros_like(drawn.rows.inv_norm)))
    for case in (drawn, empty, bare):
        case.rows.id_vectors.requires_grad_()
        model.zero_grad()
        output = model(case.rows, case.requests)
        loss = (
            masked_bce(output.logit, torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bool)) + output.auxiliary
        )
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert len(gradients) > 5
        assert all(bool(torch.isfinite(g).all()) for g in gradients)
        assert case.rows.id_vectors.grad is not None
        assert bool(torch.isfinite(case.rows.id_vectors.grad).all())


@by_features
@by_content
def test_every_parameter_learns(content: tuple[ContentConfig, ...], features: dict[str, Any]) -> None:
    model = ranker(*content, **features).train()
    drawn = batch(rows=200, requests=20, candidates=6, behaviours=T_MAX)
    output = model(drawn.rows, drawn.requests)
    (output.logit.square().sum() + output.auxiliary).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert still == []


def test_a_history_longer_than_the_tables_is_refused() -> None:
    with pytest.raises(InvalidInput, match=rf"behaviours: T must be 1 to {T_MAX} \(got {T_MAX + 1}\)"):
        logits(ranker(), batch(behaviours=T_MAX + 1))


@by_features
@by_content
def test_a_config_survives_json(content: tuple[ContentConfig, ...], features: dict[str, Any]) -> None:
    config = ranker(*content, **features).config
    again = RankerConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert list(Ranker(again).state_dict()) == list(Ranker(config).state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"id_interest": "bst"},
            r"ranker\.id_interest: must be one of none, mean, din, din_position \(got 'bst'\)",
        ),
        ({"depth": 3}, r"ranker\.depth: is unknown"),
        ({"hidden": []}, r"ranker\.hidden: must be positive sizes"),
        ({"hidden": [200, "80"]}, r"ranker\.hidden\[1\]: must be int \(got '80'\)"),
        ({"id_dim": True}, r"ranker\.id_dim: must be int"),
        ({"attributes": {"slots": [0], "rows": 3}}, r"attributes\.slots"),
        (
            {"modalities": [{"name": "text", "start": 4, "dim": 8}]},
            r"ranker\.modalities\.text\.start: must be 0",
        ),
        ({"content": [{"kind": "moe"}]}, r"ranker\.content\[0\]\.kind: must be one of ciubm, dmae"),
        ({"content": [{"kind": "dmae", "dim": 7}]}, r"dmae\.dim: must be even"),
        (
            {"content": [{"kind": "dmae", "calibration": [[1.0]]}]},
            r"content\[0\]\.calibration\[0\]: must have 2",
        ),
        ({"content": [{"kind": "ciubm", "modality": "sound"}]}, r"ranker\.content\[0\]: is not one of"),
        ({"content": 3}, r"ranker\.content: must be a list"),
    ],
)
def test_a_wrong_document_names_the_field(change: dict[str, object], message: str) -> None:
    document = ranker(DMAE).config.to_dict() | change
    with pytest.raises(InvalidInput, match=message):
        RankerConfig.from_dict(document)


def test_the_four_builders_build_what_they_say() -> None:
    assert builders.din(MODALITIES, ATTRIBUTES).id_interest == "din"
    for build in (builders.din_position, builders.ciubm, builders.dmae):
        assert build(MODALITIES, ATTRIBUTES).id_interest == "din_position"
    kinds = [[type(c) for c in b(MODALITIES, ATTRIBUTES).content] for b in (builders.ciubm, builders.dmae)]
    assert kinds == [[CiubmConfig], [DmaeConfig]]
    chosen = DmaeConfig(without_mifu=True)
    assert builders.dmae(MODALITIES, ATTRIBUTES, content=chosen).content == (chosen,)
    for build in (builders.din, builders.din_position, builders.ciubm, builders.dmae):
        config = build(MODALITIES, ATTRIBUTES, id_dim=4, history_length=T_MAX)
        assert logits(Ranker(config).eval(), batch()).shape == (3, 4)
