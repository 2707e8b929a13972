from __future__ import annotations

import builtins

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import IterableDataset

from sbertlab.data import (
    InputExample,
    collate,
    examples_from_dataset,
    examples_from_frame,
    examples_to_dataset,
    examples_to_frame,
    groups_of,
)
from sbertlab.data.texts import normalised


def pair(label: object, **arguments) -> InputExample:
    return InputExample(texts=["a", "b"], label=label, **arguments)


def content(examples):
    return [(row.guid, row.texts, row.label) for row in examples]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 0], torch.tensor([1, 0])),
        ([True, np.int64(2)], torch.tensor([1, 2])),
        ([0.5, 1], torch.tensor([0.5, 1.0])),
        ([np.float32(0.5), torch.tensor(0.25)], torch.tensor([0.5, 0.25])),
        ([[0.5, 1.0], np.array([0, 1])], torch.tensor([[0.5, 1.0], [0.0, 1.0]])),
        ([torch.zeros(3), (1, 2, 3)], torch.tensor([[0.0, 0, 0], [1, 2, 3]])),
    ],
)
def test_labels_become_one_tensor(labels, expected):
    columns, tensor = collate([pair(label) for label in labels])
    assert columns == [["a", "a"], ["b", "b"]]
    assert tensor.dtype == expected.dtype
    assert torch.equal(tensor, expected)


def test_labels_that_are_none_stay_none_and_routes_stay_dicts():
    columns, labels = collate([InputExample(texts=[{"query": "q"}, "d"], label=None)] * 2)
    assert columns == [[{"query": "q"}, {"query": "q"}], ["d", "d"]]
    assert labels is None
    assert examples_to_frame([pair(None)]).columns.tolist() == ["guid", "text_1", "text_2"]


def test_groups_are_hashable_ids_per_row():
    rows = [pair(0, group=group) for group in (1, None, 1)]
    assert groups_of(rows) == [1, None, 1]
    assert groups_of(rows[1:2]) is None
    assert repr(rows[0]) == "InputExample(guid='', texts=['a', 'b'], label=0)"
    with pytest.raises(ValueError, match=r"group must be hashable, .* got \['g'\]"):
        pair(0, group=["g"])
    with pytest.raises(ValueError, match="must be a list of texts"):
        InputExample(texts="one text")


def test_normalised_texts_are_equal_whatever_their_case_spaces_and_unicode_form():
    assert normalised("\u2003Caf\u00e9 ﬁne\n") == normalised("cafe\u0301\u00a0 FINE") == "caf\u00e9 fine"
    assert normalised("\uff21\uff22\uff23") == "abc"
    assert normalised("a.") != normalised("a")


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "there is no example"),
        ([pair(0), InputExample(texts=["a"], guid="f:7")], r"example 1 \(f:7\) has 1 texts, example 0 has 2"),
        ([pair(0.5), pair(None)], "label of example 1 is None, that of example 0 is a number"),
        ([pair([1.0, 2.0]), pair([1.0])], "is a vector of 1 numbers, that of example 0 is a vector of 2 numbers"),
        ([pair(0.5), pair(float("nan"), guid="f:3")], r"label of example 1 \(f:3\) must be a finite number, got nan"),
        ([pair(1e300)], "must be a finite number"),
        ([pair(2**70)], "must be a finite number"),
        ([pair([0.0, float("nan")])], "must be a flat vector of finite numbers"),
        ([pair([1e300])], "must be a flat vector of finite numbers"),
        ([pair([[0.0], [1.0, 2.0]])], "must be a flat vector"),
        ([pair([])], "must be a flat vector"),
        ([pair("neutral")], "must be a number, a vector or None, got 'neutral' of type str; number the classes"),
        ([InputExample(texts=["a", None])], "text 1 of example 0 must be a text.* got None of type NoneType"),
        ([InputExample(texts=[{"query": "q", "document": "d"}])], "must be a text, or {route: text}"),
        ([{"texts": ["a"]}], "must be an InputExample with a list of texts"),
    ],
)
def test_a_batch_that_fits_no_loss_says_why(examples, message):
    with pytest.raises(ValueError, match=message):
        collate(examples)


FRAME = pd.DataFrame({"q": ["How?", "Where?"], "a": ["So.", "Here."], "s": [0.5, 1.0], "id": ["x1", "x2"]})


def test_a_frame_gives_examples_in_the_order_of_the_named_columns():
    examples = examples_from_frame(FRAME, texts=["a", "q"], label="s", guid="id")
    assert content(examples) == [("x1", ["So.", "How?"], 0.5), ("x2", ["Here.", "Where?"], 1.0)]
    assert [row.label for row in examples_from_frame(FRAME, texts=["a"])] == [0, 0]


@pytest.mark.parametrize("labels", [[0.5, 1.0], [1, 2], [np.array([0.5, 0.25]), [1.0, 2.0]]])
def test_examples_survive_the_way_through_a_frame_and_a_dataset(labels):
    examples = [pair(label, guid=f"x{label}") for label in labels]
    frame, dataset = examples_to_frame(examples), examples_to_dataset(examples)
    assert dataset.column_names == frame.columns.tolist() == ["guid", "text_1", "text_2", "label"]
    columns = {"texts": ["text_1", "text_2"], "label": "label", "guid": "guid"}
    for again in (
        examples_from_frame(frame, **columns),
        examples_from_dataset(dataset, **columns),
        examples_from_dataset(dataset.to_iterable_dataset(), **columns),
    ):
        assert [row.guid for row in again] == [row.guid for row in examples]
        assert collate(again)[0] == collate(examples)[0]
        assert torch.equal(collate(again)[1], collate(examples)[1])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("q", None, "row 1: column 'q' must be a text, got"),
        ("a", "  ", "row 1: empty text in column 'a'"),
        ("s", "good", "row 1: column 's' must be a number, a vector or None, got 'good'.*cat.codes"),
    ],
)
def test_a_bad_cell_of_a_frame_is_named_by_its_row_and_can_be_skipped(column, value, message):
    frame = FRAME.astype(object)
    frame.loc[1, column] = value
    with pytest.raises(ValueError, match=f"frame, {message}"):
        examples_from_frame(frame, texts=["q", "a"], label="s")
    with pytest.warns(UserWarning, match=r"frame: skipped 1 of 2 rows, rows 1") as caught:
        assert len(examples_from_frame(frame, texts=["q", "a"], label="s", on_error="skip")) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: examples_from_frame(FRAME, texts=["q", "r"]), "column 'r' is missing; the columns are 'q', "),
        (lambda: examples_from_frame(FRAME, texts=["q"], label="score"), "column 'score' is missing"),
        (lambda: examples_from_frame(FRAME, texts="q"), "texts must be a list of at least one column name"),
        (lambda: examples_from_frame(FRAME[["q", "q"]], texts=["q"]), "column 'q' occurs twice"),
        (lambda: examples_from_frame(FRAME.iloc[:0], texts=["q"]), "nothing to read in frame"),
        (lambda: examples_from_frame({"q": ["a"]}, texts=["q"]), "must be a pandas DataFrame, got dict"),
        (lambda: examples_from_dataset({"train": 1}, texts=["q"]), r"one split, such as dataset\['train'\]"),
        (lambda: examples_to_frame([pair(0)], texts=["q"]), "texts must name 2 columns"),
        (lambda: examples_to_frame([pair(0)], texts=["q", "label"]), 'none of them "guid" or "label"'),
    ],
)
def test_tables_that_do_not_fit_are_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_streamed_row_without_a_column_is_named():
    stream = IterableDataset.from_generator(lambda: iter([{"q": "a"}, {"a": "b"}]))
    with pytest.raises(ValueError, match=r"dataset, row 1: column 'q' must be a text, got nan"):
        examples_from_dataset(stream, texts=["q"])


def test_without_the_datasets_package_the_error_says_what_to_install(monkeypatch):
    real_import = builtins.__import__

    def no_datasets(name: str, *arguments, **keywords):
        if name == "datasets":
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", no_datasets)
    with pytest.raises(ImportError, match="pip install"):
        examples_to_dataset([pair(0)])
