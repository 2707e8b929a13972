"""LoRA: starts at the model as it was, trains alone, merges, and is saved as a plain model that anyone reads."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import sentence_transformers
import torch
from safetensors.torch import load_file
from sbertlab.adapters import add_lora, encoder_layers, has_adapters, merge, target_layers, trainable_share
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertModel

from sbertlab import InputExample, SentenceTransformer, losses, models
from sbertlab.models.fast_cpu import FastLinear

Tiny = Callable[..., SentenceTransformer]
TEXTS = ["the cat sits on the red chair", "where is my parcel?", "a", "reset the password for my new e mail account"]
PAIRS = [
    InputExample(texts=["the cat sits", "a cat is on the chair"]),
    InputExample(texts=["red car", "a fast bike"]),
    InputExample(texts=["where is my parcel", "the delivery is late"]),
    InputExample(texts=["lost password", "reset the account"]),
]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_states(model: nn.Module, before: dict[str, Tensor]) -> None:
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def train(model: SentenceTransformer, lr: float = 1e-2, **arguments: Any) -> None:
    loader: Any = DataLoader(PAIRS, batch_size=2, shuffle=True)  # type: ignore[arg-type]
    settings = {"epochs": 3, "warmup_steps": 0, "optimizer_params": {"lr": lr}, "show_progress_bar": False}
    model.fit([(loader, losses.MultipleNegativesRankingLoss(model))], **{**settings, **arguments})


def moved(model: SentenceTransformer, before: np.ndarray) -> bool:
    return bool(np.abs(model.encode(TEXTS) - before).max() > 1e-3)


# The adapted model


def test_fresh_adapters_change_no_embedding_and_keep_class_configuration_and_embedding_table(tiny: Tiny) -> None:
    model = tiny()
    before, table = model.encode(TEXTS), model[0].token_matrix()
    assert add_lora(model) is model
    assert np.array_equal(model.encode(TEXTS), before)
    assert type(model[0].auto_model) is BertModel
    assert model[0].token_matrix() is table
    assert (model.max_seq_length, model.get_sentence_embedding_dimension()) == (64, 32)
    assert has_adapters(model)


def test_every_linear_layer_of_the_encoders_layers_is_adapted_and_the_share_is_the_one_worked_out_by_hand(
    tiny: Tiny,
) -> None:
    model = add_lora(tiny(), r=4)
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    assert len(adapted) == 2 * 6
    assert not any("pooler" in name for name in adapted)
    numbers = 2 * 4 * (4 * (32 + 32) + 2 * (32 + 64))  # layers * r * (in + out) of 4 + 2 matrices
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert trainable_share(model) == numbers / everything
    assert trainable_share(tiny()) == 1.0


def test_adapters_go_where_the_names_say(tiny: Tiny) -> None:
    model = add_lora(tiny(), target_modules=["query", "attention.output.dense"])
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    layers = [f"0.auto_model.encoder.layer.{place}.attention" for place in (0, 1)]
    assert adapted == {f"{layer}.{end}" for layer in layers for end in ("self.query", "output.dense")}


def test_the_forward_pass_is_that_of_the_formula(tiny: Tiny) -> None:
    model = add_lora(tiny(), r=4, alpha=6, target_modules=["query"])
    layer: Any = model[0].auto_model.encoder.layer[0].attention.self.query
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    nn.init.normal_(b)
    base = layer.base_layer
    expected = x @ base.weight.T + base.bias + 6 / 4 * (x @ a.T @ b.T)
    assert (x @ a.T @ b.T).abs().max() > 0.1
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_the_gradients_of_the_adapters_follow_from_those_of_the_merged_weight(tiny: Tiny) -> None:
    model = add_lora(tiny(), r=4, alpha=8, target_modules=["value"])
    layer: Any = model[0].auto_model.encoder.layer[1].attention.self.value
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.manual_seed(1)
    nn.init.normal_(b, std=0.1)
    target = torch.randn(4, 32)
    (model.embed(TEXTS) * target).sum().backward()
    assert layer.base_layer.weight.grad is None
    found = a.grad.clone(), b.grad.clone()
    scale, a, b = 2.0, a.detach().clone(), b.detach().clone()
    merge(model)
    weight: Any = model[0].auto_model.encoder.layer[1].attention.self.value.weight
    (model.embed(TEXTS) * target).sum().backward()
    assert min(gradient.abs().max() for gradient in found) > 1e-4
    assert torch.allclose(found[0], scale * b.T @ weight.grad, atol=1e-5)
    assert torch.allclose(found[1], scale * weight.grad @ a.T, atol=1e-5)


def test_the_same_seed_gives_the_same_adapters_and_the_random_state_of_the_process_stays(tiny: Tiny) -> None:
    states = []
    for seed in (3, 3, 4):
        model = tiny()
        before = torch.get_rng_state()
        states.append(state_of(add_lora(model, seed=seed)))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
    name = next(name for name in states[0] if ".lora_A." in name)
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


def test_adapters_of_a_bfloat16_model_are_float32_and_its_weights_stay_bfloat16(tiny: Tiny) -> None:
    model = add_lora(tiny().bfloat16())
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name
    train(model)
    assert {value.dtype for value in merge(model).state_dict().values()} == {torch.bfloat16}


def test_the_linear_layers_are_the_fast_ones_adapted_and_merged(tiny: Tiny) -> None:
    model = add_lora(tiny())
    assert {type(part) for part in model[0].modules() if isinstance(part, nn.Linear)} == {FastLinear}
    merge(model)
    assert {type(part) for part in model[0].modules() if isinstance(part, nn.Linear)} == {FastLinear}


@pytest.mark.parametrize("training", [True, False])
def test_the_adapters_come_in_the_mode_of_the_model(training: bool, tiny: Tiny) -> None:
    model = add_lora(tiny().train(training), dropout=0.1)
    assert {part.training for part in model.modules()} == {training}


# Training


def test_fit_moves_the_adapters_and_the_dense_block_behind_them_and_nothing_else(tiny: Tiny) -> None:
    model = add_lora(tiny(modules=[models.Dense(32, 16)], dropout=0.1), dropout=0.1)
    before = state_of(model)
    train(model)
    for name, value in model.state_dict().items():
        trained = "lora_" in name or name.startswith("2.linear.")
        assert torch.equal(value, before[name]) != trained, name


def test_training_with_adapters_repeats_to_the_bit(tiny: Tiny) -> None:
    first, second = (add_lora(tiny(dropout=0.1), dropout=0.1) for _ in range(2))
    train(first)
    train(second)
    assert_equal_states(second, state_of(first))


def test_a_run_with_adapters_goes_on_from_its_checkpoint_to_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    whole, broken, other = (add_lora(tiny(dropout=0.1), dropout=0.1, seed=seed) for seed in (0, 0, 1))
    train(whole)
    arguments: dict[str, Any] = {"checkpoint_path": tmp_path, "checkpoint_save_steps": 3}
    train(broken, **arguments)
    shutil.rmtree(tmp_path / "6")
    train(other, resume=True, **arguments)
    assert_equal_states(other, state_of(whole))


# Merging


def test_merged_embeddings_are_those_of_the_adapters_and_the_layers_are_plain_again(tiny: Tiny) -> None:
    plain = tiny()
    model = add_lora(tiny())
    before = model.encode(TEXTS)
    train(model)
    adapted = model.encode(TEXTS)
    assert np.abs(adapted - before).max() > 1e-2
    assert merge(model) is model
    np.testing.assert_allclose(model.encode(TEXTS), adapted, atol=1e-6, rtol=0)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [type(part) for part in model.modules()] == [type(part) for part in plain.modules()]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not has_adapters(model)


def test_after_merging_adapters_can_be_added_again(tiny: Tiny) -> None:
    model = add_lora(tiny())
    train(model)
    adapted = merge(model).encode(TEXTS)
    assert np.array_equal(add_lora(model, r=2).encode(TEXTS), adapted)
    train(model)
    assert moved(model, adapted)


# Saving


@pytest.mark.parametrize("format", ["portable", "st6"])
def test_a_saved_folder_is_plain_and_loads_here_and_in_version_6_with_the_same_embeddings(
    format: str, tiny: Tiny, tmp_path: Path
) -> None:
    model = add_lora(tiny(modules=[models.Dense(32, 16)]))
    before = model.encode(TEXTS)
    train(model)
    adapted = model.encode(TEXTS)
    assert moved(model, before)
    model.save(tmp_path / "model", format=format)
    here = SentenceTransformer(tmp_path / "model", device="cpu")
    there = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(here.encode(TEXTS), adapted, atol=1e-5, rtol=0)
    np.testing.assert_allclose(there.encode(TEXTS), adapted, atol=1e-5, rtol=0)
    assert not has_adapters(here)
    assert here.state_dict().keys() == tiny(modules=[models.Dense(32, 16)]).state_dict().keys()
    assert all(parameter.requires_grad for parameter in here.parameters())


def test_a_folder_with_adapters_has_the_files_and_tensors_of_one_without(tiny: Tiny, tmp_path: Path) -> None:
    tiny().save(tmp_path / "plain")
    add_lora(tiny()).save(tmp_path / "adapted")
    plain, adapted = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "adapted"))
    assert all(torch.equal(plain[name], adapted[name]) for name in plain)  # fresh adapters add nothing
    assert plain.keys() == adapted.keys()
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("plain", "adapted")]
    assert names[0] == names[1]
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "adapted")]
    assert configs[0] == configs[1]


def test_saving_leaves_the_adapters_as_they_are_and_training_goes_on_as_without(tiny: Tiny, tmp_path: Path) -> None:
    model, other = (add_lora(tiny(dropout=0.1)) for _ in range(2))
    for one in (model, other):
        train(one)
    before, trained = state_of(model), [parameter.requires_grad for parameter in model.parameters()]
    embeddings = model.encode(TEXTS)
    parameters = list(model.parameters())
    model.save(tmp_path / "model")
    assert_equal_states(model, before)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(now is then for now, then in zip(model.parameters(), parameters, strict=True))
    assert np.array_equal(model.encode(TEXTS), embeddings)
    for one in (model, other):
        train(one)
    assert_equal_states(model, state_of(other))


def adapted_by_transformers(model: SentenceTransformer) -> None:
    model[0].auto_model.add_adapter(peft.LoraConfig(target_modules=["query", "dense"], init_lora_weights=False))


def wrapped_by_peft(model: SentenceTransformer) -> None:
    config = peft.LoraConfig(target_modules=["query", "dense"], use_dora=True, init_lora_weights=False)
    model[0].auto_model = peft.get_peft_model(model[0].auto_model, config)


@pytest.mark.parametrize("adapt", [adapted_by_transformers, wrapped_by_peft])
def test_adapters_that_others_put_in_are_saved_merged_and_merge_as_well(
    adapt: Callable[[SentenceTransformer], None], tiny: Tiny, tmp_path: Path
) -> None:
    model = tiny()
    plain = model.encode(TEXTS)
    adapt(model)
    model.eval()
    adapted = model.encode(TEXTS)
    assert np.abs(adapted - plain).max() > 1e-3
    before = state_of(model)
    model.save(tmp_path / "model")
    assert_equal_states(model, before)
    there = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(there.encode(TEXTS), adapted, atol=1e-5, rtol=0)
    merge(model)
    assert type(model[0].auto_model) is BertModel
    np.testing.assert_allclose(model.encode(TEXTS), adapted, atol=1e-5, rtol=0)
    model.save(tmp_path / "merged")
    np.testing.assert_allclose(SentenceTransformer(tmp_path / "merged").encode(TEXTS), adapted, atol=1e-5, rtol=0)


def test_each_route_gets_adapters_and_shared_routes_get_them_once(tiny: Tiny, tmp_path: Path) -> None:
    shared, own = tiny(), tiny(seed=1)
    routes = {"query": [*shared], "document": [*own], "corpus": [*shared]}
    model = SentenceTransformer(modules=[models.Router(routes, default_route="query")], device="cpu")
    before = {task: model.encode(TEXTS, task=task) for task in routes}
    add_lora(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    after = {task: model.encode(TEXTS, task=task) for task in routes}
    assert all(np.abs(after[task] - before[task]).max() > 1e-3 for task in routes)
    model.save(tmp_path / "model")
    read = SentenceTransformer(tmp_path / "model", device="cpu")
    for task in routes:
        np.testing.assert_allclose(read.encode(TEXTS, task=task), after[task], atol=1e-5, rtol=0)


# Parts


def test_the_layers_are_the_longest_outermost_list_of_modules() -> None:
    def experts() -> nn.Module:
        return nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(2, 2) for _ in range(8)])})

    body = nn.ModuleDict({"heads": nn.ModuleList([nn.Linear(2, 2)]), "block": nn.ModuleList([experts(), experts()])})
    name, layers = encoder_layers(nn.ModuleDict({"encoder": body}))
    assert (name, len(layers)) == ("encoder.block", 2)
    with pytest.raises(ValueError, match="Linear has no list of layers"):
        encoder_layers(nn.Linear(2, 2))


def test_a_name_matches_whole_parts_only() -> None:
    body = nn.ModuleDict({"query": nn.Linear(2, 2), "subquery": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    assert target_layers(body, ["query"]) == ["query"]
    with pytest.raises(ValueError, match="no linear layer's name ends in 'norm'; they end in query, subquery"):
        target_layers(body, ["norm"])


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": 0}, "r must be a whole number of at least 1, got 0"),
        ({"r": 2.5}, "r must be a whole number"),
        ({"alpha": 0}, "alpha must be"),
        ({"dropout": 1.5}, "dropout must be a number of at least 0 and at most 1"),
        ({"seed": -1}, "seed must be"),
        ({"target_modules": ["q_lin"]}, "'q_lin'; they end in dense, key, query, value"),
        ({"target_modules": []}, "target_modules"),
    ],
)
def test_mistakes_are_named_and_leave_the_model_as_it_was(arguments: Any, message: str, tiny: Tiny) -> None:
    model = tiny()
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        add_lora(model, **arguments)
    assert_equal_states(model, before)
    assert trainable_share(model) == 1.0


def test_adapters_are_added_once_and_merged_once(tiny: Tiny) -> None:
    model = add_lora(tiny())
    with pytest.raises(ValueError, match="has adapters already"):
        add_lora(model)
    merge(model)
    with pytest.raises(ValueError, match="no adapters to fold in"):
        merge(model)


def test_a_model_without_a_transformer_is_refused(tiny: Tiny) -> None:
    static = SentenceTransformer(modules=[models.StaticEmbedding.from_transformer(tiny()[0])], device="cpu")
    with pytest.raises(ValueError, match="Transformer, and this model has none"):
        add_lora(static)


def test_a_missing_peft_says_what_to_install(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    model = tiny()
    with pytest.raises(ImportError, match=r'pip install "sbertlab\[adapters\]"'):
        add_lora(model)
    assert not has_adapters(model)
