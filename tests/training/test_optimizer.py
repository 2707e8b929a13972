"""What the optimizer trains and at which rates: patterns over parameter names, and freezing."""

import pytest
import torch
from torch import nn

from sbertlab import losses, models
from sbertlab.training.optimizer import frozen, make_optimizer, make_schedule
from tests.training.runs import run, weights

EMBEDDINGS = "0.auto_model.embeddings.*"


def optimizer_of(model, rates, *losses, lr=1e-3):
    return make_optimizer(model, losses, torch.optim.AdamW, {"lr": lr}, weight_decay=0.01, learning_rates=rates)


def rates_of(model, optimizer):
    """The rate of every parameter that the optimizer has, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_the_first_pattern_that_matches_decides_and_the_rest_keeps_the_optimizers_rate(tiny):
    model = tiny(modules=[models.Dense(32, 16)])
    patterns = {"*.layer.[0-0].*": 1e-5, "*embeddings*": 1e-6, "0.auto_model.*LayerNorm*": 1e-4}
    rates = rates_of(model, optimizer_of(model, patterns))
    assert rates["0.auto_model.encoder.layer.0.output.LayerNorm.weight"] == 1e-5
    assert rates["0.auto_model.encoder.layer.1.output.LayerNorm.weight"] == 1e-4
    assert rates["0.auto_model.embeddings.LayerNorm.weight"] == 1e-6
    assert rates["0.auto_model.encoder.layer.1.output.dense.weight"] == 1e-3
    assert rates["2.linear.weight"] == 1e-3
    assert len(rates) == len(list(model.parameters()))


def test_each_rate_has_a_decayed_and_an_undecayed_group_and_the_main_rate_comes_first(tiny):
    model = tiny()
    optimizer = optimizer_of(model, {"*.layer.0.*": 1e-5, "*.layer.1.*": 5e-3})
    groups = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert groups == [(1e-3, 0.01), (1e-3, 0.0), (5e-3, 0.01), (5e-3, 0.0), (1e-5, 0.01), (1e-5, 0.0)]
    assert all(group["fused"] for group in optimizer.param_groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        undecayed = {"bias" in names[id(p)] or "LayerNorm.weight" in names[id(p)] for p in group["params"]}
        assert undecayed == {group["weight_decay"] == 0.0}


def test_frozen_puts_back_what_was_there_also_after_an_error(tiny):
    model = tiny()
    model[0].auto_model.pooler.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    assert len(set(before)) == 2

    def interrupted():
        with frozen(model, {"*": 0}):
            assert not any(parameter.requires_grad for parameter in model.parameters())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [parameter.requires_grad for parameter in model.parameters()] == before


def test_a_rate_of_0_keeps_a_parameter_out_even_where_a_loss_names_it_again(tiny):
    model = tiny()

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = model

    optimizer = optimizer_of(model, {EMBEDDINGS: 0}, Holder())
    assert not any("embeddings" in name for name in rates_of(model, optimizer))


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"0.auto_model.embedings": 0.0}, "'0.auto_model.embedings' decides no rate"),
        ({"*": 1e-5, "*embeddings*": 0.0}, r"'\*embeddings\*' decides no rate"),
        ({"*": -1e-5}, r"learning_rates\['\*'\] must be a number of at least 0, got -1e-05"),
        ({"*": "fast"}, "got 'fast'"),
        ({"*": 0}, "nothing to train"),
    ],
)
def test_mistakes_in_the_rates_are_named(rates, message, tiny):
    with pytest.raises(ValueError, match=message):
        optimizer_of(tiny(), rates)


def test_fit_takes_the_rates_and_leaves_the_frozen_as_they_are(tiny):
    model = tiny()
    before = weights(model)
    run(model, learning_rates={EMBEDDINGS: 0, "*.layer.0.*": 1e-5}, scheduler="ConstantLR")
    moves = {name: float((value - before[name]).abs().max()) for name, value in weights(model).items()}
    assert max(moves[name] for name in moves if "embeddings" in name) == 0
    assert 0 < max(moves[name] for name in moves if ".layer.0." in name) < 2e-4
    assert max(moves[name] for name in moves if ".layer.1." in name) > 5e-4


def test_all_objectives_share_one_optimizer_and_each_parameter_is_in_it_once(tiny):
    model = tiny()
    softmax = losses.SoftmaxLoss(model, sentence_embedding_dimension=32, num_labels=3)
    ranking = losses.MultipleNegativesRankingLoss(model)
    optimizer = make_optimizer(model, [softmax, ranking], torch.optim.AdamW, {"lr": 1e-3}, weight_decay=0.01)
    inside = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(inside) == len(set(inside))
    assert set(inside) == {id(parameter) for parameter in softmax.parameters()}
    names = {id(parameter): name for name, parameter in softmax.named_parameters()}
    undecayed = {
        names[id(p)] for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]
    }
    assert undecayed == {name for name in names.values() if "bias" in name or "LayerNorm.weight" in name}


def test_weights_with_gaps_in_memory_are_trained_as_others(tiny):
    matrix = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    steps = []
    for weight in (matrix.clone()[:, ::2], matrix[:, ::2].clone()):
        module = nn.Module()
        module.weight = nn.Parameter(weight)
        optimizer = make_optimizer(module, [], torch.optim.AdamW, {"lr": 0.1}, weight_decay=0.01)
        (module.weight * matrix[:, 1::2]).sum().backward()
        optimizer.step()
        steps.append(module.weight.detach())
    assert torch.allclose(*steps, atol=1e-6)
    assert not torch.allclose(steps[0], matrix[:, ::2], atol=1e-2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ConstantLR", [1.0, 1.0, 1.0, 1.0]),
        ("WarmupConstant", [0.0, 0.5, 1.0, 1.0]),
        ("WarmupLinear", [0.0, 0.5, 1.0, 0.5]),
        ("WarmupCosine", [0.0, 0.5, 1.0, 0.5]),
        ("WarmupCosineWithHardRestarts", [0.0, 0.5, 1.0, 0.5]),
    ],
)
def test_the_schedules_give_the_rates_worked_out_by_hand(name, expected):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(name, optimizer, 2, 4)
    rates = []
    for _ in expected:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected)
