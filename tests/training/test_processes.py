"""Two gloo processes give what one gives, plain and cached; and what happens when one dies."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sbertlab.training.checkpoint import verify

SCRIPT = Path(__file__).with_name("processes_script.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
SETTINGS = {
    "plain": {},
    "cached": {"cached": True},
    "dropout": {"dropout": 0.2},
    "everything": {"dropout": 0.2, "cached": True, "mixed_precision": "bf16"},
    "softmax": {"loss": "softmax"},
    "denoising": {"loss": "denoising"},
    "foreign": {"loss": "foreign"},
    "fewer chunks than processes": {"few": True, "token_budget": 4096},
}


def train(folder, processes, runs):
    """Train in so many processes, without torchrun, which may end one before it can say that the other is lost."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), json.dumps(runs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **({**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})},
        )
        for rank in range(processes)
    ]
    try:
        said = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    return [subprocess.CompletedProcess(p.args, p.returncode, *text) for p, text in zip(started, said, strict=True)]


def outcome(folder, rank=0):
    history = json.loads((folder / f"history{rank}.json").read_text())
    return history, torch.load(folder / f"weights{rank}.pt")


def furthest(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a if a[name].is_floating_point())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every run in one process, below "1", and in two, below "2"."""
    folder = tmp_path_factory.mktemp("processes")
    for processes in (1, 2):
        for done in train(folder / str(processes), processes, SETTINGS):
            assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_equal_one(trained, name):
    history, alone = outcome(trained / "1" / name)
    history_of_two, together = outcome(trained / "2" / name)
    _, other = outcome(trained / "2" / name, rank=1)
    assert history["step"] == history_of_two["step"]
    assert len(history["step"]) >= 6
    close = 1e-3 if "mixed_precision" in SETTINGS[name] else 1e-5  # bfloat16 rounds the sums of gradients
    assert np.allclose(history["loss"], history_of_two["loss"], rtol=0, atol=close)
    assert np.allclose(history["gradient_norm"], history_of_two["gradient_norm"], rtol=10 * close)
    assert furthest(alone, together) < max(1e-4, close)
    assert furthest(together, other) == 0.0, "all processes hold the same weights"
    folders = [trained / processes / name for processes in "12"]
    events, scores = zip(*((f / "events", next(f.glob("out/eval/*.csv"))) for f in folders), strict=True)
    assert events[0].read_text() == events[1].read_text(), "everything once"
    assert scores[0].read_text().count("\n") == scores[1].read_text().count("\n")


@pytest.mark.slow
def test_a_dead_process_ends_the_run_clearly_and_another_number_of_processes_resumes_it(trained, tmp_path):
    checkpoints = {"checkpoint_path": str(tmp_path / "c"), "checkpoint_save_steps": 2}
    left, lost = train(tmp_path, 2, {"dies": {"loss": "dying", "die": 5, **checkpoints}})
    assert lost.returncode == 9, lost.stderr[-4000:]
    assert left.returncode == 1
    assert "ProcessLostError: process 0 of 2" in left.stderr
    assert "resume=True" in left.stderr
    verify(tmp_path / "c" / "4")
    (done,) = train(tmp_path, 1, {"resumed": {"loss": "dying", "resume": True, **checkpoints}})
    assert done.returncode == 0, done.stderr[-4000:]
    assert furthest(outcome(trained / "1" / "plain")[1], outcome(tmp_path / "resumed")[1]) < 1e-4
    history = outcome(tmp_path / "resumed")[0]
    assert history["step"] == list(range(1, len(history["step"]) + 1))
