"""Products of tokens with weights in full precision: oneDNN's, where torch has them.

On x86 torch's float32 matmul is MKL's, which leaves the AVX-512 units of AMD's processors idle; oneDNN uses
them and applies bias and ReLU while a block is in registers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_FAST: bool = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def written_out(tensor: Tensor) -> bool:
    """Whether hand-written functions run: not in an exported graph, nor under autocast, whose half-precision
    products are oneDNN's anyway.
    """
    return not torch.compiler.is_compiling() and not torch.is_autocast_enabled(tensor.device.type)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """x weight^T + bias, ReLU of it where asked: (M, a), (b, a), (b,) of one dtype -> (M, b). No gradient."""
    if _FAST and x.device.type == "cpu" and x.dtype == torch.float32:
        x, weight = x.contiguous(), weight.contiguous()  # strides end in a loop a thousand times slower
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")
        return out
    out = F.linear(x, weight, bias)
    return out.relu_() if relu else out


def masked_(gradient: Tensor, activated: Tensor) -> Tensor:
    """The gradient before a ReLU whose output was `activated`."""
    out: Tensor = torch.ops.aten.threshold_backward(gradient, activated, 0)
    return out


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """`product` with a gradient: (..., a) -> (..., b)."""
    if not written_out(x):
        plain = F.linear(x, weight, bias)
        return plain.relu_() if relu else plain
    flat = x.reshape(-1, x.shape[-1])
    out: Tensor = _Dense.apply(flat, weight, bias, relu)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], weight.shape[0])


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        out = product(x, weight, bias, relu=relu)
        ctx.save_for_backward(x, weight, out if relu else None)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        x, weight, out = ctx.saved_tensors
        g = gradient if out is None else masked_(gradient, out)
        dx = product(g, weight.t(), None) if ctx.needs_input_grad[0] else None
        return dx, torch.mm(g.t(), x), g.sum(0) if ctx.needs_input_grad[2] else None, None
