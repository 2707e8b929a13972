"""Trackers: what is in their files is the history, the files are where they were asked for, and are always closed."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate.tracking import GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from sbertlab import InputExample, SentenceTransformer, losses
from sbertlab.evaluation import EmbeddingSimilarityEvaluator
from sbertlab.training.callbacks import tracker_settings

Tiny = Callable[..., SentenceTransformer]

PAIRS = [
    ("the cat sits in the garden", "a cat is in the garden", 0.9),
    ("the cat sits in the garden", "the cat is here", 0.7),  # the same anchor twice: a known positive
    ("my parcel is late", "the dog runs", 0.1),
    ("open the window", "close the door", 0.4),
]
EXAMPLES = [InputExample(texts=[a, b], label=score) for a, b, score in PAIRS]
COLUMNS = ["loss", "lr", "gradient_norm", "known_positives", "metric", "tokens_per_second", "padding_share", "epoch"]
SPACE = ["alignment", "uniformity", "effective_rank", "mean_cosine", "margin"]
Curves = dict[str, dict[int, float]]
"""The value at every step, by name."""


@pytest.fixture(autouse=True)
def _offline_and_away_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb keeps caches in the home folder; the working folder is watched for files that do not belong there."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("WANDB_DIR", "WANDB_API_KEY", "WANDB_RUN_ID", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")


def train(model: SentenceTransformer, objectives: int = 1, **settings: Any) -> pd.DataFrame:
    loader = DataLoader(EXAMPLES, batch_size=2, shuffle=False)
    kinds = [losses.MultipleNegativesRankingLoss, losses.CosineSimilarityLoss][:objectives]
    evaluator = EmbeddingSimilarityEvaluator(*(list(column) for column in zip(*PAIRS, strict=True)))
    settings = {"evaluator": evaluator, "epochs": 2, "probe_steps": 2, **settings}
    pairs = [(loader, kind(model)) for kind in kinds]
    return model.fit(pairs, warmup_steps=0, show_progress_bar=False, **settings)


def curves_of_history(history: pd.DataFrame, columns: list[str]) -> Curves:
    rows = {column: history[["step", column]].dropna() for column in columns}
    return {column: dict(zip(part["step"], part[column], strict=True)) for column, part in rows.items()}


def event_files(folder: Path) -> list[Path]:
    """The files with curves; accelerate writes the configuration a folder deeper."""
    return sorted(folder.glob("*/sbertlab/events.out.tfevents.*"))


def curves_of_events(file: Path) -> Curves:
    events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def parts_of_wandb(file: Path) -> Iterator[Any]:
    """The records written so far of an offline run: protocol buffers in the log format of LevelDB, blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        length, part = struct.unpack("<HB", data[at + 4 : at + 7])
        if at + 7 + length > len(data):
            return  # still being written
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def wandb_records(file: Path, seconds: float = 60) -> list[Any]:
    """The records of a finished run; a process of wandb writes the last of them shortly after `finish` returned."""
    for _ in range(int(seconds / 0.05)):
        records = list(parts_of_wandb(file))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{file} was not finished within {seconds} s")


def curves_of_wandb(file: Path) -> Curves:
    curves: Curves = {}
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name in items.keys() - {"_step", "_runtime", "_timestamp", "_wandb"}:
                curves.setdefault(name, {})[items["_step"]] = items[name]
    return curves


def wandb_files(folder: Path) -> list[Path]:
    return list(folder.glob("wandb/offline-run-*/*.wandb"))


def assert_same_curves(found: Curves, history: pd.DataFrame, columns: list[str] = COLUMNS + SPACE) -> None:
    expected = curves_of_history(history, columns)
    assert found.keys() >= expected.keys()
    for name, curve in expected.items():
        assert curve, f"the history has no {name} to compare"
        assert found[name] == pytest.approx(curve, rel=1e-6, abs=1e-9), name


class Notes(GeneralTracker):
    """A user's own tracker: keeps what it is told."""

    name = "notes"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    @property
    def tracker(self) -> list[Any]:
        return self.told

    def start(self) -> None:
        self.told.append("start")

    def store_init_configuration(self, values: dict) -> None:
        self.told.append(values)

    def log(self, values: dict, step: int | None = None, **_: Any) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finish")


def test_tensorboard_files_hold_the_history(tiny: Tiny, tmp_path: Path) -> None:
    history = train(tiny(), log_with="tensorboard", log_dir=tmp_path / "logs")
    (file,) = event_files(tmp_path / "logs")
    assert_same_curves(curves_of_events(file), history)
    assert history["known_positives"].sum() > 0
    assert history["lr"].nunique() == len(history) == 4
    settings = (next(file.parent.glob("*/hparams.yml"))).read_text()
    assert "MultipleNegativesRankingLoss" in settings, "the configuration of the run stands beside its curves"
    assert "mixed_precision: 'no'" in settings


@pytest.mark.slow
def test_wandb_files_hold_the_history_without_network_or_question(tiny: Tiny, tmp_path: Path) -> None:
    history = train(tiny(), log_with=["wandb"], log_dir=tmp_path / "logs")
    (file,) = wandb_files(tmp_path / "logs")
    assert_same_curves(curves_of_wandb(file), history)
    records = wandb_records(file)
    kinds = [record.WhichOneof("record_type") for record in records]
    assert kinds.count("run") >= 1
    assert kinds.count("exit") == 1, "the run is finished, and once"
    (project,) = {record.run.project for record in records if record.WhichOneof("record_type") == "run"}
    assert project == "sbertlab"
    settings = {item.key: json.loads(item.value_json) for record in records for item in record.config.update}
    assert settings["mixed_precision"] == "no"


def test_files_go_to_runs_in_the_working_folder_unless_told_otherwise_and_two_fits_are_two_runs(tiny: Tiny) -> None:
    for _ in range(2):
        train(tiny(), log_with="tensorboard", evaluator=None, epochs=1)
    assert os.listdir() == ["runs"]
    assert len({file.parent for file in event_files(Path("runs"))}) == 2


def test_several_objectives_have_curves_of_their_own_and_the_model_one(tiny: Tiny, tmp_path: Path) -> None:
    history = train(tiny(), objectives=2, log_with="tensorboard", log_dir=tmp_path)
    (file,) = event_files(tmp_path)
    found = curves_of_events(file)
    assert_same_curves(found, history, ["metric", *SPACE])
    names = ["0:MultipleNegativesRankingLoss", "1:CosineSimilarityLoss"]
    assert sorted(history["objective"].unique()) == names
    for name in names:
        own = history[history["objective"] == name]
        prefix = name.replace(":", "_")
        for column in ("loss", "lr", "gradient_norm", "known_positives"):
            expected = curves_of_history(own, [column])[column]
            assert found[f"{prefix}/{column}"] == pytest.approx(expected, rel=1e-6)
    assert "loss" not in found


def test_the_own_tracker_of_a_user_is_begun_told_and_finished_once(tiny: Tiny) -> None:
    notes = Notes()
    history = train(tiny(), log_with=[notes, notes])
    start, configuration, *steps, finish = notes.told
    assert (start, finish) == ("start", "finish")
    assert configuration["seed"] == 0
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    for (_, values), row in zip(steps, history.to_dict("records"), strict=True):
        numbers = {k: v for k, v in row.items() if k not in ("step", "objective") and not math.isnan(v)}
        assert values == numbers
    assert os.listdir() == [], "no folder for those who write no files"


class StopError(Exception):
    pass


def test_an_exception_in_the_middle_closes_the_files_once(tiny: Tiny, tmp_path: Path) -> None:
    def stop(event: Any) -> None:
        if event.step == 2:
            raise StopError

    notes = Notes()
    with pytest.raises(StopError):
        train(tiny(), log_with=["tensorboard", notes], log_dir=tmp_path, callbacks=[stop])
    assert notes.told.count("finish") == 1
    assert set(curves_of_events(*event_files(tmp_path))["loss"]) == {1}


def test_a_tracker_that_cannot_begin_ends_the_fit_before_its_first_step_and_closes_the_others(tiny: Tiny) -> None:
    class Refusing(Notes):
        def start(self) -> None:
            raise ConnectionError("no server")

    notes, refusing, model = Notes(), Refusing(), tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConnectionError, match="no server"):
        train(model, log_with=[notes, refusing])
    assert notes.told[0] == "start"
    assert notes.told[-1] == "finish"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_tracker_that_cannot_be_closed_is_named_and_hides_neither_the_others_nor_the_error(tiny: Tiny) -> None:
    class Broken(Notes):
        name = "broken"

        def finish(self) -> None:
            raise OSError("disk full")

    def stop(event: Any) -> None:
        raise StopError

    notes = Notes()
    with pytest.warns(UserWarning, match="the tracker broken could not be closed: OSError"), pytest.raises(StopError):
        train(tiny(), log_with=[notes, Broken()], callbacks=[stop])
    assert notes.told[-1] == "finish"


@pytest.mark.parametrize(
    ("log_with", "error", "message"),
    [
        ("tensorbord", ValueError, r"log_with must be one of .*'tensorbord'\. Did you mean 'tensorboard'"),
        (["tensorboard", "comet_ml"], ImportError, "needs the package comet_ml: pip install comet_ml"),
        (Notes, TypeError, "GeneralTracker objects, got <class"),
        (3, TypeError, "got 3"),
    ],
)
def test_a_tracker_that_cannot_be_had_is_said_before_anything_is_done(
    tiny: Tiny, log_with: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(tiny(), log_with=log_with)
    assert os.listdir() == []


def test_a_folder_named_like_a_tracker_is_not_taken_for_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mlflow").mkdir()
    monkeypatch.syspath_prepend(os.getcwd())
    with pytest.raises(ImportError, match="pip install mlflow"):
        tracker_settings("mlflow", None)


def test_a_log_dir_that_is_a_file_is_an_error_before_the_first_step(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        train(tiny(), log_with="wandb", log_dir=tmp_path / "file")


@pytest.mark.slow
def test_no_tracker_is_imported_until_it_is_asked_for() -> None:
    names = ["wandb", "tensorboard", "trackio", "torch.utils.tensorboard"]
    code = "import sys, sbertlab, sbertlab.training.callbacks as c; c.tracker_settings(['tensorboard', 'wandb'], None);"
    code += f"print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
