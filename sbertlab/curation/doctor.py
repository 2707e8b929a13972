"""What is wrong with a data set before training: findings, the rows that show them, and what to do.

Every check returns a table of findings with the same columns: `finding` (a key of `REMEDIES`), `row`, `column` and
`text` (where it is), `other` and `other_text` (the row or text that it collides with), and `value` (a similarity, a
number of lost tokens, a label). `examine` makes all checks that apply, `summary` counts their findings:

| checks                                      | made if                                         |
| ------------------------------------------- | ----------------------------------------------- |
| empty, repeated and nearly repeated rows    | always                                          |
| labels missing, off the scale, constant     | there is a `label`                              |
| shared texts, positives among the negatives | there is none, and two or more columns of texts |
| nearer positives                            | the same, and a model                           |
| texts of the evaluation                     | they are given                                  |
| truncated texts                             | the model is a SentenceTransformer              |

Exact checks compare texts as `data.texts.normalised`, near ones by their letters. Only the search for nearer
positives asks a model; its findings are suspicions that a person should read. Arguments that the checks share: `frame`,
a table whose index names its rows; `texts`, its columns in their roles (anchor, positive, hard negatives, or the two of
a pair); `group`, the column of an id shared by rows that belong together, missing where nothing is known.
"""

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.data.texts import TruncationWarning, first_rows, normalised
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.encoder.stored_embeddings import StoredEmbeddings
from sbertlab.losses.known_positives import group_keys
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
    "truncated text": "raise max_seq_length, split or shorten: the end is not read",
    "missing label": "fill it in, or drop the row",
    "label off the scale": "bring all labels to the scale: (label - least) / (greatest - least)",
    "constant label": "add rows with other labels: a single value teaches collapse",
}

NEAR = 0.82  # cosine of counts of four-letter runs from which two texts are nearly the same: a typo, punctuation
ALIKE = 0.75  # cosine of embeddings from which a text may be an answer, too; it depends on the model
BLOCK = 256  # texts that are compared with all others at a time
SHOWN = 60  # characters of a text in a summary
ROUNDING = 1e-6  # tolerance of cosines in float32


def examine(
    frame: pd.DataFrame,
    texts: Sequence[str],
    label: str | None = None,
    group: str | None = None,
    evaluation: Iterable[str] = (),
    model: Encoder | None = None,
    scale: tuple[float, float] = (0.0, 1.0),
    alike: float = ALIKE,
) -> pd.DataFrame:
    """Return the findings of all checks that apply; `frame.drop(index=findings["row"])` drops their rows.

    Empty and repeated rows are reported once: later checks leave them out. `label` is the column of labels, `scale` the
    least and greatest label that the loss expects; `evaluation` holds texts that must not be trained on; `model` is the
    model to fine-tune, or a better one, and `alike` its threshold, see `ALIKE`. Equal names in the index are refused.

    >>> table = pd.DataFrame({"question": ["Why?", "why? ", "How?"], "answer": ["So.", "So.", ""]})
    >>> examine(table, ["question", "answer"])[["finding", "row"]].values.tolist()
    [['empty text', 2], ['repeated row', 1]]
    """
    if not frame.index.is_unique:
        twice = frame.index[frame.index.duplicated()][0]
        raise ValueError(f"the index must name each row once, got {twice} twice; frame.reset_index(drop=True) does")
    evaluation = list(evaluation)
    found = [empty_texts(frame, texts)]
    sound = frame[~frame.index.isin(found[0]["row"])]
    found.append(repeated_rows(sound, texts))
    left = sound[~sound.index.isin(found[1]["row"])]
    if label is not None:
        found.append(label_faults(frame, label, scale))
    elif len(texts) > 1:
        found += [shared_texts(left, texts, group), false_hard_negatives(left, texts, group)]
        if model is not None:
            found.append(nearer_positives(left, texts, model, group, alike))
    if evaluation:
        found.append(leaked_texts(sound, texts, evaluation))
    bare = model.model if isinstance(model, StoredEmbeddings) else model
    if isinstance(bare, SentenceTransformer):
        found.append(truncated_texts(sound, texts, bare))
    return pd.concat(found, ignore_index=True)


def summary(findings: pd.DataFrame) -> pd.DataFrame:
    """Return one row per kind of finding: the number of rows, the first of them as an example, and what to do.

    >>> table = pd.DataFrame({"text": ["One", " one", "two"]})
    >>> summary(examine(table, ["text"]))[["rows", "example"]].to_dict("index")
    {'repeated row': {'rows': 1, 'example': "row 1: 'one' | row 0: 'One'"}}
    """
    kinds = findings.groupby("finding", sort=False)
    table = [(name, part["row"].nunique(), _in_words(part.iloc[0]), REMEDIES[str(name)]) for name, part in kinds]
    return pd.DataFrame(table, columns=["finding", "rows", "example", "what to do"]).set_index("finding")


def empty_texts(frame: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    """Find texts that are missing, not a text, or blank."""
    empty = {name: [not isinstance(cell, str) or not cell.strip() for cell in frame[name]] for name in texts}
    return pd.concat([_found("empty text", frame[name][empty[name]]) for name in texts])


def repeated_rows(frame: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    """Find rows whose texts all equal those of an earlier row, or nearly.

    >>> table = pd.DataFrame({"text": ["Where is my parcel?", "where is my  PARCEL?", "Where is my parcel??", "Hello"]})
    >>> repeated_rows(table, ["text"])[["finding", "row", "other"]].values.tolist()
    [['repeated row', 1, 0], ['nearly repeated row', 2, 0]]
    """
    cells, plain = frame[texts[0]], frame[list(texts)].map(normalised)
    first = np.array(first_rows(plain.itertuples(index=False, name=None)), dtype=int)
    repeated = first != np.arange(len(first))
    kept = np.flatnonzero(~repeated)
    pairs = _near_pairs([plain[name].iloc[kept].tolist() for name in texts])
    pairs = pairs[pairs["other"] < pairs["row"]].drop_duplicates("row")
    rows, others = cells.iloc[kept[pairs["row"]]], cells.iloc[kept[pairs["other"]]]
    exact = _found("repeated row", cells[repeated], cells.iloc[first[repeated]], 1.0)
    return pd.concat([exact, _found("nearly repeated row", rows, others, pairs["value"])])


def shared_texts(frame: pd.DataFrame, texts: Sequence[str], group: str | None = None) -> pd.DataFrame:
    """Find rows with the anchor or positive of an earlier row that is not in the same group.

    In one batch each of them makes the other's positive a negative. Training masks equal texts, but a group also covers
    texts that differ, and other tools.

    >>> table = pd.DataFrame({"question": ["Why?", "How?"], "answer": ["So.", "so."]})
    >>> shared_texts(table, ["question", "answer"])[["finding", "row", "other"]].values.tolist()
    [['shared positive', 1, 0]]
    """
    groups, found = _groups(frame, group), []
    for role, name in zip(("anchor", "positive"), texts, strict=False):
        first = first_rows(normalised(text) for text in frame[name])
        rows = [row for row, other in enumerate(first) if groups[row] != groups[other]]
        others = frame[name].iloc[[first[row] for row in rows]]
        found.append(_found(f"shared {role}", frame[name].iloc[rows], others, 1.0))
    return pd.concat(found)


def linked_rows(frame: pd.DataFrame, texts: Sequence[str], group: str | None = None) -> pd.Series:
    """Return what a split must keep together: for each row the first row linked to it by shared texts or groups.

    These are the connected components; empty texts link nothing. Use it as `groups` in scikit-learn's
    `GroupShuffleSplit`, and no text of the test is trained on.

    >>> table = pd.DataFrame({"question": ["Why?", "Why?", "How?", "When?"], "answer": ["So.", "No.", "no.", "Now."]})
    >>> linked_rows(table, ["question", "answer"]).tolist()
    [0, 0, 0, 3]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    keys: list[Hashable] = [normalised(text) or object() for name in texts for text in frame[name]]
    keys += [(key,) for key in _groups(frame, group)]  # a tuple: a group may have the name of a text
    count = len(frame)
    first = np.array(first_rows(keys), dtype=int) % max(count, 1)  # the first row with the same text or group
    edges = (np.tile(np.arange(count), len(texts) + 1), first)
    graph = coo_array((np.ones(len(keys)), edges), shape=(count, count))
    parts = connected_components(graph, directed=False)[1]
    return frame.index.to_series().groupby(parts).transform("first")


def false_hard_negatives(frame: pd.DataFrame, texts: Sequence[str], group: str | None = None) -> pd.DataFrame:
    """Find hard negatives that are an anchor or positive of their row, or of a row with its anchor or group."""
    anchors, positives = ([normalised(text) for text in frame[name]] for name in texts[:2])
    keys = list(zip(anchors, _groups(frame, group), strict=True))
    right: dict[tuple[Hashable, str], int] = {}  # (what belongs together, a text of it) -> its first row
    for row, together in enumerate(keys):
        for key in together:
            right.setdefault((key, positives[row]), row)
            right.setdefault((key, anchors[row]), row)
    found = [_found("positive among the negatives", frame[texts[1]].iloc[[]])]
    for name in texts[2:]:
        pairs = [(row, (key, normalised(text))) for row, text in enumerate(frame[name]) for key in keys[row]]
        hits = {row: right[pair] for row, pair in pairs if pair in right}
        others = frame[texts[1]].iloc[list(hits.values())]
        found.append(_found("positive among the negatives", frame[name].iloc[list(hits)], others, 1.0))
    return pd.concat(found)


def nearer_positives(
    frame: pd.DataFrame, texts: Sequence[str], model: Encoder, group: str | None = None, alike: float = ALIKE
) -> pd.DataFrame:
    """Find rows whose anchor is very near the positive of another row, nearer than its own: a false negative?

    Rows known to belong together (same anchor, positive or group) are left out. `other` is the row with the nearest
    positive, `value` its cosine; the nearest come first. With a weak model, some near questions that need different
    answers are found, too.
    """
    if not len(frame):
        return _found("nearer positive", frame[texts[0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # truncated texts are a finding of their own
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
        scores[anchor[rows, None] == positive] = -np.inf  # the anchor's own text as the positive of another row
        best[rows], value[rows] = scores.argmax(axis=1), scores.max(axis=1)
    suspects = np.flatnonzero((value >= alike) & (value > (anchors * positives).sum(axis=1)))
    suspects = suspects[np.argsort(-value[suspects], kind="stable")]
    others = frame[texts[1]].iloc[best[suspects]]
    return _found("nearer positive", frame[texts[0]].iloc[suspects], others, value[suspects])


def leaked_texts(frame: pd.DataFrame, texts: Sequence[str], evaluation: Iterable[str]) -> pd.DataFrame:
    """Find texts that are also in the evaluation, or nearly; `other` is the position among its texts.

    >>> table = pd.DataFrame({"text": ["Where is my parcel", "Hello"]})
    >>> leaked_texts(table, ["text"], ["hello", "Where is my parcel?"])[["finding", "row", "other"]].values.tolist()
    [['text of the evaluation', 1, 0], ['near text of the evaluation', 0, 1]]
    """
    held = pd.Series(list(evaluation), dtype=object)
    plain_held = held.map(normalised).drop_duplicates()
    places = pd.Series(plain_held.index, plain_held)
    found = []
    for name in texts:
        plain = frame[name].map(normalised)
        exact = plain.isin(places.index)
        found.append(_found("text of the evaluation", frame[name][exact], held.iloc[places[plain[exact]]], 1.0))
        pairs = _near_pairs([plain[~exact].tolist()], list(places.index))
        pairs = pairs.sort_values("value", ascending=False, kind="stable").drop_duplicates("row").sort_values("row")
        rows, others = frame[name][~exact].iloc[pairs["row"]], held.iloc[places.iloc[pairs["other"]]]
        found.append(_found("near text of the evaluation", rows, others, pairs["value"]))
    return pd.concat(found)


def truncated_texts(frame: pd.DataFrame, texts: Sequence[str], model: SentenceTransformer) -> pd.DataFrame:
    """Find texts longer than the model reads; `value` is the number of lost tokens, the most first."""
    block: Any = model._first_module()
    found = []
    for name in texts:
        lost = np.asarray(block.token_ids(frame[name].tolist()).cut, dtype=np.float64)
        found.append(_found("truncated text", frame[name][lost > 0], values=lost[lost > 0]))
    return pd.concat(found).sort_values("value", ascending=False, kind="stable")


def label_faults(frame: pd.DataFrame, label: str, scale: tuple[float, float] = (0.0, 1.0)) -> pd.DataFrame:
    """Find labels that are missing or not a number, off the scale, or all the same; `value` is the label."""
    low, high = scale
    values = pd.to_numeric(frame[label], errors="coerce").to_numpy(dtype=float)
    there = values[np.isfinite(values)]
    constant = len(there) > 1 and there.min() == there.max()
    faults = {
        "missing label": ~np.isfinite(values),
        "label off the scale": np.isfinite(values) & ((values < low) | (values > high)),
        "constant label": np.isfinite(values) & constant,
    }
    return pd.concat([_found(fault, frame[label][rows], values=values[rows]) for fault, rows in faults.items()])


def collision_share(keys: Sequence[Hashable], batch_size: int) -> float:
    """Return the expected share of rows that meet another row with their key in a shuffled batch.

    With m rows of a key among n, a batch holds none of the other m - 1 with a hypergeometric probability.

    >>> round(collision_share(["a", "a", "b", "c"], batch_size=2), 4)  # half of the rows, with probability 1/3
    0.1667
    """
    from scipy.stats import hypergeom

    first = np.array(first_rows(keys))
    others = np.bincount(first)[first] - 1  # (rows,)
    return float(np.mean(hypergeom.sf(0, len(first) - 1, others, batch_size - 1)))


def _found(finding: str, cells: pd.Series, others: pd.Series | None = None, values: Any = np.nan) -> pd.DataFrame:
    """Return one finding per cell of a column; each collides with the cell of `others` at the same position."""
    table = pd.DataFrame(index=range(len(cells)), columns=list(COLUMNS), dtype=object)
    table["finding"], table["column"] = finding, str(cells.name)
    table["row"], table["text"] = cells.index.astype(object), cells.to_numpy(dtype=object)
    if others is not None:
        table["other"], table["other_text"] = others.index.astype(object), others.to_numpy(dtype=object)
    return table.assign(value=np.broadcast_to(np.asarray(values, dtype=float), len(cells)))


def _near_pairs(columns: Sequence[Sequence[str]], others: Sequence[str] | None = None) -> pd.DataFrame:
    """Pairs of a row and another that are near in every column, with the least cosine of their four-letter runs.

    The others are all rows; given `others`, the single column is compared with these texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    rows = len(columns[0])
    if not rows or (others is not None and not others):
        return pd.DataFrame({"row": [], "other": [], "value": []}, dtype=int)
    mark = "\x02\x02{}\x03".format  # marks at both ends, so that the shortest text has a run of four, too
    count = TfidfVectorizer(analyzer="char", ngram_range=(4, 4), use_idf=False, preprocessor=mark)
    vectors = [count.fit_transform([*column, *(others or ())]) for column in columns]
    rivals = vectors[0] if others is None else vectors[0][rows:]
    search = NearestNeighbors(radius=1 - NEAR + ROUNDING, metric="cosine").fit(rivals)
    distances, found = search.radius_neighbors(vectors[0][:rows])
    pairs = pd.DataFrame({"row": np.repeat(range(rows), list(map(len, found))), "other": np.concatenate(found)})
    pairs["value"] = 1 - np.concatenate(distances)
    for column in vectors[1:]:
        cosines = column[pairs["row"]].multiply(column[pairs["other"]]).sum(axis=1)
        pairs["value"] = np.minimum(pairs["value"], np.asarray(cosines).ravel())
    return pairs[pairs["value"] >= NEAR - ROUNDING]


def _groups(frame: pd.DataFrame, group: str | None) -> list[Hashable]:
    return group_keys(None if group is None else frame[group].tolist(), len(frame))


def _in_words(finding: pd.Series) -> str:
    """Describe a finding in one line."""
    words = f"row {finding['row']}"
    if isinstance(finding["text"], str):
        words += f": {shorten(finding['text'], SHOWN, placeholder=' ...')!r}"
    if isinstance(finding["other_text"], str):
        place = "evaluation" if "evaluation" in finding["finding"] else "row"
        words += f" | {place} {finding['other']}: {shorten(finding['other_text'], SHOWN, placeholder=' ...')!r}"
    elif pd.notna(finding["value"]):
        lost = finding["finding"] == "truncated text"
        words += f" | {finding['value']:g} tokens lost" if lost else f": {finding['column']} = {finding['value']:g}"
    return words
