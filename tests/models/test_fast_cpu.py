"""The fast linear layer against torch's, with oneDNN forced on and with everything that makes it step aside."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbertlab.models import fast_cpu as kernels
from sbertlab.models.fast_cpu import FastLinear, use_fast_linear

INPUTS: dict[str, Callable[[], Tensor]] = {
    "two dimensions": lambda: torch.randn(6, 5),
    "one row": lambda: torch.randn(1, 5),
    "three dimensions": lambda: torch.randn(2, 3, 5),
    "four dimensions": lambda: torch.randn(2, 2, 3, 5),
    "transposed": lambda: torch.randn(5, 6).t(),
    "middle axes swapped": lambda: torch.randn(2, 5, 3).transpose(1, 2),
    "every second value": lambda: torch.randn(4, 6, 10)[:, ::2, ::2],
    "expanded": lambda: torch.randn(1, 1, 5).expand(3, 4, 5),
    "one dimension": lambda: torch.randn(5),
    "no rows": lambda: torch.randn(0, 5),
    "no tokens": lambda: torch.randn(2, 0, 5),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Force oneDNN on, and record the shapes of what goes to it."""
    try:
        kernels.onednn_linear(torch.randn(2, 5), torch.randn(3, 5), None)
    except (AttributeError, RuntimeError):
        pytest.skip("this torch has no oneDNN linear")
    calls: list[torch.Size] = []
    plain = kernels.onednn_linear

    def recorded(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls.append(x.shape)
        return plain(x, weight, bias)

    monkeypatch.setattr(kernels, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(kernels, "onednn_linear", recorded)
    return calls


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the probe run anew, as on a processor where it does run."""
    monkeypatch.setattr(kernels, "is_amd", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    kernels.onednn_is_faster.cache_clear()
    yield
    kernels.onednn_is_faster.cache_clear()


def values_and_gradients(linear: Callable[[Tensor], Tensor], layer: nn.Linear, x: Tensor) -> list[Tensor]:
    """Output, and the gradients of input, weight and bias under a random, non-contiguous gradient of the output."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    output = linear(x)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(*output.shape, 2, generator=generator)[..., 0]
    parameters = [parameter for parameter in (layer.weight, layer.bias) if parameter is not None]
    return [output, *torch.autograd.grad(output, [x, *parameters], weights)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", INPUTS)
def test_output_and_all_gradients_equal_torchs(onednn, shape, bias):
    layer, x = FastLinear(5, 4, bias=bias), INPUTS[shape]()
    ours = values_and_gradients(layer, layer, x)
    used = bool(onednn)
    theirs = values_and_gradients(lambda t: F.linear(t, layer.weight, layer.bias), layer, x)
    assert used == (x.dim() > 1 and x.numel() > 0)
    assert len(ours) == len(theirs) == (4 if bias else 3)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.shape == reference.shape
        assert x.numel() == 0 or reference.abs().sum() > 0
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-5)


def test_inference_without_a_graph_equals_torchs(onednn):
    layer, x = FastLinear(5, 4), torch.randn(2, 3, 5)
    with torch.no_grad():
        output = layer(x)
    assert len(onednn) == 1
    assert not output.requires_grad
    torch.testing.assert_close(output, F.linear(x, layer.weight, layer.bias))


def test_a_frozen_weight_gets_no_gradient_and_costs_no_product(onednn):
    layer, x = FastLinear(5, 4), torch.randn(6, 5, requires_grad=True)
    layer.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(dim=0).expand(6, 5))
    assert len(onednn) == 2  # forward, and the gradient of the input


def test_gradients_of_a_whole_network_equal_torchs(onednn):
    network = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3))
    fast = use_fast_linear(copy.deepcopy(network))
    x = torch.randn(4, 7, 5)
    for module in (network, fast):
        module(x).square().mean().backward()
    assert len(onednn) == 5  # no gradient of the first layer's input
    for ours, theirs in zip(fast.parameters(), network.parameters(), strict=True):
        assert theirs.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_a_second_derivative_is_refused_rather_than_wrong(onednn):
    layer, x = FastLinear(5, 4), torch.randn(6, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_an_input_of_the_wrong_size_gets_torchs_own_error(onednn):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        FastLinear(5, 4)(torch.randn(6, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_than_float32_never_go_to_onednn(onednn, dtype):
    layer = FastLinear(5, 4).to(dtype)
    x = torch.randn(6, 5, dtype=dtype)
    output = layer(x)
    assert output.dtype == dtype
    assert not onednn
    torch.testing.assert_close(output, F.linear(x, layer.weight, layer.bias), atol=1e-2, rtol=1e-2)


def test_mixed_types_are_refused_as_torch_refuses_them(onednn):
    with pytest.raises(RuntimeError, match="dtype"):
        FastLinear(5, 4)(torch.randn(6, 5, dtype=torch.float64))


def test_float64_gradients_pass_torchs_own_check(onednn):
    layer = FastLinear(3, 2).double()
    assert torch.autograd.gradcheck(layer, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("native", [True, False])
def test_autocast_gives_bfloat16_and_float32_gradients(onednn, monkeypatch, native):
    monkeypatch.setattr(kernels, "has_native_bfloat16", lambda: native)
    layer, x = FastLinear(64, 16), torch.randn(6, 64, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert not onednn
    assert layer.weight.grad.dtype == x.grad.dtype == torch.float32
    torch.testing.assert_close(output.float(), F.linear(x, layer.weight, layer.bias), atol=0.05, rtol=0.02)
    torch.testing.assert_close(layer.weight.grad, x.detach().sum(dim=0).expand(16, 64), atol=0.05, rtol=0.02)


def test_without_native_bfloat16_the_product_is_exact_to_the_last_rounding(monkeypatch):
    monkeypatch.setattr(kernels, "has_native_bfloat16", lambda: False)
    layer, x = FastLinear(512, 16).bfloat16(), torch.randn(6, 512).bfloat16()
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    output = layer(x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), exact, rtol=2**-8, atol=1e-6)
    output.float().sum().backward()
    assert layer.weight.grad.dtype == torch.bfloat16
    assert layer.bias.grad.tolist() == [6.0] * 16


@pytest.mark.parametrize("error", [AttributeError("no such operator"), RuntimeError("could not create a primitive")])
def test_without_the_operator_the_layer_is_torchs(probed, monkeypatch, error):
    def missing(*arguments: object) -> Tensor:
        raise error

    monkeypatch.setattr(kernels, "onednn_linear", missing)
    assert not kernels.onednn_is_faster()
    layer, x = FastLinear(5, 4), torch.randn(6, 5)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("wrong", [False, True])
def test_the_probe_takes_a_way_that_is_faster_and_right(probed, monkeypatch, wrong):
    monkeypatch.setattr(kernels, "onednn_linear", lambda x, weight, bias: F.linear(x, weight, bias) + wrong)
    monkeypatch.setattr(kernels, "PROBE_SHAPES", ((8, 4, 4),))
    monkeypatch.setattr(kernels, "_best_seconds", lambda *runs: [1.2, 1.0])
    assert kernels.onednn_is_faster() is not wrong
    assert not kernels.onednn_is_faster(margin=1.3)


def test_other_processors_are_not_probed(probed, monkeypatch):
    monkeypatch.setattr(kernels, "is_amd", lambda: False)
    monkeypatch.setattr(kernels, "onednn_linear", lambda *arguments: pytest.fail("was probed"))
    assert not kernels.onednn_is_faster()


def test_the_best_of_several_runs_is_what_counts():
    pauses = iter([0.02, 0.0, 0.02])
    slow, quick = kernels._best_seconds(lambda: time.sleep(0.01), lambda: time.sleep(next(pauses)), repeats=3)
    assert quick < 0.01 <= slow


def test_use_fast_linear_keeps_names_parameters_and_subclasses():
    class Adapted(nn.Linear):
        pass

    network = nn.ModuleDict({"plain": nn.Linear(3, 2), "deep": nn.Sequential(Adapted(2, 2), nn.Linear(2, 2))})
    before = dict(network.named_parameters())
    assert use_fast_linear(network) is network
    after = dict(network.named_parameters())
    assert list(before) == list(after)
    assert all(before[name] is after[name] for name in before)
    assert [type(module) for module in (network["plain"], *network["deep"])] == [FastLinear, Adapted, FastLinear]


def test_the_layer_can_be_copied_and_saved_as_any_linear(tmp_path):
    layer = FastLinear(5, 4)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    plain = nn.Linear(5, 4)
    plain.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    x = torch.randn(6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(copy.deepcopy(layer)(x), plain(x), atol=1e-6, rtol=1e-5)
