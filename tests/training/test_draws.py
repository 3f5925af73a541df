from __future__ import annotations

import torch

from training.draws import derive, stream, uniform

_ALL = 2**64 - 1


def splitmix(key: int, counter: int) -> int:
    """Steele, Lea and Flood 2014, in Python's integers."""
    z = (key + counter * 0x9E3779B97F4A7C15) & _ALL
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _ALL
    return z ^ (z >> 31)


def test_a_derived_key_is_that_of_splitmix64() -> None:
    for key in (0, 1, -1, stream(3, 7, "id")):
        counters = [0, 1, 2, 63, 1 << 32, (1 << 32) + 5]
        got = derive(key, torch.tensor(counters)).tolist()
        assert [g & _ALL for g in got] == [splitmix(key, c) for c in counters]


def test_a_draw_does_not_depend_on_its_neighbours() -> None:
    keys = derive(stream(0, 5, "candidate"), torch.arange(6))
    whole = uniform(derive(keys.unsqueeze(1), torch.arange(9)))
    part = uniform(derive(keys[[4, 2]].unsqueeze(1), torch.arange(8, 2, -1)))
    assert torch.equal(part, whole[[4, 2]][:, 3:].flip(1))


def test_seeds_steps_and_purposes_draw_apart() -> None:
    counter = torch.arange(64)
    drawn = {
        tuple(derive(stream(*s), counter).tolist())
        for s in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))
    }
    assert len(drawn) == 4


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = uniform(derive(derive(stream(0, 0, "x"), torch.arange(2000)).unsqueeze(1), torch.arange(50)))
    assert ((draws >= 0) & (draws < 1)).all()
    counts = torch.histc(draws, 100, 0, 1)
    expected = draws.numel() / 100
    assert float(((counts - expected) ** 2 / expected).sum()) < 160  # chi squared of 99: mean 99, sigma 14
    for axis in (draws, draws.t()):
        moved = torch.corrcoef(torch.stack([axis[:, :-1].flatten(), axis[:, 1:].flatten()]))[0, 1]
        assert abs(float(moved)) < 0.015
