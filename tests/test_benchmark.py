from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel

from sbertlab import SentenceTransformer, benchmark, helpdesk
from sbertlab.benchmark import ENCODERS, OFFLINE, Encoder, Recipe, run
from sbertlab.results import COLUMNS, report, summarise
from sbertlab.safe_files import sha256_of
from sbertlab.tasks import SharedEmbeddings, Task, helpdesk_tasks, select_tasks

ROOT = Path(__file__).parent.parent
SHORT = Recipe(rows=60)


@pytest.fixture
def small(tiny: Callable[..., SentenceTransformer]) -> Encoder:
    """A tiny encoder that can be fine-tuned."""
    return Encoder("tiny", lambda seed: tiny(seed=7, dropout=0.1), learning_rate=1e-3)


class Failing:
    def encode(self, texts: list[str]) -> Any:
        raise RuntimeError("out of | memory")


# -- Runner ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_gives_one_row_a_cell_and_leaves_table_page_picture_and_manifest(small: Encoder, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ["helpdesk-duplicates", "helpdesk-clustering"]
    table = run([small, "TF-IDF+SVD"], names, seeds=2, output=tmp_path / "new" / "figures", recipe=SHORT)
    folder = tmp_path / "new" / "figures"
    assert list(table.columns) == COLUMNS
    jobs = [("tiny", "untuned", 0), ("tiny", "fine-tuned", 0), ("tiny", "fine-tuned", 1), ("TF-IDF+SVD", "untuned", 0)]
    expected = [(*job, name) for job in jobs for name in names]
    assert list(table[["model", "variant", "seed", "task"]].itertuples(index=False, name=None)) == expected
    assert (table["tag"] == "measured").all()
    assert table["value"].between(0, 100).all()
    assert table["n"].tolist() == [2000, 576] * 4

    read = pd.read_csv(folder / "benchmark.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    assert (folder / "benchmark.md").read_text(encoding="utf-8") == report(table)
    assert (folder / "benchmark.png").read_bytes()[:4] == b"\x89PNG"
    manifest = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert manifest["sha256"]["corpora/helpdesk.jsonl"] == sha256_of(helpdesk.CORPUS)
    assert manifest["versions"]["torch"] == str(torch.__version__)
    assert manifest["recipe"]["rows"] == 60
    assert manifest["learning_rates"] == {"tiny": 1e-3, "TF-IDF+SVD": None}
    assert str(ROOT) not in json.dumps(manifest), "no path of this machine"
    assert sorted(path.name for path in folder.iterdir()) == [
        "benchmark.csv",
        "benchmark.md",
        "benchmark.png",
        "environment.json",
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_same_seeds_give_the_same_rows_and_other_seeds_others(small: Encoder, tmp_path: Path) -> None:
    first = run([small], ["helpdesk-duplicates"], seeds=2, output=tmp_path, recipe=SHORT)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 (the run must not depend on the global generators)
    second = run([small], ["helpdesk-duplicates"], seeds=2, output=tmp_path, recipe=SHORT)
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))
    untuned, tuned, other = first["value"]
    assert len({untuned, tuned, other}) == 3


def test_a_cell_that_fails_is_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    broken_task = Task("broken", "STS", "no_such_metric", "", helpdesk_tasks()[0].load)
    models = [
        Encoder("cannot be made", lambda seed: 1 / 0),
        Encoder("cannot encode", lambda seed: Failing()),
        ENCODERS["TF-IDF+SVD"],
    ]
    table = run(models, [broken_task, "helpdesk-clustering"], seeds=1, output=tmp_path)
    assert table["tag"].tolist() == ["failed"] * 5 + ["measured"]
    assert table["value"].isna().tolist() == [True] * 5 + [False]
    errors = table["error"].tolist()
    assert errors[:2] == ["ZeroDivisionError: division by zero"] * 2
    assert errors[2:4] == ["RuntimeError: out of | memory"] * 2
    assert errors[4] == "KeyError: 'no_such_metric'"
    assert errors[5] == ""
    page = (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    assert "Failed cells" in page
    assert r"out of \| memory" in page
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "benchmark.csv", keep_default_na=False, na_values={"value": [""]}),
        table,
        check_dtype=False,
    )


def test_mistakes_are_found_before_anything_is_made(tmp_path: Path) -> None:
    def never(seed: int) -> Any:
        raise AssertionError("made too early")

    encoder = Encoder("never", never)
    for wrong, message in [
        ({"seeds": 0}, "seeds must be a whole number of at least 1, got 0"),
        ({"tasks": ["helpdesk-sst"]}, "'helpdesk-sst' is"),
        ({"tasks": []}, "tasks must be names of tasks"),
        ({"models": [encoder, encoder]}, "models must be names of models, each once"),
        ({"models": []}, "models must be names of models"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(**{"models": [encoder], "output": tmp_path / "out", **wrong})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_command_line_takes_models_tasks_seeds_and_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    assert vars(parser.parse_args([])) == {"models": None, "tasks": None, "seeds": 3, "output": "figures"}
    words = ["--models", "TF-IDF+SVD", "--tasks", "helpdesk-clustering", "helpdesk-sts", "--seeds", "1"]
    benchmark.run_from(parser.parse_args([*words, "--output", str(tmp_path)]))
    printed = capsys.readouterr().out
    assert "| TF-IDF+SVD | untuned |" in printed
    assert (tmp_path / "benchmark.csv").exists()


def test_drawing_without_a_table_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"benchmark.csv is missing; `python -m sbertlab benchmark` makes it"):
        benchmark.draw(tmp_path)


# -- Table -------------------------------------------------------------------------------------------------------------


def test_means_and_spreads_equal_those_computed_row_by_row() -> None:
    random = np.random.default_rng(0)
    rows = [
        {"model": model, "variant": "fine-tuned", "seed": seed, "task": task, "value": value}
        for model in ("b", "a")
        for seed in range(3)
        for task, value in zip("xyz", random.uniform(0, 100, 3), strict=True)
    ]
    summary = summarise(pd.DataFrame(rows)).set_index(["model", "task"])
    assert summary.index.tolist() == [(model, task) for model in "ba" for task in ("mean", "x", "y", "z")]
    for model in "ab":
        for task in "xyz":
            values = [row["value"] for row in rows if (row["model"], row["task"]) == (model, task)]
            assert summary.loc[(model, task), "mean"] == pytest.approx(sum(values) / 3)
            assert summary.loc[(model, task), "spread"] == pytest.approx(np.std(values, ddof=1))
        by_seed = [
            np.mean([row["value"] for row in rows if (row["model"], row["seed"]) == (model, seed)]) for seed in range(3)
        ]
        assert summary.loc[(model, "mean"), "mean"] == pytest.approx(np.mean(by_seed))
        assert summary.loc[(model, "mean"), "spread"] == pytest.approx(np.std(by_seed, ddof=1))


def test_a_mean_over_tasks_that_lacks_a_failed_cell_is_missing() -> None:
    cells = [("a", "untuned", 0, "x", 50.0), ("a", "untuned", 0, "y", np.nan), ("b", "untuned", 0, "x", 1.0)]
    cells.append(("b", "untuned", 0, "y", 2.0))
    table = pd.DataFrame(cells, columns=["model", "variant", "seed", "task", "value"])
    means = summarise(table).set_index(["model", "task"])["mean"]
    assert np.isnan(means["a", "mean"])
    assert means["b", "mean"] == 1.5
    page = report(table.assign(family="STS", metric="m", n=1, tag="measured", error=""))
    assert "| a     | untuned | failed | 50.0 | failed |" in page
    assert "| b     | untuned | 1.5    | 1.0  | 2.0    |" in page


def test_the_committed_page_is_that_of_the_committed_table_and_fine_tuning_helps_every_encoder() -> None:
    path = ROOT / "figures" / "benchmark.csv"
    if not path.exists():
        pytest.skip("figures/benchmark.csv is not there; `make benchmark` makes it")
    table = pd.read_csv(path, keep_default_na=False, na_values={"value": [""]})
    assert path.with_suffix(".md").read_text(encoding="utf-8") == report(table)
    own = table[table["task"].str.startswith("helpdesk-")]
    means = summarise(own).query("task == 'mean'").pivot_table(index="model", columns="variant", values="mean")
    tuned = means.dropna()
    assert len(tuned) >= 4
    assert (tuned["fine-tuned"] > tuned["untuned"]).all()


# -- Encoders ----------------------------------------------------------------------------------------------------------

TEXTS = ["Where is my parcel?", "I want my money back for the broken lamp."]


def test_the_first_three_layers_equal_the_third_hidden_state_of_the_whole_model(
    minilm_folder: Path, minilm: SentenceTransformer
) -> None:
    whole = AutoModel.from_pretrained(minilm_folder, output_hidden_states=True).eval()
    inputs = minilm.tokenizer(TEXTS, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        vectors = whole(**inputs).hidden_states[3]
    expected = torch.nn.functional.normalize((vectors * mask).sum(1) / mask.sum(1), dim=-1)
    found = benchmark.first_layers("all-MiniLM-L6-v2").encode(TEXTS)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_token_embeddings_are_the_mean_of_the_rows_of_the_embedding_matrix(minilm: SentenceTransformer) -> None:
    model = benchmark.token_embeddings("all-MiniLM-L6-v2")
    matrix = minilm[0].auto_model.get_input_embeddings().weight.detach()
    for text in TEXTS:
        ids = minilm.tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = torch.nn.functional.normalize(matrix[ids].mean(dim=0), dim=0)
        np.testing.assert_allclose(model.encode(text), expected.numpy(), atol=1e-6)


def test_random_weights_follow_from_the_seed_alone(minilm: SentenceTransformer) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (benchmark.random_weights("all-MiniLM-L6-v2", seed).encode(TEXTS) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - minilm.encode(TEXTS)).max() > 0.01


def test_training_one_copy_leaves_the_next_untouched(minilm: SentenceTransformer) -> None:
    with torch.no_grad():
        benchmark.pretrained("all-MiniLM-L6-v2")[0].auto_model.get_input_embeddings().weight.zero_()
    np.testing.assert_allclose(benchmark.pretrained("all-MiniLM-L6-v2").encode(TEXTS), minilm.encode(TEXTS), atol=1e-6)


def test_tfidf_has_seen_the_training_texts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    load = helpdesk.load_helpdesk
    monkeypatch.setattr(helpdesk, "load_helpdesk", lambda split=None: (seen.append(split), load(split))[1])
    embeddings = SharedEmbeddings(benchmark.tfidf_svd()).encode(TEXTS)
    assert seen == ["train"]
    assert embeddings.shape == (2, 256)


# -- Recipe ------------------------------------------------------------------------------------------------------------


def test_the_recipe_trains_on_training_intents_only_in_batches_without_an_intent_twice(
    tiny: Callable[..., SentenceTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[list[str]]] = []

    def remember(model: Any, objectives: Any, **settings: Any) -> pd.DataFrame:
        ((loader, loss),) = objectives
        loader.collate_fn = list
        batches.extend([[example.texts for example in batch] for batch in loader])
        assert (loss.scale, loss.hard_negatives) == (20.0, "own")
        assert settings["optimizer_params"] == {"lr": 0.5}
        assert settings["seed"] == 2
        return pd.DataFrame()

    monkeypatch.setattr(benchmark, "fit", remember)
    OFFLINE.fine_tune(tiny(), learning_rate=0.5, seed=2)
    corpus = helpdesk.load_helpdesk()
    train = corpus[corpus["split"] == "train"]
    intent_of = dict(zip(train["text"], train["intent"], strict=True))
    allowed = {*train["text"], *train["answer"]}
    assert len(batches) == OFFLINE.rows // OFFLINE.batch_size
    for batch in batches:
        assert {text for texts in batch for text in texts} <= allowed
        intents = [intent_of[anchor] for anchor, _, _ in batch]
        assert len(set(intents)) == len(intents) == OFFLINE.batch_size


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MiniLM-tokens", "MiniLM-3-layers"])
def test_fine_tuning_helps_on_intents_never_trained_on(name: str) -> None:
    encoder = ENCODERS[name]
    tasks = select_tasks([task.name for task in helpdesk_tasks()])
    means = {}
    for variant in (benchmark.UNTUNED, benchmark.TUNED):
        cells = list(benchmark.measure(encoder, variant, 0, tasks, OFFLINE))
        assert [cell["error"] for cell in cells] == [""] * len(tasks)
        means[variant] = np.mean([cell["value"] for cell in cells])
    assert means[benchmark.TUNED] > means[benchmark.UNTUNED] + 1
