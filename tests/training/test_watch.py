"""What a run shows of itself: the space on a fixed probe, its collapse, and the events that callbacks are told."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from sbertlab import InputExample, SentenceTransformer, losses, models
from sbertlab.data import collate
from sbertlab.evaluation import EmbeddingSimilarityEvaluator
from sbertlab.training.probe import METRICS, CollapseWarning, Probe

Tiny = Callable[..., SentenceTransformer]

WORDS = "cat dog bird fish man woman child house garden street city river sea sun rain snow music guitar".split()
PAIRS = [InputExample(texts=[f"the {word} sleeps", f"a {word} is there"], label=1.0) for word in WORDS]


def ranking(model: SentenceTransformer) -> list[Any]:
    return [(DataLoader(PAIRS, batch_size=6, shuffle=True), losses.MultipleNegativesRankingLoss(model))]


def only_positives(model: SentenceTransformer) -> list[Any]:
    return [(DataLoader(PAIRS, batch_size=6, shuffle=True), losses.CosineSimilarityLoss(model))]


def run(model: SentenceTransformer, objectives: list[Any], **how: Any) -> pd.DataFrame:
    settings = {"epochs": 2, "warmup_steps": 0, "optimizer_params": {"lr": 1e-3}, "show_progress_bar": False}
    return model.fit(objectives, **{**settings, **how})


def run_of(model: SentenceTransformer, number: int = 0) -> Any:
    """What a probe reads of a run after so many steps."""
    return SimpleNamespace(step=SimpleNamespace(model=model, number=number, rows=[{}]))


def collapse_(model: SentenceTransformer) -> None:
    """Let every text have the embedding of the others: the last layer norm gives its bias alone."""
    with torch.no_grad():
        norm = model[0].auto_model.encoder.layer[-1].output.LayerNorm
        norm.weight.zero_()
        norm.bias.fill_(1.0)


def test_positives_alone_collapse_the_space_within_a_few_dozen_steps_and_the_cause_is_named(tiny: Tiny) -> None:
    model = tiny()
    with pytest.warns(CollapseWarning, match="all 18 labels are 1.*MultipleNegativesRankingLoss") as caught:
        history = run(model, only_positives(model), epochs=12, probe_steps=3)
    assert len(caught) == 1, "said once, however long it lasts"
    assert caught[0].filename == __file__, "it points at the call of fit"
    assert history.attrs["collapsed"]
    assert not history.attrs["stopped_early"]
    assert len(history) == 36


def test_the_run_ends_where_the_space_collapsed_if_it_shall(tiny: Tiny) -> None:
    model = tiny()
    with pytest.warns(CollapseWarning) as caught:
        history = run(model, only_positives(model), epochs=12, probe_steps=3, on_collapse="stop")
    last = history["step"].iloc[-1]
    assert last < 36
    assert last % 3 == 0
    assert f"step {last}:" in str(caught[0].message)
    assert history.attrs["collapsed"]
    assert history.attrs["stopped_early"]
    assert not history.attrs["interrupted"]


def test_a_collapse_may_be_ignored(tiny: Tiny) -> None:
    model = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        history = run(model, only_positives(model), epochs=12, probe_steps=3, on_collapse="ignore")
    assert len(history) == 36
    assert history["mean_cosine"].iloc[-1] > 0.95, "it is still there to be seen"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_ranking_run_never_counts_as_collapsed(tiny: Tiny, seed: int) -> None:
    model = tiny(dropout=0.1, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        history = run(model, ranking(model), epochs=14, probe_steps=1, on_collapse="stop", seed=seed)
    assert len(history) == 42
    assert not history.attrs["collapsed"]
    assert history["margin"].iloc[-1] > history["margin"].iloc[0], "it did learn"


def test_the_space_is_in_the_history_at_every_so_many_steps_and_only_there(tiny: Tiny) -> None:
    model = tiny()
    history = run(model, ranking(model) + only_positives(model), probe_steps=2)
    assert len(history) == 12, "two objectives, six steps"
    measured = history[history["alignment"].notna()]
    assert measured["step"].tolist() == [2, 4, 6]
    assert (measured["objective"] == "1:CosineSimilarityLoss").all(), "in the last row of the step"
    assert measured[list(METRICS)].notna().all(axis=None)
    assert (history[list(METRICS)].dtypes == "float64").all()


def test_the_figures_are_those_of_the_model_without_dropout(tiny: Tiny) -> None:
    model = tiny(dropout=0.3)
    history = run(model, ranking(model), probe_steps=6)
    probe = Probe(*collate(PAIRS), seed=0)
    expected = probe.measure(lambda texts: model.encode(texts, convert_to_tensor=True))
    for name in METRICS:
        assert history[name].iloc[-1] == pytest.approx(expected[name], abs=1e-5), name


def test_watching_does_not_change_the_run(tiny: Tiny) -> None:
    watched, alone = tiny(dropout=0.2), tiny(dropout=0.2)
    run(watched, ranking(watched), probe_steps=1)
    run(alone, ranking(alone), probe_steps=0)
    for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_short_run_no_steps_and_a_stream_leave_the_probe_out(tiny: Tiny) -> None:
    class Stream(IterableDataset[InputExample]):
        def __iter__(self) -> Iterator[InputExample]:
            return iter(PAIRS)

    model = tiny()
    stream = [(DataLoader(Stream(), batch_size=6), losses.MultipleNegativesRankingLoss(model))]
    for objectives, how in (
        (ranking(model), {}),
        (ranking(model), {"probe_steps": 0}),
        (ranking(model), {"probe_steps": 7}),
        (stream, {"probe_steps": 1, "steps_per_epoch": 3}),
    ):
        history = run(model, objectives, **how)
        assert len(history) == 6
        assert history[list(METRICS)].isna().all(axis=None)


def test_routes_are_measured_as_they_are_trained(tiny: Tiny) -> None:
    parts = [tiny(seed=seed) for seed in (0, 1)]
    router = models.Router({"query": list(parts[0]), "document": list(parts[1])})
    model = SentenceTransformer(modules=[router], device="cpu")
    rows = [InputExample(texts=[{"query": row.texts[0]}, {"document": row.texts[1]}]) for row in PAIRS]
    history = run(model, [(DataLoader(rows, batch_size=6), losses.MultipleNegativesRankingLoss(model))], probe_steps=3)
    assert history["margin"].notna().sum() == 2


def test_the_model_is_left_in_the_mode_it_was_in(tiny: Tiny) -> None:
    model = tiny().train()
    Probe(*collate(PAIRS)).on_begin(run_of(model))
    assert all(part.training for part in model.modules())


def test_a_resumed_probe_compares_with_the_space_before_the_first_step(tiny: Tiny) -> None:
    model = tiny()
    before, later, resumed = (Probe(*collate(PAIRS), on_collapse="stop") for _ in range(3))
    before.on_begin(run_of(model))
    collapse_(model)
    later.restore(before.state())
    later.on_begin(run_of(model))
    assert later.state() == before.state(), "what was measured first is not measured again"
    with pytest.warns(CollapseWarning, match="step 4:"):
        later.on_step(run_of(model, 4))
    assert later.stops
    resumed.restore(later.state())
    assert resumed.stops


def test_another_answer_to_a_collapse_is_refused(tiny: Tiny) -> None:
    model = tiny()
    with pytest.raises(ValueError, match=r"on_collapse must be one of .*got 'raise'"):
        run(model, ranking(model), on_collapse="raise")


# -- Events ------------------------------------------------------------------------------------------------------------


def test_callbacks_are_told_in_order_of_steps_evaluations_checkpoints_and_the_end(tiny: Tiny, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny()
    told: list[str] = []
    run(
        model,
        ranking(model),
        evaluator=EmbeddingSimilarityEvaluator.from_input_examples(
            [InputExample(texts=row.texts, label=i / 17) for i, row in enumerate(PAIRS)]
        ),
        evaluation_steps=2,
        checkpoint_path=tmp_path,
        checkpoint_save_steps=3,
        callback=lambda score, epoch, steps: told.append(f"score {epoch} {steps}"),
        callbacks=[
            lambda event: told.append(f"{event.kind} {event.step}"),
            lambda event: told.append("the second"),
        ],
    )
    first = [entry for entry in told if entry != "the second"]
    assert first == [
        "step 1",
        *("step 2", "score 0 2", "evaluation 2"),
        *("step 3", "score 0 -1", "evaluation 3", "checkpoint 3"),
        "step 4",
        *("step 5", "score 1 2", "evaluation 5"),
        *("step 6", "score 1 -1", "evaluation 6", "checkpoint 6"),
        "end 6",
    ]
    events = [entry for entry in told if not entry.startswith("score")]
    assert events[1::2] == ["the second"] * (len(events) // 2), "each event is told to all before the next"


def test_an_event_holds_the_newest_row_and_the_model(tiny: Tiny) -> None:
    model = tiny()
    events: list[tuple[str, int, int, dict[str, Any]]] = []

    def note(event: Any) -> None:
        assert event.model is model
        events.append((event.kind, event.step, event.epoch, dict(event.row)))

    history = run(model, ranking(model), evaluator=lambda *_, **__: 0.25, probe_steps=2, callbacks=[note])
    steps = [event for event in events if event[0] == "step"]
    assert [(step, epoch) for _, step, epoch, _ in steps] == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1)]
    assert [row["loss"] for *_, row in steps] == history["loss"].tolist()
    assert "margin" in steps[1][3], "the space is measured before the step is told"
    assert [row["metric"] for kind, *_, row in events if kind == "evaluation"] == [0.25, 0.25]


def test_callbacks_that_are_no_list_of_functions_are_refused(tiny: Tiny) -> None:
    model = tiny()
    for callbacks in (print, [3]):
        with pytest.raises(TypeError, match="callbacks must be a list of functions of an Event"):
            run(model, ranking(model), callbacks=callbacks)
