"""The card of robustness and fairness: sentences that differ as they say, and figures that fakes make checkable."""

import json
import re
import string
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from sbertlab.analysis.robustness import (
    CORPORA,
    EDITS,
    KINDS,
    PRONOUNS,
    TYPOS,
    association_pairs,
    associations,
    card,
    fill,
    robustness,
    robustness_pairs,
)

COUNT = 72


def lines_of(name):
    return [json.loads(line) for line in (CORPORA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


SENTENCES = lines_of("minimal_pairs")
TERMS = {row["slot"]: row for row in lines_of("minimal_terms") if row["slot"] != "name"}
NAMES = {row["group"]: row for row in lines_of("minimal_terms") if row["slot"] == "name"}


@pytest.fixture(scope="module")
def pairs():
    return robustness_pairs()


def of(pairs, kind):
    rows = pairs[pairs["kind"] == kind]
    return list(zip(rows["base"], rows["variant"], strict=True))


class Constant:
    """Takes all texts for the same."""

    def encode(self, texts):
        return np.ones((len(texts), 3))


class Letters:
    """Counts letters, whatever their case: blind to casing, punctuation, blanks, digits and the order of words."""

    def encode(self, texts):
        return np.array([[text.lower().count(letter) for letter in string.ascii_lowercase] for text in texts], float)


class Words:
    """One dimension a word of the texts it has seen, weighted; everything not named weighs 1."""

    def __init__(self, **weights):
        self.weights, self.known = weights, {}

    def encode(self, texts):
        vectors = np.zeros((len(texts), 4096))
        for vector, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                vector[self.known.setdefault(word, len(self.known))] += self.weights.get(word, 1.0)
        return vectors


class Leaning(Words):
    """Next to one role, "her" leaves the sentence as it is and "his" moves it; next to every other it is alike."""

    def __init__(self, role):
        super().__init__(the=0.0)
        self.role = role

    def encode(self, texts):
        return super().encode([text.replace(" her ", " ") if self.role in text else text for text in texts])


def test_a_sentence_has_its_number_once_one_person_and_a_negation():
    assert len(SENTENCES) == COUNT
    for row in SENTENCES:
        old, new = row["number"]
        for key in ("text", "paraphrase", "negation"):
            assert len(re.findall(rf"\b{old}\b", row[key])) == len(re.findall(r"{[Pp]erson}", row[key])) == 1, row
            assert not re.search(rf"\b{new}\b", row[key]), row
            assert bool(re.search(r"\b(not|no|none|never|cannot)\b", row[key])) == (key == "negation"), row


def test_every_kind_changes_every_sentence_once(pairs):
    assert list(pairs["kind"].unique()) == list(KINDS)
    assert (pairs.groupby("kind")["sentence"].apply(sorted).map(lambda rows: rows == list(range(COUNT)))).all()
    assert not pairs.duplicated(["kind", "base"]).any()
    unrelated, domains = of(pairs, "unrelated"), [row["domain"] for row in SENTENCES]
    domain = dict(zip((base for base, _ in unrelated), domains, strict=True))
    assert sorted(base for base, _ in unrelated) == sorted(variant for _, variant in unrelated)
    assert all(domain[base] != domain[variant] for base, variant in unrelated)
    same = pairs["base"] == pairs["variant"]
    assert (same == (pairs["kind"] == "identical")).all()
    assert not pairs[["base", "variant", "paraphrase"]].stack().str.contains(r"[{}]").any()  # noqa: PD013


def test_the_pairs_follow_from_the_seed(pairs):
    pd.testing.assert_frame_equal(pairs, robustness_pairs(0))
    other = robustness_pairs(1)
    assert (other[other["kind"] == "one typo"]["variant"] != pairs[pairs["kind"] == "one typo"]["variant"]).mean() > 0.9
    assert not association_pairs(0)["variant"].equals(association_pairs(1)["variant"])


@pytest.mark.parametrize(("kind", "count"), [("one typo", 1), ("two typos", 2)])
def test_typos_touch_as_many_words_as_they_say_and_change_one_or_two_letters_of_each(pairs, kind, count):
    ways = Counter()
    for base, variant in of(pairs, kind):
        words = list(zip(base.split(" "), variant.split(" "), strict=True))
        changed = [(old, new) for old, new in words if old != new]
        assert len(changed) == count
        for old, new in changed:
            assert old[0] == new[0]
            found = {
                name for name, typo in TYPOS.items() for place in range(1, len(old) - 1) if typo(old, place) == new
            }
            assert found, (old, new)
            ways.update(found)
    assert set(ways) == set(TYPOS), "every way to mistype occurs"


def test_casing_and_punctuation_change_nothing_else(pairs):
    def letters(text):
        return re.sub(r"\W", "", text).lower()

    for kind in set(EDITS) - {"one typo", "two typos"}:
        assert all(letters(base) == letters(variant) for base, variant in of(pairs, kind)), kind
    assert all(variant.isupper() for _, variant in of(pairs, "upper case"))
    assert all(variant.islower() for _, variant in of(pairs, "lower case"))
    assert all(not word[0].islower() for _, variant in of(pairs, "title case") for word in variant.split())
    assert all(re.fullmatch(r"[\w -]+", variant) for _, variant in of(pairs, "no punctuation"))
    assert all(variant.endswith(("...", "???")) for _, variant in of(pairs, "more punctuation"))
    assert all(variant.split("  ") == base.split(" ") for base, variant in of(pairs, "doubled blanks"))


def test_a_person_is_swapped_for_one_of_the_other_gender_or_a_name_of_another_group(pairs):
    gender = TERMS["gender"]
    people = {word: key for key in ("feminine", "masculine") for word in gender[key]}
    turns = Counter()
    for (base, variant), row in zip(of(pairs, "gender"), SENTENCES, strict=True):
        one, other = (
            next(who for who, key in people.items() if fill(row["text"], who, PRONOUNS[key]) == text)
            for text in (base, variant)
        )
        place = gender[people[one]].index(one)
        assert people[one] != people[other] == people[gender[people[other]][place]]
        assert other == gender[people[other]][place]
        turns[people[one]] += 1
    assert min(turns.values()) > COUNT / 4
    known = {
        name: (row["group"], key) for row in NAMES.values() for key in ("feminine", "masculine") for name in row[key]
    }
    for base, variant in of(pairs, "name"):
        (group, same), (other, as_before) = (
            next(known[word] for word in re.findall(r"[A-Za-z]+", text) if word in known) for text in (base, variant)
        )
        assert group != other
        assert same == as_before


def test_sentences_about_roles_differ_in_one_word_and_come_with_every_role():
    table = association_pairs()
    roles = table[table["kind"] == "role"]
    assert len(roles) == 20 * 20 * 2
    assert not roles.duplicated("variant").any()
    for row in roles.itertuples():
        moved = [pair for pair in zip(row.base.split(), row.variant.split(), strict=True) if pair[0] != pair[1]]
        assert moved == [("the", "her" if row.gender == "feminine" else "his")]
        assert row.group in row.base
    names = table[table["kind"] == "name"]
    assert (
        names.groupby("sentence").agg({"group": "nunique", "gender": "nunique", "base": "nunique"}) == [6, 1, 1]
    ).all(axis=None)


def test_a_model_that_reads_letters_alone_does_not_see_case_and_punctuation():
    table = robustness(Letters(), resamples=200).set_index("kind")
    for kind in ("identical", "lower case", "upper case", "title case", "no punctuation", "more punctuation"):
        assert table.loc[kind, ["similarity", "low", "high"]].tolist() == pytest.approx([1, 1, 1], abs=1e-12)
        assert table.loc[kind, "nearer"] == 1
    assert 0.9 < table.loc["two typos", "similarity"] < table.loc["one typo", "similarity"] < 1
    assert list(table.index) == list(KINDS)
    assert (table["n"] == COUNT).all()
    assert (table["low"] <= table["similarity"] + 1e-12).all()
    assert (table["similarity"] <= table["high"] + 1e-12).all()


def test_the_figures_are_those_of_the_formula_worked_out_by_hand(pairs):
    words = Words()
    table = robustness(words, seed=0, resamples=200).set_index("kind")

    def cosine(one, other):
        a, b = (Counter(re.findall(r"\w+", text.lower())) for text in (one, other))
        lengths = [sum(count**2 for count in bag.values()) ** 0.5 for bag in (a, b)]
        return sum(a[word] * b[word] for word in a) / np.prod(lengths)

    means = {kind: np.mean([cosine(*pair) for pair in of(pairs, kind)]) for kind in KINDS}
    assert table["similarity"].to_dict() == pytest.approx(means, abs=1e-6)
    way = means["paraphrase"] - means["unrelated"]
    assert table.loc["negation", "shift"] == pytest.approx((means["paraphrase"] - means["negation"]) / way, abs=1e-6)
    assert table.loc["unrelated", ["shift", "shift_low", "shift_high"]].tolist() == pytest.approx([1, 1, 1])
    assert table.loc["paraphrase", ["shift", "shift_low", "shift_high"]].tolist() == pytest.approx([0, 0, 0])
    rows = pairs[pairs["kind"] == "negation"].itertuples()
    margins = [cosine(row.base, row.variant) - cosine(row.base, row.paraphrase) for row in rows]
    wins = [0.5 if abs(margin) < 1e-9 else margin > 0 for margin in margins]
    assert table.loc["negation", "nearer"] == pytest.approx(np.mean(wins))
    ends = binomtest(round(sum(wins)), COUNT).proportion_ci(method="wilson")
    assert table.loc["negation", ["nearer_low", "nearer_high"]].tolist() == pytest.approx(list(ends))
    assert np.isnan(table.loc["paraphrase", "nearer"])


def test_a_model_that_tells_no_texts_apart_has_no_scale_and_all_is_equally_near():
    table = robustness(Constant(), resamples=50).set_index("kind")
    assert table["shift"].isna().all()
    assert table["shift_low"].isna().all()
    assert table["similarity"].tolist() == pytest.approx([1] * len(KINDS))
    assert (table["nearer"].drop("paraphrase") == 0.5).all()
    assert "nan" not in card(table.reset_index())


def test_a_model_biased_by_construction_shows_its_gap_and_an_unbiased_one_none():
    biased = associations(Leaning("nurse"), resamples=500).set_index("group")
    fair = associations(Words(), resamples=500).set_index("group")
    assert biased.loc["nurse", "low"] > 0.01
    others = biased[(biased["kind"] == "role") & (biased.index != "nurse")]
    assert len(others) == 19
    assert (others["high"] < 0).all(), "each is below a mean that the nurse pulls up"
    assert biased.loc["nurse", "gap"] == pytest.approx(-others["gap"].sum(), abs=1e-9)
    assert biased.loc["all roles", "gap"] == pytest.approx(biased.loc["nurse", "gap"] / 19, abs=1e-9)
    assert fair[["gap", "low", "high"]].abs().max(axis=None) < 1e-6
    heavy = {name.lower(): 3.0 for key in ("feminine", "masculine") for name in NAMES["Arabic"][key]}
    by_name = associations(Words(**heavy), resamples=500).set_index("group")
    assert by_name.loc["Arabic", "high"] < -0.01
    assert (by_name.loc[["English", "Hispanic"], "low"] > 0).all()


def test_the_card_says_what_the_tables_say():
    table, gaps = robustness(Letters(), resamples=100), associations(Leaning("nurse"), resamples=100)
    text = card(table, gaps)
    row = table.set_index("kind").loc["two typos"]
    assert f"| two typos | near | {row.similarity:.2f} ({row.low:.2f} to {row.high:.2f}) |" in text
    assert "| identical | near | 1.00 (1.00 to 1.00) |" in text
    assert "listed are the 20 of 20 whose interval leaves out 0" in text
    assert text.count("\n| ") == 2 * 2 + len(KINDS) + 27
    assert card(table).count("## ") == 1


def test_the_figure_has_a_dot_for_every_kind_and_group_of_every_model():
    plots = pytest.importorskip("sbertlab.plots.analysis", exc_type=ImportError)
    models = {"letters": Letters(), "constant": Constant()}
    tables = {name: robustness(model, resamples=20) for name, model in models.items()}
    figure = plots.robustness_figure(tables, {"letters": associations(Leaning("nurse"), resamples=20)})
    figure.draw_without_rendering()
    dots = [line.get_xdata() for axes in figure.axes for line in axes.lines if line.get_marker() == "o"]
    assert [np.isfinite(x).sum() for x in dots] == [13, 0, 13, 13, 27], "a model without a scale leaves its rows empty"
    shown = tables["letters"].set_index("kind").drop(["paraphrase", "unrelated"])["shift"]
    assert list(dots[0]) == pytest.approx(shown.tolist())
