"""Two gloo processes give what one gives: per step and at the end, plain and cached; and what happens when one dies."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sbertlab.training.checkpoint import verify

SCRIPT = Path(__file__).with_name("processes_script.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
TOGETHER = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]


def train(folder: Path, processes: int = 2, **settings: Any) -> None:
    folder.mkdir(exist_ok=True)
    launcher = TOGETHER if processes == 2 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(folder), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=240,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def train_unwatched(folder: Path, **settings: Any) -> list[subprocess.CompletedProcess[str]]:
    """Train in two processes without torchrun, which may end the one before it has said that the other is lost."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **meeting, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    return [subprocess.CompletedProcess(p.args, p.returncode, *text) for p, text in zip(started, said, strict=True)]


def outcome(folder: Path, rank: int = 0) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    history = json.loads((folder / f"history{rank}.json").read_text())
    return history, torch.load(folder / f"weights{rank}.pt")


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a if a[name].is_floating_point())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cached": True},
        {"dropout": 0.2},
        {"dropout": 0.2, "cached": True, "mixed_precision": "bf16"},
        {"loss": "softmax"},
        {"loss": "denoising"},
        {"loss": "of the field"},
        {"few": True, "token_budget": 4096},
    ],
    ids=str,
)
def test_two_processes_equal_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    for processes in (1, 2):
        train(tmp_path / str(processes), processes, **settings)
    history, alone = outcome(tmp_path / "1")
    history_of_two, together = outcome(tmp_path / "2")
    _, other = outcome(tmp_path / "2", rank=1)
    assert history["step"] == history_of_two["step"]
    assert len(history["step"]) >= 6
    close = 1e-3 if settings.get("mixed_precision") else 1e-5  # bfloat16 rounds the sums of gradients
    assert np.allclose(history["loss"], history_of_two["loss"], rtol=0, atol=close)
    assert np.allclose(history["gradient_norm"], history_of_two["gradient_norm"], rtol=10 * close)
    assert furthest(alone, together) < max(1e-4, close)
    assert furthest(together, other) == 0.0, "all processes hold the same weights"
    assert (tmp_path / "1" / "events").read_text() == (tmp_path / "2" / "events").read_text(), "everything once"
    scores = [len(list((tmp_path / name / "out" / "eval").glob("*.csv"))) for name in ("1", "2")]
    rows = [path.read_text().count("\n") for name in "12" for path in (tmp_path / name / "out" / "eval").glob("*.csv")]
    assert scores == [1, 1]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_dead_process_ends_the_run_clearly_and_another_number_of_processes_goes_on(tmp_path: Path) -> None:
    checkpoints = {"checkpoint_path": str(tmp_path / "c"), "checkpoint_save_steps": 2}
    left, lost = train_unwatched(tmp_path / "dies", die=5, **checkpoints)
    assert lost.returncode == 9, lost.stderr[-4000:]
    assert left.returncode == 1
    assert "ProcessLostError: process 0 of 2" in left.stderr
    assert "resume=True" in left.stderr
    verify(tmp_path / "c" / "4")
    train(tmp_path / "whole", 1, loss="ranking")
    # DyingLoss is a class of its own: its checkpoints are of the same loss by another name only
    for name in ("2", "4"):
        manifest = tmp_path / "c" / name / "checkpoint.json"
        if manifest.exists():
            manifest.write_text(manifest.read_text().replace("DyingLoss", "MultipleNegativesRankingLoss"))
    train(tmp_path / "goes on", 1, resume=True, **checkpoints)
    assert furthest(outcome(tmp_path / "whole")[1], outcome(tmp_path / "goes on")[1]) < 1e-4
    history = outcome(tmp_path / "goes on")[0]
    assert history["step"] == list(range(1, len(history["step"]) + 1))
