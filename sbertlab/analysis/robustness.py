"""Robustness and fairness: how similarities react to small changes of a sentence and to the people it mentions.

Sentences (with a paraphrase, a negation and another number) and the people to fill in are in `corpora/minimal_*.jsonl`.
Every kind of change is made to every sentence. Intervals are bootstrapped over sentences and say nothing about other
domains or languages. `model` has `encode(list of texts)`, or `transform` as a scikit-learn pipeline has; `seed` is that
of people, names, typos and bootstrap samples.
"""

import json
import re
import string
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sbertlab.analysis.intervals import interval
from sbertlab.analysis.resampling import Examples, replicates_of
from sbertlab.checks import as_tensor
from sbertlab.data.helpdesk import CORPUS
from sbertlab.encoder.stored_embeddings import StoredEmbeddings
from sbertlab.util import Encoder, pairwise_cos_sim

CORPORA = CORPUS.parent
PRONOUNS: Mapping[str, str] = {"feminine": "her", "masculine": "his"}

KEY_BESIDE: Mapping[int, int] = str.maketrans("qwertyuiopasdfghjklzxcvbnm", "wertyuioposdfghjklkxcvbnmn")

TYPOS: Mapping[str, Callable[[str, int], str]] = {
    "swap": lambda word, place: word[:place] + word[place + 1] + word[place] + word[place + 2 :],
    "drop": lambda word, place: word[:place] + word[place + 1 :],
    "double": lambda word, place: word[: place + 1] + word[place:],
    "neighbour": lambda word, place: word[:place] + word[place].translate(KEY_BESIDE) + word[place + 1 :],
}
"""Ways to mistype one letter of a word; "neighbour" hits the key beside it on an English keyboard."""

EDITS: Mapping[str, Callable[[str, np.random.Generator], str]] = {
    "identical": lambda text, random: text,
    "one typo": lambda text, random: mistype(text, 1, random),
    "two typos": lambda text, random: mistype(text, 2, random),
    "lower case": lambda text, random: text.lower(),
    "upper case": lambda text, random: text.upper(),
    "title case": lambda text, random: string.capwords(text),
    "no punctuation": lambda text, random: re.sub(r"[.,?']", "", text),
    "more punctuation": lambda text, random: re.sub(r"([.?])$", r"\1\1\1", text),
    "doubled blanks": lambda text, random: text.replace(" ", "  "),
}

KINDS: Mapping[str, str] = {
    **dict.fromkeys([*EDITS, "paraphrase", "gender", "name"], "same"),
    **dict.fromkeys(["number", "negation", "unrelated"], "different"),
}
"""Kinds of change, and whether the meaning stays the "same" or becomes "different".

"gender" ("my brother" to "my sister") and "name" ("Emma" to "Fatima") change the person, but not the request.
"identical" and "unrelated" (a sentence of the other domain) are controls.
"""

ROBUSTNESS_CARD = """## Robustness

How near a sentence stays to itself when it is changed: mean cosine over {count} sentences, with
95 % intervals over sentences. Shift is the share of the way from a paraphrase (0) to an unrelated sentence
(1) of this model; below 0 is nearer than a paraphrase.

A negated sentence is nearer than a paraphrase in {negation} of the cases, one with another number
in {number}.

| Change | Should be | Cosine | Shift | Nearer than a paraphrase |
| --- | --- | --- | --- | --- |
"""

FAIRNESS_CARD = """
## Fairness

Gaps of cosine to the same sentence in neutral wording, times 100, with 95 % intervals over sentences.
"pronoun": with "her" less with "his", over all roles. "role": the same for one role, less that of all
roles; listed are the {apart} of {roles} whose interval leaves out 0
({chance:.0f} would by chance). "name": with a name of the group, less the mean of all groups.

| Kind | Group | Gap |
| --- | --- | --- |
"""


def robustness(model: Encoder, seed: int = 0, resamples: int = 1000) -> pd.DataFrame:
    """Return how similar changed sentences are to the original, one row per kind of change in the order of `KINDS`.

    Columns kind, expectation and n (sentences), and three measures with 95 % intervals:

    - similarity, low, high: mean cosine of a sentence and its changed version;
    - shift, shift_*: the same on the model's own scale, see `share_of_way`;
    - nearer, nearer_*: share of sentences whose changed version is nearer than the paraphrase (Wilson's interval), an
      error where the meaning should differ. Ties count half; NaN for paraphrases.
    """
    from scipy.stats import binomtest

    pairs = robustness_pairs(seed)
    stored = StoredEmbeddings(model, name="Robustness")
    similarity = _similarities(stored, pairs["base"], pairs["variant"]).reshape(len(KINDS), -1)  # (kinds, sentences)
    margin = similarity - _similarities(stored, pairs["base"], pairs["paraphrase"]).reshape(similarity.shape)
    nearer = np.where(np.abs(margin) < 1e-6, 0.5, margin > 0)  # smaller margins are rounding
    paraphrase, unrelated = (list(KINDS).index(kind) for kind in ("paraphrase", "unrelated"))
    count = similarity.shape[1]
    drawn = replicates_of([Examples("mean", row) for row in similarity], resamples, seed)  # (kinds, resamples)
    shifts = share_of_way(drawn, drawn[paraphrase], drawn[unrelated])
    means = similarity.mean(axis=1)
    table = pd.DataFrame(KINDS.items(), columns=["kind", "expectation"]).assign(n=count, similarity=means)
    table[["low", "high"]] = [interval(*row, examples=count) for row in zip(means, drawn, strict=True)]
    table["shift"] = shift = share_of_way(means, means[paraphrase], means[unrelated])
    table[["shift_low", "shift_high"]] = [interval(*row, examples=count) for row in zip(shift, shifts, strict=True)]
    table["nearer"] = nearer.mean(axis=1)
    ends = [binomtest(round(wins), count).proportion_ci(method="wilson") for wins in nearer.sum(axis=1)]
    table[["nearer_low", "nearer_high"]] = [(low, high) for low, high in ends]
    table.loc[paraphrase, ["nearer", "nearer_low", "nearer_high"]] = np.nan
    return table


def associations(model: Encoder, seed: int = 0, resamples: int = 1000) -> pd.DataFrame:
    """Return which people a model places nearer to a sentence that names nobody and no gender, one row per group.

    Columns kind, group, n (sentences), similarity (mean cosine with the neutral wording), gap, low and high (95 %).
    Without a preference all gaps are 0; even then, about one of 20 roles has an interval that excludes 0.

    | kind    | group               | gap: cosine with the neutral wording of the sentence ...      |
    | ------- | ------------------- | ------------------------------------------------------------- |
    | pronoun | all roles           | with "her" minus that with "his"                              |
    | role    | nurse, engineer ... | the same for one role, minus that of all roles                |
    | name    | Arabic, English ... | with a name of the group, minus the mean of all groups        |
    """
    pairs = association_pairs(seed)
    pairs["similarity"] = _similarities(StoredEmbeddings(model, name="Fairness"), pairs["base"], pairs["variant"])
    roles, names = (pairs[pairs["kind"] == kind] for kind in ("role", "name"))
    by_pronoun: Any = roles.pivot_table(index="sentence", columns=["gender", "group"], values="similarity")
    by_name: Any = names.pivot_table(index="sentence", columns="group", values="similarity")  # (sentences, groups)
    gaps = by_pronoun["feminine"] - by_pronoun["masculine"]  # (sentences, roles)
    near = roles.groupby("group")["similarity"].mean()
    rows = [("pronoun", "all roles", roles["similarity"].mean(), gaps.mean(axis=1))]
    rows += [("role", role, near[role], gaps[role] - gaps.mean(axis=1)) for role in gaps]
    rows += [("name", name, by_name[name].mean(), by_name[name] - by_name.mean(axis=1)) for name in by_name]
    table = []
    for kind, group, similarity, values in rows:
        gap, drawn = float(values.mean()), Examples("mean", values.to_numpy()).replicates(resamples, seed)
        table.append((kind, group, len(values), similarity, gap, *interval(gap, drawn, examples=len(values))))
    return pd.DataFrame(table, columns=["kind", "group", "n", "similarity", "gap", "low", "high"])


def robustness_pairs(seed: int = 0) -> pd.DataFrame:
    """Return all sentences and their changed versions: kind, sentence (its number), base, variant and paraphrase."""
    random = np.random.default_rng(seed)
    sentences, [gender] = _sentences(seed), _terms("gender")
    turns = random.permutation(np.resize(np.arange(len(gender["feminine"])), len(sentences)))
    domains = np.array([sentence["domain"] for sentence in sentences])
    unrelated = np.empty(len(sentences), dtype=int)
    for domain in np.unique(domains):
        unrelated[domains == domain] = random.permutation(np.flatnonzero(domains != domain))
    rows = []
    for number, sentence in enumerate(sentences):
        person, (old, new), other = sentence["person"], sentence["number"], sentences[unrelated[number]]
        base, paraphrase = fill(sentence["text"], person), fill(sentence["paraphrase"], person)
        changed = {kind: edit(base, random) for kind, edit in EDITS.items()} | {
            "paraphrase": paraphrase,
            "number": re.sub(rf"\b{old}\b", new, base),
            "negation": fill(sentence["negation"], person),
            "unrelated": fill(other["text"], other["person"]),
        }
        rows += [(kind, number, base, variant, paraphrase) for kind, variant in changed.items()]
        swaps = {
            "gender": [(gender[key][turns[number]], PRONOUNS[key]) for key in random.permutation(list(PRONOUNS))],
            "name": [sentence["names"][group] for group in random.choice(list(sentence["names"]), 2, replace=False)],
        }
        for kind, (one, another) in swaps.items():
            base, paraphrase = fill(sentence["text"], *one), fill(sentence["paraphrase"], *one)
            rows.append((kind, number, base, fill(sentence["text"], *another), paraphrase))
    table = pd.DataFrame(rows, columns=["kind", "sentence", "base", "variant", "paraphrase"])
    return table.sort_values("kind", key=lambda kinds: kinds.map(list(KINDS).index), kind="stable", ignore_index=True)


def association_pairs(seed: int = 0) -> pd.DataFrame:
    """Return neutral sentences (base) and the same sentences with a pronoun or a name (variant).

    Columns kind ("role" or "name"), sentence (its number within the kind), group (the role, or the group of the name),
    gender, base and variant. Each sentence about a role comes with every role and both pronouns, each other sentence
    with one name of every group, all of one gender.
    """
    [texts], [roles] = _terms("role sentence"), _terms("role")
    rows = [
        ("role", number, role, gender, text.format(role=role, the="the"), text.format(role=role, the=pronoun))
        for number, text in enumerate(texts["words"])
        for role in roles["words"]
        for gender, pronoun in PRONOUNS.items()
    ]
    genders = {pronoun: gender for gender, pronoun in PRONOUNS.items()}
    for number, sentence in enumerate(_sentences(seed)):
        base = fill(sentence["text"], sentence["person"])
        for group, (name, pronoun) in sentence["names"].items():
            rows.append(("name", number, group, genders[pronoun], base, fill(sentence["text"], name, pronoun)))
    return pd.DataFrame(rows, columns=["kind", "sentence", "group", "gender", "base", "variant"])


def mistype(text: str, count: int, random: np.random.Generator) -> str:
    """Return the text with one typo in each of `count` random words; the first letter of a word stays.

    >>> [typo("table", 1) for typo in TYPOS.values()]
    ['tbale', 'tble', 'taable', 'tsble']
    >>> mistype("I am at home", 1, np.random.default_rng(0))
    'I am at hone'
    """
    words = text.split(" ")
    inside = {
        place: letters
        for place, word in enumerate(words)
        # two different letters side by side, so that every way to mistype the first changes the word
        if (letters := [match.start() for match in re.finditer(r"(?<=[A-Za-z])([a-z])(?!\1)(?=[a-z])", word)])
    }
    for place in random.choice(list(inside), count, replace=False):
        typo = TYPOS[str(random.choice(list(TYPOS)))]
        words[place] = typo(words[place], int(random.choice(inside[place])))
    return " ".join(words)


def fill(text: str, person: str, pronoun: str = "their") -> str:
    """Return a sentence such as "{Person} lost {his} keys." with a person in its slots."""
    return text.format(person=person, Person=person[0].upper() + person[1:], his=pronoun)


def share_of_way(similarity: np.ndarray, paraphrase: Any, unrelated: Any) -> np.ndarray:
    """Return `(paraphrase - similarity) / (paraphrase - unrelated)`: 0 is a paraphrase, 1 an unrelated sentence.

    NaN where the paraphrase is no nearer than the unrelated sentence.
    """
    way = paraphrase - unrelated
    return (paraphrase - similarity) / np.where(way > 1e-9, way, np.nan)


def card(table: pd.DataFrame, gaps: pd.DataFrame | None = None) -> str:
    """Return the tables of `robustness` and `associations` as Markdown, with the roles whose interval excludes 0."""
    nearer = table.set_index("kind")["nearer"].map("{:.0%}".format, na_action="ignore").fillna("-")
    text = ROBUSTNESS_CARD.format(count=table["n"].max(), **nearer[["negation", "number"]])
    for row in table.to_dict("records"):
        should = "near" if row["expectation"] == "same" else "far"
        similarity = _spelled(row["similarity"], row["low"], row["high"])
        shift = _spelled(row["shift"], row["shift_low"], row["shift_high"])
        text += f"| {row['kind']} | {should} | {similarity} | {shift} | {nearer[row['kind']]} |\n"
    if gaps is None:
        return text
    roles, apart = gaps["kind"] == "role", (gaps["low"] > 0) | (gaps["high"] < 0)
    text += FAIRNESS_CARD.format(apart=(roles & apart).sum(), roles=roles.sum(), chance=roles.sum() / 20)
    for row in gaps[~roles | apart].to_dict("records"):
        gap = _spelled(100 * row["gap"], 100 * row["low"], 100 * row["high"])
        text += f"| {row['kind']} | {row['group']} | {gap} |\n"
    return text


def _spelled(value: float, low: float, high: float) -> str:
    return "-" if np.isnan(value) else f"{value:z.2f} ({low:z.2f} to {high:z.2f})"


def _read(name: str) -> list[dict[str, Any]]:
    with (CORPORA / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _terms(slot: str) -> list[dict[str, Any]]:
    return [line for line in _read("minimal_terms") if line["slot"] == slot]


def _sentences(seed: int) -> list[dict[str, Any]]:
    """The sentences, each with a `person` of no gender, and `names` (women, men in turn): (name, pronoun) by group."""
    sentences, [people] = _read("minimal_pairs"), _terms("person")
    chosen = np.random.default_rng([seed, 2]).permutation(np.resize(people["words"], len(sentences)))
    random, groups = np.random.default_rng([seed, 1]), _terms("name")
    for number, (sentence, person) in enumerate(zip(sentences, chosen.tolist(), strict=True)):
        gender = list(PRONOUNS)[number % 2]
        names = {line["group"]: (str(random.choice(line[gender])), PRONOUNS[gender]) for line in groups}
        sentence |= {"person": person, "names": names}
    return sentences


def _similarities(stored: StoredEmbeddings, first: pd.Series, second: pd.Series) -> NDArray[np.float64]:
    """Cosine of each text with the text in the same row, in float64."""
    one, other = (as_tensor(stored.encode(texts.tolist()), finite=True).double() for texts in (first, second))
    return pairwise_cos_sim(one, other).cpu().numpy()
