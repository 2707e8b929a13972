"""The packaged recipes: each trains a tiny model on the packaged data and leaves a folder that loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sbertlab.helpdesk import load_helpdesk, triplets

from sbertlab import InputExample, SentenceTransformer
from sbertlab.commands.settings import recipes
from sbertlab.commands.train import train
from sbertlab.data import write_nemo

pytestmark = pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")

SETTINGS = {
    "distillation": ["evaluator.teacher_model={model}", "data.teacher={model}", "model.layers=1"],
    "matryoshka": ["loss.matryoshka_dims=[32, 16]", "evaluator.0.truncate_dim=16"],
    "nemo": ["model.data.data_prefix={nemo}", "model.data.evaluation_sample_size=8"],
    "nli": [],
    "retrieval": [],
    "sts": [],
    "tsdae": [],
}
"""What a recipe needs for a model of 32 dimensions."""


@pytest.fixture
def run(
    tiny: Callable[..., SentenceTransformer], tmp_path: Path
) -> Callable[..., tuple[pd.DataFrame, SentenceTransformer]]:
    """Function that trains the tiny model by a recipe for two steps; returns the history and the model written."""
    tiny(dropout=0.1).save(tmp_path / "tiny")
    table = triplets(load_helpdesk("train")).head(32)
    rows = [InputExample(texts=list(row[:3])) for row in table.to_numpy().tolist()]
    write_nemo(rows, tmp_path / "train.json")

    def run(recipe: str, name: str = "out", *more: str) -> tuple[pd.DataFrame, SentenceTransformer]:
        places = {"model": tmp_path / "tiny", "nemo": tmp_path / "train.json"}
        words = [word.format(**places) for word in SETTINGS[recipe]]
        words += [f"model.name={tmp_path / 'tiny'}", "model.max_seq_length=24", f"output={tmp_path / name}"]
        words += ["steps_per_epoch=2", "epochs=1", "warmup_steps=1", "show_progress_bar=false", *more]
        history = train([recipe, *words])
        assert history is not None
        return history, SentenceTransformer(tmp_path / name)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(SETTINGS))
def test_a_recipe_trains_on_the_packaged_data(recipe: str, run: Callable[..., tuple], tmp_path: Path) -> None:
    history, model = run(recipe)
    assert history["step"].tolist() == [1, 2]
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(history["metric"].iloc[-1])
    start = SentenceTransformer(tmp_path / "tiny")
    first, last = (next(iter(one[0].parameters())) for one in (start, model))
    assert not torch.equal(first, last), "it was trained"
    assert model.encode(["the cat sits", "a dog"]).shape == (2, 32)
    assert list((tmp_path / "out" / "eval").glob("*.csv"))


def test_there_is_a_test_for_every_recipe() -> None:
    assert set(recipes()) == set(SETTINGS)


@pytest.mark.slow
def test_a_recipe_gives_the_same_model_again(run: Callable[..., tuple]) -> None:
    _, one = run("retrieval", "one", "seed=1")
    _, two = run("retrieval", "two", "seed=1")
    _, other = run("retrieval", "other", "seed=2")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
