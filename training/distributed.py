"""The processes that train one ranker together, under torchrun: what each takes, and what they sum.

Every rank holds the same weights and the same ID table and takes its share of every batch. Gradients are
summed over ranks, so every rank makes the same update; a mean over a batch is a sum that each rank divides
by the whole batch's count. Sums are made in the order of ranks wherever rows meet, and by gloo's or NCCL's
all-reduce elsewhere: the same number of ranks gives the same bits again.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch import distributed as dist

from contracts.errors import Conflict, InvalidInput, Unavailable
from training.models.iddu import Iddu

_LEAVING_S = 10.0
TIMEOUT_S = 600.0  # that a rank waits for another: longer than any validation or checkpoint takes


class RankLost(Unavailable):
    """Another process of the run is gone or does not answer. Start the run again: it goes on from its
    checkpoint."""

    def __init__(self, rank: int, reason: str) -> None:
        super().__init__(f"rank {rank}: another rank of the run is gone ({reason})")


@dataclass(frozen=True, eq=False)
class Ranks:
    """rank: this process among `count`. Alone, every method gives back what it got."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank writes files and speaks to people."""
        return self.rank == 0

    def share(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """This rank's contiguous part; sizes differ by one at most, and one may be empty."""
        return chosen if self.count == 1 else np.array_split(chosen, self.count)[self.rank]

    def total(self, value: Tensor) -> Tensor:
        """The sum over ranks, on every rank, without a gradient."""
        if self.count == 1:
            return value
        out = value.detach().clone()
        with self._named():
            dist.all_reduce(out)
        return out

    def sum_gradients(self, parameters: Sequence[nn.Parameter], values: Tensor) -> Tensor:
        """Sum the parameters' gradients in place -> `values` (V,) float32 summed too, in one all-reduce."""
        if self.count == 1:
            return values.detach()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.total(torch.cat([*(g.reshape(-1) for g in gradients), values.detach()]))
        at = 0
        for parameter in parameters:
            parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()
        return flat[at:]

    def sum_rows(self, rows: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that any rank touched, ascending, and the sum of their gradients.

        rows: (K,) int64, distinct and ascending, K differs by rank; gradient: (K, d) -> (U,), (U, d).
        """
        if self.count == 1:
            return rows, gradient
        parts = self._gather(rows, gradient)
        union, place = torch.unique(torch.cat([r for r, _ in parts]), return_inverse=True)
        summed = gradient.new_zeros(len(union), gradient.shape[1])
        places = place.split([len(r) for r, _ in parts])
        for at, (_, part) in zip(places, parts, strict=True):
            summed[at] += part  # one rank's rows are distinct; ranks add one after the other
        return union, summed

    def concatenate(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The ranks' arrays (K, …), one behind the other in the order of ranks, on every rank."""
        if self.count == 1:
            return values
        given = torch.from_numpy(np.ascontiguousarray(values)).to(_device())
        return torch.cat([part for (part,) in self._gather(given)]).cpu().numpy()

    def agree(self, what: bytes) -> None:
        """Conflict where some rank gives other bytes: it has other data, settings or another checkpoint."""
        if self.count == 1:
            return
        digest = int.from_bytes(hashlib.blake2b(what, digest_size=8).digest(), "little", signed=True)
        mine = torch.tensor([digest], device=_device())
        different = [r for r, (theirs,) in enumerate(self._gather(mine)) if not torch.equal(theirs, mine)]
        if different:
            _leave_together()
            raise Conflict(
                f"rank {self.rank} starts from other data, settings or another checkpoint than ranks "
                f"{different}: all need the same files"
            )

    @contextmanager
    def counting(self, model: nn.Module) -> Iterator[None]:
        """Within: the means inside the model's own losses are over the pairs of all ranks."""
        decoders = [module for module in model.modules() if isinstance(module, Iddu)]
        before = [decoder.total for decoder in decoders]
        for decoder in decoders:
            decoder.total = self.total
        try:
            yield
        finally:
            for decoder, total in zip(decoders, before, strict=True):
                decoder.total = total

    def _gather(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        """Tensors (K, …) of one K -> those of every rank, padded on the way to the largest K."""
        size = torch.tensor([len(tensors[0])], device=tensors[0].device)
        sizes = [torch.zeros_like(size) for _ in range(self.count)]
        with self._named():
            dist.all_gather(sizes, size)
            counts = [int(s) for s in sizes]
            columns = []
            for tensor in tensors:
                padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
                padded[: len(tensor)] = tensor
                out = [torch.empty_like(padded) for _ in counts]
                dist.all_gather(out, padded)
                columns.append([part[:n] for part, n in zip(out, counts, strict=True)])
        return list(zip(*columns, strict=True))

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what torch raises for a closed connection or a timeout
            raise RankLost(self.rank, str(error).splitlines()[0]) from error


ALONE = Ranks()


@contextmanager
def joined_ranks(device: str = "cpu", timeout_s: float = TIMEOUT_S) -> Iterator[Ranks]:
    """The ranks that torchrun started, over gloo ("cpu") or NCCL ("cuda", one device per local rank).

    ALONE where torchrun did not start this process.
    """
    if device not in ("cpu", "cuda"):
        raise InvalidInput("device", device, "must be cpu or cuda")
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    if device == "cuda":
        torch.cuda.set_device(dist.get_node_local_rank())
    backend = "nccl" if device == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_s))
    except RuntimeError as error:
        raise Unavailable(f"the ranks of the run do not meet: {str(error).splitlines()[0]}") from error
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _leave_together() -> None:
    """Wait until every rank has read what it was sent: closing a connection earlier would abort others."""
    if dist.get_backend() == "gloo":
        with suppress(RuntimeError):
            dist.monitored_barrier(timeout=datetime.timedelta(seconds=_LEAVING_S))


def _device() -> torch.device:
    cuda = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
