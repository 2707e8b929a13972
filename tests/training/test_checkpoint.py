"""Checkpoints: a stopped run resumes to the same weights, and nothing damaged or foreign is ever continued."""

import json
import shutil
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from sbertlab import InputExample, SentenceTransformer, losses, models
from sbertlab.data import DenoisingAutoEncoderDataset, NoDuplicatesDataLoader, SentenceLabelDataset
from sbertlab.evaluation import EmbeddingSimilarityEvaluator
from sbertlab.storage.files import sha256_of
from sbertlab.training import checkpoint
from sbertlab.training.checkpoint import MANIFEST, STATE, CheckpointError, CheckpointWarning, verify
from tests.training.runs import PAIRS, WORDS, Killed, assert_equal, kill_after, ranking, run, weights

CLASSES = [InputExample(texts=[f"the {word} is old"], label=i % 3) for i, word in enumerate(WORDS)]


def own_generator(model):
    return ranking(model, generator=torch.Generator().manual_seed(5))


def workers(model):
    return ranking(model, num_workers=1, persistent_workers=True)


def several(model):
    return [
        (NoDuplicatesDataLoader(PAIRS + PAIRS[:6], batch_size=5), losses.MultipleNegativesSymmetricRankingLoss(model)),
        (DataLoader(SentenceLabelDataset(CLASSES, 2), batch_size=6), losses.BatchAllTripletLoss(model)),
        (DataLoader(PAIRS, batch_size=3, shuffle=True), losses.CosineSimilarityLoss(model)),
    ]


def with_own_weights(model):
    torch.manual_seed(1)
    rows = [InputExample(texts=row.texts, label=i % 3) for i, row in enumerate(PAIRS)]
    return [(DataLoader(rows, batch_size=4, shuffle=True), losses.SoftmaxLoss(model, 32, 3))]


def denoising(model):
    torch.manual_seed(1)
    data = DenoisingAutoEncoderDataset([text for row in PAIRS for text in row.texts])
    return [(DataLoader(data, batch_size=4, shuffle=True), losses.DenoisingAutoEncoderLoss(model))]


def matryoshka(model):
    [(loader, inner)] = ranking(model)
    return [(loader, losses.MatryoshkaLoss(model, inner, [32, 16, 8], n_dims_per_step=2))]


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (ranking, {}),
        (ranking, {"mixed_precision": "bf16"}),
        (ranking, {"cached": True, "token_budget": 16}),
        (ranking, {"optimizer_class": torch.optim.SGD, "scheduler": "WarmupCosine"}),
        (ranking, {"learning_rates": {"*embeddings*": 0, "*layer.0.*": 1e-4}}),
        (own_generator, {}),
        (workers, {}),
        (several, {}),
        (several, {"cached": True, "mixed_precision": "bf16", "token_budget": 16}),
        (with_own_weights, {}),
        (denoising, {}),
        (matryoshka, {}),
    ],
    ids=lambda value: getattr(value, "__name__", None) or "-".join(map(str, value)) or "plain",
)
def test_a_killed_run_resumes_to_the_weights_of_the_unbroken_one(tiny, tmp_path, make, how):
    how = {"epochs": 3.5, "seed": 11, **how}
    whole = tiny(dropout=0.1)
    objectives = make(whole)
    start = weights(whole, *(loss for _, loss in objectives))
    expected = run(whole, objectives, **how)
    unbroken = weights(whole, *(loss for _, loss in objectives))
    assert not all(torch.equal(start[name], unbroken[name]) for name in start)

    for kill in (1, 5, 10):  # before the first checkpoint, and in the second and third epoch
        broken = tiny(dropout=0.1)
        with pytest.raises(Killed):
            run(broken, make(broken), tmp_path, resume=True, callbacks=[kill_after(kill)], **how)
    again = tiny(dropout=0.1)
    objectives = make(again)
    history = run(again, objectives, tmp_path, resume=True, **how)
    assert_equal(weights(again, *(loss for _, loss in objectives)), unbroken)
    same = ["step", "epoch", "objective", "loss", "lr", "gradient_norm", "padding_share", "known_positives"]
    pd.testing.assert_frame_equal(history[same], expected[same], check_exact=True)


def test_scores_the_best_model_and_their_file_are_those_of_the_unbroken_run(tiny, tmp_path):
    evaluator = EmbeddingSimilarityEvaluator.from_input_examples(PAIRS[:8], name="dev")
    outcomes = []
    for name, kills in (("whole", []), ("broken", [2, 4, 7])):
        how = {"evaluator": evaluator, "evaluation_steps": 2, "output_path": tmp_path / name}
        (tmp_path / name / "eval").mkdir(parents=True)
        (tmp_path / name / "eval" / "notes.csv").write_text("of the user")
        for kill in kills:
            with pytest.raises(Killed):
                run(tiny(dropout=0.1), None, tmp_path / "c", resume=True, callbacks=[kill_after(kill)], **how)
        history = run(tiny(dropout=0.1), None, tmp_path / "c" if kills else None, resume=bool(kills), **how)
        scores = (tmp_path / name / "eval" / evaluator.csv_file).read_text()
        assert (tmp_path / name / "eval" / "notes.csv").read_text() == "of the user"
        outcomes.append((history["metric"], scores, SentenceTransformer(tmp_path / name, device="cpu")))
    (metrics, scores, best), (metrics_again, scores_again, best_again) = outcomes
    assert metrics.equals(metrics_again)
    assert scores == scores_again
    assert_equal(best, best_again)


def test_the_same_model_in_a_notebook_resumes_where_it_was_stopped(tiny, tmp_path):
    whole, stopped = tiny(dropout=0.1), tiny(dropout=0.1)
    run(whole)
    objectives = ranking(stopped)
    with pytest.raises(Killed):
        run(stopped, objectives, tmp_path, callbacks=[kill_after(5)])
    run(stopped, objectives, tmp_path, resume=True)
    assert_equal(stopped, whole)


def test_a_checkpoint_is_a_model_folder(tiny, tmp_path):
    model = tiny()
    run(model, None, tmp_path, epochs=0.75)
    assert_equal(SentenceTransformer(tmp_path / "3", device="cpu"), model)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGES = {
    "a truncated state": lambda f: (f / STATE).write_bytes((f / STATE).read_bytes()[:-100]),
    "a flipped bit in the weights": lambda f: flip(f / "model.safetensors"),
    "a missing file": lambda f: (f / "modules.json").unlink(),
    "an added file": lambda f: (f / "pytorch_model.bin").write_bytes(b"x"),
    "no manifest": lambda f: (f / MANIFEST).unlink(),
    "a manifest that is not JSON": lambda f: (f / MANIFEST).write_text("{"),
    "another version": lambda f: edit(f / MANIFEST, format=99),
    "a file in its place": lambda f: [shutil.rmtree(f), f.write_text("")],
}


def whole_and_killed(tiny, folder):
    whole = tiny(dropout=0.1)
    run(whole)
    with pytest.raises(Killed):
        run(tiny(dropout=0.1), None, folder, callbacks=[kill_after(7)])
    return whole, tiny(dropout=0.1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_an_older_whole_one_taken(tiny, tmp_path, damage):
    whole, again = whole_and_killed(tiny, tmp_path)
    DAMAGES[damage](tmp_path / "6")
    with pytest.warns(CheckpointWarning, match=r"skipped: .*6"):
        history = run(again, None, tmp_path, resume=True)
    assert len(history) == 8
    assert_equal(again, whole)


def test_a_state_that_would_run_code_is_not_loaded(tiny, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    run(tiny(), None, tmp_path / "c", epochs=0.75)
    folder = tmp_path / "c" / "3"
    torch.save({"step": Evil()}, folder / STATE)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edit(folder / MANIFEST, files=files | {STATE: sha256_of(folder / STATE)})
    with pytest.warns(CheckpointWarning, match=f"{STATE} cannot be read"):
        run(tiny(), None, tmp_path / "c", resume=True, epochs=0.75)
    assert not (tmp_path / "ran").exists()


def frozen_embeddings(model):
    model[0].auto_model.embeddings.requires_grad_(False)


@pytest.mark.parametrize(
    ("how", "make", "change", "words"),
    [
        ({"seed": 12}, {}, None, "seed: then 0, now 12"),
        ({"epochs": 1}, {}, None, "steps: then 8, 4 per epoch, now 4, 4 per epoch"),
        ({"scheduler": "WarmupCosine"}, {}, None, "schedule: then WarmupLinear"),
        ({"optimizer_params": {"lr": 1e-4}}, {}, None, "optimizer: .*0.001.*0.0001"),
        ({"cached": True}, {}, None, "chunks: .*cached=False.*cached=True"),
        ({"mixed_precision": "bf16"}, {}, None, "mixed_precision: then no, now bf16"),
        ({}, {"pooling": "cls"}, None, "model: then"),
        ({}, {"dropout": 0.3}, None, "model: then"),
        ({}, {"modules": [models.Dense(32, 16)]}, None, "Transformer, Pooling, .* now Transformer, Pooling, Dense"),
        ({}, {}, lambda model: setattr(model, "max_seq_length", 8), "model: then"),
        ({}, {}, frozen_embeddings, "model: then"),
    ],
)
def test_other_arguments_or_another_model_are_refused_and_listed(tiny, tmp_path, how, make, change, words):
    run(tiny(), None, tmp_path)
    other = tiny(**make)
    if change is not None:
        change(other)
    before = weights(other)
    with pytest.raises(CheckpointError, match=words) as raised:
        run(other, None, tmp_path, resume=True, **how)
    assert len(str(raised.value).splitlines()) == 3, "only what changed is listed"
    assert_equal(weights(other), before)


def test_other_data_and_another_loss_are_refused(tiny, tmp_path):
    model = tiny()
    run(model, None, tmp_path)
    [(loader, _)] = ranking(model)
    altered = [InputExample(texts=[row.texts[0], "a piano is there"], label=row.label) for row in PAIRS]
    for objectives, words in (
        (ranking(model, altered), "not those that the checkpoint has seen"),
        (ranking(model, PAIRS[:-1]), "not those that the checkpoint has seen"),
        (ranking(model, shuffle=False), "not those that the checkpoint has seen"),
        (ranking(model, batch_size=3), "batch size 4.* batch size 3"),
        (several(model)[2:], "objective 0: then .*MultipleNegatives.*CosineSimilarity"),
        ([*ranking(model), *several(model)[2:]], "objective 1: then None, now .*Cosine"),
        ([(loader, losses.MultipleNegativesRankingLoss(model, scale=10.0))], "scale=20.*scale=10"),
    ):
        before = weights(model)
        with pytest.raises(CheckpointError, match=words):
            run(model, objectives, tmp_path, resume=True)
        assert_equal(weights(model), before)


def test_a_checkpoint_that_a_killed_writer_took_away_is_put_back(tiny, tmp_path):
    whole, again = whole_and_killed(tiny, tmp_path)
    (tmp_path / "6").rename(tmp_path / ".6.old")
    shutil.rmtree(tmp_path / "3")
    history = run(again, None, tmp_path, resume=True)
    assert history["tokens_per_second"].notna().all()
    assert (tmp_path / "6").exists()
    assert_equal(again, whole)


def test_what_killed_writers_left_is_cleared_away(tiny, tmp_path):
    for name in (".500.partial-abcd", ".hidden"):
        (tmp_path / "c" / name).mkdir(parents=True)
    output, model = tmp_path / "out", tiny()
    model.save(output)
    output.rename(tmp_path / ".out.old")
    for name in (".out.partial-abcd", ".outer.partial-abcd"):
        (tmp_path / name).mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        run(model, None, tmp_path / "c", output_path=output, epochs=0.25)
    assert [path.name for path in (tmp_path / "c").iterdir()] == [".hidden"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".outer.partial-abcd", "c", "out"]
    assert SentenceTransformer(output, device="cpu").encode("the cat").shape == (32,)


class Odd(torch.optim.SGD):
    def state_dict(self):
        return {**super().state_dict(), "odd": Path()}


def test_a_checkpoint_that_cannot_be_written_or_read_back_leaves_the_others_and_the_run_going(
    tiny, tmp_path, monkeypatch
):
    with pytest.warns(CheckpointWarning, match="step 3 could not be written.* plain values"):
        assert len(run(tiny(), None, tmp_path / "odd", optimizer_class=Odd)) == 8
    save = torch.save

    def full(state, path):
        if state["step"]["number"] == 6:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.warns(CheckpointWarning, match="step 6 could not be written.*No space"):
        run(tiny(), None, tmp_path / "c", checkpoint_save_total_limit=1)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["3"]
    verify(tmp_path / "c" / "3")


def test_the_last_whole_checkpoint_is_never_removed(tiny, tmp_path, monkeypatch):
    def spoilt(folder):
        if folder.name != "3":
            flip(folder / "model.safetensors")
        return verify(folder)

    monkeypatch.setattr(checkpoint, "verify", spoilt)
    with pytest.warns(CheckpointWarning, match="Earlier ones are kept"):
        run(tiny(), None, tmp_path, checkpoint_save_total_limit=1)
    verify(tmp_path / "3")


def test_the_limit_counts_the_checkpoints_before_the_interruption_and_those_of_this_run_alone(tiny, tmp_path):
    for earlier in (5000, 2024):
        (tmp_path / str(earlier)).mkdir()
    how = {"checkpoint_save_steps": 2, "checkpoint_save_total_limit": 2}
    with pytest.raises(Killed):
        run(tiny(), None, tmp_path, callbacks=[kill_after(5)], **how)
    with pytest.warns(CheckpointWarning, match="2024"):
        run(tiny(), None, tmp_path, resume=True, **how)
    assert {path.name for path in tmp_path.iterdir()} == {"5000", "2024", "6", "8"}


def test_the_newest_in_time_counts_and_not_the_highest_step(tiny, tmp_path):
    second, third = tiny(seed=1), tiny(seed=1)
    run(tiny(), None, tmp_path)  # leaves 3 and 6
    with pytest.raises(Killed):
        run(second, None, tmp_path, callbacks=[kill_after(4)])
    run(second, None, tmp_path, resume=True)
    run(third)
    assert_equal(second, third)
