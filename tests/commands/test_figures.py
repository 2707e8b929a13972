"""Benchmark and card as files: tables that are measured, pages and pictures that follow from them."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from sbertlab.__main__ import main
from sbertlab.analysis.robustness import card
from sbertlab.benchmark import presets
from sbertlab.benchmark.results import read, readme_block, report
from sbertlab.commands import figures
from sbertlab.commands.figures import draw_card, draw_figures, write_card

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_command_measures_draws_prints_and_checks(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(presets, "cache_home", lambda: tmp_path / "cache")
    words = ["benchmark", "--models", "TF-IDF+SVD", "--tasks", "helpdesk-clustering", "--seeds", "1"]
    assert main(words) == 1
    assert "--output DIR" in capsys.readouterr().err
    words += ["--output", str(tmp_path / "out")]
    assert main(words) == 0
    assert "| TF-IDF+SVD | untuned |" in capsys.readouterr().out
    assert main([*words, "--check"]) == 0
    assert "True" in capsys.readouterr().out
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {
        f"offline_{kind}{theme}.png" for kind in ("ranking", "tasks", "quality") for theme in ("", "_dark")
    }


@pytest.mark.slow
def test_drawing_makes_the_page_the_pictures_and_the_readmes_block(tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in ("benchmark.csv", "comparisons.csv", "environment.json"):
        shutil.copy(ROOT / "figures" / name, folder)
    (tmp_path / "README.md").write_text("above\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nbelow\n")
    written = draw_figures(folder)
    table, pairs, manifest = read(folder)
    assert (folder / "benchmark.md").read_text(encoding="utf-8") == report(table, pairs)
    page = (tmp_path / "README.md").read_text()
    assert page == f"above\n<!-- benchmark -->\n{readme_block(table, pairs)}<!-- /benchmark -->\nbelow\n"
    assert len(written) == 2 + 6 * len(manifest["presets"])
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written[2:])


@pytest.mark.slow
def test_a_card_is_measured_written_and_drawn_again(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(figures, "EmbeddingStore", lambda: None)
    written = write_card(["TF-IDF+SVD"], tmp_path / "card")
    names = ["robustness.csv", "associations.csv", "robustness.md", "robustness.png", "robustness_dark.png"]
    assert [path.name for path in written] == names
    table = pd.read_csv(tmp_path / "card" / "robustness.csv")
    assert set(table["model"]) == {"TF-IDF+SVD"}
    assert table.set_index("kind").loc["identical", "similarity"] == pytest.approx(1, abs=1e-3)
    page = (tmp_path / "card" / "robustness.md").read_text()
    (tmp_path / "card" / "robustness.md").unlink()
    assert [path.name for path in draw_card(tmp_path / "card")] == names[2:]
    assert (tmp_path / "card" / "robustness.md").read_text() == page


def test_the_committed_page_is_that_of_the_committed_tables():
    table, gaps = (pd.read_csv(ROOT / "figures" / name) for name in ("robustness.csv", "associations.csv"))
    page = (ROOT / "figures" / "robustness.md").read_text(encoding="utf-8")
    for model, part in table.groupby("model", sort=False):
        assert card(part, gaps[gaps["model"] == model]) in page
    assert {"all-MiniLM-L6-v2", "all-mpnet-base-v2"} <= set(table["model"])
