from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sbertlab.benchmark.published import PUBLISHED
from sbertlab.benchmark.published_table import (
    BASE_MODELS,
    BATCH_64,
    BATCH_128,
    FOURTEEN,
    MEAN,
    PRETRAINED_MODELS,
    TWITTER_MEAN,
    calibration,
    figures,
    mean_of_14,
    published_cells,
    with_averages,
)

_ORDER_OF_2021 = (
    *("STSBenchmark", "QuoraRetrieval", "SprintDuplicateQuestions", TWITTER_MEAN, "SciDocsRR"),
    *("TwentyNewsgroupsClustering", "RedditClustering", "StackExchangeClustering"),
)

TABLE = """
microsoft/mpnet-base 60.99
nghuyong/ernie-2.0-en 60.73
microsof/deberta-base 60.21
roberta-base 59.63
t5-base 59.21
bert-base-uncased 59.17
distilbert-base-uncased 59.03
nreimers/TinyBERT_L-6_H-768_v2 58.27
google/t5-v1_1-base 57.63
nreimers/MiniLMv2-L6-H768-distilled-from-BERT-Large 57.31
albert-base-v2 57.14
microsoft/MiniLM-L12-H384-uncased 56.79
microsoft/deberta-v3-base 54.46
"""
"""As the Training Overview prints it."""


def test_the_thirteen_averages_equal_the_document_to_two_decimals_in_its_order() -> None:
    assert [f"{printed} {value:.2f}" for _, printed, value in BASE_MODELS] == TABLE.split("\n")[1:-1]
    assert len({model for model, _, _ in BASE_MODELS}) == 13
    cells = published_cells().query("recipe == 'training_nli_v2'")
    assert cells["value"].map("{:.2f}".format).tolist() == [line.rsplit(" ", 1)[1] for line in TABLE.split("\n")[1:-1]]
    assert set(cells["task"]) == {"mean of 14"}


def test_only_two_printed_names_are_no_names_of_the_hub() -> None:
    assert {printed: model for model, printed, _ in BASE_MODELS if printed != model} == {
        "microsof/deberta-base": "microsoft/deberta-base",
        "nghuyong/ernie-2.0-en": "nghuyong/ernie-2.0-base-en",
    }


def test_the_gaps_between_neighbours_are_as_small_as_the_text_about_them_says() -> None:
    values = [value for _, _, value in BASE_MODELS]
    assert [round(values[0] - values[1], 2), round(values[4] - values[5], 2), round(values[5] - values[6], 2)] == [
        0.26,
        0.04,
        0.14,
    ]


def test_the_tasks_are_fourteen_in_the_five_families() -> None:
    families = [family for family, _ in FOURTEEN.values()]
    counts = {family: families.count(family) for family in families}
    assert counts == {"duplicates": 3, "STS": 3, "reranking": 3, "retrieval": 2, "clustering": 3}


def test_the_average_is_the_plain_mean_of_the_fourteen() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        values = dict(zip(FOURTEEN, random.uniform(0, 100, 14), strict=True))
        assert mean_of_14(values) == pytest.approx(np.mean(list(values.values())), abs=1e-12)
    assert mean_of_14(dict.fromkeys(FOURTEEN, 60.0) | {"BIOSSES": 74.0}) == 61.0


def test_an_average_of_other_tasks_is_refused() -> None:
    values = dict.fromkeys(FOURTEEN, 50.0)
    del values["BIOSSES"]
    with pytest.raises(ValueError, match="missing: BIOSSES, not among them: none"):
        mean_of_14(values)
    with pytest.raises(ValueError, match="missing: BIOSSES, not among them: STS22"):
        mean_of_14(values | {"STS22": 1.0})


def test_the_tasks_and_metrics_of_the_average_are_those_that_are_measured() -> None:
    assert {task: (one.family, one.metric) for task, one in PUBLISHED.items()} == FOURTEEN
    assert set(figures().query("task == 'QuoraRetrieval'")["metric"]) == {"max_map@100"}


def complete_run() -> pd.DataFrame:
    """The fourteen tasks for the thirteen models, for two by the recipe of the documents' tasks, and for MiniLM."""
    models = [(model, "fine-tuned", BATCH_64, seed) for model, _, _ in BASE_MODELS for seed in range(2)]
    models += [(model, "fine-tuned", BATCH_128, 0) for model in ("microsoft/mpnet-base", "distilroberta-base")]
    models += [("all-MiniLM-L6-v2", "untuned", "", 0)]
    cells = [
        {"model": model, "variant": variant, "recipe": recipe, "seed": seed, "task": task, "value": 50.0 + seed + place}
        for model, variant, recipe, seed in models
        for place, task in enumerate(PUBLISHED)
    ]
    table = pd.DataFrame(cells).assign(preset="published", tag="measured", low=40.0, high=60.0)
    return table.assign(metric=table["task"].map({task: one.metric for task, one in PUBLISHED.items()}))


def test_a_complete_run_meets_all_thirteen_averages_and_the_references_of_single_tasks() -> None:
    cells = with_averages(complete_run())
    key = ["model", "variant", "recipe", "task", "metric"]
    means = cells.groupby(key)["value"].mean().rename("measured").reset_index()
    both = published_cells().rename(columns={"value": "published"}).merge(means, on=key).set_index(["model", "task"])
    models = [model for model, _, _ in BASE_MODELS]
    assert set(models) <= set(both.index.get_level_values("model"))
    for model, _, value in BASE_MODELS[1:]:
        assert both.loc[(model, MEAN), ["published", "measured"]].tolist() == [value, 50.5 + 6.5]
    minilm = both.loc["all-MiniLM-L6-v2"]
    assert minilm.loc[MEAN, ["published", "measured"]].tolist() == [68.06, 56.5]
    # mteb's metric of the sets of STS and of CQADupstack is another than that of the average
    other = ["BIOSSES", "SICK-R", "STSBenchmark", "CQADupstackRetrieval"]
    assert set(minilm.index) == {*FOURTEEN, MEAN} - set(other)
    assert set(both.loc["distilroberta-base"].index) == {*_ORDER_OF_2021, MEAN}
    assert both.loc[("distilroberta-base", TWITTER_MEAN), "measured"].tolist() == 51.5


def test_an_average_is_left_out_where_a_task_is_missing_or_by_another_metric() -> None:
    cells = complete_run().query("model == 'roberta-base'")
    whole = with_averages(cells)
    assert whole[whole["task"] == MEAN][["seed", "metric", "value"]].values.tolist() == [
        [0, "mean", 56.5],
        [1, "mean", 57.5],
    ]
    lacking = cells[(cells["task"] != "BIOSSES") | (cells["seed"] == 1)]
    found = with_averages(lacking)
    assert found.loc[found["task"] == MEAN, "seed"].tolist() == [1]
    assert found.loc[found["task"] == TWITTER_MEAN, "seed"].tolist() == [0, 1]
    assert MEAN not in set(with_averages(cells.replace({"metric": {"spearman_max": "spearman_cosine"}}))["task"])
    none = cells[cells["task"] == "BIOSSES"]
    assert len(with_averages(none)) == len(none)
    assert with_averages(cells.head(0)).empty


def test_the_figures_of_single_tasks_equal_the_documents() -> None:
    table = figures()
    by_place = table.set_index(["model", "recipe", "task"])["value"]
    assert by_place.index.is_unique
    batch_128 = "training_nli_v2, batch 128"
    for place, value in {
        ("microsoft/mpnet-base", batch_128, "STSBenchmark"): 86.53,
        ("microsoft/mpnet-base", batch_128, MEAN): 62.49,
        ("roberta-base", batch_128, "QuoraRetrieval"): 78.73,
        ("roberta-base", batch_128, "StackExchangeClustering"): 49.51,
        ("distilroberta-base", batch_128, "SprintDuplicateQuestions"): 83.03,
        ("distilroberta-base", batch_128, TWITTER_MEAN): 73.86,
        ("distilroberta-base", batch_128, "RedditClustering"): 39.12,
        ("average_word_embeddings_glove.6B.300d", "", "SciDocsRR"): 63.69,
        ("average_word_embeddings_glove.6B.300d", "", "TwentyNewsgroupsClustering"): 26.65,
        ("average_word_embeddings_glove.6B.300d", "", MEAN): 49.79,
        ("all-MiniLM-L6-v2", "", "STSBenchmark"): 82.03,
        ("all-mpnet-base-v2", "", "SICK-R"): 80.59,
    }.items():
        assert by_place[place] == value
    assert ("roberta-base", batch_128, MEAN) not in by_place.index
    assert (
        by_place["microsoft/mpnet-base", batch_128, MEAN] - by_place["microsoft/mpnet-base", "training_nli_v2", MEAN]
    ).round(2) == 1.5
    assert table["value"].between(0, 100).all()
    assert (table[["source", "conditions"]] != "").all().all()


def test_the_thirteen_known_tasks_of_minilm_sum_to_what_its_average_implies_for_the_fourteenth() -> None:
    minilm = figures().query("model == 'all-MiniLM-L6-v2'").set_index("task")
    assert minilm.loc[MEAN, ["value", "source"]].tolist() == [68.06, PRETRAINED_MODELS]
    others = minilm.loc[[task for task in FOURTEEN if task != "CQADupstackRetrieval"], "value"].sum()
    assert others == pytest.approx(924.9, abs=0.05)
    assert 14 * 68.06 - others == pytest.approx(27.9, abs=0.05)
    assert minilm.loc["CQADupstackRetrieval", "metric"] == "ndcg@10", "mteb's, so it does not go into the average"


def test_published_cells_are_rows_of_the_table_of_cells_and_promise_nothing_that_is_not_known() -> None:
    cells = published_cells()
    assert list(cells.columns) == (
        "preset model revision variant recipe seed task family metric value low high n seconds tag error".split()
    )
    assert set(cells["preset"]) == set(cells["tag"]) == {"published"}
    assert cells[["low", "high"]].isna().all().all()
    assert (cells["n"] == 0).all()
    assert ((cells["recipe"] == "") == (cells["variant"] == "untuned")).all()
    assert not cells.duplicated(["model", "variant", "recipe", "seed", "task"]).any()
    assert set(cells["recipe"]) == {"", "training_nli_v2", "training_nli_v2, batch 128"}


def test_the_calibration_figures_are_those_of_the_sets_at_hand() -> None:
    table = calibration().set_index(["model", "task"])["value"]
    assert table["all-MiniLM-L6-v2"].to_dict() == {
        "stsb": 82.03,
        "sickr": 77.58,
        "biosses": 81.21,
        "twitter_url": 77.09,
    }
    assert table["all-mpnet-base-v2"].to_dict() == {"stsb": 83.42, "sickr": 80.59, "biosses": 80.38}
