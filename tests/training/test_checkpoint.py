"""Checkpoints: a stopped run goes on to the same weights, and nothing damaged or foreign is ever continued."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from sbertlab import InputExample, SentenceTransformer, losses
from sbertlab.data import DenoisingAutoEncoderDataset, NoDuplicatesDataLoader, SentenceLabelDataset
from sbertlab.evaluation import EmbeddingSimilarityEvaluator
from sbertlab.training.checkpoint import (
    MANIFEST,
    STATE,
    CheckpointError,
    CheckpointWarning,
    read_manifest,
    verify,
    write_checkpoint,
)

Tiny = Callable[..., SentenceTransformer]
Objectives = list[tuple[Any, losses.Loss]]

WORDS = "cat dog bird fish man woman child house garden street city river sea sun rain snow music guitar".split()
PAIRS = [InputExample(texts=[f"the {word} sleeps", f"a {word} is there"], label=i / 17) for i, word in enumerate(WORDS)]
CLASSES = [InputExample(texts=[f"the {word} is old"], label=i % 3) for i, word in enumerate(WORDS)]
STEPS = 14  # at batch 4, three epochs and a bit


class Killed(BaseException):
    """Stands for what ends a process in the middle of a run."""


def kill_after(step: int) -> Callable[[Any], None]:
    def callback(event: Any) -> None:
        if event.kind == "step" and event.step == step:
            raise Killed

    return callback


def ranking(model: SentenceTransformer) -> Objectives:
    return [(DataLoader(PAIRS, batch_size=4, shuffle=True), losses.MultipleNegativesRankingLoss(model))]


def own_generator(model: SentenceTransformer) -> Objectives:
    generator = torch.Generator().manual_seed(5)
    return [
        (DataLoader(PAIRS, batch_size=4, shuffle=True, generator=generator), losses.MultipleNegativesRankingLoss(model))
    ]


def workers(model: SentenceTransformer) -> Objectives:
    loader = DataLoader(PAIRS, batch_size=4, shuffle=True, num_workers=1, persistent_workers=True)
    return [(loader, losses.MultipleNegativesRankingLoss(model))]


def several(model: SentenceTransformer) -> Objectives:
    return [
        (NoDuplicatesDataLoader(PAIRS + PAIRS[:6], batch_size=5), losses.MultipleNegativesSymmetricRankingLoss(model)),
        (DataLoader(SentenceLabelDataset(CLASSES, 2), batch_size=6), losses.BatchAllTripletLoss(model)),
        (DataLoader(PAIRS, batch_size=3, shuffle=True), losses.CosineSimilarityLoss(model)),
    ]


def with_own_weights(model: SentenceTransformer) -> Objectives:
    torch.manual_seed(1)
    loss = losses.SoftmaxLoss(model, sentence_embedding_dimension=32, num_labels=3)
    rows = [InputExample(texts=row.texts, label=i % 3) for i, row in enumerate(PAIRS)]
    return [(DataLoader(rows, batch_size=4, shuffle=True), loss)]


def denoising(model: SentenceTransformer) -> Objectives:
    torch.manual_seed(1)
    data = DenoisingAutoEncoderDataset([text for row in PAIRS for text in row.texts])
    return [(DataLoader(data, batch_size=4, shuffle=True), losses.DenoisingAutoEncoderLoss(model))]


def matryoshka(model: SentenceTransformer) -> Objectives:
    inner = losses.MultipleNegativesRankingLoss(model)
    loss = losses.MatryoshkaLoss(model, inner, [32, 16, 8], n_dims_per_step=2)
    return [(DataLoader(PAIRS, batch_size=4, shuffle=True), loss)]


def run(model: SentenceTransformer, objectives: Objectives, folder: Path | None = None, **how: Any) -> pd.DataFrame:
    settings = {
        "epochs": STEPS / 4,
        "steps_per_epoch": 4,
        "warmup_steps": 3,
        "optimizer_params": {"lr": 1e-3},
        "show_progress_bar": False,
        "checkpoint_path": folder,
        "checkpoint_save_steps": 3,
        "seed": 11,
    }
    return model.fit(objectives, **{**settings, **how})


def weights(model: SentenceTransformer, objectives: Objectives) -> dict[str, torch.Tensor]:
    found = dict(model.state_dict())
    for index, (_, loss) in enumerate(objectives):
        found |= {f"{index}.{name}": tensor for name, tensor in loss.state_dict().items()}
    return {name: tensor.clone() for name, tensor in found.items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


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
def test_a_killed_run_goes_on_to_the_weights_of_the_unbroken_one(
    tiny: Tiny, tmp_path: Path, make: Callable[[SentenceTransformer], Objectives], how: dict[str, Any]
) -> None:
    whole = tiny(dropout=0.1)
    objectives = make(whole)
    start = weights(whole, objectives)
    expected = run(whole, objectives, **how)
    unbroken = weights(whole, objectives)
    assert not all(torch.equal(start[name], unbroken[name]) for name in start)

    for kill in (1, 5, 10):  # before the first checkpoint, and in the second and third epoch
        broken = tiny(dropout=0.1)
        with pytest.raises(Killed):
            run(broken, make(broken), tmp_path, resume=True, callbacks=[kill_after(kill)], **how)
    again = tiny(dropout=0.1)
    objectives = make(again)
    history = run(again, objectives, tmp_path, resume=True, **how)
    assert_equal(weights(again, objectives), unbroken)
    same = ["step", "epoch", "objective", "loss", "lr", "gradient_norm", "padding_share", "known_positives"]
    pd.testing.assert_frame_equal(history[same], expected[same], check_exact=True)


def test_scores_the_best_model_and_their_file_are_those_of_the_unbroken_run(tiny: Tiny, tmp_path: Path) -> None:
    evaluator = EmbeddingSimilarityEvaluator.from_input_examples(PAIRS[:8], name="dev")
    outcomes = []
    for name, kills in (("whole", []), ("broken", [2, 7, 11])):
        arguments = {"evaluator": evaluator, "evaluation_steps": 2, "output_path": tmp_path / name}
        for kill in kills:
            broken = tiny(dropout=0.1)
            with pytest.raises(Killed):
                run(broken, ranking(broken), tmp_path / "c", resume=True, callbacks=[kill_after(kill)], **arguments)
        model = tiny(dropout=0.1)
        folder = tmp_path / "c" if kills else None
        history = run(model, ranking(model), folder, resume=bool(kills), **arguments)
        scores = (tmp_path / name / "eval" / evaluator.csv_file).read_text()
        best = SentenceTransformer(tmp_path / name, device="cpu").state_dict()
        outcomes.append((history["metric"].tolist(), scores, best))
    (metrics, scores, best), (metrics_again, scores_again, best_again) = outcomes
    assert pd.Series(metrics).equals(pd.Series(metrics_again))
    assert scores == scores_again
    assert_equal(best, best_again)


def test_the_same_model_in_a_notebook_goes_on_where_it_was_interrupted(tiny: Tiny, tmp_path: Path) -> None:
    whole, stopped = tiny(dropout=0.1), tiny(dropout=0.1)
    run(whole, ranking(whole))
    objectives = ranking(stopped)
    with pytest.raises(Killed):
        run(stopped, objectives, tmp_path, callbacks=[kill_after(8)])
    run(stopped, objectives, tmp_path, resume=True)
    assert_equal(weights(stopped, objectives), weights(whole, ranking(whole)))


def test_a_checkpoint_is_a_model_folder(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    run(model, ranking(model), tmp_path, epochs=0.75)
    kept = SentenceTransformer(tmp_path / "3", device="cpu")
    assert torch.equal(kept.encode("the cat", convert_to_tensor=True), model.encode("the cat", convert_to_tensor=True))


def test_without_a_checkpoint_resume_begins(tiny: Tiny, tmp_path: Path) -> None:
    model, other = tiny(), tiny()
    run(model, ranking(model), tmp_path, resume=True)
    run(other, ranking(other))
    assert_equal(weights(model, []), weights(other, []))
    with pytest.raises(ValueError, match="resume=True needs checkpoint_path"):
        run(model, ranking(model), resume=True)


# -- What must not be continued ----------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a truncated state": (lambda f: (f / STATE).write_bytes((f / STATE).read_bytes()[:-100]), "not what was written"),
    "a flipped bit in the weights": (lambda f: flip(f / "model.safetensors"), "not what was written"),
    "a missing file": (lambda f: (f / "modules.json").unlink(), "is missing"),
    "an added file": (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "was added"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), f"{MANIFEST} cannot be read"),
    "a manifest that is no JSON": (lambda f: (f / MANIFEST).write_text("{"), "cannot be read"),
    "another version": (lambda f: edit(f / MANIFEST, format=99), "format 99"),
    "a file in its place": (lambda f: [shutil.rmtree(f), f.write_text("")], "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_an_older_whole_one_taken(tiny: Tiny, tmp_path: Path, damage: str) -> None:
    whole, broken, again = (tiny(dropout=0.1) for _ in range(3))
    run(whole, ranking(whole))
    with pytest.raises(Killed):
        run(broken, ranking(broken), tmp_path, callbacks=[kill_after(8)])
    harm, words = DAMAGES[damage]
    harm(tmp_path / "6")
    with pytest.warns(CheckpointWarning, match=f"skipped: .*6.*({words})"):
        run(again, ranking(again), tmp_path, resume=True)
    assert_equal(weights(again, []), weights(whole, []))


def test_a_state_that_would_run_code_is_not_loaded(tiny: Tiny, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    model = tiny()
    run(model, ranking(model), tmp_path / "c", epochs=0.75)
    folder = tmp_path / "c" / "3"
    torch.save({"step": Evil()}, folder / STATE)
    from sbertlab.storage.files import sha256_of

    files = read_manifest(folder)["files"] | {STATE: sha256_of(folder / STATE)}
    edit(folder / MANIFEST, files=files)
    verify(folder)
    with pytest.warns(CheckpointWarning, match=f"{STATE} cannot be read"):
        run(model, ranking(model), tmp_path / "c", resume=True, epochs=0.75)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 12}, "seed: then 11, now 12"),
        ({"epochs": 1}, "steps: then 14, 4 per epoch, now 4, 4 per epoch"),
        ({"scheduler": "WarmupCosine"}, "schedule: then WarmupLinear"),
        ({"optimizer_params": {"lr": 1e-4}}, "optimizer: .*0.001.*0.0001"),
        ({"cached": True}, "chunks: .*cached=False.*cached=True"),
        ({"mixed_precision": "bf16"}, "mixed_precision: then no, now bf16"),
    ],
    ids=str,
)
def test_another_configuration_is_refused_with_what_changed(
    tiny: Tiny, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    model = tiny()
    run(model, ranking(model), tmp_path)
    before = weights(model, [])
    with pytest.raises(CheckpointError, match=words) as raised:
        run(model, ranking(model), tmp_path, resume=True, **change)
    assert len(str(raised.value).splitlines()) == 3, "only what changed is listed"
    assert_equal(weights(model, []), before)


def test_other_data_another_loss_and_another_model_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    run(model, ranking(model), tmp_path)
    loss = losses.MultipleNegativesRankingLoss(model)
    altered = [*PAIRS[:-1], InputExample(texts=["the guitar sleeps", "a piano is there"], label=1.0)]
    for objectives, words in (
        ([(DataLoader(altered, batch_size=4, shuffle=True), loss)], "data: then 18 rows, .* now 18 rows"),
        ([(DataLoader(PAIRS[:-1], batch_size=4, shuffle=True), loss)], "data: then 18 rows, .* now 17 rows"),
        ([(DataLoader(PAIRS, batch_size=3, shuffle=True), loss)], "batch size 4.* batch size 3"),
        (several(model)[1:2], "loss: then MultipleNegatives.*BatchAll"),
        ([*ranking(model), *several(model)[2:]], "objective 1, loss: then nothing, now Cosine"),
        (
            [(DataLoader(PAIRS, batch_size=4, shuffle=True), losses.MultipleNegativesRankingLoss(model, scale=10.0))],
            "scale=20.0.* scale=10.0",
        ),
    ):
        with pytest.raises(CheckpointError, match=words):
            run(model, objectives, tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="not those that the checkpoint has seen"):
        run(model, [(DataLoader(PAIRS, batch_size=4), loss)], tmp_path, resume=True)
    from sbertlab import models

    other = tiny(modules=[models.Dense(32, 16)])
    with pytest.raises(CheckpointError, match=r"model: then Transformer, Pooling, .* now Transformer, Pooling, Dense"):
        run(other, ranking(other), tmp_path, resume=True)


@pytest.mark.parametrize(
    ("model_settings", "change", "words"),
    [
        ({"pooling": "cls"}, None, "model: then"),
        ({"dropout": 0.3}, None, "model: then"),
        ({}, lambda model: setattr(model, "max_seq_length", 8), "model: then"),
        ({}, lambda model: model[0].auto_model.embeddings.requires_grad_(False), "model: then"),
    ],
    ids=["pooling", "dropout", "length", "frozen"],
)
def test_a_model_that_differs_in_more_than_weights_is_refused_and_left_as_it_was(
    tiny: Tiny, tmp_path: Path, model_settings: dict[str, Any], change: Callable | None, words: str
) -> None:
    model = tiny()
    run(model, ranking(model), tmp_path, epochs=0.75)
    other = tiny(**model_settings)
    if change is not None:
        change(other)
    before = weights(other, [])
    with pytest.raises(CheckpointError, match=words):
        run(other, ranking(other), tmp_path, resume=True, epochs=0.75)
    assert_equal(weights(other, []), before)


def test_the_same_settings_in_other_words_are_the_same(tiny: Tiny, tmp_path: Path) -> None:
    import numpy as np

    model = tiny()
    first = {"lr": np.float64(1e-3), "betas": (0.9, 0.98)}
    run(model, ranking(model), tmp_path, epochs=0.75, seed=np.int64(4), optimizer_params=first)
    again = {"betas": [0.9, 0.98], "lr": 1e-3}
    history = run(model, ranking(model), tmp_path, epochs=0.75, seed=4, optimizer_params=again, resume=True)
    assert len(history) == 3


def test_what_cannot_be_read_back_is_known_at_the_first_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "odd": Path()}

    model = tiny()
    with pytest.raises(CheckpointError, match="cannot be read as tensors and plain values"):
        run(model, ranking(model), tmp_path, optimizer_class=Odd)


def test_a_checkpoint_that_a_killed_writer_took_away_is_put_back(tiny: Tiny, tmp_path: Path) -> None:
    whole, stopped, again = (tiny(dropout=0.1) for _ in range(3))
    run(whole, ranking(whole))
    with pytest.raises(Killed):
        run(stopped, ranking(stopped), tmp_path, callbacks=[kill_after(8)])
    (tmp_path / "6").rename(tmp_path / ".6.old")
    shutil.rmtree(tmp_path / "3")
    history = run(again, ranking(again), tmp_path, resume=True)
    assert history["tokens_per_second"].notna().all()
    assert (tmp_path / "6").exists()
    assert_equal(weights(again, []), weights(whole, []))


def test_what_a_killed_writer_of_the_best_model_left_is_cleared_and_put_back(tiny: Tiny, tmp_path: Path) -> None:
    output = tmp_path / "out"
    model = tiny()
    model.save(output)
    output.rename(tmp_path / ".out.old")
    (tmp_path / ".out.0123abcd").mkdir()
    (tmp_path / "..out.0123abcd.89ef4567").mkdir()
    (tmp_path / ".outer.0123abcd").mkdir()
    run(model, ranking(model), output_path=output, epochs=1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".outer.0123abcd", "out"]
    assert SentenceTransformer(output).encode("the cat").shape == (32,)


# -- Keeping them ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_leaves_the_others_whole_and_the_run_going(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sbertlab.training.checkpoint as module

    model = tiny()
    save = torch.save

    def full(state: Any, path: Path) -> None:
        if state["step"]["number"] == 6:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(state, path)

    monkeypatch.setattr(module.torch, "save", full)
    with pytest.warns(CheckpointWarning, match="step 6 could not be written.*No space"):
        history = run(model, ranking(model), tmp_path, checkpoint_save_total_limit=1)
    assert len(history) == STEPS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["12"]
    verify(tmp_path / "12")


def test_the_last_whole_checkpoint_is_never_removed(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sbertlab.training.checkpoint as module

    def spoil(folder: Path, *arguments: Any) -> None:
        write_checkpoint(folder, *arguments)
        if folder.name != "3":
            flip(folder / "model.safetensors")

    model = tiny()
    monkeypatch.setattr(module, "write_checkpoint", spoil)
    with pytest.warns(CheckpointWarning, match="older checkpoints are kept"):
        run(model, ranking(model), tmp_path, checkpoint_save_total_limit=1)
    verify(tmp_path / "3")


def test_the_limit_counts_the_checkpoints_before_the_interruption_too(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    with pytest.raises(Killed):
        run(model, ranking(model), tmp_path, callbacks=[kill_after(8)], checkpoint_save_total_limit=2)
    run(model, ranking(model), tmp_path, resume=True, checkpoint_save_total_limit=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["12", "9"]


def test_the_newest_in_time_counts_and_not_the_highest_step(tiny: Tiny, tmp_path: Path) -> None:
    first, second, third = tiny(), tiny(seed=1), tiny(seed=1)
    run(first, ranking(first), tmp_path)  # leaves 3 ... 12
    with pytest.raises(Killed):
        run(second, ranking(second), tmp_path, callbacks=[kill_after(4)])
    run(second, ranking(second), tmp_path, resume=True)
    run(third, ranking(third))
    assert_equal(weights(second, []), weights(third, []))


def test_what_a_killed_writer_left_is_cleared_away(tiny: Tiny, tmp_path: Path) -> None:
    half = tmp_path / ".500.0123abcd"
    mine = tmp_path / ".hidden"
    for folder in (half, mine):
        folder.mkdir()
    model = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        run(model, ranking(model), tmp_path, epochs=0.25)
    assert not half.exists()
    assert mine.exists()


def test_folders_of_other_runs_stay_where_they_are(tiny: Tiny, tmp_path: Path) -> None:
    for earlier in (5000, 2024):
        (tmp_path / str(earlier)).mkdir()
    model = tiny()
    run(model, ranking(model), tmp_path, epochs=1.5, checkpoint_save_total_limit=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2024", "5000", "6"]
