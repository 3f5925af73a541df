"""One piece of training under a seed and a number of threads, leaving torch's own as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, threads: int) -> Iterator[None]:
    """Within: torch's generator starts at `seed` and an operation may use `threads` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
