"""The packaged corpus: questions to the help desk of a shop, and what can be learnt and tested with them.

`corpora/helpdesk.jsonl` holds one intent a line: its phrasings, the answer of the knowledge base and the intents it is
easily taken for (`corpora/README.md`). Everything here is made from that file alone, the same in every run. The splits
part the intents, so that nothing of a test intent, neither phrasing nor answer, is ever trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CORPUS = Path(__file__).with_name("corpora") / "helpdesk.jsonl"

INTENTS_PER_TOPIC: Mapping[str, int] = {"train": 5, "dev": 1, "test": 4}
"""Intents of every topic that go into each split."""

GRADES = ("other topic", "same topic", "near intent", "same intent")
"""How two phrasings may be related, from the least alike to the most."""


def load_helpdesk(split: str | None = None) -> pd.DataFrame:
    """Return the corpus, one row a phrasing.

    Args:
        split: "train", "dev" or "test"; everything when None.

    Returns:
        Columns text, style (plain, short, long, colloquial, typo, indirect), intent, topic, split, answer (what the
        knowledge base says to this intent) and near (the intents that are easily taken for it, in either direction).

    Raises:
        ValueError: there is no such split.

    >>> test = load_helpdesk("test")
    >>> len(test), test["intent"].nunique(), test["topic"].nunique()
    (576, 48, 12)
    """
    if split not in (None, *INTENTS_PER_TOPIC):
        raise ValueError(f"split must be one of {', '.join(INTENTS_PER_TOPIC)} or None, got {split!r}")
    with CORPUS.open(encoding="utf-8") as lines:
        intents = [json.loads(line) for line in lines]
    splits = split_intents({intent["intent"]: intent["topic"] for intent in intents})
    near = near_intents({intent["intent"]: intent["near"] for intent in intents})
    table = pd.DataFrame(
        {
            **phrasing,
            **{key: intent[key] for key in ("intent", "topic", "answer")},
            "split": splits[intent["intent"]],
            "near": near[intent["intent"]],
        }
        for intent in intents
        for phrasing in intent["phrasings"]
    )
    table = table[["text", "style", "intent", "topic", "split", "answer", "near"]]
    return table if split is None else table[table["split"] == split].reset_index(drop=True)


def split_intents(topics: Mapping[str, str]) -> dict[str, str]:
    """Return the split of each intent: within its topic, by the order of the SHA-256 of the intents' names.

    Args:
        topics: topic of each intent.

    >>> split_intents({"lamp_red": "lamp", "lamp_dim": "lamp"})
    {'lamp_red': 'train', 'lamp_dim': 'train'}
    """
    places = [name for name, count in INTENTS_PER_TOPIC.items() for _ in range(count)]
    splits: dict[str, str] = {}
    for topic in dict.fromkeys(topics.values()):
        inside = [intent for intent in topics if topics[intent] == topic]
        ordered = sorted(inside, key=lambda intent: hashlib.sha256(intent.encode()).hexdigest())
        splits |= dict(zip(ordered, places, strict=False))
    return {intent: splits[intent] for intent in topics}


def near_intents(named: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """Return the intents near each one, sorted: those that it names, and those that name it.

    >>> near_intents({"a": ["b"], "b": [], "c": ["b"]})
    {'a': ('b',), 'b': ('a', 'c'), 'c': ('b',)}
    """
    near: dict[str, set[str]] = {intent: set(others) for intent, others in named.items()}
    for intent, others in named.items():
        for other in others:
            near[other].add(intent)
    return {intent: tuple(sorted(others)) for intent, others in near.items()}


def pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return all pairs of different phrasings of the table and how they are related.

    Args:
        table: rows of `load_helpdesk`.

    Returns:
        Columns first and second, positions in the table with first < second, and grade, index into `GRADES`.

    >>> table = load_helpdesk("test")
    >>> pairs(table)["grade"].value_counts().sort_index().tolist()  # 48 * 12 * 11 / 2 = 3,168 share their intent
    [152064, 6192, 4176, 3168]
    """
    first, second = np.triu_indices(len(table), k=1)
    intents, intent_names = pd.factorize(table["intent"])
    topics = pd.factorize(table["topic"])[0]
    near = np.zeros((len(intent_names), len(intent_names)), dtype=bool)
    for code, others in enumerate(table.drop_duplicates("intent")["near"]):
        near[code, intent_names.isin(others)] = True
    related = [
        intents[first] == intents[second],
        near[intents[first], intents[second]],
        topics[first] == topics[second],
    ]
    return pd.DataFrame({"first": first, "second": second, "grade": np.select(related, [3, 2, 1], 0)})


def graded_pairs(table: pd.DataFrame, per_grade: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return pairs of phrasings, as many of each grade, for tests in the manner of STS.

    Args:
        table: rows of `load_helpdesk`.
        per_grade: pairs of each of `GRADES`.
        seed: of the choice.

    Returns:
        Columns sentence1, sentence2 and score: 1 same intent, 2/3 near intent, 1/3 same topic, 0 other topic.

    Raises:
        ValueError: a grade has fewer pairs in this table.
    """
    chosen = _sample(pairs(table), dict.fromkeys(range(len(GRADES)), per_grade), seed)
    return _texts(table, chosen).assign(score=chosen["grade"] / (len(GRADES) - 1))


def duplicate_pairs(table: pd.DataFrame, duplicates: int = 600, others: int = 700, seed: int = 0) -> pd.DataFrame:
    """Return pairs of phrasings that mean the same or only nearly so, for tests of duplicate detection.

    Args:
        table: rows of `load_helpdesk`.
        duplicates: pairs of the same intent.
        others: pairs of near intents, and as many of the same topic.
        seed: of the choice.

    Returns:
        Columns sentence1, sentence2 and label: 1 same intent, 0 near intent or same topic.

    Raises:
        ValueError: the table has fewer such pairs.
    """
    chosen = _sample(pairs(table), {1: others, 2: others, 3: duplicates}, seed)
    return _texts(table, chosen).assign(label=(chosen["grade"] == 3).astype(int))


def triplets(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return one training triplet a phrasing: something of the same intent, and the like of a near intent.

    Half of the phrasings (one of the two in each style) get another phrasing as positive and one as negative, the
    others get answers of the knowledge base. The negative comes from a near intent in the table, or from another of the
    topic where there is none.

    The rows come in rounds of one row an intent, topic by topic. So a batch of whole topics, that is a divisor of the
    number of intents, never holds an intent twice, and the other rows of its topic are hard negatives too.

    Args:
        table: rows of `load_helpdesk`.
        seed: of all choices and of the order.

    Returns:
        Columns anchor, positive, negative, intent (of the anchor) and negative_intent.

    Raises:
        ValueError: a topic has one intent only (as in "dev").

    >>> rows = triplets(load_helpdesk("train"))
    >>> len(rows), rows["intent"].head(60).nunique()
    (720, 60)
    """
    random = np.random.default_rng(seed)
    answers = dict(zip(table["intent"], table["answer"], strict=True))
    phrasings = {str(intent): rows["text"].tolist() for intent, rows in table.groupby("intent", sort=False)}
    rows = []
    for topic, inside in table.drop_duplicates("intent").groupby("topic", sort=False):
        if len(inside) < 2:
            raise ValueError(f"topic {topic!r} has one intent in this table; a negative needs a second one")
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


def retrieval(
    queries: pd.DataFrame, knowledge: pd.DataFrame
) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
    """Return the search of a phrasing's answer among the answers to all intents.

    Args:
        queries: rows of `load_helpdesk` whose phrasings are asked.
        knowledge: rows of `load_helpdesk` whose answers are searched; must hold those of the queries.

    Returns:
        Texts of the queries, texts of the answers by intent, and the right intent of each query.
    """
    asked = {f"{row.intent}/{place}": row for place, row in enumerate(queries.itertuples(index=False))}
    answers = dict(zip(knowledge["intent"], knowledge["answer"], strict=True))
    return (
        {key: str(row.text) for key, row in asked.items()},
        answers,
        {key: {str(row.intent)} for key, row in asked.items()},
    )


def reranking(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return queries, the first phrasing in each style of each intent, and the other phrasings of the topic to rank.

    Returns:
        Dictionaries with query (a text), positive and negative (lists of texts): of the same intent, and of others.
    """
    samples = []
    for _, topic in table.groupby("topic", sort=False):
        queries = topic.drop_duplicates(["intent", "style"])
        for query, intent in zip(queries["text"], queries["intent"], strict=True):
            others = topic[topic["text"] != query]
            alike = others["intent"] == intent
            samples.append(
                {
                    "query": query,
                    "positive": others[alike]["text"].tolist(),
                    "negative": others[~alike]["text"].tolist(),
                }
            )
    return samples


def _sample(related: pd.DataFrame, wanted: Mapping[int, int], seed: int) -> pd.DataFrame:
    """Draw so many pairs of each grade, without repetition."""
    random = np.random.default_rng(seed)
    places = []
    for grade, count in wanted.items():
        there = np.flatnonzero(related["grade"] == grade)
        if not 0 < count <= len(there):
            raise ValueError(
                f"{count} pairs of grade {GRADES[grade]!r} are wanted, the table has {len(there)}; ask for 1 to that"
            )
        places.append(random.choice(there, count, replace=False))
    return related.iloc[np.concatenate(places)].reset_index(drop=True)


def _texts(table: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the two texts of each chosen pair."""
    texts = table["text"].to_numpy()
    return pd.DataFrame({"sentence1": texts[chosen["first"]], "sentence2": texts[chosen["second"]]})
