"""Fast layers on a CPU against torch's: oneDNN linear layers, forced on, and attention for short texts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sbertlab.models import fast_cpu as kernels
from sbertlab.models.fast_cpu import SHORT_ATTENTION, SHORT_TOKENS, FastLinear, _ShortAttention, attention

INPUTS = {
    "two dimensions": lambda: torch.randn(6, 5),
    "three dimensions": lambda: torch.randn(2, 3, 5),
    "transposed": lambda: torch.randn(5, 6).t(),
    "every second value": lambda: torch.randn(4, 6, 10)[:, ::2, ::2],
    "expanded": lambda: torch.randn(1, 1, 5).expand(3, 4, 5),
    "one dimension": lambda: torch.randn(5),
    "no tokens": lambda: torch.randn(2, 0, 5),
}


@pytest.fixture
def onednn(monkeypatch):
    """Force oneDNN on, and record the shapes of what goes to it."""
    try:
        kernels.onednn_linear(torch.randn(2, 5), torch.randn(3, 5), None)
    except (AttributeError, RuntimeError):
        pytest.skip("this torch has no oneDNN linear")
    calls = []
    plain = kernels.onednn_linear

    def recorded(x, weight, bias):
        calls.append(x.shape)
        return plain(x, weight, bias)

    monkeypatch.setattr(kernels, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(kernels, "onednn_linear", recorded)
    return calls


@pytest.fixture
def probed(monkeypatch):
    """Let the probe run anew, as on a processor where it does run."""
    monkeypatch.setattr(kernels, "is_amd", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    kernels.onednn_is_faster.cache_clear()
    yield
    kernels.onednn_is_faster.cache_clear()


def values_and_gradients(linear, layer, x):
    """Output, and the gradients of input, weight and bias under a random, non-contiguous gradient of the output."""
    x = x.detach().requires_grad_()
    output = linear(x)
    weights = torch.randn(*output.shape, 2, generator=torch.Generator().manual_seed(1))[..., 0]
    return [output, *torch.autograd.grad(output, [x, *layer.parameters()], weights)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", INPUTS)
def test_output_and_all_gradients_equal_torchs(onednn, shape, bias):
    layer, x = FastLinear(5, 4, bias=bias), INPUTS[shape]()
    ours = values_and_gradients(layer, layer, x)
    assert bool(onednn) == (x.dim() > 1 and x.numel() > 0)
    theirs = values_and_gradients(lambda t: F.linear(t, layer.weight, layer.bias), layer, x)
    for mine, reference in zip(ours, theirs, strict=True):
        assert x.numel() == 0 or reference.abs().sum() > 0
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), ours[0])


def test_a_frozen_weight_gets_no_gradient_and_costs_no_product(onednn):
    layer, x = FastLinear(5, 4), torch.randn(6, 5, requires_grad=True)
    layer.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(dim=0).expand(6, 5))
    assert len(onednn) == 2  # forward, and the gradient of the input


def test_a_second_derivative_is_refused_rather_than_wrong(onednn):
    layer, x = FastLinear(5, 4), torch.randn(6, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_than_float32_never_go_to_onednn(onednn, dtype):
    layer, x = FastLinear(5, 4).to(dtype), torch.randn(6, 5, dtype=dtype)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    assert not onednn


@pytest.mark.parametrize("native", [True, False])
def test_under_autocast_the_product_is_bfloat16_and_gradients_are_float32(onednn, monkeypatch, native):
    monkeypatch.setattr(kernels, "has_native_bfloat16", lambda: native)
    layer, x = FastLinear(64, 16), torch.randn(6, 64, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert not onednn
    assert layer.weight.grad.dtype == x.grad.dtype == torch.float32
    torch.testing.assert_close(output.float(), F.linear(x, layer.weight, layer.bias), atol=0.05, rtol=0.02)


def test_without_native_bfloat16_the_product_is_exact_to_the_last_rounding(monkeypatch):
    monkeypatch.setattr(kernels, "has_native_bfloat16", lambda: False)
    layer, x = FastLinear(512, 16).bfloat16(), torch.randn(6, 512).bfloat16()
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    output = layer(x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), exact, rtol=2**-8, atol=1e-6)


def test_without_the_operator_the_layer_is_torchs(probed, monkeypatch):
    monkeypatch.setattr(kernels, "onednn_linear", lambda *_: torch.ops.mkldnn.no_such_operator())
    layer, x = FastLinear(5, 4), torch.randn(6, 5)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_the_probe_takes_a_way_that_is_faster_and_right_on_amd_alone(probed, monkeypatch):
    monkeypatch.setattr(kernels, "_onednn_speed", lambda *arguments: 1.2)
    assert kernels.onednn_is_faster()
    assert not kernels.onednn_is_faster(margin=1.3)
    monkeypatch.undo()
    monkeypatch.setattr(kernels, "onednn_linear", lambda x, weight, bias: F.linear(x, weight, bias) + 1)
    assert kernels._onednn_speed(2, 3, 4) == 0
    kernels.onednn_is_faster.cache_clear()
    monkeypatch.setattr(kernels, "is_amd", lambda: False)
    monkeypatch.setattr(kernels, "_onednn_speed", lambda *arguments: pytest.fail("was probed"))
    assert not kernels.onednn_is_faster()


def test_only_plain_layers_become_fast_and_keep_their_parameters():
    class Adapted(nn.Linear):
        pass

    network = nn.ModuleDict({"plain": nn.Linear(3, 2), "deep": nn.Sequential(Adapted(2, 2), nn.Linear(2, 2))})
    before = dict(network.named_parameters())
    after = dict(kernels.use_fast_linear(network).named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    assert [type(module) for module in (network["plain"], *network["deep"])] == [FastLinear, Adapted, FastLinear]


def inputs(tokens, masked):
    generator = torch.Generator().manual_seed(tokens)
    flat = [torch.randn(5, tokens, 24, generator=generator).requires_grad_() for _ in range(3)]
    mask = None
    if masked:
        lengths = torch.tensor([tokens, 1, max(1, tokens // 2), tokens, 1])
        mask = (torch.arange(tokens) < lengths[:, None])[:, None, None, :].expand(-1, 1, tokens, -1)
    return flat, mask


def run(function, flat, mask, **settings):
    heads = [part.unflatten(-1, (4, 6)).transpose(1, 2) for part in flat]
    result = function(nn.Module(), *heads, mask, **settings)[0].flatten(2)
    weight = torch.linspace(-1, 1, result.numel()).view(result.shape).to(result.dtype)
    return result.detach(), list(torch.autograd.grad((result * weight).sum(), flat))


@pytest.mark.parametrize("tokens", [1, 7, SHORT_TOKENS, SHORT_TOKENS + 1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_values_and_gradients_are_those_of_torch(tokens, masked, scaling):
    flat, mask = inputs(tokens, masked)
    ours, our_gradients = run(attention, flat, mask, scaling=scaling)
    theirs, their_gradients = run(sdpa_attention_forward, flat, mask, scaling=scaling)
    assert (ours - theirs).abs().max() < 1e-5
    if tokens > 1:
        assert max(part.abs().max() for part in their_gradients) > 1e-3
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        assert (mine - other).abs().max() < 1e-5


def test_dropout_keeps_the_mean_drops_the_stated_share_and_follows_the_seed():
    def dropped():
        torch.manual_seed(0)
        ones = torch.ones(64, 4, 16, 16)
        return _ShortAttention.apply(torch.zeros_like(ones), ones, torch.eye(16).expand_as(ones), None, 1.0, 0.3)

    found = dropped()
    assert (found == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert found.sum(-1).mean() == pytest.approx(1.0, abs=0.01)
    assert torch.equal(found, dropped())


def test_the_gradient_under_dropout_uses_the_same_draw():
    heads = [torch.randn(2, 2, 5, 3, dtype=torch.float64).requires_grad_() for _ in range(3)]

    def drawn(q, k, v):
        torch.manual_seed(3)
        return _ShortAttention.apply(q, k, v, None, 1.0, 0.4)

    assert torch.autograd.gradcheck(drawn, heads, atol=1e-6)


def small_bert(**settings):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    torch.manual_seed(0)
    return BertModel(BertConfig(vocab_size=9, **sizes, **settings)).eval()


def test_models_use_it_unless_they_were_given_another_and_no_file_names_it(tiny, tmp_path):
    assert tiny()[0].auto_model.config._attn_implementation == SHORT_ATTENTION
    tiny().save(tmp_path)
    assert SHORT_ATTENTION not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    eager = small_bert(attn_implementation="eager")
    kernels.use_short_attention(eager)
    assert eager.config._attn_implementation == "eager"


def test_attention_of_a_decoder_still_looks_back_only():
    decoder = small_bert(is_decoder=True)
    kernels.use_short_attention(decoder)
    first, second = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 5]])
    a, b = (decoder(ids).last_hidden_state for ids in (first, second))
    assert (a[:, :3] - b[:, :3]).abs().max() < 1e-6
    assert (a[:, 3] - b[:, 3]).abs().max() > 1e-4
