"""What happens beside a run: Ctrl-C, the users' functions, idle steps; and in which order they are called."""

import signal
import threading
import warnings

import pytest

from sbertlab import InputExample, SentenceTransformer, losses
from sbertlab.training.checkpoint import verify
from tests.training.runs import PAIRS, STEPS, assert_equal, press_at, ranking, run


@pytest.mark.parametrize(
    ("kind", "step", "last"), [("step", 5, 5), ("evaluation", 4, 4), ("checkpoint", 3, 3)], ids=["step", "eval", "save"]
)
def test_an_interrupted_run_finishes_its_step_writes_a_checkpoint_and_resumes_to_the_same_weights(
    tiny, tmp_path, kind, step, last
):
    whole, stopped, again = (tiny(dropout=0.1) for _ in range(3))
    how = {"evaluator": lambda *_, **__: 0.5}
    before = signal.getsignal(signal.SIGINT)
    expected = run(whole, **how)
    history = run(stopped, None, tmp_path, callbacks=[press_at(step, kind=kind)], **how)
    assert history.attrs["interrupted"]
    assert history.attrs["interrupt_requested"]
    assert not history.attrs["stopped_early"]
    assert history["step"].tolist() == list(range(1, last + 1))
    assert signal.getsignal(signal.SIGINT) is before
    assert not stopped.training
    assert all(parameter.grad is None for parameter in stopped.parameters())
    verify(tmp_path / str(last))
    resumed = run(again, None, tmp_path, resume=True, **how)
    assert not resumed.attrs["interrupted"]
    assert not resumed.attrs["interrupt_requested"]
    assert resumed["loss"].tolist() == expected["loss"].tolist()
    assert_equal(again, whole)


def test_a_second_signal_stops_at_once_and_leaves_the_checkpoint_before_it_whole(tiny, tmp_path):
    whole, stopped, again = (tiny(dropout=0.1) for _ in range(3))
    before = signal.getsignal(signal.SIGINT)
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, None, tmp_path, callbacks=[press_at(5, times=2)])
    assert signal.getsignal(signal.SIGINT) is before
    assert not stopped.training
    assert all(parameter.grad is None for parameter in stopped.parameters())
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
    verify(tmp_path / "3")
    run(again, None, tmp_path, resume=True)
    assert_equal(again, whole)


def test_a_signal_during_the_last_step_interrupts_nothing_and_is_told_to_the_caller(tiny, tmp_path):
    model = tiny()
    history = run(model, output_path=tmp_path / "out", callbacks=[press_at(STEPS)])
    assert not history.attrs["interrupted"]
    assert history.attrs["interrupt_requested"]
    assert len(history) == STEPS
    assert_equal(SentenceTransformer(tmp_path / "out", device="cpu"), model)


def test_the_handler_is_put_back_after_an_error_in_a_callback(tiny):
    def fails(event):
        raise ZeroDivisionError

    before, model = signal.getsignal(signal.SIGINT), tiny()
    with pytest.raises(ZeroDivisionError):
        run(model, callbacks=[fails])
    assert signal.getsignal(signal.SIGINT) is before
    assert not model.training


def test_in_a_thread_no_handler_is_set_and_the_run_is_whole(tiny):
    before, model = signal.getsignal(signal.SIGINT), tiny()
    handlers = []
    histories = []
    note = [lambda event: handlers.append(signal.getsignal(signal.SIGINT))]
    thread = threading.Thread(target=lambda: histories.append(run(model, callbacks=note)))
    thread.start()
    thread.join()
    assert [len(history) for history in histories] == [STEPS]
    assert all(handler is before for handler in handlers)


@pytest.mark.parametrize("kind", ["step", "evaluation"])
def test_a_function_that_returns_true_ends_the_run_after_the_step(tiny, tmp_path, kind):
    model = tiny()
    told = []

    def enough(event):
        told.append(event.kind)
        return (event.kind, event.step) == (kind, 4)

    history = run(model, callbacks=[enough, lambda event: "yes"], output_path=tmp_path / "out")
    assert history["step"].tolist() == [1, 2, 3, 4]
    assert history.attrs["stopped_early"]
    assert not history.attrs["interrupted"]
    assert told[-1] == "end"
    assert_equal(SentenceTransformer(tmp_path / "out", device="cpu"), model)


def test_functions_are_told_steps_evaluations_checkpoints_and_the_end_in_order(tiny, tmp_path):
    told = []
    run(
        tiny(),
        None,
        tmp_path,
        evaluator=lambda *_, **__: 0.5,
        evaluation_steps=2,
        callback=lambda score, epoch, steps: told.append(f"score {epoch} {steps}"),
        callbacks=[lambda event: told.append(f"{event.kind} {event.step}"), lambda event: told.append("second")],
    )
    assert [entry for entry in told if entry != "second"] == [
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
    assert events[1::2] == ["second"] * (len(events) // 2), "each event is told to all before the next"


def test_an_event_holds_the_newest_row_and_the_model(tiny):
    model = tiny()
    events = []

    def note(event):
        assert event.model is model
        assert (event.steps, len(event.rows)) == (STEPS, 1)
        events.append((event.kind, event.step, event.epoch, event.row))

    history = run(model, evaluator=lambda *_, **__: 0.25, probe_steps=2, callbacks=[note])
    steps = [event for event in events if event[0] == "step"]
    assert [(step, epoch) for _, step, epoch, _ in steps] == [(step + 1, step // 4) for step in range(STEPS)]
    assert [row["loss"] for *_, row in steps] == history["loss"].tolist()
    assert "margin" in steps[1][3], "the space is measured before the step is told"
    assert [row["metric"] for kind, *_, row in events if kind == "evaluation"] == [0.25, 0.25]


def test_steps_with_a_gradient_of_0_are_counted_in_one_warning(tiny):
    model = tiny()
    equal = [InputExample(texts=row.texts, label=0.5) for row in PAIRS]
    objective = (ranking(model, equal)[0][0], losses.CoSENTLoss(model))
    with pytest.warns(UserWarning, match="had a gradient of 0") as told:
        run(model, [objective], epochs=3)
    messages = [str(one.message) for one in told if "gradient of 0" in str(one.message)]
    assert [message.partition(" had")[0] for message in messages] == ["10 of 10 steps", "12 of 12 steps"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model)
