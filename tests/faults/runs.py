"""Runs that are killed and interrupted at random moments, each in a process of its own, and what became of them.

Started as a program, because the processes are forked from one that has imported everything and done nothing yet.
Prints one JSON object: see `main`.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import huggingface_hub.hf_file_system
import peft
import scipy.stats
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[2]))

from sbertlab import SentenceTransformer, losses, models
from sbertlab.data import NoDuplicatesDataLoader
from sbertlab.evaluation import EmbeddingSimilarityEvaluator
from tests.conftest import tiny_transformer
from tests.training.runs import PAIRS

IMPORTED = (huggingface_hub.hf_file_system, peft, scipy.stats)
"""What a run would import on its way: of an interruption in the middle of an import Python makes another error."""

STRIKES = {"killed": [[signal.SIGKILL]], "interrupted": [[signal.SIGINT], [signal.SIGINT, signal.SIGINT]]}
"""The signals that a run gets one after the other."""


def train(folder):
    """Train to the end, or as far as an interruption allows; return whether it was the end."""
    model = SentenceTransformer(modules=[tiny_transformer(0, 0.1), models.Pooling(32)], device="cpu")
    objectives = [
        (NoDuplicatesDataLoader(PAIRS + PAIRS[:6], batch_size=5), losses.MultipleNegativesRankingLoss(model)),
        (DataLoader(PAIRS, batch_size=3, shuffle=True), losses.CosineSimilarityLoss(model)),
    ]
    evaluator = EmbeddingSimilarityEvaluator.from_input_examples(PAIRS[:8], name="dev")
    (folder / "begun").touch()
    history = model.fit(
        objectives,
        evaluator=evaluator,
        epochs=6,
        evaluation_steps=2,
        warmup_steps=5,
        optimizer_params={"lr": 1e-3},
        output_path=folder / "out",
        checkpoint_path=folder / "checkpoints",
        checkpoint_save_steps=2,
        checkpoint_save_total_limit=2,
        show_progress_bar=False,
        resume=True,
        token_budget=16,
        cached=True,
    )
    if history.attrs["interrupted"]:
        model.encode(["the cat sleeps"])  # the model is usable
        (folder / "interrupted").touch()
        return False
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run is over: what follows only says how it ended
    torch.save(
        {
            "weights": model.state_dict(),
            "best": SentenceTransformer(folder / "out", device="cpu").state_dict(),
            "history": history.drop(columns="tokens_per_second").to_json(),
            "scores": (folder / "out" / "eval" / evaluator.csv_file).read_text(),
        },
        folder / "result.pt",
    )
    return True


def fork(folder):
    """Start `train` in a process of its own; its exit status is 0 at the end of the run, 3 after an interruption."""
    (folder / "begun").unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        status = 1
        try:
            status = 0 if train(folder) else 3
        except KeyboardInterrupt:
            status = 4
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # no other call before it, in which one more signal would be an error of its own
    return process


def wait(process):
    """Return the exit status, or minus the signal that ended the process."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def equal(a, b):
    """Whether two results agree to the bit."""
    tensors = all(
        a[part].keys() == b[part].keys() and all(torch.equal(a[part][name], b[part][name]) for name in a[part])
        for part in ("weights", "best")
    )
    return tensors and a["history"] == b["history"] and a["scores"] == b["scores"]


def break_and_resume(folder, signals, times, seconds, draw):
    """Start a run, strike at random moments `times` times, and let it come to its end; return what was seen."""
    folder.mkdir()
    statuses, half_written = [], 0
    for _ in range(times):
        process = fork(folder)
        while not (folder / "begun").exists():
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, seconds))
        for number in signals:
            with suppress(ProcessLookupError):
                os.kill(process, number)
            time.sleep(0.02)
        statuses.append(wait(process))
        checkpoints = folder / "checkpoints"
        half_written += any(checkpoints.glob(".*"))  # what a process leaves that is killed while it writes
    if not (folder / "result.pt").exists():
        statuses.append(wait(fork(folder)))
    return {"statuses": statuses, "half_written": half_written}


def main():
    """Print, for each kind of strike, how many runs there were, how many ended equal, and what they met on the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--interrupts", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it puts aside without it
    draw = random.Random(0)
    whole = arguments.folder / "whole"
    whole.mkdir(parents=True)
    start = time.perf_counter()
    assert wait(fork(whole)) == 0
    seconds = time.perf_counter() - start
    expected = torch.load(whole / "result.pt", weights_only=True)
    found = {}
    for name, count in (("killed", arguments.kills), ("interrupted", arguments.interrupts)):
        runs = []
        for index in range(count):
            folder = arguments.folder / f"{name}-{index}"
            signals = STRIKES[name][index % len(STRIKES[name])]
            seen = break_and_resume(folder, signals, 1 + index % 3, seconds, draw)
            result = torch.load(folder / "result.pt", weights_only=True)
            seen["differing"] = [part for part in expected if not equal({**expected, part: result[part]}, expected)]
            runs.append(seen)
            if not seen["differing"]:
                shutil.rmtree(folder)
        found[name] = {
            "runs": count,
            "equal": sum(not run["differing"] for run in runs),
            "half_written": sum(run["half_written"] for run in runs),
            "statuses": [run["statuses"] for run in runs],
            "differing": [run["differing"] for run in runs if run["differing"]],
        }
    print(json.dumps({"seconds": seconds, **found}))


if __name__ == "__main__":
    main()
