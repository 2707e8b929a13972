"""The packaged corpus: questions to the help desk of a shop, and training and test data made of them.

`corpora/helpdesk.jsonl` holds one intent per line: its phrasings, the answer of the knowledge base and the intents it
is easily confused with (`corpora/README.md`). All tables follow from that file alone. Splits separate intents, so
that neither phrasing nor answer of a test intent is trained on.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.checks import check_choice

CORPUS = Path(__file__).with_name("corpora") / "helpdesk.jsonl"

INTENTS_PER_TOPIC: Mapping[str, int] = {"train": 5, "dev": 1, "test": 4}
"""Number of intents of every topic in each split."""

GRADES = ("other topic", "same topic", "near intent", "same intent")
"""How two phrasings are related, from the least to the most similar."""


def load_helpdesk(split: str | None = None) -> pd.DataFrame:
    """Return the corpus or one split ("train", "dev", "test"), one row per phrasing.

    Columns: text, style (plain, short, long, colloquial, typo, indirect), intent, topic, split, answer (of the
    knowledge base to this intent) and near (the intents easily confused with it, in either direction). Within a topic,
    intents are split by the order of the SHA-256 of their names.

    >>> test = load_helpdesk("test")
    >>> len(test), test["intent"].nunique(), test["topic"].nunique()
    (576, 48, 12)
    """
    check_choice("split", split, [*INTENTS_PER_TOPIC, None])
    table = pd.read_json(CORPUS, lines=True).set_index("intent", drop=False)
    named = table["near"].to_dict()
    naming = {intent: [other for other in named if intent in named[other]] for intent in named}
    table["near"] = [tuple(sorted({*named[intent], *naming[intent]})) for intent in named]
    hashed = sorted(named, key=lambda intent: hashlib.sha256(str(intent).encode()).hexdigest())
    splits = np.repeat(list(INTENTS_PER_TOPIC), list(INTENTS_PER_TOPIC.values()))
    table["split"] = splits[table.loc[hashed].groupby("topic").cumcount()[table.index]]
    table = table.explode("phrasings", ignore_index=True)
    table = table.join(pd.DataFrame(table.pop("phrasings").tolist()))
    table = table[["text", "style", "intent", "topic", "split", "answer", "near"]]
    return table if split is None else table[table["split"] == split].reset_index(drop=True)


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return all pairs of phrasings: columns first and second (row positions) and grade (index into `GRADES`).

    >>> table = load_helpdesk("test")
    >>> pairs(table)["grade"].value_counts().sort_index().tolist()  # 48 * 12 * 11 / 2 = 3,168 share their intent
    [152064, 6192, 4176, 3168]
    """
    first, second = np.triu_indices(len(table), k=1)
    intents, intent_names = pd.factorize(table["intent"])
    topics = pd.factorize(table["topic"])[0]
    near = np.array([intent_names.isin(others) for others in table.drop_duplicates("intent")["near"]])
    related = [
        intents[first] == intents[second],
        near[intents[first], intents[second]],
        topics[first] == topics[second],
    ]
    return pd.DataFrame({"first": first, "second": second, "grade": np.select(related, [3, 2, 1], 0)})


def graded_pairs(table: pd.DataFrame, per_grade: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return `per_grade` pairs of phrasings of each grade, as in STS: columns sentence1, sentence2 and score.

    The score is 1 for the same intent, 2/3 for a near intent, 1/3 for the same topic, 0 for another topic.
    """
    chosen = _sample(table, dict.fromkeys(range(len(GRADES)), per_grade), seed)
    return chosen.assign(score=chosen.pop("grade") / (len(GRADES) - 1))


def duplicate_pairs(table: pd.DataFrame, duplicates: int = 600, others: int = 700, seed: int = 0) -> pd.DataFrame:
    """Return pairs for duplicate detection: columns sentence1, sentence2 and label.

    Label 1 marks `duplicates` pairs of the same intent; label 0 `others` pairs of near intents and as many of the same
    topic.
    """
    chosen = _sample(table, {1: others, 2: others, 3: duplicates}, seed)
    return chosen.assign(label=(chosen.pop("grade") == 3).astype(int))


def _sample(table: pd.DataFrame, wanted: Mapping[int, int], seed: int) -> pd.DataFrame:
    """Draw this many pairs of each grade, without repetition: columns sentence1, sentence2 and grade."""
    related, random = pairs(table), np.random.default_rng(seed)
    places = []
    for grade, count in wanted.items():
        there = np.flatnonzero(related["grade"] == grade)
        if count > len(there):
            raise ValueError(f"there are {len(there)} pairs of grade {GRADES[grade]!r}, asked for {count}")
        places.append(random.choice(there, count, replace=False))
    first, second, grades = related.iloc[np.concatenate(places)].to_numpy().T
    texts = table["text"].to_numpy()
    return pd.DataFrame({"sentence1": texts[first], "sentence2": texts[second], "grade": grades})


def triplets(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return one training triplet per phrasing: columns anchor, positive, negative, intent and negative_intent.

    Half of the anchors (one of the two in each style) get phrasings as positive and negative, the others get answers of
    the knowledge base. The negative comes from a near intent in the table, or from another one of the topic if there is
    none; a topic needs two intents.

    The rows come in rounds of one row per intent, topic by topic. So a batch of whole topics, whose size divides the
    number of intents, never holds an intent twice, and the other rows of its topic are hard negatives, too.

    >>> rows = triplets(load_helpdesk("train"))
    >>> len(rows), rows["intent"].head(60).nunique()
    (720, 60)
    """
    random = np.random.default_rng(seed)
    answers = dict(zip(table["intent"], table["answer"], strict=True))
    phrasings = {str(intent): rows["text"].tolist() for intent, rows in table.groupby("intent", sort=False)}
    rows = []
    for topic, inside in table.drop_duplicates("intent").groupby("topic", sort=False):
        for intent, near in inside[["intent", "near"]].to_numpy().tolist():
            own = phrasings[intent]
            others = [other for other in inside["intent"] if other != intent]
            rivals = [other for other in others if other in near] or others
            for step, place in enumerate(random.permutation(len(own))):
                rival = str(random.choice(rivals))
                if place % 2:
                    positive, negative = answers[intent], answers[rival]
                else:
                    positive = str(random.choice([text for text in own if text != own[place]]))
                    negative = str(random.choice(phrasings[rival]))
                rows.append((step, topic, own[place], positive, negative, intent, rival))
    columns = ["round", "topic", "anchor", "positive", "negative", "intent", "negative_intent"]
    triplet = pd.DataFrame(rows, columns=columns)
    blocks = triplet.groupby(["round", "topic"], sort=False).ngroup()
    triplet["block"] = random.permutation(len(blocks.unique()))[blocks]
    return triplet.sort_values(["round", "block"], kind="stable", ignore_index=True)[columns[2:]]


def retrieval(queries: pd.DataFrame, knowledge: pd.DataFrame) -> tuple[dict[str, str], dict[str, str], dict[str, set]]:
    """Return the search for a phrasing's answer: queries by id, answers by intent, right intents by query id.

    The phrasings of `queries` are searched in the answers of `knowledge`, which include those of the queries.
    """
    keys = [f"{intent}/{place}" for place, intent in enumerate(queries["intent"])]
    answers = dict(zip(knowledge["intent"], knowledge["answer"], strict=True))
    right = [{intent} for intent in queries["intent"]]
    return dict(zip(keys, queries["text"], strict=True)), answers, dict(zip(keys, right, strict=True))


def reranking(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return samples of query, positive and negative for reranking the other phrasings of the query's topic.

    Queries are the first phrasing in each style of each intent; phrasings of the same intent are positive.
    """
    samples = []
    for _, topic in table.groupby("topic", sort=False):
        queries = topic.drop_duplicates(["intent", "style"])
        for query, intent in zip(queries["text"], queries["intent"], strict=True):
            same, others = topic["intent"] == intent, topic["text"] != query
            positive, negative = topic["text"][same & others].tolist(), topic["text"][~same & others].tolist()
            samples.append({"query": query, "positive": positive, "negative": negative})
    return samples
