"""Attention for short texts on a CPU.

torch's fused attention works through texts and heads one by one, which for sentences costs more than the arithmetic:
up to about 64 tokens the plain formula in a few batched matrix products is up to three times as fast, forward and
backward. Longer texts, other devices and other kinds of attention go to torch's as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NAME = "sbertlab_short"
LONGEST = 64
"""Tokens up to which the plain formula is the faster one."""


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
    """Return `softmax(scaling * query key^T) value`, in the calling convention of transformers.

    Args:
        module: the attention layer that asks.
        query: `(batch, heads, tokens, head_dim)`.
        key: of the same shape.
        value: of the same shape.
        attention_mask: bool `(batch, 1, tokens, tokens)`, True where a token may be read; None for all.
        dropout: share of the weights that is dropped.
        scaling: `head_dim ** -0.5` when None.
        settings: what transformers hands on to its own function.

    Returns:
        `(batch, tokens, heads, head_dim)`, and None in place of the weights.
    """
    short = query.shape[2] <= LONGEST and query.shape == key.shape and query.device.type == "cpu"
    plain = not getattr(module, "is_causal", True) and settings.get("position_bias") is None
    if not (short and plain and (attention_mask is None or attention_mask.dtype == torch.bool)):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward  # slow to import

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **settings
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):  # 16-bit products this small gain nothing
        result = _ShortAttention.apply(query.float(), key.float(), value.float(), attention_mask, scale, dropout)
    return result.to(query.dtype), None


class _ShortAttention(torch.autograd.Function):
    """The formula and its gradient on `(batch * heads, tokens, head_dim)` matrices without gaps in memory.

    torch's own gradient of the same formula takes several times as long, over matrices with gaps.
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
    """Let a model of transformers that uses torch's fused attention use this; others are left as they are."""
    if getattr(model, "_supports_attention_backend", False) and model.config._attn_implementation == "sdpa":
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
