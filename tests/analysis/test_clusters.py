from __future__ import annotations

import math

import numpy as np
import pytest

from sbertlab.analysis.clusters import cluster_terms, find_clusters

TEXTS = ["Refund money", "refund please money", "late parcel", "parcel 2026 lost parcel"]


def test_terms_weigh_as_the_formula_says() -> None:
    # group 0: refund 2, money 2; group 1: late 1, parcel 3, lost 1 ("please" is a stop word, "2026" no word)
    found = cluster_terms(TEXTS, ["a", "a", "b", "b"], terms=9)
    average = 9 / 2
    weights = {"parcel": 3 / 5 * math.log(1 + average / 3), "late": 1 / 5 * math.log(1 + average / 1)}
    assert weights["parcel"] > weights["late"]
    assert found == {"a": ["money", "refund"], "b": ["parcel", "late", "lost"]}


def test_a_word_that_all_groups_share_comes_last() -> None:
    both = cluster_terms(["ticket refund"] * 3 + ["ticket parcel"] * 3, [0] * 3 + [1] * 3)
    assert both == {0: ["refund", "ticket"], 1: ["parcel", "ticket"]}


def test_texts_without_words_and_rows_without_a_group_have_no_terms() -> None:
    assert cluster_terms(["", "the of", "12 !!"], [2, 1, 1]) == {1: [], 2: []}
    assert cluster_terms(["money", "parcel", "שלום עולם"], ["x", None, "y"]) == {"x": ["money"], "y": ["עולם", "שלום"]}


def test_clusters_follow_the_angle_or_the_distance() -> None:
    rows = np.repeat([[1.0, 0.0], [9.0, 0.0], [0.0, 1.0], [0.0, 9.0]], 20, axis=0)
    rows += 0.01 * np.random.default_rng(0).normal(size=rows.shape)
    by_angle = find_clusters(rows, 2)
    assert len(set(by_angle[:40])) == 1 == len(set(by_angle[40:]))
    assert by_angle[0] != by_angle[40]
    by_distance = find_clusters(rows, 3, metric="euclidean")
    assert by_distance[0] == by_distance[40]
    assert len({by_distance[0], by_distance[20], by_distance[60]}) == 3
    assert find_clusters(rows, 3, seed=4).tolist() == find_clusters(rows, 3, seed=4).tolist()


def test_few_texts_make_few_clusters() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 4))
    assert len(set(find_clusters(rows, count=12))) == 2
    assert set(find_clusters(rows[:3], count=12)) == {0}


def test_what_has_no_clusters_is_refused() -> None:
    with pytest.raises(ValueError, match="count must be at least 1 cluster, got 0"):
        find_clusters(np.eye(3), 0)
    with pytest.raises(ValueError, match="n at least 1"):
        find_clusters(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="has NaN"):
        find_clusters(np.full((9, 3), np.nan))
    with pytest.raises(ValueError, match="got 1 for 2"):
        cluster_terms(["a", "b"], [1])
    with pytest.raises(ValueError, match="terms must be at least 1 word, got 0"):
        cluster_terms(["a"], [1], terms=0)
