"""The folder of the results, the numbers of the page, and the committed tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sbertlab.benchmark.published import published_cells
from sbertlab.benchmark.results import COLUMNS, PAIR_FILE, ranking, read, readme_block, report, rows_of, save, summarise
from sbertlab.commands.figures import BLOCK

ROOT = Path(__file__).parents[2]
FILES = ("benchmark.csv", "comparisons.csv", "environment.json")
NO_PAIRS = pd.DataFrame(columns=PAIR_FILE)


@pytest.mark.parametrize("renames", range(4))
def test_a_killed_save_leaves_every_file_complete_and_never_mixed_tables(renames, tmp_path, monkeypatch):
    table, pairs, manifest = read(ROOT / "figures")

    def saved(preset):
        chosen = pairs[pairs["preset"] == preset].drop(columns="preset")
        save(tmp_path, rows_of(table, preset), chosen, preset, manifest["presets"][preset])

    saved("offline")
    made, replace = 0, Path.replace

    def killed_after(path, target):
        nonlocal made
        if made == renames:
            raise SystemExit
        made += 1
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed_after)
    if renames < 3:
        with pytest.raises(SystemExit):
            saved("local")
    else:
        saved("local")
    if renames in (0, 3):
        found, its, about = read(tmp_path)
        measured = {"offline"} if renames == 0 else {"offline", "local"}
        assert set(found.loc[found["tag"] != "published", "preset"]) == set(its["preset"]) == measured
        assert set(about["presets"]) == measured
    else:
        with pytest.raises(ValueError, match="was changed after it was measured: restore it"):
            read(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES), "no temporary file is left"


def test_the_committed_tables_are_saved_as_they_are(tmp_path):
    table, pairs, manifest = read(ROOT / "figures")
    for preset, about in manifest["presets"].items():
        save(tmp_path, rows_of(table, preset), pairs[pairs["preset"] == preset], preset, about)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (ROOT / "figures" / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_a_folder_without_one_of_the_three_files_is_refused(name, tmp_path):
    for file in set(FILES) - {name}:
        (tmp_path / file).write_bytes((ROOT / "figures" / file).read_bytes())
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        read(tmp_path)


def test_means_and_spreads_are_those_over_the_seeds():
    random = np.random.default_rng(0)
    places = pd.MultiIndex.from_product([["b", "a"], range(3), list("xyz")], names=["model", "seed", "task"])
    rows = pd.DataFrame({"value": random.uniform(0, 100, len(places))}, places).reset_index()
    summary = summarise(rows.assign(variant="fine-tuned", family="STS")).droplevel("variant")
    assert summary.index.tolist() == [(model, task) for model in "ba" for task in ("mean", "x", "y", "z")]
    for (model, task), found in summary.iterrows():
        part = rows[(rows["model"] == model) & ((rows["task"] == task) | (task == "mean"))]
        by_seed = [np.mean(part["value"][part["seed"] == seed]) for seed in range(3)]
        assert found.tolist() == pytest.approx([np.mean(by_seed), np.std(by_seed, ddof=1)])


def test_a_mean_over_tasks_with_a_failed_cell_is_missing():
    cells = [("a", "untuned", 0, "x", 50.0), ("a", "untuned", 0, "y", np.nan), ("b", "untuned", 0, "x", 1.0)]
    cells.append(("b", "untuned", 0, "y", 2.0))
    table = pd.DataFrame(cells, columns=["model", "variant", "seed", "task", "value"])
    table = table.assign(preset="offline", family="STS", metric="m", recipe="", n=1, tag="proxy", error="")
    table["tag"] = table["tag"].where(table["value"].notna(), "failed")
    table[["low", "high"]] = np.nan
    means = summarise(table)["mean"].droplevel("variant")
    assert np.isnan(means["a", "mean"])
    assert means["b", "mean"] == 1.5
    page = report(table, NO_PAIRS)
    assert "| b     | untuned | a     | 1.5  | 1.0  | 2.0 |" in page
    assert "| a     | untuned |       | -    | 50.0 | -   |" in page
    assert "Failed cells" in page
    assert "one seed" not in page
    assert "one seed" in report(table[table["model"] == "b"].assign(variant="fine-tuned"), NO_PAIRS)


def test_the_committed_page_and_readme_are_those_of_the_committed_tables():
    table, pairs, manifest = read(ROOT / "figures")
    assert (ROOT / "figures" / "benchmark.md").read_text(encoding="utf-8") == report(table, pairs)
    found = BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == f"<!-- benchmark -->\n{readme_block(table, pairs)}<!-- /benchmark -->"
    assert set(manifest["sha256"]) == {"benchmark.csv", "comparisons.csv"}
    known = table[table["tag"] == "published"].reset_index(drop=True)
    pd.testing.assert_frame_equal(known, published_cells()[COLUMNS], check_dtype=False)
    for preset in manifest["presets"]:
        assert rows_of(table, preset)["tag"].isin(["proxy", "measured"]).all()
        for kind in ("ranking", "tasks", "quality"):
            assert (ROOT / "figures" / f"{preset}_{kind}.png").exists()


def test_in_the_committed_table_fine_tuning_helps_every_model_and_the_best_rank_is_real():
    table, pairs, _ = read(ROOT / "figures")
    own = rows_of(table, "offline")
    tuned = summarise(own)["mean"].xs("mean", level="task").unstack("variant").dropna()  # noqa: PD010
    assert len(tuned) >= 4
    assert (tuned["fine-tuned"] > tuned["untuned"]).all()
    order = ranking(own, pairs[pairs["preset"] == "offline"])
    assert order.loc[0, ["model", "variant", "group"]].tolist() == ["all-MiniLM-L6-v2", "fine-tuned", "a"]
    assert (order["group"] == "a").sum() == 1
