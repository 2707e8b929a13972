"""Robustness and fairness: how similarities change when a sentence changes slightly, or mentions other people.

`corpora/minimal_pairs.jsonl` holds sentences with a paraphrase, a negation and another number; `minimal_terms.jsonl`
holds the people, names and roles to insert. Everything follows from the two files and a seed. Every kind of change is
made to every sentence, and intervals come from one bootstrap over sentences: they speak of other sentences of this
kind, not of other domains or languages.

Models are anything with `encode(list of texts)`, or a scikit-learn pipeline with `transform`. A model with neither
raises a TypeError; embeddings that are not one finite vector per text, or `resamples` below 2, a ValueError.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sbertlab.analysis.intervals import interval
from sbertlab.analysis.resampling import Examples
from sbertlab.data.helpdesk import CORPUS
from sbertlab.encoder.stored_embeddings import StoredEmbeddings
from sbertlab.util import Encoder, as_tensor, pairwise_cos_sim

CORPORA = CORPUS.parent
PRONOUNS: Mapping[str, str] = {"feminine": "her", "masculine": "his"}

KEY_BESIDE: Mapping[int, int] = str.maketrans("qwertyuiopasdfghjklzxcvbnm", "wertyuioposdfghjklkxcvbnmn")

TYPOS: Mapping[str, Callable[[str, int], str]] = {
    "swap": lambda word, place: word[:place] + word[place + 1] + word[place] + word[place + 2 :],
    "drop": lambda word, place: word[:place] + word[place + 1 :],
    "double": lambda word, place: word[: place + 1] + word[place:],
    "neighbour": lambda word, place: word[:place] + word[place].translate(KEY_BESIDE) + word[place + 1 :],
}
"""Ways to mistype the letter at a place of a word; "neighbour" hits the key beside it on an English keyboard."""

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
"""Changes that need nothing but the text."""

KINDS: Mapping[str, str] = {
    **dict.fromkeys([*EDITS, "paraphrase", "gender", "name"], "same"),
    **dict.fromkeys(["number", "negation", "unrelated"], "different"),
}
"""Kinds of change, and whether the sentence should stay near ("same") or move away ("different").

"gender" ("my brother" to "my sister") and "name" ("Emma" to "Fatima") mention somebody else but ask the same, so a
search should treat them alike. "identical" and "unrelated" (a sentence of the other domain) are controls.
"""


def robustness(model: Encoder, seed: int = 0, resamples: int = 1000) -> pd.DataFrame:
    """Return how similar changed sentences stay to the original, one row per kind of change in the order of `KINDS`.

    Columns: kind, expectation, n (sentences); similarity, the mean cosine to the original; shift, the same on the
    model's own scale; nearer, the share of sentences to which the changed one is more similar than a paraphrase (a
    mistake where the meaning differs; ties count half, Wilson's interval). Each with 95 % intervals.

    `shift = (p - s) / (p - u)` with the mean cosines s of the kind, p of paraphrases and u of unrelated sentences: 0 is
    a paraphrase, 1 an unrelated sentence. It is missing if p does not exceed u.
    """
    _check_resamples(resamples)
    pairs = robustness_pairs(seed)
    stored = StoredEmbeddings(model, name="Robustness")
    pairs["similarity"] = _similarities(stored, pairs["base"], pairs["variant"])
    margin = pairs["similarity"] - _similarities(stored, pairs["base"], pairs["paraphrase"])
    # a difference in the last digits is rounding
    pairs["nearer"] = np.where(margin.abs() < 1e-6, 0.5, margin > 0)
    values = {str(kind): rows.to_numpy() for kind, rows in pairs.groupby("kind", sort=False)["similarity"]}
    nearer = pairs.groupby("kind")["nearer"].sum()
    means = {kind: value.mean() for kind, value in values.items()}
    drawn = {kind: Examples("mean", value).replicates(resamples, seed) for kind, value in values.items()}
    table = []
    for kind, expectation in KINDS.items():
        count = len(values[kind])
        shift = share_of_way(means[kind], means["paraphrase"], means["unrelated"])
        shifts = share_of_way(drawn[kind], drawn["paraphrase"], drawn["unrelated"])
        known = np.isfinite(shifts).all() and np.isfinite(shift)
        compared = kind != "paraphrase"
        row = [kind, expectation, count, means[kind], *interval(means[kind], drawn[kind], examples=count)]
        row += [float(shift), *(interval(float(shift), shifts, examples=count) if known else (np.nan, np.nan))]
        row += [nearer[kind] / count, *_wilson(nearer[kind], count)] if compared else [np.nan] * 3
        table.append(row)
    columns = "kind expectation n similarity low high shift shift_low shift_high nearer nearer_low nearer_high"
    return pd.DataFrame(table, columns=columns.split())


def associations(model: Encoder, seed: int = 0, resamples: int = 1000) -> pd.DataFrame:
    """Return which groups a model places closer to sentences that mention no gender and nobody, one row per group.

    | kind    | group               | gap                                                                        |
    | ------- | ------------------- | -------------------------------------------------------------------------- |
    | pronoun | all roles           | cosine with "her" minus that with "his", each to the wording without both  |
    | role    | nurse, engineer ... | the same for sentences about one role, minus that of all roles             |
    | name    | Arabic, English ... | cosine with a name of the group, minus the mean of all groups              |

    Columns: kind, group, n (sentences), similarity (mean cosine to the neutral wording), gap, low, high (95 %). Without
    a preference all gaps are 0; of 20 roles about one has an interval without 0 by chance.
    """
    _check_resamples(resamples)
    pairs = association_pairs(seed)
    stored = StoredEmbeddings(model, name="Fairness")
    pairs["similarity"] = _similarities(stored, pairs["base"], pairs["variant"])
    cells = pairs.set_index(["sentence", "group", "gender"])["similarity"]
    roles, names = (cells[(pairs["kind"] == kind).to_numpy()] for kind in ("role", "name"))
    wide = roles.unstack("gender")  # noqa: PD010 (nothing to aggregate)
    gaps = (wide["feminine"] - wide["masculine"]).unstack("group")  # noqa: PD010 (sentences, roles)
    near = names.droplevel("gender").unstack("group")  # noqa: PD010 (sentences, groups)
    rows = [("pronoun", "all roles", roles.mean(), gaps.mean(axis=1))]
    by_role = roles.groupby(level="group").mean()
    rows += [("role", role, by_role[role], gaps[role] - gaps.mean(axis=1)) for role in map(str, gaps)]
    rows += [("name", group, near[group].mean(), near[group] - near.mean(axis=1)) for group in map(str, near)]
    table = []
    for kind, group, similarity, values in rows:
        replicates = Examples("mean", values.to_numpy()).replicates(resamples, seed)
        gap = float(values.mean())
        table.append((kind, group, len(values), similarity, gap, *interval(gap, replicates, examples=len(values))))
    return pd.DataFrame(table, columns=["kind", "group", "n", "similarity", "gap", "low", "high"])


def robustness_pairs(seed: int = 0) -> pd.DataFrame:
    """Return all sentences and their changed sentences.

    Args:
        seed: of the people in the sentences, the names, the typos and who is unrelated to whom.

    Returns:
        Columns kind (in the order of `KINDS`), sentence (its number), base, variant (the base, changed), and paraphrase
        (of the base).

    >>> pairs = robustness_pairs()
    >>> len(pairs) == 72 * len(KINDS), pairs["kind"].nunique() == len(KINDS)
    (True, True)
    """
    random = np.random.default_rng(seed)
    sentences, gender = _read("minimal_pairs"), _terms("gender")[0]
    people = _people(sentences, seed)
    turns = random.permutation(np.resize(np.arange(len(gender["feminine"])), len(sentences)))
    strangers = _strangers([sentence["domain"] for sentence in sentences], random)
    rows = []
    for number, (sentence, named) in enumerate(zip(sentences, _named(len(sentences), seed), strict=True)):
        base, paraphrase, negation = (fill(sentence[key], people[number]) for key in ("text", "paraphrase", "negation"))
        old, new = sentence["number"]
        changed = {kind: edit(base, random) for kind, edit in EDITS.items()} | {
            "paraphrase": paraphrase,
            "number": re.sub(rf"\b{old}\b", new, base),
            "negation": negation,
            "unrelated": fill(sentences[strangers[number]]["text"], people[strangers[number]]),
        }
        rows += [(kind, number, base, variant, paraphrase) for kind, variant in changed.items()]
        swaps = {
            "gender": [(gender[key][turns[number]], PRONOUNS[key]) for key in random.permutation(list(PRONOUNS))],
            "name": [named[group] for group in random.choice(list(named), 2, replace=False)],
        }
        for kind, (one, other) in swaps.items():
            base, paraphrase = fill(sentence["text"], *one), fill(sentence["paraphrase"], *one)
            rows.append((kind, number, base, fill(sentence["text"], *other), paraphrase))
    table = pd.DataFrame(rows, columns=["kind", "sentence", "base", "variant", "paraphrase"])
    return table.sort_values("kind", key=lambda kinds: kinds.map(list(KINDS).index), kind="stable", ignore_index=True)


def association_pairs(seed: int = 0) -> pd.DataFrame:
    """Return neutral sentences and the same sentences with a pronoun or a name.

    Args:
        seed: of the people in the sentences and of the names.

    Returns:
        Columns kind ("role" or "name"), sentence (its number within the kind), group (the role, or the group of the
        name), gender ("feminine" or "masculine"), base (neutral) and variant. Every sentence about a role comes with
        every role and both pronouns, every other one with a name of every group, all of one gender.
    """
    sentences = _read("minimal_pairs")
    people = _people(sentences, seed)
    rows = [
        ("role", number, role, gender, text.format(role=role, the="the"), text.format(role=role, the=pronoun))
        for number, text in enumerate(_terms("role sentence")[0]["words"])
        for role in _terms("role")[0]["words"]
        for gender, pronoun in PRONOUNS.items()
    ]
    genders = {pronoun: gender for gender, pronoun in PRONOUNS.items()}
    for number, (sentence, named) in enumerate(zip(sentences, _named(len(sentences), seed), strict=True)):
        base = fill(sentence["text"], people[number])
        for group, (name, pronoun) in named.items():
            rows.append(("name", number, group, genders[pronoun], base, fill(sentence["text"], name, pronoun)))
    return pd.DataFrame(rows, columns=["kind", "sentence", "group", "gender", "base", "variant"])


def mistype(text: str, count: int, random: np.random.Generator) -> str:
    """Return the text with typos in so many of its words, one in each; the first letter of a word stays.

    Raises:
        ValueError: the text has fewer words that can be mistyped.

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
    if len(inside) < count:
        raise ValueError(f"{count} words are to be mistyped, {text!r} has {len(inside)} of at least three letters")
    for place in random.choice(list(inside), count, replace=False):
        typo = TYPOS[str(random.choice(list(TYPOS)))]
        words[place] = typo(words[place], int(random.choice(inside[place])))
    return " ".join(words)


def fill(text: str, person: str, pronoun: str = "their") -> str:
    """Return the sentence with a person in its slots.

    >>> fill("{Person} lost {his} keys.", "my aunt", "her")
    'My aunt lost her keys.'
    """
    return text.format(person=person, Person=person[0].upper() + person[1:], his=pronoun)


def share_of_way(similarity: Any, paraphrase: Any, unrelated: Any) -> NDArray[np.float64]:
    """`(paraphrase - similarity) / (paraphrase - unrelated)`; NaN where a paraphrase is no nearer than the unrelated.

    >>> share_of_way([0.9, 0.7, 0.1], 0.9, 0.1).round(2).tolist()
    [0.0, 0.25, 1.0]
    """
    way = np.subtract(paraphrase, unrelated, dtype=float)
    moved = np.subtract(paraphrase, similarity, dtype=float)
    return np.divide(moved, way, out=np.full(np.broadcast(moved, way).shape, np.nan), where=way > 1e-9)


def card(table: pd.DataFrame, gaps: pd.DataFrame | None = None) -> str:
    """Return what the tables say as a section in Markdown, for a model card or a README.

    Args:
        table: of `robustness`.
        gaps: of `associations`; of the roles, those are listed whose interval leaves out 0.
    """
    nearer = {kind: f"{share:.0%}" for kind, share in zip(table["kind"], table["nearer"], strict=True)}
    lines = [
        "## Robustness",
        "",
        f"How near a sentence stays to itself when it is changed: mean cosine over {table['n'].max()} sentences, with",
        "95 % intervals over sentences. Shift is the share of the way from a paraphrase (0) to an unrelated sentence",
        "(1) of this model; below 0 is nearer than a paraphrase.",
        "",
        f"A negated sentence is nearer than a paraphrase in {nearer['negation']} of the cases, one with another number",
        f"in {nearer['number']}.",
        "",
        "| Change | Should be | Cosine | Shift | Nearer than a paraphrase |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in table.to_dict("records"):
        should = "near" if row["expectation"] == "same" else "far"
        moved = [
            _spelled(*(row[key] for key in keys.split()))
            for keys in ("similarity low high", "shift shift_low shift_high")
        ]
        share = "-" if np.isnan(row["nearer"]) else nearer[row["kind"]]
        lines.append(f"| {row['kind']} | {should} | {' | '.join(moved)} | {share} |")
    if gaps is not None:
        roles = gaps["kind"] == "role"
        apart = (gaps["low"] > 0) | (gaps["high"] < 0)
        lines += [
            "",
            "## Fairness",
            "",
            "Gaps of cosine to the same sentence in neutral wording, times 100, with 95 % intervals over sentences.",
            '"pronoun": with "her" less with "his", over all roles. "role": the same for one role, less that of all',
            f"roles; listed are the {int((roles & apart).sum())} of {int(roles.sum())} whose interval leaves out 0",
            f'({roles.sum() / 20:.0f} would by chance). "name": with a name of the group, less the mean of all groups.',
            "",
            "| Kind | Group | Gap |",
            "| --- | --- | --- |",
        ]
        for row in gaps[~roles | apart].to_dict("records"):
            gap = _spelled(*(100 * row[key] for key in ("gap", "low", "high")))
            lines.append(f"| {row['kind']} | {row['group']} | {gap} |")
    return "\n".join(lines) + "\n"


def _spelled(value: float, low: float, high: float) -> str:
    return "-" if np.isnan(value) else f"{value:z.2f} ({low:z.2f} to {high:z.2f})"


def _check_resamples(resamples: int) -> None:
    """Refuse what gives no interval before anything is encoded."""
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, an interval needs a spread; got {resamples}")


def _read(name: str) -> list[dict[str, Any]]:
    with (CORPORA / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _terms(slot: str) -> list[dict[str, Any]]:
    """The lines of what can fill a slot."""
    return [line for line in _read("minimal_terms") if line["slot"] == slot]


def _people(sentences: Sequence[Any], seed: int) -> list[str]:
    """Somebody of no gender for each sentence; everybody comes equally often."""
    words = np.resize(_terms("person")[0]["words"], len(sentences))
    return [str(word) for word in np.random.default_rng([seed, 2]).permutation(words)]


def _strangers(domains: Sequence[str], random: np.random.Generator) -> NDArray[np.int64]:
    """For each sentence the number of one of another domain; with two domains of one size, each comes once."""
    numbers, names = np.empty(len(domains), dtype=int), np.array(domains)
    for domain in np.unique(names):
        inside = names == domain
        numbers[inside] = np.resize(random.permutation(np.flatnonzero(~inside)), inside.sum())
    return numbers


def _named(count: int, seed: int) -> list[dict[str, tuple[str, str]]]:
    """For each sentence, a name of every group and its pronoun; women and men take turns."""
    random = np.random.default_rng([seed, 1])
    groups = _terms("name")
    turns = [list(PRONOUNS)[number % 2] for number in range(count)]
    return [
        {line["group"]: (str(random.choice(line[gender])), PRONOUNS[gender]) for line in groups} for gender in turns
    ]


def _similarities(stored: StoredEmbeddings, first: pd.Series, second: pd.Series) -> NDArray[np.float64]:
    """Cosine of row i of the texts with row i of the others, in float64."""
    one, other = (as_tensor(stored.encode(texts.tolist()), finite=True).double() for texts in (first, second))
    return pairwise_cos_sim(one, other).cpu().numpy()


def _wilson(successes: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; unlike the bootstrap's, it is no point where the share is 0 or 1."""
    from scipy.stats import binomtest

    low, high = binomtest(round(successes), count).proportion_ci(method="wilson")
    return float(low), float(high)
