"""The fast float32 linear layer for processors on which torch's own is slow.

torch's `F.linear` goes to MKL, which on some processors takes a narrower code path than oneDNN does; there the same float32
product is up to twice as fast through oneDNN. The way in is a private operator of torch, so it is probed once at first use:
it must exist, give the right result and be faster on this machine. Otherwise every function here is plain torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROBE_SHAPES = ((1024, 384, 1536), (1024, 1536, 384), (512, 768, 768))
"""(rows, in features, out features) of the matrices that the probe times: those of small and base encoders."""


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x @ weight.T + bias` by oneDNN; `x` is `(..., in)`, `weight` `(out, in)`, the result `(..., out)`."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    """The linear layer and its two gradients, each one oneDNN product in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)  # (rows, out)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_x = onednn_linear(grad, weight.t(), None).view_as(x) if needs_x else None
        grad_weight = onednn_linear(grad.t(), x.flatten(0, -2).t(), None) if needs_weight else None
        return grad_x, grad_weight, grad.sum(0) if needs_bias else None


def _best_seconds(*runs: Callable[[], object], repeats: int = 9) -> list[float]:
    """Run each in turn, several times; return the least seconds of each, which other programs disturb least."""
    seconds = [math.inf] * len(runs)
    for _ in range(repeats):
        for index, run in enumerate(runs):
            start = time.perf_counter()
            run()
            seconds[index] = min(seconds[index], time.perf_counter() - start)
    return seconds


@cache
def onednn_is_faster(margin: float = 1.15) -> bool:
    """Return whether oneDNN's float32 linear exists here, is right, and beats torch's by `margin` on every probed shape.

    Measured once a process, in a few hundredths of a second.
    """
    generator = torch.Generator().manual_seed(0)
    try:
        for rows, inputs, outputs in PROBE_SHAPES:
            x = torch.randn(rows, inputs, generator=generator)
            weight = torch.randn(outputs, inputs, generator=generator)
            bias = torch.randn(outputs, generator=generator)
            plain, fast = partial(F.linear, x, weight, bias), partial(onednn_linear, x, weight, bias)
            with torch.no_grad():
                if not torch.allclose(fast(), plain(), rtol=1e-4, atol=1e-3):
                    return False
                plain_seconds, fast_seconds = _best_seconds(plain, fast)
            if fast_seconds * margin > plain_seconds:
                return False
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True


class FastLinear(nn.Linear):
    """`nn.Linear` whose float32 product on a CPU goes to the faster of torch and oneDNN; same parameters, same names."""

    def forward(self, input: Tensor) -> Tensor:
        plain_float32 = input.dtype == torch.float32 == self.weight.dtype and not torch.is_autocast_enabled("cpu")
        if not (input.device.type == "cpu" and plain_float32 and input.dim() > 1 and onednn_is_faster()):
            return super().forward(input)
        if torch.is_grad_enabled():
            return _OneDnnLinear.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return onednn_linear(input, self.weight, self.bias)


def use_fast_linear(module: nn.Module) -> nn.Module:
    """Turn every plain `nn.Linear` inside `module` into a `FastLinear`, in place; parameters and names stay.

    Subclasses of `nn.Linear` (quantised or adapted layers) are left alone.
    """
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = FastLinear
    return module
