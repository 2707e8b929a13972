"""The linear layer for processors on which torch's own is slow.

Two cases, both on CPUs. torch's float32 `F.linear` goes to MKL, which on AMD processors takes its AVX2 path even where
there is AVX-512; there the same product is up to twice as fast through oneDNN. The way in is a private operator of
torch, so it is probed once: it must exist, give the right result and be faster. And bfloat16 on a processor without
instructions for it is emulated, ten times slower than float32; there the product is computed in float32. Everywhere
else this is plain torch.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
    @once_differentiable  # the operator has no derivative of its own: a second one would be silently wrong
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)  # (rows, out)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_x = onednn_linear(grad, weight.t(), None).view_as(x) if needs_x else None
        grad_weight = onednn_linear(grad.t(), x.flatten(0, -2).t(), None) if needs_weight else None
        return grad_x, grad_weight, grad.sum(0) if needs_bias else None


@cache
def is_amd() -> bool:
    """Return whether the processor says that it is AMD's."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else platform.processor()
    return "AuthenticAMD" in text


@cache
def has_native_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 matrices itself (avx512_bf16, AMX, Arm's bf16)."""
    known = torch.cpu.get_capabilities()
    names = ("avx512_bf16", "amx_bf16", "amx_tile", "bf16", "sve_bf16", "avx10_2")
    return any(bool(known.get(name)) for name in names)


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
    """Return whether oneDNN's float32 linear exists here, is right and, on every shape, faster by `margin`.

    Only AMD processors with AVX-512 are probed, once a process, in a few hundredths of a second. Elsewhere there is
    nothing to gain, and a choice by the clock alone would make the last bits of a result depend on what else runs.
    """
    if not (is_amd() and torch.backends.cpu.get_cpu_capability() == "AVX512"):
        return False
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
    except (AttributeError, RuntimeError):
        return False
    return True


class FastLinear(nn.Linear):
    """`nn.Linear` that on a CPU takes the fastest exact way; same parameters, same names.

    float32 goes to the faster of torch and oneDNN. bfloat16, by dtype or by autocast, is multiplied in float32 where
    the processor would emulate it; what comes out is bfloat16 either way.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return `input @ weight.T + bias`, `(..., in)` -> `(..., out)`; oneDNN's is differentiable only once."""
        if input.device.type != "cpu":
            return super().forward(input)
        autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        if torch.bfloat16 in (autocast, self.weight.dtype) and not has_native_bfloat16():
            return self._in_float32(input)
        if autocast is not None or not input.dtype == self.weight.dtype == torch.float32:
            return super().forward(input)
        fits = input.dim() > 1 and input.shape[-1] == self.in_features and input.numel() > 0
        if not (fits and onednn_is_faster()):
            return super().forward(input)
        if torch.is_grad_enabled():
            return _OneDnnLinear.apply(input, self.weight, self.bias)
        return onednn_linear(input, self.weight, self.bias)

    def _in_float32(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast("cpu", enabled=False):
            return F.linear(input.float(), self.weight.float(), bias).to(torch.bfloat16)


def use_fast_linear(module: nn.Module) -> nn.Module:
    """Turn every plain `nn.Linear` inside `module` into a `FastLinear`, in place; parameters and names stay.

    Subclasses of `nn.Linear` (quantised or adapted layers) are left alone.
    """
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = FastLinear
    return module
