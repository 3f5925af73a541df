from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from contracts.errors import InvalidInput
from tests.training.models import equations as eq
from tests.training.models.drawn import DIM, T_MAX, Batch, array, batch, layers, ranker, run, spread, view_of
from training.losses import Decoder, decoding_divergence
from training.models.dmae import Dmae, DmaeConfig
from training.models.iddu import Iddu, interest_distribution
from training.models.mieu import Mieu
from training.models.mifu import CrossModal, IntraModal, Tokens


def config(**changes: Any) -> DmaeConfig:
    plain: dict[str, Any] = {
        "dim": 8,
        "buckets": 20,
        "window_radius": 3,
        "mask_ratio": 0.0,
        "intervals": 5,
        "regions": 4,
    }
    return DmaeConfig(**(plain | changes))


def mieu_weights(module: Mieu) -> eq.MieuWeights:
    embeds = module.similarity_embedding
    return eq.MieuWeights(
        w=float(module.scale.detach()) if embeds else 1.0,
        b=float(module.shift.detach()) if embeds else 0.0,
        buckets=array(module.buckets),
        w1=array(module.w1.weight),
        b1=array(module.w1.bias),
        w2=array(module.w2.weight),
        b2=array(module.w2.bias),
        position=array(module.position),
    )


def attention(module: IntraModal | CrossModal) -> eq.Attention:
    return eq.Attention(*(array(w.weight) for w in (module.w_q, module.w_k, module.w_v)))


class Pair:
    """One candidate and one history, by the equations: r, mask, MIEU's and MIFU's tokens per modality."""

    def __init__(self, module: Dmae, drawn: Batch, b: int, n: int) -> None:
        config = module.config
        codes, inv = drawn.rows.codes.numpy(), drawn.rows.inv_norm.numpy()
        history, target = drawn.behaviours.numpy()[b], int(drawn.candidates[b, n])
        t = len(history)
        self.ages = np.arange(t)[::-1].copy()
        self.r, self.masks, self.tokens = [], [], []
        for m in range(2):
            own = slice(m * DIM, (m + 1) * DIM)
            r = np.array(
                [eq.similarity(codes[target, own], codes[j, own], inv[target, m], inv[j, m]) for j in history]
            )
            mask = drawn.behaviour_mask.numpy()[b] & (inv[history, m] > 0) & (inv[target, m] > 0)
            weights = mieu_weights(module.mieu[m])  # type: ignore[arg-type]
            tokens = np.stack([self._encode(config, r[j], int(self.ages[j]), weights) for j in range(t)])
            if not config.without_mifu:
                tokens = eq.window(
                    tokens,
                    mask,
                    attention(module.intra[m]),  # type: ignore[arg-type]
                    config.window_radius,
                    causal=config.causal,
                    residual=config.residual,
                )
            self.r.append(r)
            self.masks.append(mask)
            self.tokens.append(tokens)

    @staticmethod
    def _encode(config: DmaeConfig, r: np.float32, age: int, weights: eq.MieuWeights) -> eq.Array:
        if config.without_mieu_se:
            return eq.mieu_bucketing(r, age, weights)
        return eq.mieu(r, age, weights, config.base, config.sc_scale)

    def interests(self, module: Dmae) -> eq.Array:
        """r_*^m1 ⊕ r_*^m2."""
        means = [eq.mean(x, m) for x, m in zip(self.tokens, self.masks, strict=True)]
        if module.config.without_mifu:
            return np.concatenate(means)
        return np.concatenate(
            [
                eq.cross(means[1 - m], self.tokens[m], self.masks[m], attention(module.cross[m]))  # type: ignore[arg-type]
                for m in range(2)
            ]
        )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sc_scale": 1.0},  # the letter
        {"base": 10_000.0},
        {"causal": True},
        {"residual": True},
        {"share_positions": True},
        {"without_mieu_se": True},
        {"without_mifu": True},
        {"window_radius": 5, "dim": 10, "buckets": 50},
    ],
    ids=str,
)
def test_the_forward_pass_is_equations_1_to_9(changes: dict[str, Any]) -> None:
    model = ranker(config(**changes))
    module = model.content[0]
    assert isinstance(module, Dmae)
    drawn = batch(candidates=2)
    output = module(view_of(model, drawn))
    assert output.auxiliary is None
    got = array(output.features)
    assert np.abs(got).max() > 0.01
    for b in range(3):
        for n in range(2):
            wanted = Pair(module, drawn, b, n).interests(module)
            np.testing.assert_allclose(got[b, n], wanted, rtol=1e-5, atol=1e-5)


def test_the_window_reaches_over_blocks_and_no_further() -> None:
    """A behaviour at distance 3 changes a token, one at distance 4 does not, at every place in T = 40."""
    module = IntraModal(8, 3, residual=False, layernorm=False, causal=False)
    spread(module)
    mask = torch.ones(1, T_MAX, dtype=torch.bool)
    tokens = torch.randn(1, T_MAX, 8)
    before = module(tokens, mask).raw
    for j in range(T_MAX):
        changed = tokens.clone()
        changed[0, j] += 1.0
        moved = (module(changed, mask).raw - before).abs().amax(2)[0] > 1e-6
        assert np.flatnonzero(moved.numpy()).tolist() == [i for i in range(T_MAX) if abs(i - j) <= 3]


def test_causal_reads_only_older_behaviours() -> None:
    module = IntraModal(8, 3, residual=False, layernorm=False, causal=True)
    spread(module)
    mask = torch.ones(1, T_MAX, dtype=torch.bool)
    tokens = torch.randn(1, T_MAX, 8)
    before = module(tokens, mask).raw
    changed = tokens.clone()
    changed[0, 17] += 1.0
    moved = (module(changed, mask).raw - before).abs().amax(2)[0] > 1e-6
    assert np.flatnonzero(moved.numpy()).tolist() == [17, 18, 19, 20]


def test_layernorm_normalises_what_the_flag_says() -> None:
    module = IntraModal(8, 3, residual=True, layernorm=True, causal=False)
    mask = torch.ones(2, 12, dtype=torch.bool)
    out = module(torch.randn(2, 12, 8), mask)
    assert out.weight is None
    torch.testing.assert_close(out.raw.mean(2), torch.zeros(2, 12), atol=1e-5, rtol=0)
    plain = IntraModal(8, 3, residual=True, layernorm=False, causal=False)
    plain.load_state_dict(module.state_dict(), strict=False)
    torch.manual_seed(0)
    tokens = torch.randn(2, 12, 8)
    assert module.norm is not None
    torch.testing.assert_close(module(tokens, mask).raw, module.norm(plain(tokens, mask).raw))


@pytest.mark.parametrize("decoder", ["gkl", "bce", "softmax", "literal"])
@pytest.mark.parametrize("without_time", [False, True])
def test_the_decoding_loss_is_equations_10_to_13(decoder: Decoder, without_time: bool) -> None:
    model = ranker(config(decoder=decoder, without_mieu_t=without_time, lambda_dec=0.7))
    module = model.content[0]
    assert isinstance(module, Dmae)
    drawn = batch(candidates=2)
    model.train()
    got = module(view_of(model, drawn)).auxiliary
    assert got is not None
    total = 0.0
    for m in range(2):
        iddu = module.iddu[m]
        assert isinstance(iddu, Iddu)
        losses = []
        for b in range(3):
            for n in range(2):
                pair = Pair(module, drawn, b, n)
                if not pair.masks[m].any():
                    continue
                p = eq.distribution(pair.r[m], pair.ages, pair.masks[m], 5, 1 if without_time else 4, T_MAX)
                np.testing.assert_allclose(p.sum(), 1)
                decoded = eq.mlp(eq.mean(pair.tokens[m], pair.masks[m]), layers(iddu.mlp))
                losses.append(eq.divergence(p, decoded, decoder))
        total += float(np.mean(losses))
    np.testing.assert_allclose(float(got.detach()), 0.7 * total, rtol=1e-5)


def test_random_masking_keeps_at_least_one_valid_token() -> None:
    """With nearly everything masked out the decoder sees the mean of very few tokens, never of none."""
    torch.manual_seed(0)
    iddu = Iddu(4, 6, 10, mask_ratio=0.999999, decoder="gkl")
    raw = torch.randn(1, 6, 4)
    mask = torch.tensor([[False, False, True, True, True, True]])
    target = torch.full((1, 10), 0.1)
    alone = {
        round(float(decoding_divergence(target, iddu.mlp(raw[:, j]), "gkl").detach()), 4): j for j in range(6)
    }
    kept = {alone[round(float(iddu(Tokens(raw, None, mask), target).detach()), 4)] for _ in range(40)}
    assert kept == {2, 3, 4, 5}


def test_the_decoder_is_not_evaluated_in_eval_mode() -> None:
    model = ranker(config())
    drawn = batch()
    assert float(run(model, drawn).auxiliary.detach()) == 0.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "iddu" in name:
                parameter.fill_(float("nan"))
    assert torch.isfinite(run(model, drawn).logit).all()
    assert torch.isnan(run(model.train(), drawn).auxiliary)


def test_without_iddu_has_no_decoder() -> None:
    model = ranker(config(without_iddu=True)).train()
    assert not [name for name, _ in model.named_parameters() if "iddu" in name]
    assert float(run(model, batch()).auxiliary.detach()) == 0.0


def test_a_shared_position_table_is_one_parameter() -> None:
    tables = [m.position for m in ranker(config(share_positions=True)).modules() if isinstance(m, Mieu)]
    assert tables[0] is tables[1]
    apart = [m.position for m in ranker(config()).modules() if isinstance(m, Mieu)]
    assert apart[0] is not apart[1]


def test_calibration_spreads_a_narrow_range_over_the_buckets() -> None:
    plain, spread_out = (ranker(config(calibration=c)) for c in ((), ((4.0, -3.0), (1.0, 0.0))))
    view = view_of(plain, batch())
    narrow = 0.8 + 0.2 * torch.rand_like(view.content["text"].cosine)  # cosines of an anisotropic encoder
    narrow_view = view._replace(
        content={**view.content, "text": view.content["text"]._replace(cosine=narrow)}
    )
    wide = 2 * (((narrow + 1) / 2) * 4 - 3).clamp(0, 1) - 1
    wide_view = view._replace(content={**view.content, "text": view.content["text"]._replace(cosine=wide)})
    a, b = spread_out.content[0](narrow_view).features, plain.content[0](wide_view).features
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(a, plain.content[0](narrow_view).features, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"modalities": ("text", "text")}, "dmae.modalities"),
        ({"dim": 7}, "dmae.dim"),
        ({"buckets": 1}, "dmae.buckets"),
        ({"mask_ratio": 1.0}, "dmae.mask_ratio"),
        ({"regions": 0}, "dmae.regions"),
        ({"decoder": "kl"}, "dmae.decoder"),
        ({"calibration": ((1.0, 0.0),)}, "dmae.calibration"),
        ({"window_radius": -1}, "dmae.window_radius"),
    ],
)
def test_a_wrong_number_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match=field.replace(".", r"\.")):
        DmaeConfig(**changes)


def test_interest_distribution_edges() -> None:
    """r = 0 is in the first interval, 1/n too, just above it in the second; r = 1 in the last."""
    r = np.array([0.0, 0.2, np.nextafter(np.float32(0.2), 1, dtype=np.float32), 1.0], dtype=np.float32)
    ages: npt.NDArray[np.int64] = np.array([39, 10, 9, 0])
    p = eq.distribution(r, ages, np.ones(4, dtype=bool), 5, 4, T_MAX)
    assert [(i, j) for i, j in zip(*np.nonzero(p), strict=True)] == [(0, 1), (0, 4), (1, 0), (3, 0)]
    got = interest_distribution(
        torch.from_numpy(r)[None, None],
        torch.ones(1, 1, 4, dtype=torch.bool),
        torch.from_numpy(ages),
        intervals=5,
        regions=4,
        history_length=T_MAX,
    )
    np.testing.assert_allclose(array(got)[0, 0], p.reshape(-1))
