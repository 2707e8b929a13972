"""`python -m sbertlab benchmark`: options, printed page, pictures."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest

from sbertlab.benchmark import presets
from sbertlab.benchmark.results import read, readme_block, report
from sbertlab.commands.benchmark import add_arguments, run_benchmark
from sbertlab.commands.figures import draw_benchmark

ROOT = Path(__file__).parents[2]


def command(*words: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run_benchmark(**vars(parser.parse_args(words)))


@pytest.mark.slow
def test_the_command_measures_draws_prints_and_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "cache_home", lambda: tmp_path / "cache")
    words = ["--models", "TF-IDF+SVD", "--tasks", "helpdesk-clustering", "--seeds", "1"]
    with pytest.raises(ValueError, match="--output DIR"):
        command(*words)
    words += ["--output", str(tmp_path / "out")]
    command(*words)
    assert "| TF-IDF+SVD | untuned |" in capsys.readouterr().out
    command(*words, "--check")
    assert "True" in capsys.readouterr().out
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {
        f"offline_{kind}{theme}.png" for kind in ("ranking", "tasks", "quality") for theme in ("", "_dark")
    }


@pytest.mark.slow
def test_drawing_makes_the_page_the_pictures_and_the_readmes_block(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in ("benchmark.csv", "comparisons.csv", "environment.json"):
        shutil.copy(ROOT / "figures" / name, folder)
    (tmp_path / "README.md").write_text("above\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nbelow\n")
    written = draw_benchmark(folder)
    table, pairs, manifest = read(folder)
    assert (folder / "benchmark.md").read_text(encoding="utf-8") == report(table, pairs)
    page = (tmp_path / "README.md").read_text()
    assert page == f"above\n<!-- benchmark -->\n{readme_block(table, pairs)}<!-- /benchmark -->\nbelow\n"
    assert len(written) == 2 + 6 * len(manifest["presets"])
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written[2:])


def test_drawing_without_a_table_says_what_creates_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"benchmark.csv is missing; .*`python -m sbertlab benchmark`"):
        draw_benchmark(tmp_path)
