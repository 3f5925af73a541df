from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from contracts.errors import InvalidInput
from training.losses import CsftLoss, Decoder, InfoNce, decoding_divergence, masked_bce


def test_masked_bce_is_the_mean_over_candidates_that_count() -> None:
    logit = torch.tensor([[2.0, -1.0, 80.0], [0.5, float("inf"), -3.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    p = 1 / (1 + np.exp(-np.array([2.0, -1.0, 0.5])))
    wanted = -np.mean([np.log(p[0]), np.log(1 - p[1]), np.log(1 - p[2])])
    assert float(masked_bce(logit, labels, mask)) == pytest.approx(wanted, rel=1e-6)
    assert float(masked_bce(logit, labels, torch.zeros(2, 3, dtype=torch.bool))) == 0.0


P = torch.tensor([[0.5, 0.25, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0]])


def fitted(decoder: Decoder) -> torch.Tensor:
    """The decoded distribution that gradient descent ends at."""
    logits = torch.zeros(2, 4, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(600):
        optimiser.zero_grad()
        torch.autograd.backward(decoding_divergence(P, logits, decoder).sum())
        optimiser.step()
    return logits.detach()


@pytest.mark.parametrize("decoder", ["gkl", "bce", "softmax"])
def test_a_repaired_divergence_is_least_at_q_equal_p(decoder: Decoder) -> None:
    logits = fitted(decoder)
    q = logits.softmax(1) if decoder == "softmax" else logits.sigmoid()
    torch.testing.assert_close(q, P, atol=2e-2, rtol=0)
    assert float(decoding_divergence(P, logits, decoder).max()) < 0.05
    least = float(decoding_divergence(P, logits, decoder)[0])
    for cell in range(3):
        for shift in (-1.0, 1.0):
            nudged = logits.clone()
            nudged[0, cell] += shift
            assert float(decoding_divergence(P, nudged, decoder)[0]) > least + 1e-3


def test_the_printed_divergence_collapses_to_q_equal_one() -> None:
    """Eq 13 with independent sigmoids: the more, the better, in every cell, whatever p is."""
    logits = fitted("literal")
    assert bool((logits.sigmoid()[P > 0] > 0.99).all())
    at_p = torch.logit(P.clamp(1e-6, 1 - 1e-6))
    at_one = torch.full_like(P, 20.0)
    collapsed = decoding_divergence(P, at_one, "literal")
    assert bool((collapsed <= decoding_divergence(P, at_p, "literal") + 1e-5).all())
    assert float(collapsed[0]) < -1.0  # a divergence is never below the 0 that it has at q = p
    repaired = decoding_divergence(P, at_one, "gkl")
    assert bool((repaired > decoding_divergence(P, at_p, "gkl") + 1.0).all())


def test_the_decoder_sends_no_gradient_to_the_distribution() -> None:
    p = P.clone().requires_grad_()
    logits = torch.zeros(2, 4, requires_grad=True)
    torch.autograd.backward(decoding_divergence(p, logits, "gkl").sum())
    assert p.grad is None
    assert logits.grad is not None
    with pytest.raises(InvalidInput, match=r"decoder.*'kl'"):
        decoding_divergence(P, logits, "kl")  # type: ignore[arg-type]


def info_nce(
    q: np.ndarray, x: np.ndarray, tau: float, hidden: np.ndarray, extra: np.ndarray | None = None
) -> list[float]:
    """Eq 5 pair by pair; hidden[i, j]: item j is no negative of pair i."""
    items = x if extra is None else np.concatenate([x, extra])
    out = []
    for i in range(len(q)):
        sims = [q[i] @ y / (np.linalg.norm(q[i]) * np.linalg.norm(y)) / tau for y in items]
        kept = [s for j, s in enumerate(sims) if j == i or not hidden[i, j]]
        out.append(float(np.log(np.exp(kept).sum()) - sims[i]))
    return out


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_info_nce_is_equation_5_with_a_temperature() -> None:
    q, x, extra = drawn(6, 5, seed=0), drawn(6, 5, seed=1), drawn(3, 5, seed=2)
    keys = torch.tensor([7, 8, 7, 9, 10, 11])  # pairs 0 and 2 bought the same item
    query_keys = torch.tensor([1, 2, 3, 2, 4, 5])  # pairs 1 and 3 come from the same query
    extra_keys = torch.tensor([11, 50, 51])
    loss = InfoNce(0.2)
    assert float(loss.temperature.detach()) == pytest.approx(0.2)
    hidden = (keys[:, None] == keys[None]).numpy()
    got = float(loss(q, x, keys).detach())
    assert got == pytest.approx(np.mean(info_nce(q.numpy(), x.numpy(), 0.2, hidden)), rel=1e-5)
    hidden = hidden | (query_keys[:, None] == query_keys[None]).numpy()
    hidden = np.concatenate([hidden, (keys[:, None] == extra_keys[None]).numpy()], axis=1)
    got = float(loss(q, x, keys, query_keys=query_keys, negatives=extra, negative_keys=extra_keys).detach())
    wanted = np.mean(info_nce(q.numpy(), x.numpy(), 0.2, hidden, extra.numpy()))
    assert got == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(InvalidInput, match="negative_keys"):
        loss(q, x, keys, negatives=extra)


def test_a_pair_without_the_vector_neither_pulls_nor_pushes() -> None:
    q, x = drawn(5, 4, seed=3), drawn(5, 4, seed=4)
    x[2] = 0
    present = torch.tensor([True, True, False, True, True])
    keys = torch.arange(5)
    loss = InfoNce()
    kept = present.nonzero().squeeze(1)
    torch.testing.assert_close(loss(q, x, keys, present=present), loss(q[kept], x[kept], keys[kept]))
    x.requires_grad_()
    none = loss(q, x, keys, present=torch.zeros(5, dtype=torch.bool))
    none.backward()
    assert float(none.detach()) == 0.0
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_the_temperature_learns_and_stays_above_its_floor() -> None:
    loss = InfoNce(0.07, floor=0.01)
    q = F.normalize(drawn(8, 6, seed=5), dim=1)
    optimiser = torch.optim.SGD(loss.parameters(), lr=5.0)
    before = float(loss.temperature.detach())
    for _ in range(200):  # perfect pairs: the colder the better
        optimiser.zero_grad()
        loss(q, q, torch.arange(8)).backward()
        optimiser.step()
    assert 0.01 <= float(loss.temperature.detach()) < before
    with pytest.raises(InvalidInput, match="temperature"):
        InfoNce(0.005)


def test_csft_is_the_weighted_sum_of_equation_6() -> None:
    q, fused, text, image = (drawn(6, 5, seed=s) for s in range(4))
    extra = (drawn(2, 5, seed=9), drawn(2, 5, seed=10), drawn(2, 5, seed=11))
    keys, extra_keys = torch.arange(6), torch.tensor([3, 77])
    loss = CsftLoss(w_txt=0.25, w_img=0.75, temperature=0.1)
    present = torch.tensor([True, False, True, True, True, True])

    def level(x: torch.Tensor, more: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        out: torch.Tensor = InfoNce(0.1)(q, x, keys, present=kept, negatives=more, negative_keys=extra_keys)
        return out

    wanted = level(fused, extra[0]) + 0.25 * level(text, extra[1], present) + 0.75 * level(image, extra[2])
    got = loss(q, fused, text, image, keys, text_present=present, negatives=extra, negative_keys=extra_keys)
    torch.testing.assert_close(got, wanted)
    assert len(list(loss.parameters())) == 3
    alone = CsftLoss(w_txt=0.0, w_img=0.0, temperature=0.1)(q, fused, text, image, keys)
    torch.testing.assert_close(alone, InfoNce(0.1)(q, fused, keys))
