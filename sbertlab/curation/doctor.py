"""What is wrong with a data set, before it is trained on: findings, with the rows that show them, and what to do.

Every check returns findings, a row each, in the same columns: `finding` (a key of `REMEDIES`), `row` and `column`
(where it is in the table), `text`, `other` and `other_text` (the row or text that it collides with), and `value` (a
similarity, tokens lost, a label). `examine` makes all checks, `summary` counts their findings.

Exact checks compare texts as `known_positives.normalised` does, near ones by their letters alone; only the search for
nearer positives asks a model, and its findings are suspicions, to be read and not to be obeyed.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.data.texts import TruncationWarning, first_rows, normalised
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.encoder.stored_embeddings import StoredEmbeddings
from sbertlab.util import Encoder, as_tensor, normalize_embeddings

COLUMNS = ("finding", "row", "column", "text", "other", "other_text", "value")

REMEDIES: Mapping[str, str] = {
    "empty text": "fill it in, or drop the row",
    "repeated row": "keep one: repeats count twice, and collide in a batch",
    "nearly repeated row": "read both; keep one unless the difference matters",
    "shared anchor": "name what belongs together: InputExample(group=...)",
    "shared positive": "name what belongs together: InputExample(group=...)",
    "nearer positive": "read both; if both are right, give the rows one group",
    "positive among the negatives": "drop the negative, or mine another",
    "text of the evaluation": "drop the row, and split by what belongs together",
    "near text of the evaluation": "read both; drop the row if they ask the same",
    "cut text": "raise max_seq_length, split or shorten: the end is not read",
    "missing label": "fill it in, or drop the row",
    "label off the scale": "bring all labels to the scale: (label - least) / (greatest - least)",
    "constant label": "add rows with other labels: one value alone teaches collapse",
}
"""What to do about each finding."""

NEAR = 0.82
"""Cosine of the counts of runs of four letters from which two texts are nearly the same: a typo, other punctuation."""

ALIKE = 0.75
"""Cosine of embeddings from which a text is suspected to answer, too; a matter of the model (see `thresholds`)."""

BLOCK = 256
"""Texts that are compared with all others at a time."""

SHOWN = 60
"""Characters of a text in a summary."""

ROUNDING = 1e-6
"""What cosines in float32 may lack."""


def examine(
    frame: pd.DataFrame,
    texts: Sequence[str],
    label: str | None = None,
    group: str | None = None,
    evaluation: Iterable[str] = (),
    model: Encoder | None = None,
    scale: tuple[float, float] = (0.0, 1.0),
    near: float = NEAR,
    alike: float = ALIKE,
) -> pd.DataFrame:
    """Make all checks that apply, and return their findings.

    | checks                                       | made where                                   |
    | -------------------------------------------- | -------------------------------------------- |
    | empty, repeated and nearly repeated rows     | always                                       |
    | labels missing, off the scale, constant      | there is a `label`                           |
    | shared texts, positives among the negatives  | there is none, and two or more text columns  |
    | nearer positives                             | the same, and a model                        |
    | texts of the evaluation                      | these are given                              |
    | cut texts                                    | the model is a SentenceTransformer           |

    Empty and repeated rows are found once: the later checks leave them out.

    Args:
        frame: the table; its index names the rows, so that `frame.drop(index=findings["row"])` drops them.
        texts: its columns of texts in their roles: anchor, positive, hard negatives; or the two of a pair.
        label: its column of labels.
        group: its column of ids that are the same in rows that belong together; missing where nothing is known.
        evaluation: texts that must not be trained on.
        model: to be fine-tuned, or a better one; anything with `encode(list of texts)`.
        scale: least and greatest label that the loss expects.
        near: from 0 to 1, as `NEAR`.
        alike: from -1 to 1, as `ALIKE`.

    Raises:
        ValueError: a missing column, an index that names a row twice, a threshold or scale out of range.

    >>> table = pd.DataFrame({"question": ["Why?", "why? ", "How?"], "answer": ["So.", "So.", ""]})
    >>> examine(table, ["question", "answer"])[["finding", "row"]].values.tolist()
    [['empty text', 2], ['repeated row', 1]]
    """
    _check(frame, [*texts, *(name for name in (label, group) if name is not None)])
    evaluation = list(evaluation)
    found = [empty_texts(frame, texts)]
    sound = frame[~frame.index.isin(found[0]["row"])]
    found.append(repeated_rows(sound, texts, near))
    left = sound[~sound.index.isin(found[1]["row"])]
    if label is not None:
        found.append(label_faults(frame, label, scale))
    elif len(texts) > 1:
        found += [shared_texts(left, texts, group), false_hard_negatives(left, texts, group)]
        if model is not None:
            found.append(nearer_positives(left, texts, model, group, alike))
    if evaluation:
        found.append(leaked_texts(sound, texts, evaluation, near))
    bare = model.model if isinstance(model, StoredEmbeddings) else model
    if isinstance(bare, SentenceTransformer):
        found.append(cut_texts(sound, texts, bare))
    return pd.concat(found, ignore_index=True)


def summary(findings: pd.DataFrame) -> pd.DataFrame:
    """Return one row a kind of finding: how many rows it is in, the first of them in words, and what to do.

    >>> table = pd.DataFrame({"text": ["One", " one", "two"]})
    >>> summary(examine(table, ["text"]))[["rows", "example"]].to_dict("index")
    {'repeated row': {'rows': 1, 'example': "row 1: 'one' | row 0: 'One'"}}
    """
    kinds = findings.groupby("finding", sort=False)
    table = [(name, part["row"].nunique(), _in_words(part.iloc[0]), REMEDIES[str(name)]) for name, part in kinds]
    return pd.DataFrame(table, columns=["finding", "rows", "example", "what to do"]).set_index("finding")


def empty_texts(frame: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    """Texts that are missing, no text, or nothing but spaces.

    >>> empty_texts(pd.DataFrame({"text": ["a", " ", None]}), ["text"])["row"].tolist()
    [1, 2]
    """
    _check(frame, texts)
    empty = {name: [not isinstance(cell, str) or not cell.strip() for cell in frame[name]] for name in texts}
    return pd.concat([_found("empty text", frame, name, np.flatnonzero(empty[name])) for name in texts])


def repeated_rows(frame: pd.DataFrame, texts: Sequence[str], near: float = NEAR) -> pd.DataFrame:
    """Rows whose texts, all of them, are those of an earlier row, or nearly so.

    >>> table = pd.DataFrame({"text": ["Where is my parcel?", "where is my  PARCEL?", "Where is my parcel??", "Hello"]})
    >>> repeated_rows(table, ["text"])[["finding", "row", "other"]].values.tolist()
    [['repeated row', 1, 0], ['nearly repeated row', 2, 0]]
    """
    _check(frame, texts)
    plain = frame[list(texts)].map(normalised)
    first = np.array(first_rows(plain.itertuples(index=False, name=None)), dtype=int)
    exact, kept = (np.flatnonzero((first == np.arange(len(first))) == own) for own in (False, True))
    nearest: dict[int, tuple[int, float]] = {}
    for row, other, value in _near_pairs([plain[name].iloc[kept].tolist() for name in texts], near):
        nearest.setdefault(int(kept[row]), (int(kept[other]), value))
    rows = sorted(nearest)
    others, values = [nearest[row][0] for row in rows], [nearest[row][1] for row in rows]
    return pd.concat(
        [
            _found("repeated row", frame, texts[0], exact, first[exact], 1.0),
            _found("nearly repeated row", frame, texts[0], rows, others, values),
        ]
    )


def shared_texts(frame: pd.DataFrame, texts: Sequence[str], group: str | None = None) -> pd.DataFrame:
    """Rows with the anchor or the positive of an earlier row of another group or of none.

    In one batch each of them makes the other's positive a negative. Training here compares texts and leaves these out,
    but a group tells it more, and it tells other tools.

    >>> table = pd.DataFrame({"question": ["Why?", "How?"], "answer": ["So.", "so."]})
    >>> shared_texts(table, ["question", "answer"])[["finding", "row", "other"]].values.tolist()
    [['shared positive', 1, 0]]
    """
    _check(frame, texts)
    groups, found = _groups(frame, group), []
    for role, name in zip(("anchor", "positive"), texts, strict=False):
        first = first_rows(normalised(text) for text in frame[name])
        rows = [row for row, other in enumerate(first) if groups[row] != groups[other]]
        found.append(_found(f"shared {role}", frame, name, rows, [first[row] for row in rows], 1.0))
    return pd.concat(found)


def linked_rows(frame: pd.DataFrame, texts: Sequence[str], group: str | None = None) -> pd.Series:
    """Return what a split must keep together: for each row the first that it shares a text or a group with.

    Directly or through others: these are the connected components. Empty texts link nothing. Split by it
    (`GroupShuffleSplit(...).split(frame, groups=...)`), and no text of the test is trained on.

    >>> table = pd.DataFrame({"question": ["Why?", "Why?", "How?", "When?"], "answer": ["So.", "No.", "no.", "Now."]})
    >>> linked_rows(table, ["question", "answer"]).tolist()
    [0, 0, 0, 3]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _check(frame, texts)
    keys: list[Hashable] = [normalised(text) or object() for name in texts for text in frame[name]]
    keys += [(key,) for key in _groups(frame, group)]  # a group may be named as a text
    count = len(frame)
    first = np.array(first_rows(keys), dtype=int) % max(count, 1)  # the row of the first text or group that is the same
    edges = (np.tile(np.arange(count), len(texts) + 1), first)
    graph = coo_array((np.ones(len(keys)), edges), shape=(count, count))
    parts = connected_components(graph, directed=False)[1]
    return frame.index.to_series().groupby(parts).transform("first")


def false_hard_negatives(frame: pd.DataFrame, texts: Sequence[str], group: str | None = None) -> pd.DataFrame:
    """Hard negatives that are an anchor or a positive of their row, or of one with its anchor or group.

    >>> table = pd.DataFrame({"anchor": ["Why?", "why?"], "positive": ["So.", "Thus."], "negative": ["No.", "so."]})
    >>> false_hard_negatives(table, list(table))[["row", "other"]].values.tolist()
    [[1, 0]]
    """
    _check(frame, texts)
    anchors, positives = ([normalised(text) for text in frame[name]] for name in texts[:2])
    keys = list(zip(anchors, _groups(frame, group), strict=True))
    right: dict[tuple[Hashable, str], int] = {}  # (what belongs together, a text of it) -> its first row
    for row, together in enumerate(keys):
        for key in together:
            right.setdefault((key, positives[row]), row)
            right.setdefault((key, anchors[row]), row)
    found = []
    for name in texts[2:]:
        asked = [[(key, normalised(text)) for key in keys[row]] for row, text in enumerate(frame[name])]
        hits = {row: right[pair] for row, pairs in enumerate(asked) for pair in pairs if pair in right}
        found.append(
            _found("positive among the negatives", frame, name, list(hits), list(hits.values()), 1.0, texts[1])
        )
    return pd.concat(found) if found else _found("positive among the negatives", frame, texts[1], [])


def nearer_positives(
    frame: pd.DataFrame, texts: Sequence[str], model: Encoder, group: str | None = None, alike: float = ALIKE
) -> pd.DataFrame:
    """Rows to whose anchor the positive of another row is nearer than their own, and very near: false negatives?

    Rows that are known to belong together (anchor, positive or group are the same) are left out. `other` is the row
    with the nearest positive, `value` its cosine to the anchor, and the nearest come first. The list is as good as the
    model: of near questions that need different answers it finds some, too.

    Args:
        frame: rows without empty texts.
        texts: anchor and positive; others are not looked at.
        model: anything with `encode(list of texts)`.
        group: as in `examine`.
        alike: least cosine of anchor and other positive.

    >>> class Length:
    ...     def encode(self, texts):
    ...         return [[float(len(text)), 8.0] for text in texts]
    >>> table = pd.DataFrame({"question": ["1234", "12345678"], "answer": ["abcdefgh", "abcd"]})
    >>> nearer_positives(table, ["question", "answer"], Length())[["row", "other", "value"]].round(2).values.tolist()
    [[0, 1, 1.0], [1, 0, 1.0]]
    """
    _check(frame, texts)
    if not -1 <= alike <= 1:
        raise ValueError(f"alike must be a cosine from -1 to 1, got {alike}")
    if not len(frame):
        return _found("nearer positive", frame, texts[0], [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # cut texts are a finding of their own
        encoded = [as_tensor(model.encode(frame[name].tolist()), name, finite=True) for name in texts[:2]]
    anchors, positives = (normalize_embeddings(embeddings).cpu().numpy() for embeddings in encoded)
    plain = [normalised(text) for name in texts[:2] for text in frame[name]]
    anchor, positive = np.array(first_rows(plain)).reshape(2, -1)
    known = [anchor, positive, np.array(first_rows(_groups(frame, group)))]
    best, value = np.empty(len(frame), dtype=int), np.empty(len(frame))
    for start in range(0, len(frame), BLOCK):
        rows = slice(start, start + BLOCK)
        scores = anchors[rows] @ positives.T  # (block, rows)
        for keys in known:
            scores[keys[rows, None] == keys] = -np.inf
        scores[anchor[rows, None] == positive] = -np.inf  # the anchor's own text, as somebody's positive
        best[rows], value[rows] = scores.argmax(axis=1), scores.max(axis=1)
    suspects = np.flatnonzero((value >= alike) & (value > (anchors * positives).sum(axis=1)))
    suspects = suspects[np.argsort(-value[suspects], kind="stable")]
    return _found("nearer positive", frame, texts[0], suspects, best[suspects], value[suspects], texts[1])


def leaked_texts(
    frame: pd.DataFrame, texts: Sequence[str], evaluation: Iterable[str], near: float = NEAR
) -> pd.DataFrame:
    """Texts that are in the evaluation, too, or nearly so; `other` is the place among its texts.

    >>> table = pd.DataFrame({"text": ["Where is my parcel", "Hello"]})
    >>> leaked_texts(table, ["text"], ["hello", "Where is my parcel?"])[["finding", "row", "other"]].values.tolist()
    [['text of the evaluation', 1, 0], ['near text of the evaluation', 0, 1]]
    """
    _check(frame, texts)
    held = pd.DataFrame({"text": list(evaluation)})
    places = {normalised(text): place for place, text in reversed(list(enumerate(held["text"])))}
    found = []
    for name in texts:
        plain = [normalised(text) for text in frame[name]]
        exact = [row for row, text in enumerate(plain) if text in places]
        rest = [row for row, text in enumerate(plain) if text not in places]
        nearest: dict[int, tuple[float, int]] = {}
        for row, other, value in _near_pairs([[plain[row] for row in rest]], near, list(places)):
            place = list(places.values())[other]
            nearest[rest[row]] = max(nearest.get(rest[row], (-1.0, 0)), (value, place))
        values, others = [value for value, _ in nearest.values()], [place for _, place in nearest.values()]
        same = [places[plain[row]] for row in exact]
        found.append(_found("text of the evaluation", frame, name, exact, same, 1.0, "text", held))
        found.append(_found("near text of the evaluation", frame, name, list(nearest), others, values, "text", held))
    return pd.concat(found)


def cut_texts(frame: pd.DataFrame, texts: Sequence[str], model: SentenceTransformer) -> pd.DataFrame:
    """Texts that are longer than the model reads; `value` is the number of tokens that are lost, the most first.

    Args:
        frame: rows without empty texts.
        texts: its columns of texts.
        model: with its `max_seq_length`.
    """
    _check(frame, texts)
    block: Any = model._first_module()
    found = []
    for name in texts:
        lost = np.asarray(block.token_ids(frame[name].tolist()).cut, dtype=np.float64)
        rows = np.flatnonzero(lost)
        found.append(_found("cut text", frame, name, rows, values=lost[rows]))
    return pd.concat(found).sort_values("value", ascending=False, kind="stable")


def label_faults(frame: pd.DataFrame, label: str, scale: tuple[float, float] = (0.0, 1.0)) -> pd.DataFrame:
    """Labels that are missing or no number, lie off the scale, or are all the same; `value` is the label.

    >>> label_faults(pd.DataFrame({"score": [0.0, 5.0, None]}), "score")[["finding", "row"]].values.tolist()
    [['missing label', 2], ['label off the scale', 1]]
    """
    _check(frame, [label])
    low, high = scale
    if not low < high:
        raise ValueError(f"scale must be the least and the greatest label, got {scale}")
    values = pd.to_numeric(frame[label], errors="coerce").to_numpy(dtype=float)
    there = values[np.isfinite(values)]
    constant = len(there) > 1 and there.min() == there.max()
    faults = {
        "missing label": ~np.isfinite(values),
        "label off the scale": np.isfinite(values) & ((values < low) | (values > high)),
        "constant label": np.isfinite(values) & constant,
    }
    rows = {fault: np.flatnonzero(where) for fault, where in faults.items()}
    return pd.concat([_found(fault, frame, label, rows[fault], values=values[rows[fault]]) for fault in faults])


def collision_share(keys: Sequence[Hashable], batch_size: int) -> float:
    """Return the expected share of rows that meet a row with their key in a batch of a shuffled set.

    Of `n` rows, `m` with the key, the `batch_size - 1` others of a batch hold none of the other `m - 1` with the
    probability of the hypergeometric distribution.

    Args:
        keys: one a row: its positive, its group.
        batch_size: rows of a batch.

    Raises:
        ValueError: a batch of none, or of more rows than there are.

    >>> round(collision_share(["a", "a", "b", "c"], batch_size=2), 4)  # half of the rows, with one of three others
    0.1667
    """
    from scipy.stats import hypergeom

    if not 1 <= batch_size <= len(keys):
        raise ValueError(f"batch_size must be from 1 to the number of rows, {len(keys)}, got {batch_size}")
    first = np.array(first_rows(keys))
    others = np.bincount(first)[first] - 1  # (rows,)
    return float(np.mean(hypergeom.sf(0, len(first) - 1, others, batch_size - 1)))


def _found(
    finding: str,
    frame: pd.DataFrame,
    column: str,
    rows: Any,
    others: Any = None,
    values: Any = np.nan,
    other_column: str | None = None,
    other_frame: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Findings in a column of these rows, which collide with others; both by their place."""
    place, rivals = np.asarray(rows, dtype=int), frame if other_frame is None else other_frame
    table = pd.DataFrame(index=range(len(place)), columns=list(COLUMNS), dtype=object)
    table["finding"], table["column"] = finding, column
    table["row"], table["text"] = frame.index[place].astype(object), frame[column].to_numpy(dtype=object)[place]
    if others is not None:
        there = np.asarray(others, dtype=int)
        table["other"] = rivals.index[there].astype(object)
        table["other_text"] = rivals[other_column or column].to_numpy(dtype=object)[there]
    return table.assign(value=np.broadcast_to(np.asarray(values, dtype=float), len(place)))


def _near_pairs(
    columns: Sequence[Sequence[str]], near: float, others: Sequence[str] | None = None
) -> Iterator[tuple[int, int, float]]:
    """Yield (row, other, cosine) of rows that are near in every column, each with its least cosine of runs of letters.

    Without `others`, rows are compared with the rows before them; with them, the one column with these texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not 0 < near <= 1:
        raise ValueError(f"near must be a share above 0 and up to 1, got {near}")
    if not columns[0] or (others is not None and not others):
        return
    count = TfidfVectorizer(analyzer="char", ngram_range=(4, 4), use_idf=False, preprocessor=_with_ends)
    vectors = [count.fit_transform([*column, *(others or ())]) for column in columns]
    rows = len(columns[0])
    rivals = vectors[0] if others is None else vectors[0][rows:]
    for start in range(0, rows, BLOCK):
        scores = (vectors[0][start : min(start + BLOCK, rows)] @ rivals.T).tocoo()  # (block, rivals)
        first, second, value = scores.row + start, scores.col, scores.data
        kept = value >= near - ROUNDING
        if others is None:
            kept &= second < first
        first, second, value = first[kept], second[kept], value[kept]
        for column in vectors[1:]:
            value = np.minimum(value, np.asarray(column[first].multiply(column[second]).sum(axis=1)).ravel())
        kept = value >= near - ROUNDING
        yield from zip(first[kept].tolist(), second[kept].tolist(), value[kept].tolist(), strict=True)


def _with_ends(text: str) -> str:
    """The text between marks of its ends, so that the shortest has a run of four, too."""
    return f"\x02\x02{text}\x03"


def _groups(frame: pd.DataFrame, group: str | None) -> list[Hashable]:
    """One key a row, equal within a group; a row without one gets a key that no other has."""
    known = [None] * len(frame) if group is None else frame[group].tolist()
    return [object() if pd.isna(key) else key for key in known]


def _in_words(finding: pd.Series) -> str:
    """Where a finding is and what it shows, in one line."""
    words = f"row {finding['row']}"
    if isinstance(finding["text"], str):
        words += f": {shorten(finding['text'], SHOWN, placeholder=' ...')!r}"
    if isinstance(finding["other_text"], str):
        place = "evaluation" if "evaluation" in finding["finding"] else "row"
        words += f" | {place} {finding['other']}: {shorten(finding['other_text'], SHOWN, placeholder=' ...')!r}"
    elif pd.notna(finding["value"]):
        lost = finding["finding"] == "cut text"
        words += f" | {finding['value']:g} tokens lost" if lost else f": {finding['column']} = {finding['value']:g}"
    return words


def _check(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a table without these columns, or whose index does not name its rows."""
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"frame must be a pandas DataFrame, got {type(frame).__name__}")
    if isinstance(columns, str) or not len(columns):
        raise ValueError(f"texts must be a list of at least one column name, got {columns!r}")
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"column {missing[0]!r} is missing; the columns are {', '.join(map(repr, frame.columns))}")
    if not frame.index.is_unique:
        twice = frame.index[frame.index.duplicated()][0]
        raise ValueError(f"the index must name each row once, got {twice} twice; frame.reset_index(drop=True) does")
