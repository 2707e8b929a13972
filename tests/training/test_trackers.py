"""Trackers: what is in their files is the history, the files are where they were asked for, and they are closed."""

import math
import os
import time
from pathlib import Path

import pytest
from accelerate.tracking import GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from sbertlab import InputExample, SentenceTransformer, losses
from tests.training.runs import assert_equal, weights

ROWS = [
    InputExample(texts=["the cat sits in the garden", "a cat is in the garden"], label=0.9),
    InputExample(texts=["the cat sits in the garden", "the cat is here"], label=0.7),  # a known positive of the first
    InputExample(texts=["my parcel is late", "the dog runs"], label=0.1),
    InputExample(texts=["open the window", "close the door"], label=0.4),
]
OWN = ["loss", "lr", "gradient_norm", "known_positives", "tokens_per_second", "padding_share"]
SHARED = ["metric", "epoch", "alignment", "uniformity", "effective_rank", "mean_cosine", "margin"]


@pytest.fixture(autouse=True)
def _offline_and_away_from_home(tmp_path, monkeypatch):
    """wandb keeps caches in the home folder; the working folder is watched for files that do not belong there."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("WANDB_DIR", "WANDB_API_KEY", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")


def train(model, objectives=1, **settings):
    loader = DataLoader(ROWS, batch_size=2)
    pairs = [(loader, losses.MultipleNegativesRankingLoss(model)), (loader, losses.CosineSimilarityLoss(model))]
    settings = {"evaluator": lambda *_, **__: 0.5, "epochs": 2, "probe_steps": 2, **settings}
    return model.fit(pairs[:objectives], warmup_steps=0, show_progress_bar=False, **settings)


def event_files(folder):
    """The files with curves; accelerate writes the configuration a folder deeper."""
    return sorted(folder.glob("*/sbertlab/events.out.tfevents.*"))


def assert_same_curves(file, history, columns, prefix=""):
    events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
    for column in columns:
        expected = history[["step", column]].dropna()
        assert len(expected), f"the history has no {column} to compare"
        found = {event.step: event.value for event in events.Scalars(prefix + column)}
        assert found == pytest.approx(dict(expected.to_numpy().tolist()), rel=1e-6, abs=1e-9), column


class Notes(GeneralTracker):
    """A user's own tracker: keeps what it is told."""

    name = "notes"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.told = []

    @property
    def tracker(self):
        return self.told

    def start(self):
        self.told.append("start")

    def store_init_configuration(self, values):
        self.told.append(values)

    def log(self, values, step=None, **_):
        self.told.append((step, values))

    def finish(self):
        self.told.append("finish")


def test_tensorboard_files_hold_the_history_and_the_configuration(tiny, tmp_path):
    history = train(tiny(), log_with="tensorboard", log_dir=tmp_path / "logs")
    (file,) = event_files(tmp_path / "logs")
    assert_same_curves(file, history, OWN + SHARED)
    assert history["known_positives"].sum() > 0
    assert history["lr"].nunique() == len(history) == 4
    settings = (next(file.parent.glob("*/hparams.yml"))).read_text()
    assert "MultipleNegativesRankingLoss" in settings
    assert "mixed_precision: 'no'" in settings


def test_several_objectives_have_curves_of_their_own_and_the_model_one(tiny, tmp_path):
    history = train(tiny(), objectives=2, log_with="tensorboard", log_dir=tmp_path)
    (file,) = event_files(tmp_path)
    for name, rows in history.groupby("objective"):
        assert_same_curves(file, rows, OWN, f"{str(name).replace(':', '_')}/")
    assert history["objective"].nunique() == 2
    assert_same_curves(file, history, SHARED)


@pytest.mark.slow
def test_wandb_writes_into_the_folder_without_network_or_question(tiny, tmp_path):
    train(tiny(), log_with=["wandb"], log_dir=tmp_path / "logs")
    (file,) = (tmp_path / "logs").glob("wandb/offline-run-*/*.wandb")
    for _ in range(600):  # a process of wandb writes the last rows shortly after `finish` returned
        if all(name.encode() in file.read_bytes() for name in (*OWN, *SHARED, "mixed_precision")):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the history and the configuration are not in the file")
    assert os.listdir() == []


def test_files_go_to_runs_in_the_working_folder_unless_told_otherwise_and_two_fits_are_two_runs(tiny):
    for _ in range(2):
        train(tiny(), log_with="tensorboard", evaluator=None, epochs=1)
    assert os.listdir() == ["runs"]
    assert len({file.parent for file in event_files(Path("runs"))}) == 2


def test_the_own_tracker_of_a_user_is_begun_told_and_finished_once(tiny):
    notes = Notes()
    history = train(tiny(), log_with=notes)
    start, configuration, *steps, finish = notes.told
    assert (start, finish) == ("start", "finish")
    assert configuration["seed"] == 0
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    for (_, values), row in zip(steps, history.to_dict("records"), strict=True):
        assert values == {k: v for k, v in row.items() if k not in ("step", "objective") and not math.isnan(v)}


def test_a_tracker_that_fails_at_the_end_leaves_the_model_written(tiny, tmp_path):
    class Failing(Notes):
        def finish(self):
            raise OSError("the disk of the tracker is full")

    model, notes = tiny(), Notes()
    with pytest.warns(UserWarning, match="tracker notes could not finish.*disk of the tracker"):
        train(model, log_with=[Failing(), notes], evaluator=None, output_path=tmp_path / "out")
    assert notes.told[-1] == "finish"
    assert_equal(SentenceTransformer(tmp_path / "out", device="cpu"), model)


def test_an_exception_in_the_middle_closes_the_files_once(tiny, tmp_path):
    def stop(event):
        if event.step == 2:
            raise ZeroDivisionError

    notes = Notes()
    with pytest.raises(ZeroDivisionError):
        train(tiny(), log_with=["tensorboard", notes], log_dir=tmp_path, callbacks=[stop])
    assert notes.told.count("finish") == 1
    (file,) = event_files(tmp_path)
    assert [event.step for event in EventAccumulator(str(file)).Reload().Scalars("loss")] == [1]


def test_a_tracker_that_cannot_begin_ends_the_fit_before_its_first_step_and_closes_the_others(tiny):
    class Refusing(Notes):
        def start(self):
            raise ConnectionError("no server")

    notes, model = Notes(), tiny()
    before = weights(model)
    with pytest.raises(ConnectionError, match="no server"):
        train(model, log_with=[notes, Refusing()])
    assert (notes.told[0], notes.told[-1]) == ("start", "finish")
    assert_equal(weights(model), before)


@pytest.mark.parametrize(
    ("log_with", "words"),
    [
        ("tensorbord", r"'tensorbord'\. Did you mean 'tensorboard'"),
        (["tensorboard", "comet_ml"], "got 'comet_ml'"),
        (Notes, "got <class"),
        (3, "got 3"),
    ],
)
def test_a_tracker_that_is_not_available_is_named_before_anything_is_done(tiny, log_with, words):
    with pytest.raises(ValueError, match=f"log_with.* must be one of .*{words}"):
        train(tiny(), log_with=log_with)
    assert os.listdir() == []
