"""Attention for short texts: the numbers and gradients of torch's own, in the models that it is meant for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sbertlab import SentenceTransformer
from sbertlab.models.fast_cpu import SHORT_ATTENTION, SHORT_TOKENS, _ShortAttention, attention, use_short_attention

Tiny = Callable[..., SentenceTransformer]


def inputs(tokens: int, masked: bool, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor | None]:
    generator = torch.Generator().manual_seed(tokens)
    flat = [torch.randn(5, tokens, 24, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    mask = None
    if masked:
        lengths = torch.tensor([tokens, 1, max(1, tokens // 2), tokens, 1])
        mask = (torch.arange(tokens) < lengths[:, None])[:, None, None, :].expand(-1, 1, tokens, -1)
    return flat, mask


def run(function: Callable, flat: list[Tensor], mask: Tensor | None, **settings: float) -> tuple[Tensor, list[Tensor]]:
    heads = [part.unflatten(-1, (4, 6)).transpose(1, 2) for part in flat]
    result = function(nn.Module(), *heads, mask, **settings)[0].flatten(2)
    weight = torch.linspace(-1, 1, result.numel()).view(result.shape).to(result.dtype)
    return result.detach(), list(torch.autograd.grad((result * weight).sum(), flat))


@pytest.mark.parametrize("tokens", [1, 7, SHORT_TOKENS, SHORT_TOKENS + 1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_values_and_gradients_are_those_of_torch(tokens: int, masked: bool, scaling: float | None) -> None:
    flat, mask = inputs(tokens, masked)
    ours, our_gradients = run(attention, flat, mask, scaling=scaling)
    theirs, their_gradients = run(sdpa_attention_forward, flat, mask, scaling=scaling)
    assert (ours - theirs).abs().max() < 1e-5
    if tokens > 1:
        assert max(part.abs().max() for part in their_gradients) > 1e-3
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        assert (mine - other).abs().max() < 1e-5


def test_the_gradient_is_that_of_finite_differences() -> None:
    flat, mask = inputs(3, masked=True)
    heads = [part.detach().double().unflatten(-1, (4, 6)).transpose(1, 2).requires_grad_() for part in flat]
    assert torch.autograd.gradcheck(lambda q, k, v: _ShortAttention.apply(q, k, v, mask, 0.4, 0.0), heads, atol=1e-6)


def test_dropout_keeps_the_mean_drops_the_stated_share_and_follows_the_seed() -> None:
    ones = torch.ones(64, 4, 16, 16)
    torch.manual_seed(0)
    dropped = _ShortAttention.apply(torch.zeros_like(ones), ones, torch.eye(16).expand_as(ones), None, 1.0, 0.3)
    assert (dropped == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert dropped.sum(-1).mean() == pytest.approx(1.0, abs=0.01)
    torch.manual_seed(0)
    again = _ShortAttention.apply(torch.zeros_like(ones), ones, torch.eye(16).expand_as(ones), None, 1.0, 0.3)
    assert torch.equal(dropped, again)
    assert dropped.shape == (64, 16, 4, 16)


def test_the_gradient_under_dropout_uses_the_same_draw() -> None:
    heads = [torch.randn(2, 2, 5, 3, dtype=torch.float64).requires_grad_() for _ in range(3)]

    def drawn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(3)
        return _ShortAttention.apply(q, k, v, None, 1.0, 0.4)

    assert torch.autograd.gradcheck(drawn, heads, atol=1e-6)


def test_bfloat16_comes_back_as_bfloat16_and_close() -> None:
    flat, mask = inputs(9, True, torch.bfloat16)
    ours, _ = run(attention, flat, mask)
    exact, _ = run(attention, [part.float() for part in flat], mask)
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - exact).abs().max() < 0.03


def test_models_of_the_field_use_it_unless_they_were_given_another(tiny: Tiny) -> None:
    assert tiny()[0].auto_model.config._attn_implementation == SHORT_ATTENTION
    small = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    eager = BertModel(BertConfig(**small, attn_implementation="eager"))
    use_short_attention(eager)
    assert eager.config._attn_implementation == "eager"
    roberta = RobertaModel(RobertaConfig(**small))
    use_short_attention(roberta)
    assert roberta.config._attn_implementation == SHORT_ATTENTION
    linear = nn.Linear(2, 2)
    use_short_attention(linear)


def test_a_saved_model_says_nothing_of_it(tiny: Tiny, tmp_path: Path) -> None:
    tiny().save(tmp_path / "model")
    assert SHORT_ATTENTION not in "".join(path.read_text() for path in (tmp_path / "model").rglob("*.json"))


def test_token_vectors_equal_those_of_torch_attention_with_padding_and_without(tiny: Tiny) -> None:
    model = tiny()
    other = SentenceTransformer(modules=copy.deepcopy(list(model)), device="cpu")
    other[0].auto_model.set_attn_implementation("sdpa")
    texts = ["the cat", "a dog runs in the big garden of the house", "rain", "why ?"]
    a, b = (each.encode(texts, convert_to_tensor=True) for each in (model, other))
    assert (a - b).abs().max() < 1e-5
    assert (a[0] - model.encode(texts[0], convert_to_tensor=True)).abs().max() < 1e-6


def test_attention_of_a_decoder_still_looks_back_only() -> None:
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9, is_decoder=True
    )
    torch.manual_seed(0)
    decoder = BertModel(config).eval()
    use_short_attention(decoder)
    first, second = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 5]])
    a, b = (decoder(ids).last_hidden_state for ids in (first, second))
    assert (a[:, :3] - b[:, :3]).abs().max() < 1e-6
    assert (a[:, 3] - b[:, 3]).abs().max() > 1e-4
