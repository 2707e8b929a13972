"""The training loop: equal to a loop written by hand, reproducible, and clear about what goes wrong."""

import copy
import math
import random

import numpy as np
import pytest
import sentence_transformers.sentence_transformer.losses as peer_losses
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader

from sbertlab import InputExample, SentenceTransformer, losses
from sbertlab.data import DenoisingAutoEncoderDataset
from sbertlab.evaluation import EmbeddingSimilarityEvaluator
from sbertlab.training.fit import HISTORY_COLUMNS
from sbertlab.training.step import NonFiniteLossError
from tests.training.runs import PAIRS, Stream, assert_equal, weights

SCORED = PAIRS[:8]
RANKED = [InputExample(texts=row.texts) for row in SCORED]
QUIET = {"show_progress_bar": False, "warmup_steps": 0}


def ranked(model, rows=RANKED, batch_size=4, shuffle=True):
    loader = DataLoader(rows, batch_size=batch_size, shuffle=shuffle)
    return loader, losses.MultipleNegativesRankingLoss(model)


def scored(model, kind=losses.CosineSimilarityLoss, shuffle=True):
    return DataLoader(SCORED, batch_size=4, shuffle=shuffle), kind(model)


def test_the_loop_equals_a_loop_written_by_hand(tiny):
    by_fit, by_hand = tiny(), tiny()
    how = {"epochs": 2, "scheduler": "ConstantLR", "optimizer_params": {"lr": 1e-3}, "weight_decay": 0.1}
    history = by_fit.fit([scored(by_fit, shuffle=False)], max_grad_norm=0.1, **how, **QUIET)
    loss = losses.CosineSimilarityLoss(by_hand)
    plain = ("bias", "LayerNorm.weight")
    groups = [
        {"params": [p for n, p in by_hand.named_parameters() if not any(w in n for w in plain)], "weight_decay": 0.1},
        {"params": [p for n, p in by_hand.named_parameters() if any(w in n for w in plain)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    expected, norms = [], []
    by_hand.train()
    for start in (0, 4, 0, 4):
        features, labels = by_hand.smart_batching_collate(SCORED[start : start + 4])
        value = loss(features, labels)
        optimizer.zero_grad()
        value.backward()
        norms.append(nn.utils.clip_grad_norm_(by_hand.parameters(), 0.1).item())
        optimizer.step()
        expected.append(value.item())
    assert np.allclose(history["loss"], expected, atol=1e-5)
    assert np.allclose(history["gradient_norm"], norms, rtol=1e-4), "the norm before clipping"
    assert min(norms) > 0.1
    assert max((a - b).abs().max() for a, b in zip(by_fit.parameters(), by_hand.parameters(), strict=True)) < 1e-4


def test_the_same_seed_gives_the_same_weights_with_dropout_on_and_another_seed_others(tiny):
    trained = []
    for seed in (3, 3, 4):
        model = tiny(dropout=0.2)
        torch.manual_seed(len(trained))  # what happened before must not matter
        model.fit([ranked(model)], seed=seed, **QUIET)
        trained.append(model)
    assert_equal(trained[0], trained[1])
    with pytest.raises(AssertionError):
        assert_equal(trained[0], trained[2])


def test_the_history_has_a_row_for_every_step_and_objective(tiny):
    model = tiny()
    history = model.fit([scored(model), ranked(model, batch_size=2)], epochs=2, **QUIET)
    assert list(history.columns) == HISTORY_COLUMNS
    assert history["step"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert history["epoch"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert history["objective"].tolist()[:2] == ["0:CosineSimilarityLoss", "1:MultipleNegativesRankingLoss"]
    assert (history[["gradient_norm", "tokens_per_second"]] > 0).all(axis=None)
    assert history["metric"].isna().all()


def test_the_history_holds_the_rate_of_each_step_and_the_padding_counted_by_hand(tiny):
    model = tiny()
    how = {"epochs": 2, "warmup_steps": 2, "optimizer_params": {"lr": 1.0}, "show_progress_bar": False}
    history = model.fit([ranked(model, shuffle=False)], **how)
    assert history["lr"].tolist() == [0.0, 0.5, 1.0, 0.5]
    for start, share in zip((0, 4), history["padding_share"], strict=False):
        batch = [text for example in RANKED[start : start + 4] for text in example.texts]
        lengths = [len(model.tokenizer(text)["input_ids"]) for text in batch]
        assert share == pytest.approx(1 - sum(lengths) / (len(lengths) * max(lengths)))


def test_a_loader_that_runs_dry_is_started_again_in_another_order(tiny):
    model, seen = tiny(), []

    class Recorder(losses.MultipleNegativesRankingLoss):
        def check_batch(self, columns, labels):
            seen.extend(columns[0])
            return super().check_batch(columns, labels)

    model.fit([(ranked(model)[0], Recorder(model))], steps_per_epoch=5, **QUIET)
    assert len(seen) == 20
    assert sorted(seen[:8]) == sorted(seen[8:16]) == sorted(example.texts[0] for example in RANKED)
    assert seen[:8] != seen[8:16]


def test_the_best_model_is_kept_and_its_score_is_the_best_of_the_history(tiny, tmp_path):
    model = tiny()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("kept")
    evaluator = EmbeddingSimilarityEvaluator.from_input_examples(SCORED, name="dev")
    calls = []
    how = {"evaluation_steps": 1, "epochs": 4, "optimizer_params": {"lr": 5e-3}, "output_path": tmp_path / "out"}
    history = model.fit([scored(model)], evaluator, callback=lambda *call: calls.append(call), **how, **QUIET)
    scores = history["metric"].dropna()
    assert [call[0] for call in calls] == scores.tolist()
    assert [call[1:] for call in calls[:2]] == [(0, 1), (0, -1)]
    kept = SentenceTransformer(tmp_path / "out", device="cpu")
    assert evaluator(kept)[evaluator.primary_metric] == pytest.approx(scores.max(), abs=1e-6)
    assert list((tmp_path / "out" / "eval").glob("*.csv"))
    assert (tmp_path / "out" / "notes.txt").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_a_score_that_is_a_number_the_last_model_is_kept_and_this_is_said(tiny, tmp_path):
    model = tiny()
    with pytest.warns(UserWarning, match="the last model is kept"):
        model.fit([scored(model)], evaluator=lambda *_, **__: math.nan, output_path=tmp_path / "out", **QUIET)
    assert_equal(SentenceTransformer(tmp_path / "out", device="cpu"), model)


@pytest.mark.parametrize("argument", ["output_path", "checkpoint_path"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tiny, tmp_path, argument):
    model = tiny()
    before = weights(model)
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=f"{argument}.*file"):
            model.fit([ranked(model)], **{argument: folder}, **QUIET)
    assert_equal(weights(model), before)


def test_a_tilde_is_the_home_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model = tiny()
    model.fit([scored(model)], output_path="~/out", checkpoint_path="~/steps", **QUIET)
    SentenceTransformer("~/out").save("~/copy")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "steps", "copy"}


def test_a_part_of_an_epoch_ends_with_an_evaluation_too(tiny):
    model, calls = tiny(), []
    how = {"epochs": 1.5, "evaluation_steps": 100, "callback": lambda *call: calls.append(call)}
    assert len(model.fit([scored(model)], lambda *_, **__: 0.5, **how, **QUIET)) == 3
    assert calls == [(0.5, 0, -1), (0.5, 1, -1)]


class NaNAfter(losses.CosineSimilarityLoss):
    """A loss that becomes NaN in its third call."""

    calls = 0

    def compute(self, embeddings, labels=None):
        self.calls += 1
        return super().compute(embeddings, labels) * (math.nan if self.calls == 3 else 1.0)


class BadGradient(losses.Loss):
    def compute(self, embeddings, labels=None):
        return embeddings[0].sum() * 0 + torch.sqrt((embeddings[0] * 0).sum())


def test_a_loss_that_becomes_nan_stops_the_run_names_the_step_and_keeps_the_last_good_weights(tiny):
    model, twin = tiny(), tiny()
    with pytest.raises(NonFiniteLossError, match=r"step 3, objective 0:NaNAfter.*nan"):
        model.fit([scored(model, NaNAfter, shuffle=False)], epochs=4, scheduler="ConstantLR", **QUIET)
    twin.fit([scored(twin, shuffle=False)], scheduler="ConstantLR", **QUIET)
    assert_equal(model, twin)
    assert not model.training


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change(tiny):
    model = tiny()
    before = weights(model)
    with pytest.raises(NonFiniteLossError, match="gradient"):
        model.fit([(ranked(model)[0], BadGradient(model))], **QUIET)
    assert_equal(weights(model), before)


def test_losses_of_sentence_transformers_train_here_with_the_same_values(tiny):
    for name, examples in (("MultipleNegativesRankingLoss", RANKED), ("CosineSimilarityLoss", SCORED)):
        ours, theirs = tiny(), tiny()
        one = ours.fit([(ranked(ours, examples)[0], getattr(losses, name)(ours))], **QUIET)
        two = theirs.fit([(ranked(theirs, examples)[0], getattr(peer_losses, name)(theirs))], **QUIET)
        assert np.allclose(one["loss"], two["loss"], atol=1e-5)
        assert np.allclose(one["gradient_norm"], two["gradient_norm"], rtol=1e-4)


@pytest.mark.parametrize("end", [lambda x: x.sum(dim=1), lambda x: {"loss": x.sum()}, lambda x: x.sum().detach()])
def test_a_loss_that_is_not_a_number_with_a_gradient_is_named(tiny, end):
    class Homemade(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, features, labels):
            return end(self.model(features[0])["sentence_embedding"])

    model = tiny()
    with pytest.raises(TypeError, match="0:Homemade: the loss must be a tensor of one number"):
        model.fit([(ranked(model)[0], Homemade(model))], **QUIET)


def test_the_losses_own_modules_are_in_training_mode(tiny):
    model = tiny("cls")
    loss = losses.DenoisingAutoEncoderLoss(model).eval()
    modes = []
    loss.decoder.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    how = {"evaluator": lambda *_, **__: 0, "evaluation_steps": 1}
    model.fit([(ranked(model)[0], loss)], **how, **QUIET)
    assert modes == [True, True]


def test_two_workers_give_the_same_losses_as_none_and_persistent_ones_see_every_epoch(tiny):
    histories = []
    for settings in ({}, {"num_workers": 2}, {"num_workers": 1, "persistent_workers": True}):
        model = tiny("cls")
        noisy = DenoisingAutoEncoderDataset([row.texts[0] for row in RANKED])
        batches = DataLoader(noisy, batch_size=4, shuffle=True, **settings)
        histories.append(model.fit([(batches, losses.DenoisingAutoEncoderLoss(model))], epochs=2, **QUIET)["loss"])
    assert np.array_equal(histories[0], histories[1])
    assert np.array_equal(histories[0], histories[2])


def test_a_stream_without_a_length_trains_when_the_steps_are_given(tiny):
    model = tiny()
    assert len(model.fit([ranked(model, Stream(), shuffle=False)], steps_per_epoch=3, **QUIET)) == 3
    with pytest.raises(TypeError, match=r"no length, so give steps_per_epoch: .*Stream"):
        model.fit([ranked(model, Stream(), shuffle=False)], **QUIET)


def test_samplers_and_random_data_sets_follow_from_the_seed_and_the_step(tiny):
    class Sampler(torch.utils.data.Sampler[int]):
        def set_epoch(self, epoch):
            epochs.append(epoch)

        def __len__(self):
            return 8

        def __iter__(self):
            return iter(range(8))

    class Augmented(list):
        def __getitem__(self, index):
            seen.append(torch.rand(1).item())
            return super().__getitem__(index)

    draws = []
    for dropout in (0.0, 0.5):  # a step draws more or less; the rows that follow are the same
        epochs = []
        seen = []
        model = tiny(dropout=dropout)
        batches = DataLoader(Augmented(RANKED), batch_size=4, sampler=Sampler())
        model.fit([(batches, losses.MultipleNegativesRankingLoss(model))], epochs=2, **QUIET)
        draws.append(seen)
        assert sorted(set(epochs)) == [0, 1]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) == 16


def test_known_positives_are_counted_and_left_out_unless_told_otherwise(tiny):
    rows = [*RANKED[:3], InputExample(texts=[RANKED[0].texts[0].upper(), "another cat"])]
    values = []
    for mask in (True, False):
        model = tiny()
        history = model.fit([ranked(model, rows, shuffle=False)], mask_known_positives=mask, **QUIET)
        assert history["known_positives"].tolist() == [2 if mask else 0]
        values.append(history["loss"][0])
    assert values[0] < values[1]


def test_a_run_leaves_no_trace_in_the_process(tiny):
    model = tiny()
    AcceleratorState._reset_state(reset_partial_state=True)
    theirs = Accelerator(mixed_precision="bf16", cpu=True)
    drawn = []
    for trained in (False, True):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
        if trained:
            model.fit([ranked(model)], mixed_precision="no", **QUIET)
        drawn.append((random.random(), np.random.random(), torch.rand(1).item()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert theirs.mixed_precision == "bf16"
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"optimizer_class": torch.optim.SGD, "optimizer_params": {"lr": 0.1, "momentum": 0.9}},
        {"optimizer_params": {"lr": 1e-3, "foreach": True}},
        {"optimizer_params": {"lr": torch.tensor(1e-3), "amsgrad": True}},
        {"epochs": np.int64(1), "warmup_steps": np.int64(0), "seed": np.int64(3), "max_grad_norm": math.inf},
        {"optimizer_params": {"lr": np.float64(1e-3)}},
    ],
)
def test_other_optimizers_and_kinds_of_numbers_are_taken(tiny, tmp_path, arguments):
    model = tiny()
    before = weights(model)
    model.fit([ranked(model)], checkpoint_path=tmp_path, checkpoint_save_steps=1, **{**QUIET, **arguments})
    after = weights(model)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_warm_up_longer_than_the_run_is_said(tiny):
    model = tiny()
    with pytest.warns(UserWarning, match="warmup_steps=10000 is not reached in 2 steps"):
        model.fit([ranked(model)], show_progress_bar=False)


def test_auto_takes_bfloat16_where_the_processor_multiplies_it(tiny, monkeypatch):
    for native, precision in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr("sbertlab.training.fit.has_native_bfloat16", lambda native=native: native)
        model = tiny()
        history = model.fit([ranked(model)], mixed_precision="auto", **QUIET)
        assert history.attrs["mixed_precision"] == precision


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scheduler": "cosine"}, ValueError, r"scheduler must be one of .*got 'cosine'"),
        ({"epochs": 0}, ValueError, "epochs must be a number above 0"),
        ({"steps_per_epoch": 2.5}, ValueError, "steps_per_epoch must be a whole number"),
        ({"warmup_steps": 0.1}, ValueError, "warmup_steps must be a whole number"),
        ({"evaluation_steps": -1}, ValueError, "evaluation_steps must be a whole number"),
        ({"probe_steps": -1}, ValueError, "probe_steps must be a whole number"),
        ({"on_collapse": "raise"}, ValueError, r"on_collapse must be one of .*got 'raise'"),
        ({"seed": None}, ValueError, "seed"),
        ({"token_budget": 0}, ValueError, "token_budget must be a whole number of at least 1"),
        ({"checkpoint_save_steps": 0}, ValueError, "checkpoint_save_steps"),
        ({"max_grad_norm": 0}, ValueError, "max_grad_norm"),
        ({"weight_decay": math.nan}, ValueError, "weight_decay"),
        ({"resume": True}, ValueError, "resume=True needs checkpoint_path"),
        ({"mixed_precision": "fp8"}, ValueError, "mixed_precision"),
        ({"mixed_precision": "fp16"}, ValueError, "needs an accelerator"),
        ({"optimizer_params": {"learning_rate": 2e-5}}, TypeError, "learning_rate"),
        ({"evaluator": EmbeddingSimilarityEvaluator}, TypeError, "one evaluator"),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else "",
)
def test_wrong_arguments_are_named(tiny, arguments, error, message):
    model = tiny()
    with pytest.raises(error, match=message):
        model.fit([ranked(model)], **{**QUIET, **arguments})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda loader, loss: [], ValueError, "train_objectives has no"),
        (lambda loader, loss: [loader], TypeError, r"train_objectives\[0\] must be a pair .* got DataLoader"),
        (lambda loader, loss: [(loss, loader)], TypeError, "must be a pair .* got MultipleNegatives.* and DataLoader"),
        (lambda loader, loss: [(RANKED, loss)], TypeError, "must be a pair .* got list"),
        (lambda loader, loss: [(loader, type(loss)(copy.deepcopy(loss.model)))], ValueError, "another model"),
        (lambda loader, loss: [(DataLoader([], batch_size=4), loss)], ValueError, "yields no batch"),
        (lambda loader, loss: [(DataLoader([{"a": "b"}] * 4, batch_size=4), loss)], ValueError, "an InputExample"),
    ],
)
def test_wrong_objectives_are_named(tiny, make, error, message):
    model = tiny()
    with pytest.raises(error, match=message):
        model.fit(make(*ranked(model)), probe_steps=0, **QUIET)


@pytest.mark.parametrize(
    ("examples", "make", "message"),
    [
        ([InputExample(texts=["a", "b", "c"], label=0.5)] * 4, losses.CosineSimilarityLoss, "2"),
        (SCORED, lambda m: losses.SoftmaxLoss(m, 32, 2), r"one integer class.*CoSENTLoss.*first row: .*label=0"),
        ([InputExample(texts=["a", "b"], label=math.nan)] * 4, losses.CosineSimilarityLoss, "nan|finite"),
        ([InputExample(texts=["a"]), InputExample(texts=["a", "b"])] * 4, losses.MultipleNegativesRankingLoss, "texts"),
    ],
)
def test_all_data_are_checked_before_one_objective_is_learnt_from(tiny, examples, make, message):
    model = tiny()
    before = weights(model)
    with pytest.raises(ValueError, match=f"step 1, objective 1.*{message}"):
        model.fit([ranked(model), (ranked(model, examples)[0], make(model))], **QUIET)
    assert_equal(weights(model), before)


def test_weights_and_losses_that_cannot_be_trained_are_named(tiny):
    model = tiny()
    with pytest.raises(ValueError, match=r"cached=True needs losses of sbertlab"):
        model.fit([scored(model, peer_losses.CosineSimilarityLoss)], cached=True, **QUIET)
    for reduced in (model.half, model.bfloat16):
        reduced()
        with pytest.raises(ValueError, match=r"model\.float\(\)"):
            model.fit([ranked(model)], **QUIET)
