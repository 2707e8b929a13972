"""What makes a transformer fast on a CPU: linear layers through oneDNN, plain attention for short texts.

torch's float32 `F.linear` uses MKL, which on AMD processors takes its AVX2 path even with AVX-512; oneDNN is up to
twice as fast. bfloat16 on a processor without instructions for it is emulated, ten times slower than float32.

torch's fused attention works through texts and heads one by one: up to about 64 tokens the plain formula in a few
batched products is up to three times as fast, forward and backward.
"""

from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from timeit import timeit
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PROBE_SHAPES = ((1024, 384, 1536), (1024, 1536, 384), (512, 768, 768))
"""(rows, in features, out features) timed by the probe: those of small and base encoders."""
SHORT_ATTENTION, SHORT_TOKENS = "sbertlab_short", 64
"""Name of the attention in transformers, and the number of tokens up to which the plain formula is faster."""


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x @ weight.T + bias` by oneDNN; `x` is `(..., in)`, `weight` `(out, in)`, the result `(..., out)`."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    """The linear layer and its gradients, each one oneDNN product in float32."""

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
    """Return whether the processor is AMD's."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "AuthenticAMD" in cpuinfo.read_text(errors="replace")


@cache
def has_native_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16 matrices (avx512_bf16, AMX, Arm's bf16)."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16", "sve_bf16", "avx10_2"))


@cache
def onednn_is_faster(margin: float = 1.15) -> bool:
    """Return whether oneDNN's float32 linear exists, is right and, on every shape, faster by `margin`; probed once.

    Only on AMD with AVX-512: elsewhere a choice by the clock would make last bits depend on what else runs.
    """
    if not (is_amd() and torch.backends.cpu.get_cpu_capability() == "AVX512"):
        return False
    with suppress(AttributeError, RuntimeError):  # this torch has no such operator
        return all(_onednn_speed(*shape) >= margin for shape in PROBE_SHAPES)
    return False


@torch.no_grad()
def _onednn_speed(rows: int, inputs: int, outputs: int, repeats: int = 9) -> float:
    """Return how many times as fast as torch's product oneDNN's is, each at its best in turn; 0 if it is wrong."""
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, inputs), (outputs, inputs), (outputs,)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    ways: Any = F.linear, onednn_linear
    plain, fast = (way(x, weight, bias) for way in ways)
    if not torch.allclose(fast, plain, rtol=1e-4, atol=1e-3):
        return 0
    seconds = [[timeit(partial(way, x, weight, bias), number=1) for way in ways] for _ in range(repeats)]
    of_torch, of_onednn = map(min, zip(*seconds, strict=True))
    return of_torch / of_onednn


class FastLinear(nn.Linear):
    """`nn.Linear` through oneDNN where that is faster, bfloat16 in float32 where the processor would emulate it."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `input @ weight.T + bias`, `(..., in)` -> `(..., out)`."""
        autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        if input.is_cpu and torch.bfloat16 in (autocast, self.weight.dtype) and not has_native_bfloat16():
            bias = None if self.bias is None else self.bias.float()
            with torch.autocast("cpu", enabled=False):
                return F.linear(input.float(), self.weight.float(), bias).to(torch.bfloat16)
        single = autocast is None and input.dtype == self.weight.dtype == torch.float32
        fits = input.is_cpu and input.dim() > 1 and input.shape[-1] == self.in_features and input.numel() > 0
        if not (single and fits and onednn_is_faster()):
            return super().forward(input)
        linear = _OneDnnLinear.apply if torch.is_grad_enabled() else onednn_linear
        return linear(input, self.weight, self.bias)


def use_fast_linear(module: nn.Module) -> nn.Module:
    """Turn every plain `nn.Linear` in `module` (not its subclasses) into a `FastLinear`, in place."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = FastLinear
    return module


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Return `softmax(scaling * query key^T) value`: `(batch, heads, tokens, dim)` -> `(batch, tokens, heads, dim)`.

    `attention_mask` is bool `(batch, 1, tokens, tokens)`, True where a token may be read.
    """
    short = query.shape[2] <= SHORT_TOKENS and query.shape == key.shape and query.device.type == "cpu"
    plain = not getattr(module, "is_causal", True) and settings.get("position_bias") is None
    if not (short and plain and (attention_mask is None or attention_mask.dtype == torch.bool)):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward  # slow to import

        settings |= {"dropout": dropout, "scaling": scaling}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):  # 16-bit products this small gain nothing
        result = _ShortAttention.apply(query.float(), key.float(), value.float(), attention_mask, scale, dropout)
    return result.to(query.dtype), None


class _ShortAttention(torch.autograd.Function):
    """The formula and its gradient on contiguous `(batch * heads, tokens, head_dim)` matrices.

    torch's own gradient of the same formula takes several times as long, over strided matrices.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float
    ) -> Tensor:
        tokens, dim = query.shape[-2:]
        q, k, v = (part.reshape(-1, tokens, dim) for part in (query, key, value))
        scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
        if mask is not None:
            scores.view(*query.shape[:2], tokens, tokens).masked_fill_(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1)
        # As F.dropout does, in half the time.
        kept = torch.rand_like(weights).ge_(dropout).div_(1 - dropout) if dropout > 0 else None
        ctx.save_for_backward(q, k, v, weights, kept)
        ctx.scale, ctx.shape = scale, query.shape
        return _apply(weights, kept).bmm(v).view(query.shape).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        q, k, v, weights, kept = ctx.saved_tensors
        grad = grads[0].transpose(1, 2).reshape(q.shape)
        to_v = _apply(weights, kept).transpose(1, 2).bmm(grad)
        to_weights = _apply(grad.bmm(v.transpose(1, 2)), kept)
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        to_q, to_k = to_scores.bmm(k), to_scores.transpose(1, 2).bmm(q)
        return to_q.view(ctx.shape), to_k.view(ctx.shape), to_v.view(ctx.shape), None, None, None


def _apply(weights: Tensor, kept: Tensor | None) -> Tensor:
    return weights if kept is None else weights * kept


def use_short_attention(model: Any) -> None:
    """Let a transformers model that uses torch's fused attention use `attention`; others are left as they are.

    An unpickled model uses it already, but transformers does not know it yet in a new process.
    """
    used = getattr(model.config, "_attn_implementation", None)
    if getattr(model, "_supports_attention_backend", False) and used in ("sdpa", SHORT_ATTENTION):
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        AttentionInterface.register(SHORT_ATTENTION, attention)
        AttentionMaskInterface.register(SHORT_ATTENTION, sdpa_mask)
        model.set_attn_implementation(SHORT_ATTENTION)
