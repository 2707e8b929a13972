"""What tests of training share: rows, objectives, a short run, and ways to end it."""

import os
import signal

import torch
from torch.utils.data import DataLoader, IterableDataset

from sbertlab import InputExample, losses

WORDS = "cat dog bird fish man woman child house garden street city river sea sun rain snow music guitar".split()
PAIRS = [InputExample(texts=[f"the {word} sleeps", f"a {word} is there"], label=i / 17) for i, word in enumerate(WORDS)]
STEPS = 8


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PAIRS)


class Killed(BaseException):
    """Stands for what ends a process in the middle of a run."""


def kill_after(step):
    def callback(event):
        if event.kind == "step" and event.step == step:
            raise Killed

    return callback


def press_at(step, times=1, kind="step"):
    """A callback that presses Ctrl-C."""

    def callback(event):
        if (event.kind, event.step) == (kind, step):
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return callback


def ranking(model, rows=PAIRS, **loading):
    loader = DataLoader(rows, **{"batch_size": 4, "shuffle": True, **loading})
    return [(loader, losses.MultipleNegativesRankingLoss(model))]


def run(model, objectives=None, folder=None, **how):
    """Two epochs of four steps, with checkpoints after the third and sixth."""
    settings = {
        "epochs": 2,
        "steps_per_epoch": 4,
        "warmup_steps": 3,
        "optimizer_params": {"lr": 1e-3},
        "show_progress_bar": False,
        "checkpoint_path": folder,
        "checkpoint_save_steps": 3,
    }
    return model.fit(ranking(model) if objectives is None else objectives, **{**settings, **how})


def weights(*modules):
    named = {f"{n}.{name}": tensor for n, module in enumerate(modules) for name, tensor in module.state_dict().items()}
    return {name: tensor.clone() for name, tensor in named.items()}


def assert_equal(a, b):
    """Weights equal to the bit."""
    ours, theirs = (one if isinstance(one, dict) else weights(one) for one in (a, b))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
