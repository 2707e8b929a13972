"""LoRA: starts at the model as it was, trains alone, resumes, and is saved as a plain model that anyone reads."""

import shutil

import numpy as np
import torch
from sbertlab.adapters import add_lora
from torch import nn

from sbertlab import models
from sbertlab.models.fast_cpu import FastLinear
from tests.encoder.folders import TEXTS, assert_same, peer, read
from tests.training.runs import PAIRS, assert_equal, ranking, weights


def train(model, **arguments):
    settings = {"epochs": 3, "warmup_steps": 0, "optimizer_params": {"lr": 1e-2}, "show_progress_bar": False}
    model.fit(ranking(model, PAIRS[:4], batch_size=2), **{**settings, **arguments})


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
        states.append(weights(add_lora(model, target_modules=["query"], seed=seed)))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
    adapted = [name for name in states[0] if ".lora_A." in name]
    assert len(adapted) == 2
    assert all(".self.query." in name for name in adapted)
    assert torch.equal(states[0][adapted[0]], states[1][adapted[0]])
    assert not torch.equal(states[0][adapted[0]], states[2][adapted[0]])


def test_fit_moves_the_adapters_and_the_dense_block_and_saving_merges_a_copy(tiny, tmp_path):
    model = add_lora(tiny(modules=[models.Dense(32, 16)], dropout=0.1), dropout=0.1)
    before = weights(model)
    train(model)
    for name, value in weights(model).items():
        trained = "lora_" in name or name.startswith("0.2.linear.")
        assert torch.equal(value, before[name]) != trained, name
    adapted = weights(model)
    model.save(tmp_path / "model")
    assert_equal(model, adapted)
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
    assert_equal(other, weights(whole))
