"""The training monitor: what it shows is what happened, its buttons work, and the training learns nothing of it."""

import re
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from torch.utils.data import DataLoader

from sbertlab import InputExample, losses
from sbertlab.training.callbacks import Event
from sbertlab.training.checkpoint import verify
from sbertlab.widgets import TrainingMonitor
from sbertlab.widgets import training_monitor as module
from sbertlab.widgets.training_monitor import ProbeMap
from tests.training import runs
from tests.training.runs import STEPS, WORDS, assert_equal

PAIRS = [InputExample(texts=pair.texts, label=1.0) for pair in runs.PAIRS]
TEXTS = [pair.texts[0] for pair in PAIRS]


def run(model, *callbacks, loss=None, **how):
    return runs.run(
        model,
        [(DataLoader(PAIRS, batch_size=4, shuffle=True), (loss or losses.MultipleNegativesRankingLoss)(model))],
        probe_steps=2,
        callbacks=list(callbacks),
        **how,
    )


def score(model, output_path=None, epoch=-1, steps=-1):
    return 0.5 + epoch / 4


def at(step, action, kind="step"):
    """A callback that does something when a step is done."""

    def callback(event):
        if (event.kind, event.step) == (kind, step):
            action()

    return callback


def when(condition, action):
    """A thread that does something as soon as a condition holds."""

    def wait():
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def shown(monitor):
    """All that the panel says, without its markup."""
    parts = (monitor._status, monitor._health)
    return re.sub(r"<[^>]*>", " ", " ".join(part.value for part in parts))


def watching(*probe):
    """A monitor that draws, as in a notebook."""
    monitor = TrainingMonitor(*probe)
    monitor.live = True
    return monitor


def test_training_with_the_monitor_equals_training_without_it_to_the_bit(tiny, monkeypatch):
    plain, watched = tiny(dropout=0.1), tiny(dropout=0.1)
    monkeypatch.setattr(module, "SHARE", float("inf"))  # every part is always due
    monitor = watching(TEXTS, list("ab") * (len(TEXTS) // 2))
    updates = []
    update = monitor.map.update
    monitor.map.update = lambda model, step: (updates.append(step), update(model, step))
    modes = []
    expected = run(plain, evaluator=score)
    history = run(watched, monitor, lambda event: modes.append(event.model.training), evaluator=score)
    assert monitor.problem == ""
    assert set(updates) == set(range(1, STEPS + 1)), "the map was drawn after every step"
    assert any(modes), "the mode of training was left as it was"
    assert history["loss"].tolist() == expected["loss"].tolist()
    assert_equal(plain, watched)


def test_it_shows_the_numbers_of_the_history_and_the_state_of_the_run(tiny):
    monitor, states = watching(), []
    assert (monitor.state, monitor._stop.disabled, monitor._pause.disabled) == ("waiting", True, True)
    assert monitor.picture(), "the status, before there is a history"
    note = lambda event: states.append((event.kind, monitor.state, monitor._stop.disabled))  # noqa: E731
    history = run(tiny(dropout=0.1), monitor, note, evaluator=score)
    assert (states[0], states[-1]) == (("step", "running", False), ("end", "ended", True))
    pd.testing.assert_frame_equal(monitor.history, history, check_like=True)
    assert "No collapse" in shown(monitor)
    assert monitor.status == "Finished after 8 of 8 steps."
    assert bytes(monitor._curves.value).startswith(b"\x89PNG")
    assert {"Loss", "Learning rate"} <= {axes.get_title(loc="left") for axes in monitor.static().axes}


def test_drawing_is_rationed_to_its_share_of_the_time(tiny, monkeypatch):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(module, "time", clock)
    monitor, model, drawn = watching(), tiny(), []

    def draw(model):
        drawn.append(clock.now)
        clock.now += 0.1

    monkeypatch.setattr(monitor, "_show_pictures", draw)
    for step in range(1, 101):
        row = {"step": step, "epoch": 0, "objective": "0:Loss", "loss": 1.0}
        monitor(Event("step", step, 0, row, model, steps=400))
        clock.now += 0.1
    assert np.diff(drawn) == pytest.approx(2.1, abs=0.15), "a twentieth of the time"
    assert "Training: step 100 of 400." in shown(monitor)


def test_the_map_stays_on_the_plane_of_the_first_step_and_states_its_share_of_the_variance(tiny):
    model, places = tiny(), ProbeMap(TEXTS, WORDS)

    def rows():
        return torch.nn.functional.normalize(model.encode(TEXTS, convert_to_tensor=True).double(), dim=1).numpy()

    before = rows()
    pca = PCA(n_components=2).fit(before)
    places.update(model, 1)
    _, xy, share = places.views[-1]
    assert np.allclose(np.abs(xy), np.abs(pca.transform(before)), atol=1e-5)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-5)
    run(model)
    after = rows()
    places.update(model, 9)
    moved = (after - after.mean(axis=0)) @ places._plane
    _, xy, share = places.views[-1]
    assert np.allclose(xy, moved, atol=1e-5)
    assert np.allclose(np.abs(places._plane.T), np.abs(pca.components_), atol=1e-4), "the plane has not moved"
    assert share == pytest.approx(moved.var(axis=0).sum() / after.var(axis=0).sum(), abs=1e-5)
    first, last = places.figure().axes[:2]
    assert [axes.get_title(loc="left") for axes in (first, last)] == ["after step 1", "after step 9"]
    assert f"{share:.0%} of the variance" in last.get_xlabel()
    assert first.get_xlim() == last.get_xlim() == last.get_ylim()


def test_a_collapse_is_reported(tiny):
    monitor = watching()
    with pytest.warns(UserWarning, match="nearly one"):
        run(tiny(), monitor, loss=losses.CosineSimilarityLoss, epochs=9)
    assert "Collapsed: the embeddings have become nearly one" in shown(monitor)


def test_stop_ends_after_the_current_step_with_a_checkpoint_and_resumes_to_the_same_weights(tiny, tmp_path):
    whole, stopped, again = (tiny(dropout=0.1) for _ in range(3))
    before = signal.getsignal(signal.SIGINT)
    expected = run(whole)
    monitor = watching(TEXTS)
    history = run(stopped, at(5, lambda: monitor._stop.click()), monitor, checkpoint_path=tmp_path)
    assert history["step"].tolist() == [1, 2, 3, 4, 5]
    assert history.attrs["interrupted"]
    assert not history.attrs["stopped_early"]
    assert signal.getsignal(signal.SIGINT) is before
    verify(tmp_path / "5")
    assert monitor.status.startswith("Stopped after step 5.")
    resumed = run(again, monitor, checkpoint_path=tmp_path, resume=True)
    assert not resumed.attrs["interrupted"]
    assert_equal(again, whole)
    assert monitor.history["loss"].tolist() == expected["loss"].tolist(), "the rows before it was resumed are kept"
    assert monitor.status.startswith("Finished after 8 of 8 steps")


def test_stop_during_an_evaluation_or_together_with_ctrl_c_is_one_request(tiny):
    monitor = TrainingMonitor()
    history = run(tiny(), at(4, monitor.stop, "evaluation"), monitor, evaluator=score)
    assert history["step"].iloc[-1] == 4
    assert history.attrs["interrupted"]
    both = TrainingMonitor()
    history = run(tiny(), at(2, lambda: (signal.raise_signal(signal.SIGINT), both.stop())), both)
    assert history.attrs["interrupted"], "no KeyboardInterrupt"
    assert both.status.startswith("Stopped after step 2.")


def test_stop_ends_a_fit_in_a_thread_as_a_callback_does(tiny):
    monitor = TrainingMonitor()
    histories = []
    thread = threading.Thread(target=lambda: histories.append(run(tiny(), at(3, monitor.stop), monitor)))
    thread.start()
    thread.join()
    assert histories[0]["step"].tolist() == [1, 2, 3]
    assert histories[0].attrs["stopped_early"]


def test_pause_holds_the_run_and_resume_continues_to_the_same_weights(tiny):
    whole, paused = tiny(dropout=0.1), tiny(dropout=0.1)
    run(whole)
    monitor, steps, seen = watching(), [], []

    def press():
        seen.extend([monitor._pause.description, monitor._stop.disabled, steps[-1]])
        time.sleep(0.3)
        seen.append(steps[-1])
        monitor._pause.click()

    thread = when(lambda: monitor.status.startswith("Paused after step 3."), press)
    pause = at(3, lambda: (monitor._pause.click(), seen.append(monitor.status)))
    history = run(paused, lambda event: steps.append(event.step), pause, monitor)
    thread.join()
    assert seen == ["Pausing: the current step is finished first.", "Resume", False, 3, 3]
    assert len(history) == STEPS
    assert monitor._pause.description == "Pause"
    assert_equal(paused, whole)


@pytest.mark.parametrize("how", ["stop", "Ctrl-C"])
def test_a_paused_run_can_be_stopped_from_another_thread(tiny, tmp_path, how):
    monitor, main = TrainingMonitor(), threading.main_thread().ident
    for press in (monitor.stop, monitor.pause, monitor.resume):
        press()
        assert monitor.state == "waiting", "buttons do nothing without a run"
    stop = monitor.stop if how == "stop" else lambda: signal.pthread_kill(main, signal.SIGINT)
    thread = when(lambda: monitor.status.startswith("Paused after step 2."), stop)
    history = run(tiny(), at(2, monitor.pause), monitor, checkpoint_path=tmp_path)
    thread.join()
    assert history["step"].tolist() == [1, 2]
    assert history.attrs["interrupted"]
    verify(tmp_path / "2")


@pytest.fixture
def notebook(monkeypatch):
    """A notebook as the monitor sees one: what is displayed is noted, and hooks can be called."""
    page = SimpleNamespace(shown=[], updated=[], hooks=[])
    events = SimpleNamespace(
        register=lambda name, hook: page.hooks.append(hook), unregister=lambda name, hook: page.hooks.remove(hook)
    )

    def display(thing, **how):
        page.shown.append(thing)
        return SimpleNamespace(update=page.updated.append)

    monkeypatch.setattr(module, "get_ipython", lambda: SimpleNamespace(kernel=object(), events=events))
    monkeypatch.setattr(module, "display", display)
    return page


def test_in_a_notebook_it_appears_where_fit_runs_and_leaves_its_pictures_there(tiny, notebook):
    monitor = TrainingMonitor(TEXTS)
    assert monitor.live
    run(tiny(), monitor)
    assert notebook.shown[0] is monitor
    assert len(notebook.shown) == 2, "the other one is the map"
    assert notebook.updated[0].data.startswith(b"\x89PNG")
    assert notebook.hooks == []


@pytest.mark.parametrize("cell_ends", [True, False])
def test_a_fit_that_raises_is_reported_and_the_next_run_starts_a_new_history(tiny, notebook, cell_ends):
    monitor = TrainingMonitor()
    with pytest.raises(ZeroDivisionError):
        run(tiny(), at(4, lambda: 1 / 0), monitor, seed=1)
    assert monitor.state == "running"
    if cell_ends:
        notebook.hooks[0](None)
        assert (monitor.state, monitor.status) == ("failed", "The run was cut off by an error after step 3.")
        assert monitor._stop.disabled
        assert notebook.updated, "the picture of what there was is left"
    history = run(tiny(), monitor)
    assert monitor.history["loss"].tolist() == history["loss"].tolist()
    assert monitor.status.startswith("Finished after 8 of 8 steps")


def test_an_error_while_drawing_is_shown_and_the_run_continues(tiny, monkeypatch):
    monitor = watching(TEXTS)
    monkeypatch.setattr(monitor.map, "figure", lambda *options, **more: 1 / 0)
    assert len(run(tiny(), monitor)) == STEPS
    assert "ZeroDivisionError: division by zero" in monitor.problem


@pytest.mark.parametrize(
    ("probe", "labels", "words"),
    [
        ("a text", None, "probe must be a list .* got 'a text'"),
        (["a", "b"], None, "of at least 3, got 2"),
        (["a", "b", "c"], [1, 2], "probe has 3, labels has 2"),
    ],
)
def test_a_probe_that_gives_no_map_is_refused(probe, labels, words):
    with pytest.raises(ValueError, match=words):
        TrainingMonitor(probe, labels)
    with pytest.raises(TypeError, match=re.escape("callbacks=[monitor]")):
        TrainingMonitor()(0.5, 0, -1)
