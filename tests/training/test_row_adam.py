from __future__ import annotations

import torch
from torch.nn import functional as F

from training.row_adam import RowAdam


def test_the_update_is_that_of_sparse_adam() -> None:
    torch.manual_seed(0)
    start = torch.randn(50, 4)
    theirs = start.clone().requires_grad_()
    sparse = torch.optim.SparseAdam([theirs], lr=0.02)
    ours = RowAdam(start.clone())
    for _ in range(20):
        rows = torch.randperm(50)[:9]
        target = torch.randn(9, 4)
        sparse.zero_grad()
        ((F.embedding(rows, theirs, sparse=True) - target) ** 2).sum().backward()  # type: ignore[no-untyped-call]
        sparse.step()  # type: ignore[no-untyped-call]
        vectors = ours.table[rows].requires_grad_()
        ((vectors - target) ** 2).sum().backward()  # type: ignore[no-untyped-call]
        assert vectors.grad is not None
        ours.step(rows, vectors.grad, 0.02)
    assert torch.allclose(ours.table, theirs.detach(), atol=1e-6)
    assert not torch.equal(ours.table, start)


def test_rows_that_no_batch_touched_stay() -> None:
    start = torch.ones(5, 2)
    adam = RowAdam(start.clone())
    adam.step(torch.tensor([1, 3]), torch.ones(2, 2), 0.1)
    assert torch.equal(adam.table[[0, 2, 4]], start[[0, 2, 4]])
    assert (adam.table[[1, 3]] < start[[1, 3]]).all()
