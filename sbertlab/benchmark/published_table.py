"""Figures that others published: constants to be held against what is measured, each with its source and conditions.

The Training Overview of sentence-transformers ranks thirteen base models by one average over fourteen tasks, which it
does not name. Its author pointed to an older benchmark program (issue 1618 of that project), whose tasks and metrics
are `FOURTEEN`. Nothing here is computed; a cell made of it carries the tag "published".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from sbertlab.benchmark.published import PUBLISHED

BASE_MODELS: tuple[tuple[str, str, float], ...] = (
    ("microsoft/mpnet-base", "microsoft/mpnet-base", 60.99),
    ("nghuyong/ernie-2.0-base-en", "nghuyong/ernie-2.0-en", 60.73),
    ("microsoft/deberta-base", "microsof/deberta-base", 60.21),
    ("roberta-base", "roberta-base", 59.63),
    ("t5-base", "t5-base", 59.21),
    ("bert-base-uncased", "bert-base-uncased", 59.17),
    ("distilbert-base-uncased", "distilbert-base-uncased", 59.03),
    ("nreimers/TinyBERT_L-6_H-768_v2", "nreimers/TinyBERT_L-6_H-768_v2", 58.27),
    ("google/t5-v1_1-base", "google/t5-v1_1-base", 57.63),
    (
        "nreimers/MiniLMv2-L6-H768-distilled-from-BERT-Large",
        "nreimers/MiniLMv2-L6-H768-distilled-from-BERT-Large",
        57.31,
    ),
    ("albert-base-v2", "albert-base-v2", 57.14),
    ("microsoft/MiniLM-L12-H384-uncased", "microsoft/MiniLM-L12-H384-uncased", 56.79),
    ("microsoft/deberta-v3-base", "microsoft/deberta-v3-base", 54.46),
)
"""The table of the Training Overview in its order: name on the Hub, name as printed, average over fourteen tasks.

Two names differ: the printed "microsof" lacks its last letter, and the repository of ERNIE 2.0 was renamed since."""

FOURTEEN: Mapping[str, tuple[str, str]] = {name: (task.family, task.metric) for name, task in PUBLISHED.items()}
"""The fourteen tasks by the names of mteb: family, and the metric that goes into the average."""

MEAN = "mean of 14"
"""The name of the average in the place of a task's."""

TWITTER = ("TwitterSemEval2015", "TwitterURLCorpus")
TWITTER_MEAN = " and ".join(TWITTER)
"""The documents of May 2021 print the mean of these two in one column."""

BATCH_64, BATCH_128 = "training_nli_v2", "training_nli_v2, batch 128"
"""The recipe with the batch of the Training Overview, and with that of the public script."""

TRAINING_OVERVIEW = "Training Overview of sentence-transformers, table Best Transformer Model"
DOCS_2021 = "documentation of sentence-transformers at 952b9f1a, May 2021; average at 53df562a, August 2021"
PRETRAINED_MODELS = "page Pretrained Models of sentence-transformers"
MTEB = "results stored by mteb"

_ORDER_2021 = (
    *("STSBenchmark", "QuoraRetrieval", "SprintDuplicateQuestions", TWITTER_MEAN, "SciDocsRR"),
    *("TwentyNewsgroupsClustering", "RedditClustering", "StackExchangeClustering", MEAN),
)
_NLI_2021: Mapping[str, tuple[float, ...]] = {
    "microsoft/mpnet-base": (86.53, 80.65, 85.79, 76.24, 72.90, 36.56, 42.68, 50.90, 62.49),
    "roberta-base": (85.54, 78.73, 81.67, 74.28, 69.86, 31.28, 39.58, 49.51),
    "distilroberta-base": (84.38, 78.47, 83.03, 73.86, 70.23, 31.87, 39.12, 49.27, 59.82),
}
_GLOVE = "average_word_embeddings_glove.6B.300d"
_GLOVE_2021 = (61.77, 69.18, 86.96, 68.60, 63.69, 26.65, 28.37, 36.37, 49.79)

_MTEB: Mapping[str, Mapping[str, float]] = {
    "all-MiniLM-L6-v2": {
        "SprintDuplicateQuestions": 94.55,
        "TwitterSemEval2015": 67.86,
        "TwitterURLCorpus": 84.70,
        "BIOSSES": 81.64,
        "SICK-R": 77.58,
        "STSBenchmark": 82.03,
        "AskUbuntuDupQuestions": 63.48,
        "SciDocsRR": 87.12,
        "StackOverflowDupQuestions": 50.77,
        "CQADupstackRetrieval": 41.32,
        "QuoraRetrieval": 84.31,
        "RedditClustering": 50.67,
        "StackExchangeClustering": 53.36,
        "TwentyNewsgroupsClustering": 46.86,
    },
    "all-mpnet-base-v2": {"BIOSSES": 80.43, "SICK-R": 80.59, "STSBenchmark": 83.42},
}
_MTEB_METRICS = {"STS": "spearman_cosine", "CQADupstackRetrieval": "ndcg@10"}
"""Where mteb's stored metric is another than that of the average."""

_LOCAL: tuple[tuple[str, str, str, float, str], ...] = (
    ("all-MiniLM-L6-v2", "stsb", "spearman_cosine", 82.03, "test"),
    ("all-MiniLM-L6-v2", "sickr", "spearman_cosine", 77.58, "all 9,927 pairs"),
    ("all-MiniLM-L6-v2", "biosses", "spearman_cosine", 81.21, "another file than mteb's, where it is 81.64"),
    ("all-MiniLM-L6-v2", "twitter_url", "cosine_ap", 77.09, "test; of mteb's larger set it is 84.70"),
    ("all-mpnet-base-v2", "stsb", "spearman_cosine", 83.42, "test"),
    ("all-mpnet-base-v2", "sickr", "spearman_cosine", 80.59, "all 9,927 pairs"),
    ("all-mpnet-base-v2", "biosses", "spearman_cosine", 80.38, "another file than mteb's, where it is 80.43"),
)


def mean_of_14(values: Mapping[str, float]) -> float:
    """Return the average that ranks the table: the plain mean of the fourteen tasks, whatever their sizes and families.

    Args:
        values: by the names of `FOURTEEN`, all of them, times 100 as everywhere in the benchmark.

    Raises:
        ValueError: a task is missing, or there is another.

    >>> round(mean_of_14({task: place for place, task in enumerate(FOURTEEN)}), 2)  # (0 + 1 + ... + 13) / 14
    6.5
    """
    missing, others = FOURTEEN.keys() - values.keys(), values.keys() - FOURTEEN.keys()
    if missing or others:
        raise ValueError(
            f"the average is of fourteen tasks, each once; missing: {', '.join(sorted(missing)) or 'none'}, not among "
            f"them: {', '.join(sorted(others)) or 'none'}"
        )
    return _plain_mean(values)


def _plain_mean(values: Mapping[str, float]) -> float:
    return math.fsum(values.values()) / len(values)


def with_averages(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells and, below them, the averages that the documents print: `MEAN` and `TWITTER_MEAN`.

    An average is of one model, variant, recipe and seed, and there only where all its tasks are, by the metrics of
    `FOURTEEN`.

    Args:
        cells: what was measured, with the columns of benchmark.csv.

    >>> cell = {"preset": "published", "model": "m", "variant": "untuned", "recipe": "", "seed": 0}
    >>> cells = pd.DataFrame([{**cell, "task": task, "metric": "max_ap", "value": 60.0} for task in TWITTER])
    >>> with_averages(cells)["task"].tolist()
    ['TwitterSemEval2015', 'TwitterURLCorpus', 'TwitterSemEval2015 and TwitterURLCorpus']
    """
    own = cells["task"].map({task: metric for task, (_, metric) in FOURTEEN.items()})
    key = ["preset", "model", "variant", "recipe", "seed"]
    values = cells[cells["metric"] == own].pivot_table("value", key, "task", sort=False).reindex(columns=list(FOURTEEN))
    parts = [cells]
    for name, average, tasks in ((MEAN, mean_of_14, list(FOURTEEN)), (TWITTER_MEAN, _plain_mean, list(TWITTER))):
        whole = values[tasks].dropna()
        family, metric = _family_and_metric(name)
        numbers = [average(dict(zip(tasks, row, strict=True))) for row in whole.to_numpy()]
        parts.append(whole.index.to_frame(index=False).assign(task=name, family=family, metric=metric, value=numbers))
    return pd.concat(parts, ignore_index=True)


def figures() -> pd.DataFrame:
    """Return all published figures, one a row.

    Returns:
        Columns model (the base where a recipe was applied), variant ("untuned" or "fine-tuned"), recipe (empty when
        untuned), task (a name of `FOURTEEN`, `MEAN` or `TWITTER_MEAN`), family, metric, value (times 100), source and
        conditions.

    >>> figures().query("task == 'mean of 14' and model == 'microsoft/mpnet-base'")[["recipe", "value"]].values.tolist()
    [['training_nli_v2', 60.99], ['training_nli_v2, batch 128', 62.49]]
    """
    rows: list[tuple[str, str, str, float, str, str]] = [
        (model, BATCH_64, MEAN, value, TRAINING_OVERVIEW, "560k triplets, 1 epoch, batch 64; one run, no seed")
        for model, _, value in BASE_MODELS
    ]
    for model, values in _NLI_2021.items():
        checkpoint = f"checkpoint nli-{model.rpartition('/')[2]}-v2, batch 128; one run, no seed"
        rows += [
            (model, BATCH_128, task, value, DOCS_2021, checkpoint)
            for task, value in zip(_ORDER_2021, values, strict=False)  # of roberta-base there is no average
        ]
    rows += [
        (_GLOVE, "", task, value, DOCS_2021, "word vectors as they are")
        for task, value in zip(_ORDER_2021, _GLOVE_2021, strict=True)
    ]
    rows.append(("all-MiniLM-L6-v2", "", MEAN, 68.06, PRETRAINED_MODELS, "the older benchmark program"))
    for model, results in _MTEB.items():
        rows += [(model, "", task, value, MTEB, "the data of mteb") for task, value in results.items()]
    table = pd.DataFrame(rows, columns=["model", "recipe", "task", "value", "source", "conditions"])
    kinds = [_family_and_metric(task, source) for task, source in zip(table["task"], table["source"], strict=True)]
    table["family"], table["metric"] = zip(*kinds, strict=True)
    table["variant"] = table["recipe"].map(lambda recipe: "fine-tuned" if recipe else "untuned")
    return table[["model", "variant", "recipe", "task", "family", "metric", "value", "source", "conditions"]]


def _family_and_metric(task: str, source: str = "") -> tuple[str, str]:
    if task == MEAN:
        return "", "mean"
    family, metric = ("duplicates", "max_ap") if task == TWITTER_MEAN else FOURTEEN[task]
    return family, _MTEB_METRICS.get(task, _MTEB_METRICS.get(family, metric)) if source == MTEB else metric


def calibration() -> pd.DataFrame:
    """Return what right evaluators give on local sets, computed in float32 by sentence-transformers 6.2: to 0.02.

    Returns:
        Columns model, task (the folder of the set), metric, value (times 100) and conditions.
    """
    return pd.DataFrame(_LOCAL, columns=["model", "task", "metric", "value", "conditions"])


def published_cells() -> pd.DataFrame:
    """Return `figures` as rows of benchmark.csv, with the tag "published".

    What the documents do not say stays open: no interval, no revision, no number of examples (n is 0). Seed 0 stands
    for the one run, which had none.
    """
    unknown: dict[str, Any] = {
        "preset": "published",
        "revision": "",
        "seed": 0,
        "low": math.nan,
        "high": math.nan,
        "n": 0,
    }
    table = figures().assign(**unknown, seconds=0.0, tag="published", error="")
    columns = ["preset", "model", "revision", "variant", "recipe", "seed", "task", "family", "metric"]
    return table[[*columns, "value", "low", "high", "n", "seconds", "tag", "error"]]
