"""Runs that are killed, interrupted or meet a full disk. `make faults` does many, CI a few."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from sbertlab import InputExample, losses
from sbertlab.training.checkpoint import CheckpointWarning, verify

RUNS = Path(__file__).with_name("runs.py")
FULL = bool(os.environ.get("SBERTLAB_FAULTS"))


@pytest.mark.slow
def test_killed_and_interrupted_runs_end_in_the_weights_of_the_unbroken_one(tmp_path):
    kills, interrupts = (36, 12) if FULL else (5, 3)
    done = subprocess.run(
        [sys.executable, str(RUNS), str(tmp_path / "runs"), f"--kills={kills}", f"--interrupts={interrupts}"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found))
    assert found["killed"]["equal"] == found["killed"]["runs"] == kills, found
    assert found["interrupted"]["equal"] == found["interrupted"]["runs"] == interrupts, found
    struck = [status for run in found["killed"]["statuses"] for status in run[:-1]]
    assert -9 in struck
    statuses = {status for run in found["interrupted"]["statuses"] for status in run}
    assert statuses <= {0, 3, 4}, done.stderr[-4000:]  # the end of the run, a return, or a KeyboardInterrupt
    if FULL:
        assert found["killed"]["half_written"] > 0, "some were killed while they wrote a checkpoint"
        assert {3, 4} <= statuses


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for about three checkpoints of the tiny model."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_leaves_earlier_checkpoints_whole_and_the_run_goes_on(small_disk, tiny):
    words = "cat dog bird fish man woman child house garden street".split()
    rows = [InputExample(texts=[f"the {word} sleeps", f"a {word} is there"]) for word in words]

    def fit(model, folder, **how):
        objective = (DataLoader(rows, batch_size=2, shuffle=True), losses.MultipleNegativesRankingLoss(model))
        how |= {"epochs": 3, "warmup_steps": 0, "show_progress_bar": False}
        return model.fit([objective], checkpoint_path=folder, checkpoint_save_steps=1, **how)

    whole, full, again = (tiny(dropout=0.1) for _ in range(3))
    fit(whole, None)
    with pytest.warns(CheckpointWarning, match="could not be written.*free space"):
        history = fit(full, small_disk)
    assert len(history) == 15
    kept = sorted(small_disk.iterdir(), key=lambda path: int(path.name))
    assert 1 <= len(kept) < 15, "and nothing half-written"
    for folder in kept:
        verify(folder)
    for folder in kept[:-1]:
        shutil.rmtree(folder)
    fit(again, small_disk, resume=True, checkpoint_save_total_limit=1)
    for model in (full, again):
        pairs = zip(whole.state_dict().values(), model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
