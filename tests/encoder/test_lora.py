"""LoRA: starts at the model as it was, trains alone, resumes, and is saved as a plain model that anyone reads."""

import shutil

import numpy as np
import torch
from sbertlab.adapters import add_lora
from torch import nn
from torch.utils.data import DataLoader

from sbertlab import InputExample, losses, models
from sbertlab.models.fast_cpu import FastLinear
from tests.encoder.folders import TEXTS, assert_same, peer, read

PAIRS = [
    InputExample(texts=["the cat sits", "a cat is on the chair"]),
    InputExample(texts=["red car", "a fast bike"]),
    InputExample(texts=["where is my parcel", "the delivery is late"]),
    InputExample(texts=["lost password", "reset the account"]),
]


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_states(model, before):
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def train(model, **arguments):
    loader = DataLoader(PAIRS, batch_size=2, shuffle=True)
    settings = {"epochs": 3, "warmup_steps": 0, "optimizer_params": {"lr": 1e-2}, "show_progress_bar": False}
    model.fit([(loader, losses.MultipleNegativesRankingLoss(model))], **{**settings, **arguments})


def test_fresh_adapters_change_no_embedding_and_train_a_known_number_of_weights(tiny):
    model = tiny()
    before = model.encode(TEXTS)
    assert add_lora(model, r=4) is model
    assert np.array_equal(model.encode(TEXTS), before)
    assert not any("pooler" in name for name, _ in model.named_parameters() if "lora" in name)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == 2 * 4 * (4 * (32 + 32) + 2 * (32 + 64))  # layers * r * (in + out) of 4 + 2 matrices
    linear = {type(part) for part in model[0].modules() if isinstance(part, nn.Linear)}
    assert linear == {FastLinear}


def test_adapters_go_where_the_names_say_and_follow_the_seed_alone(tiny):
    states = []
    for seed in (3, 3, 4):
        model = tiny()
        before = torch.get_rng_state()
        states.append(state_of(add_lora(model, target_modules=["query"], seed=seed)))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
    adapted = [name for name in states[0] if ".lora_A." in name]
    assert len(adapted) == 2
    assert all(".self.query." in name for name in adapted)
    assert torch.equal(states[0][adapted[0]], states[1][adapted[0]])
    assert not torch.equal(states[0][adapted[0]], states[2][adapted[0]])


def test_fit_moves_the_adapters_and_the_dense_block_and_saving_merges_a_copy(tiny, tmp_path):
    model = add_lora(tiny(modules=[models.Dense(32, 16)], dropout=0.1), dropout=0.1)
    before = state_of(model)
    train(model)
    for name, value in model.state_dict().items():
        trained = "lora_" in name or name.startswith("2.linear.")
        assert torch.equal(value, before[name]) != trained, name
    adapted = state_of(model)
    model.save(tmp_path / "model")
    assert_equal_states(model, adapted)
    assert_same(read(tmp_path / "model"), model)
    assert_same(peer(tmp_path / "model"), model)
    assert read(tmp_path / "model").state_dict().keys() == tiny(modules=[models.Dense(32, 16)]).state_dict().keys()


def test_a_run_with_adapters_resumes_from_its_checkpoint_to_the_same_bits(tiny, tmp_path):
    whole, broken, other = (add_lora(tiny(dropout=0.1), dropout=0.1, seed=seed) for seed in (0, 0, 1))
    train(whole)
    arguments = {"checkpoint_path": tmp_path, "checkpoint_save_steps": 3}
    train(broken, **arguments)
    shutil.rmtree(tmp_path / "6")
    train(other, resume=True, **arguments)
    assert_equal_states(other, state_of(whole))
