"""What happens beside a run: Ctrl-C, the users' functions, patience; and in which order they are called."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from sbertlab import InputExample, SentenceTransformer, losses
from sbertlab.training.checkpoint import verify

Tiny = Callable[..., SentenceTransformer]

WORDS = "cat dog bird fish man woman child house garden street city river sea sun rain snow music guitar".split()
PAIRS = [InputExample(texts=[f"the {word} sleeps", f"a {word} is there"]) for word in WORDS]
STEPS = 8


def press() -> None:
    """Press Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def press_at(step: int, times: int = 1, kind: str = "step") -> Callable[[Any], None]:
    def callback(event: Any) -> None:
        if (event.kind, event.step) == (kind, step):
            for _ in range(times):
                press()

    return callback


def run(model: SentenceTransformer, folder: Path | None = None, **how: Any) -> pd.DataFrame:
    objectives = [(DataLoader(PAIRS, batch_size=4, shuffle=True), losses.MultipleNegativesRankingLoss(model))]
    settings = {
        "epochs": 2,
        "steps_per_epoch": 4,
        "warmup_steps": 2,
        "optimizer_params": {"lr": 1e-3},
        "show_progress_bar": False,
        "checkpoint_path": folder,
        "checkpoint_save_steps": 3,
    }
    return model.fit(objectives, **{**settings, **how})


def assert_equal(a: SentenceTransformer, b: SentenceTransformer) -> None:
    names = a.state_dict().keys()
    assert [name for name in names if not torch.equal(a.state_dict()[name], b.state_dict()[name])] == []


class Scores:
    """An evaluator whose score depends on the step alone."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores

    def __call__(self, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> float:
        return self.scores[epoch * 4 + (steps if steps > 0 else 4) - 1]


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_finishes_its_step_writes_a_checkpoint_and_goes_on_to_the_same_weights(
    tiny: Tiny, tmp_path: Path
) -> None:
    whole, stopped, again = (tiny(dropout=0.1) for _ in range(3))
    before = signal.getsignal(signal.SIGINT)
    expected = run(whole)
    history = run(stopped, tmp_path, callbacks=[press_at(5)])
    assert history.attrs["interrupted"]
    assert history.attrs["interrupt_requested"]
    assert not history.attrs["stopped_early"]
    assert history["step"].tolist() == [1, 2, 3, 4, 5]
    assert signal.getsignal(signal.SIGINT) is before
    assert not stopped.training
    assert all(parameter.grad is None for parameter in stopped.parameters())
    assert stopped.encode("the cat").shape == (32,)
    verify(tmp_path / "5")
    resumed = run(again, tmp_path, resume=True)
    assert not resumed.attrs["interrupted"]
    assert not resumed.attrs["interrupt_requested"]
    assert resumed["loss"].tolist() == expected["loss"].tolist()
    assert_equal(again, whole)


def test_a_run_interrupted_while_it_evaluates_or_writes_a_checkpoint_goes_on_to_the_same_weights(
    tiny: Tiny, tmp_path: Path
) -> None:
    whole = tiny(dropout=0.1)
    run(whole, evaluator=Scores(*[0.5] * STEPS))
    for kind, step, last in (("evaluation", 4, 4), ("checkpoint", 3, 4)):
        folder = tmp_path / kind
        stopped, again = tiny(dropout=0.1), tiny(dropout=0.1)
        history = run(stopped, folder, evaluator=Scores(*[0.5] * STEPS), callbacks=[press_at(step, kind=kind)])
        assert history.attrs["interrupted"]
        assert history["step"].iloc[-1] == last
        verify(folder / str(last))
        run(again, folder, evaluator=Scores(*[0.5] * STEPS), resume=True)
        assert_equal(again, whole)


def test_a_second_signal_stops_at_once_and_leaves_the_checkpoint_before_it_whole(tiny: Tiny, tmp_path: Path) -> None:
    whole, stopped, again = (tiny(dropout=0.1) for _ in range(3))
    before = signal.getsignal(signal.SIGINT)
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, tmp_path, callbacks=[press_at(5, times=2)])
    assert signal.getsignal(signal.SIGINT) is before
    assert not stopped.training
    assert all(parameter.grad is None for parameter in stopped.parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
    verify(tmp_path / "3")
    run(again, tmp_path, resume=True)
    assert_equal(again, whole)


def test_a_signal_during_the_last_step_interrupts_nothing_and_is_told_to_the_caller(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    history = run(model, output_path=tmp_path / "out", callbacks=[press_at(STEPS)])
    assert not history.attrs["interrupted"]
    assert history.attrs["interrupt_requested"]
    assert len(history) == STEPS
    assert_equal(SentenceTransformer(tmp_path / "out", device="cpu"), model)


def test_the_handler_is_put_back_after_an_error_in_a_callback(tiny: Tiny) -> None:
    def fails(event: Any) -> None:
        raise ZeroDivisionError

    before = signal.getsignal(signal.SIGINT)
    model = tiny()
    with pytest.raises(ZeroDivisionError):
        run(model, callbacks=[fails])
    assert signal.getsignal(signal.SIGINT) is before
    assert not model.training


def test_in_a_thread_no_handler_is_set_and_the_run_is_whole(tiny: Tiny) -> None:
    before = signal.getsignal(signal.SIGINT)
    model = tiny()
    handlers: list[Any] = []
    histories: list[pd.DataFrame] = []
    note = [lambda event: handlers.append(signal.getsignal(signal.SIGINT))]
    thread = threading.Thread(target=lambda: histories.append(run(model, callbacks=note)))
    thread.start()
    thread.join()
    assert len(histories) == 1
    assert len(histories[0]) == STEPS
    assert all(handler is before for handler in handlers)


# -- Callbacks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["step", "evaluation"])
def test_a_callback_that_returns_true_ends_the_run_after_the_step(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    model = tiny()
    told: list[str] = []

    def enough(event: Any) -> bool:
        told.append(event.kind)
        return (event.kind, event.step) == (kind, 4)

    history = run(model, callbacks=[enough, lambda event: None], output_path=tmp_path / "out")
    assert history["step"].tolist() == [1, 2, 3, 4]
    assert history.attrs["stopped_early"]
    assert not history.attrs["interrupted"]
    assert told[-1] == "end"
    assert_equal(SentenceTransformer(tmp_path / "out", device="cpu"), model)


@pytest.mark.parametrize("answer", [None, False, 1, "yes"])
def test_only_true_ends_a_run(tiny: Tiny, answer: object) -> None:
    assert len(run(tiny(), callbacks=[lambda event: answer])) == STEPS


# -- Patience ----------------------------------------------------------------------------------------------------------


def test_patience_counts_evaluations_in_a_row_without_a_better_score(tiny: Tiny) -> None:
    scores = Scores(0.1, 0.2, 0.15, 0.3, 0.3, 0.25, 0.9, 0.9)
    model = tiny()
    history = run(model, evaluator=scores, evaluation_steps=1, early_stopping_patience=2)
    assert history["metric"].tolist() == [0.1, 0.2, 0.15, 0.3, 0.3, 0.25], "an equal score is no better one"
    assert history.attrs["stopped_early"]
    patient = run(model, evaluator=scores, evaluation_steps=1, early_stopping_patience=3)
    assert len(patient) == STEPS
    assert not patient.attrs["stopped_early"]


def test_a_score_that_is_not_a_number_is_no_better_one(tiny: Tiny) -> None:
    history = run(tiny(), evaluator=Scores(*[float("nan")] * STEPS), evaluation_steps=1, early_stopping_patience=3)
    assert len(history) == 3


def test_patience_goes_on_where_it_was_when_the_run_was_interrupted(tiny: Tiny, tmp_path: Path) -> None:
    how = {
        "evaluator": Scores(0.5, 0.4, 0.3, 0.2, 0.1, 0.9, 0.9, 0.9),
        "evaluation_steps": 1,
        "early_stopping_patience": 4,
    }
    whole, stopped, again = (tiny(dropout=0.1) for _ in range(3))
    expected = run(whole, **how)
    assert len(expected) == 5
    assert run(stopped, tmp_path, callbacks=[press_at(4)], **how).attrs["interrupted"]
    history = run(again, tmp_path, resume=True, **how)
    assert history["metric"].tolist() == expected["metric"].tolist()
    assert history.attrs["stopped_early"]
    assert_equal(again, whole)


def test_a_run_that_patience_has_ended_is_at_its_end_when_it_is_continued(tiny: Tiny, tmp_path: Path) -> None:
    how = {"evaluator": Scores(*[0.5] * STEPS), "evaluation_steps": 1, "early_stopping_patience": 2}
    stopped, again = tiny(dropout=0.1), tiny(dropout=0.1)
    assert len(run(stopped, tmp_path, **how)) == 3  # the step of a checkpoint
    history = run(again, tmp_path, resume=True, **how)
    assert len(history) == 3
    assert history.attrs["stopped_early"]
    assert_equal(again, stopped)


# -- Events ------------------------------------------------------------------------------------------------------------


def test_functions_are_told_steps_evaluations_checkpoints_and_the_end_in_order(tiny: Tiny, tmp_path: Path) -> None:
    told: list[str] = []
    run(
        tiny(),
        tmp_path,
        evaluator=Scores(*[0.5] * STEPS),
        evaluation_steps=2,
        callback=lambda score, epoch, steps: told.append(f"score {epoch} {steps}"),
        callbacks=[
            lambda event: told.append(f"{event.kind} {event.step}"),
            lambda event: told.append("the second"),
        ],
    )
    assert [entry for entry in told if entry != "the second"] == [
        "step 1",
        *("step 2", "score 0 2", "evaluation 2"),
        *("step 3", "checkpoint 3"),
        *("step 4", "score 0 -1", "evaluation 4"),
        "step 5",
        *("step 6", "score 1 2", "evaluation 6", "checkpoint 6"),
        "step 7",
        *("step 8", "score 1 -1", "evaluation 8"),
        "end 8",
    ]
    events = [entry for entry in told if not entry.startswith("score")]
    assert events[1::2] == ["the second"] * (len(events) // 2), "each event is told to all before the next"


def test_an_event_holds_the_newest_row_and_the_model(tiny: Tiny) -> None:
    model = tiny()
    events: list[Any] = []

    def note(event: Any) -> None:
        assert event.model is model
        assert (event.steps, event.examples, len(event.rows)) == (STEPS, len(event.rows) * 4, 1)
        events.append((event.kind, event.step, event.epoch, event.row))

    pairs = PAIRS[:16]
    loader: Any = DataLoader(pairs, batch_size=4, shuffle=True)
    history = model.fit(
        [(loader, losses.MultipleNegativesRankingLoss(model))],
        evaluator=lambda *_, **__: 0.25,
        epochs=2,
        warmup_steps=2,
        probe_steps=2,
        callbacks=[note],
        show_progress_bar=False,
    )
    steps = [event for event in events if event[0] == "step"]
    assert [(step, epoch) for _, step, epoch, _ in steps] == [(step + 1, step // 4) for step in range(STEPS)]
    assert [row["loss"] for *_, row in steps] == history["loss"].tolist()
    assert "margin" in steps[1][3], "the space is measured before the step is told"
    assert [row["metric"] for kind, *_, row in events if kind == "evaluation"] == [0.25, 0.25]


def test_callbacks_that_are_not_a_list_of_functions_are_refused(tiny: Tiny) -> None:
    for callbacks in (print, [3]):
        with pytest.raises(TypeError, match="callbacks must be a list of functions of an Event"):
            run(tiny(), callbacks=callbacks)
