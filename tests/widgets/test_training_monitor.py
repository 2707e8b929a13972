"""The training monitor: what it shows is what happened, its buttons work, and the training learns nothing of it."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader

from sbertlab import InputExample, SentenceTransformer, losses
from sbertlab.training.callbacks import Event
from sbertlab.training.checkpoint import verify
from sbertlab.training.step import NonFiniteLossError

module = pytest.importorskip(
    "sbertlab.widgets.training_monitor", reason="the lab extra is not installed", exc_type=ImportError
)
TrainingMonitor, ProbeMap = module.TrainingMonitor, module.ProbeMap

Tiny = Callable[..., SentenceTransformer]

WORDS = "cat dog bird fish man woman child house garden street city river sea sun rain snow music guitar".split()
PAIRS = [InputExample(texts=[f"the {word} sleeps", f"a {word} is there"], label=1.0) for word in WORDS]
TEXTS = [pair.texts[0] for pair in PAIRS]
STEPS = 8


def run(model: SentenceTransformer, *callbacks: Any, folder: Path | None = None, **how: Any) -> pd.DataFrame:
    loss = how.pop("loss", losses.MultipleNegativesRankingLoss)(model)
    settings = {
        "epochs": 2,
        "steps_per_epoch": 4,
        "warmup_steps": 2,
        "optimizer_params": {"lr": 1e-3},
        "show_progress_bar": False,
        "checkpoint_path": folder,
        "probe_steps": 2,
        "callbacks": list(callbacks),
    }
    return model.fit([(DataLoader(PAIRS, batch_size=4, shuffle=True), loss)], **{**settings, **how})


def score(model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> float:
    return 0.5 + epoch / 4


def assert_equal(a: SentenceTransformer, b: SentenceTransformer) -> None:
    names = a.state_dict().keys()
    assert [name for name in names if not torch.equal(a.state_dict()[name], b.state_dict()[name])] == []


def at(step: int, action: Callable[[], object], kind: str = "step") -> Callable[[Any], None]:
    """A callback that does something when a step is done."""

    def callback(event: Any) -> None:
        if (event.kind, event.step) == (kind, step):
            action()

    return callback


def soon(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def shown(monitor: Any) -> str:
    """All that the panel says, without its markup."""
    parts = (monitor._status, monitor._numbers, monitor._health)
    return re.sub(r"<[^>]*>", " ", " ".join(part.value for part in parts))


# -- The training learns nothing of it ---------------------------------------------------------------------------------


def test_training_with_the_monitor_equals_training_without_it_to_the_bit(tiny: Tiny) -> None:
    plain, watched = tiny(dropout=0.1), tiny(dropout=0.1)
    monitor = TrainingMonitor(TEXTS, WORDS, live=True, every=0)
    monitor.share = float("inf")  # every part is always due
    updates: list[int] = []
    kept = monitor.map.update
    monitor.map.update = lambda model, step: (updates.append(step), kept(model, step))
    modes: list[bool] = []
    expected = run(plain, evaluator=score)
    history = run(watched, monitor, lambda event: modes.append(event.model.training), evaluator=score)
    assert monitor.last_error is None
    assert set(updates) == set(range(1, STEPS + 1)), "the map was drawn after every step"
    assert any(modes), "the mode of training was left as it was"
    assert history["loss"].tolist() == expected["loss"].tolist()
    assert_equal(plain, watched)


def test_the_monitor_may_be_the_one_callback_of_the_fields_name(tiny: Tiny) -> None:
    monitor = TrainingMonitor(live=False)
    history = run(tiny(), callback=monitor)
    assert monitor.step == STEPS
    assert monitor.history["loss"].tolist() == history["loss"].tolist()


def test_drawing_takes_random_numbers_from_no_generator(tiny: Tiny) -> None:
    model = tiny(dropout=0.5).train()
    places = ProbeMap(TEXTS)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    places.update(model, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert all(part.training for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


# -- What it shows -----------------------------------------------------------------------------------------------------


def test_the_numbers_shown_are_those_of_the_history(tiny: Tiny) -> None:
    monitor = TrainingMonitor(live=True, every=0)
    history = run(tiny(dropout=0.1), monitor, evaluator=score)
    pd.testing.assert_frame_equal(monitor.history, history, check_like=True)
    assert set(monitor.numbers) == set(module.NUMBERS)
    for name, number in monitor.numbers.items():
        assert number == history[name].dropna().iloc[-1], name
    words = shown(monitor)
    assert f"{history['loss'].iloc[-1]:,.4g}" in words
    assert f"{history['effective_rank'].iloc[-1]:,.4g}" in words
    assert "step 8" in words
    assert "steps/s" in words
    assert "best metric 0.75" in words


def test_it_says_what_it_waits_for_and_how_the_run_ended(tiny: Tiny) -> None:
    monitor = TrainingMonitor(live=True)
    assert monitor.state == "waiting"
    assert monitor._stop.disabled
    assert monitor._pause.disabled
    states: list[Any] = []
    run(tiny(), monitor, lambda event: states.append((event.kind, monitor.state, monitor._stop.disabled)))
    assert states[0] == ("step", "running", False)
    assert states[-1] == ("end", "ended", True)
    assert monitor.status.startswith("Finished after 8 steps. It took 0:00:0")


def test_time_left_and_examples_a_second_are_told_where_the_run_tells_its_length(tiny: Tiny) -> None:
    model, monitor = tiny(), TrainingMonitor(live=True)

    for step in (1, 2, 3):
        row = {"step": step, "epoch": 0, "objective": "0:Loss", "loss": 1.0}
        monitor(Event("step", step, 0, row, model, steps=100, examples=16))
        monitor._times = type(monitor._times)(range(step))  # a step a second
    assert monitor.pace == "step 3 of 100 · 1 steps/s · 16 examples/s · 0:01:37 left"
    monitor(Event("end", 3, 0, row, model, steps=100, examples=16))
    assert monitor.status.startswith("Ended early, after step 3 of 100")


def test_drawing_is_rationed_to_its_share_of_the_time(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(module, "time", clock)
    monitor, model = TrainingMonitor(live=True, every=0.5, share=0.1), tiny()
    monkeypatch.setattr(monitor, "_show_numbers", lambda: None)
    drawn: list[float] = []

    def draw(seconds: float) -> None:
        drawn.append(clock.now)
        clock.now += seconds

    for seconds, between in ((0.001, 0.5), (0.1, 3.0)):  # each of three parts gets a third of a tenth
        monkeypatch.setattr(monitor, "_show_curves", lambda seconds=seconds: draw(seconds))
        drawn.clear()
        for _ in range(100):
            row = {"step": monitor.step + 1, "epoch": 0, "objective": "0:Loss", "loss": 1.0}
            monitor(Event("step", row["step"], 0, row, model))
            clock.now += 0.1
        assert np.median(np.diff(drawn)) == pytest.approx(between + seconds, abs=0.15)


def test_without_a_notebook_nothing_is_drawn_before_the_end(tiny: Tiny) -> None:
    monitor = TrainingMonitor(TEXTS)
    assert not monitor.live
    values: list[str] = []
    run(tiny(), monitor, at(5, lambda: values.append(monitor._numbers.value)))
    assert values == [""]
    assert not monitor.map.views
    assert "step 8" in shown(monitor)
    assert not monitor._curves.value


# -- The map -----------------------------------------------------------------------------------------------------------


def test_the_map_stays_on_the_plane_of_the_first_step_and_says_how_much_it_holds(tiny: Tiny) -> None:
    model, places = tiny(), ProbeMap(TEXTS, WORDS)

    def rows() -> np.ndarray:
        return torch.nn.functional.normalize(model.encode(TEXTS, convert_to_tensor=True).double(), dim=1).numpy()

    before = rows()
    pca = PCA(n_components=2).fit(before)
    places.update(model, 1)
    step, xy, share = places.views[-1]
    assert step == 1
    assert np.allclose(np.abs(xy), np.abs(pca.transform(before)), atol=1e-5)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-5)
    reach = places.reach
    run(model)
    after = rows()
    places.update(model, 9)
    moved = (after - after.mean(axis=0)) @ places._plane
    step, xy, share = places.views[-1]
    assert np.allclose(xy, moved, atol=1e-5)
    assert np.allclose(np.abs(places._plane.T), np.abs(pca.components_), atol=1e-4), "the plane has not moved"
    assert share == pytest.approx(moved.var(axis=0).sum() / after.var(axis=0).sum(), abs=1e-5)
    assert places.reach >= reach
    first, last = places.figure().axes[:2]
    assert [axes.get_title() or axes.get_title(loc="left") for axes in (first, last)] == [
        "after step 1",
        "after step 9",
    ]
    assert f"{share:.0%} of the variance" in last.get_xlabel()
    assert first.get_xlim() == last.get_xlim() == last.get_ylim() == (-places.reach, places.reach)


def test_a_long_probe_is_thinned_evenly() -> None:
    texts = [f"text {number}" for number in range(2000)]
    places = ProbeMap(texts, range(2000))
    assert len(places.texts) == 512
    assert (places.texts[0], places.texts[-1]) == (texts[0], texts[-1])
    assert [f"text {label}" for label in places.labels] == places.texts


def test_embeddings_that_are_all_equal_or_not_finite_make_no_map_and_a_message(tiny: Tiny) -> None:
    model, places = tiny(), ProbeMap(TEXTS)
    norm = model[0].auto_model.encoder.layer[-1].output.LayerNorm
    for bias, said in ((1.0, "at step 3 the embeddings are all equal"), (float("nan"), "not finite")):
        with torch.no_grad():
            norm.weight.zero_()
            norm.bias.fill_(bias)
        with pytest.raises(ValueError, match=said):
            places.update(model, 3)
    assert places.views == []


def test_a_collapse_is_told_in_words(tiny: Tiny) -> None:
    monitor = TrainingMonitor(live=True, every=0)
    model = tiny()
    with pytest.warns(UserWarning, match="nearly one"):
        history = run(model, monitor, loss=losses.CosineSimilarityLoss, epochs=9)
    assert history.attrs["collapsed"]
    assert monitor.health.startswith("Collapsed: the embeddings have become nearly one")
    assert "Collapsed: the embeddings" in shown(monitor)


# -- Stop --------------------------------------------------------------------------------------------------------------


def test_stop_ends_after_the_running_step_with_a_checkpoint_and_goes_on_to_the_same_weights(
    tiny: Tiny, tmp_path: Path
) -> None:
    whole, stopped, again = (tiny(dropout=0.1) for _ in range(3))
    before = signal.getsignal(signal.SIGINT)
    expected = run(whole)
    monitor = TrainingMonitor(TEXTS, live=True, every=0)
    history = run(stopped, at(5, lambda: monitor._stop.click()), monitor, folder=tmp_path)
    assert history["step"].tolist() == [1, 2, 3, 4, 5]
    assert history.attrs["interrupted"]
    assert not history.attrs["stopped_early"]
    assert signal.getsignal(signal.SIGINT) is before
    verify(tmp_path / "5")
    assert monitor.state == "ended"
    assert monitor.status.startswith("Stopped after step 5; the same call with resume=True resumes it.")
    resumed = run(again, monitor, folder=tmp_path, resume=True)
    assert not resumed.attrs["interrupted"]
    assert_equal(again, whole)
    assert monitor.history["loss"].tolist() == expected["loss"].tolist(), "the rows before it went on are kept"
    assert monitor.status.startswith("Finished after 8 steps")


def test_stop_from_another_thread_ends_after_the_running_step(tiny: Tiny, tmp_path: Path) -> None:
    monitor = TrainingMonitor()
    pressed, entered = threading.Event(), threading.Event()

    def press() -> None:
        entered.wait(30)
        monitor.stop()
        monitor.stop()  # twice does no more: Ctrl-C twice would end the step too
        pressed.set()

    def running(event: Any) -> None:
        if (event.kind, event.step) == ("step", 3):
            entered.set()
            pressed.wait(30)

    thread = threading.Thread(target=press)
    thread.start()
    history = run(tiny(), running, monitor, folder=tmp_path)
    thread.join()
    assert history["step"].tolist() == [1, 2, 3]
    assert history.attrs["interrupted"]
    verify(tmp_path / "3")


def test_stop_during_an_evaluation_or_with_ctrl_c_is_one_wish(tiny: Tiny) -> None:
    monitor = TrainingMonitor()
    history = run(tiny(), at(4, monitor.stop, "evaluation"), monitor, evaluator=score)
    assert history["step"].iloc[-1] == 4
    assert history.attrs["interrupted"]
    both = TrainingMonitor()

    def press() -> None:
        signal.raise_signal(signal.SIGINT)
        both.stop()

    assert run(tiny(), at(2, press), both).attrs["interrupted"], "no KeyboardInterrupt by a second signal"
    assert both.status.startswith("Stopped after step 2, without a checkpoint of it.")


def test_where_fit_runs_in_a_thread_stop_ends_it_as_a_callback_does(tiny: Tiny) -> None:
    monitor = TrainingMonitor()
    histories: list[pd.DataFrame] = []
    thread = threading.Thread(target=lambda: histories.append(run(tiny(), at(3, monitor.stop), monitor)))
    thread.start()
    thread.join()
    assert histories[0]["step"].tolist() == [1, 2, 3]
    assert histories[0].attrs["stopped_early"]


def test_buttons_do_nothing_without_a_run(tiny: Tiny) -> None:
    monitor = TrainingMonitor()
    for press in (monitor.stop, monitor.pause, monitor.resume):
        press()
        assert monitor.state == "waiting"
    assert len(run(tiny(), monitor)) == STEPS
    monitor.stop()
    assert monitor.state == "ended"


# -- Pause -------------------------------------------------------------------------------------------------------------


def test_pause_holds_the_run_and_resume_goes_on_to_the_same_weights(tiny: Tiny) -> None:
    whole, paused = tiny(dropout=0.1), tiny(dropout=0.1)
    run(whole)
    monitor, steps, seen = TrainingMonitor(live=True, every=0), [], []

    def press() -> None:
        soon(lambda: monitor.status.startswith("Paused after step 3."))
        seen.extend([list(steps), monitor._pause.description, monitor._stop.disabled])
        time.sleep(0.3)
        seen.append(list(steps))
        monitor._pause.click()

    thread = threading.Thread(target=press)
    thread.start()
    history = run(
        paused,
        lambda event: steps.append(event.step),
        at(3, lambda: monitor._pause.click()),
        at(3, lambda: seen.append(monitor.status)),
        monitor,
    )
    thread.join()
    assert seen[0] == "Pausing: the current step is finished first."
    assert seen[1][-1] == seen[-1][-1] == 3, "no step while it was paused"
    assert seen[2:4] == ["Resume", False]
    assert len(history) == STEPS
    assert monitor._held > 0.3
    assert monitor._pause.description == "Pause"
    assert_equal(paused, whole)


@pytest.mark.parametrize("how", ["stop", "Ctrl-C"])
def test_a_paused_run_can_be_stopped(tiny: Tiny, tmp_path: Path, how: str) -> None:
    monitor = TrainingMonitor()
    main = threading.main_thread().ident

    def press() -> None:
        soon(lambda: monitor.status.startswith("Paused after step 2."))
        monitor.stop() if how == "stop" else signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    history = run(tiny(), at(2, monitor.pause), monitor, folder=tmp_path)
    thread.join()
    assert history["step"].tolist() == [1, 2]
    assert history.attrs["interrupted"]
    verify(tmp_path / "2")


# -- Pictures, notebooks and bad input ---------------------------------------------------------------------------------


def test_the_picture_is_the_history_or_words_before_there_is_one(tiny: Tiny) -> None:
    monitor = TrainingMonitor(TEXTS, live=True)
    assert "image/png" in monitor._repr_mimebundle_()
    run(tiny(), monitor)
    titles = {axes.get_title(loc="left") for axes in monitor.static().axes}
    assert {"Loss", "Learning rate"} <= titles
    assert monitor.picture().startswith(b"\x89PNG")
    assert len(monitor.map.figure().axes) == 2
    assert repr(monitor).startswith("TrainingMonitor: Finished after 8 steps.")


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A notebook as the monitor sees one: what is displayed is noted, and hooks can be called."""
    page = SimpleNamespace(shown=[], updated=[], hooks=[])
    events = SimpleNamespace(
        register=lambda name, hook: page.hooks.append(hook), unregister=lambda name, hook: page.hooks.remove(hook)
    )
    shell = SimpleNamespace(kernel=object(), events=events)

    def display(thing: Any, **how: Any) -> Any:
        page.shown.append(thing)
        if isinstance(thing, TrainingMonitor):
            thing._repr_mimebundle_()
        return SimpleNamespace(update=lambda bundle, raw: page.updated.append(bundle))

    monkeypatch.setattr(module, "get_ipython", lambda: shell)
    monkeypatch.setattr(module, "display", display)
    return page


def test_in_a_notebook_it_appears_where_fit_runs_and_its_picture_takes_its_place(
    tiny: Tiny, notebook: SimpleNamespace
) -> None:
    monitor = TrainingMonitor(TEXTS)
    assert monitor.live
    run(tiny(), monitor)
    assert notebook.shown[0] is monitor
    assert len(notebook.shown) == 2, "the other one is the map"
    assert set(notebook.updated[0]) == {"image/png", "text/plain"}
    assert notebook.hooks == []
    before = TrainingMonitor()
    before._repr_mimebundle_()
    notebook.shown.clear()
    run(tiny(), before)
    assert before not in notebook.shown, "it was shown before"
    assert set(notebook.shown[0]) == {"image/png", "text/plain"}


def test_a_fit_that_raises_is_told_when_the_cell_has_ended(tiny: Tiny, notebook: SimpleNamespace) -> None:
    monitor = TrainingMonitor()
    model = tiny()

    def poison() -> None:
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))

    with pytest.raises(NonFiniteLossError) as raised:
        run(model, at(3, poison), monitor, probe_steps=0)
    assert monitor.state == "running"
    notebook.hooks[0](SimpleNamespace(error_in_exec=raised.value))
    assert monitor.state == "failed"
    assert monitor.status.startswith("The run was cut off after step 3: NonFiniteLossError: step 4")
    assert monitor._stop.disabled
    assert notebook.hooks == []
    assert notebook.updated, "the picture of what there was is left"
    assert len(run(tiny(), monitor)) == STEPS, "it serves for the next run"
    assert len(monitor.history) == STEPS


def test_a_run_after_one_that_raised_begins_anew(tiny: Tiny) -> None:
    monitor = TrainingMonitor()
    with pytest.raises(ZeroDivisionError):
        run(tiny(), at(5, lambda: 1 / 0), monitor, seed=1)
    history = run(tiny(), monitor)
    assert monitor.history["loss"].tolist() == history["loss"].tolist()
    assert monitor.status.startswith("Finished after 8 steps")


def test_an_error_in_its_drawing_is_told_and_the_run_goes_on(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = TrainingMonitor(TEXTS, live=True)
    monkeypatch.setattr(monitor.map, "figure", lambda *options, **more: 1 / 0)
    assert len(run(tiny(), monitor)) == STEPS
    assert isinstance(monitor.last_error, ZeroDivisionError)
    assert monitor.problem == "The monitor could not draw, the run continues: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("probe", "how", "words"),
    [
        ("a text", {}, "probe must be a list of texts, got the single text 'a text'"),
        (["a", None, "b"], {}, "probe[1] must be a text, got None"),
        (["a", "b"], {}, "of at least 3, got 2"),
        (["a", "b", "c"], {"labels": [1, 2]}, "probe has 3, labels has 2"),
        (None, {"share": 0}, "share must be a number above 0"),
        (None, {"every": float("nan")}, "every must be a number of at least 0"),
        (None, {"theme": "blue"}, "theme must be one of"),
    ],
)
def test_bad_input_is_refused(probe: Any, how: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        TrainingMonitor(probe, **how)


def test_called_as_the_callback_of_the_field_it_says_how_it_is_passed() -> None:
    with pytest.raises(TypeError, match=re.escape("callbacks=[monitor]")):
        TrainingMonitor()(0.5, 0, -1)


def test_without_ipywidgets_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    for name in ("sbertlab.widgets.training_monitor", "sbertlab.widgets.panel"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=re.escape('pip install "sbertlab[lab]"')):
        __import__("sbertlab.widgets.training_monitor")
