"""A small model, a table of pairs and a file of settings that tests of the commands share."""

import pandas as pd
import pytest


@pytest.fixture
def folder(tiny, tmp_path):
    tiny().save(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.fixture
def pairs(tmp_path):
    """A table of eight pairs with a score."""
    rows = [(f"the cat sits {n}", f"a dog runs {n}", n / 8) for n in range(8)]
    path = tmp_path / "pairs.csv"
    pd.DataFrame(rows, columns=["one", "two", "score"]).to_csv(path, index=False)
    return str(path)


@pytest.fixture
def config(tmp_path, folder, pairs):
    path = tmp_path / "config.yaml"
    path.write_text(
        f"model: {{name: {folder}}}\n"
        f"data: {{path: {pairs}, texts: [one, two], label: score, batch_size: 4}}\n"
        "loss: CosineSimilarityLoss\n"
        "fit: {epochs: 1, warmup_steps: 1, optimizer_params: {lr: 2e-5}, show_progress_bar: false}\n"
    )
    return str(path)
