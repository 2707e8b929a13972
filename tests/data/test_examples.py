"""Batches of examples, and examples from and to tables."""

import numpy as np
import pandas as pd
import pytest
import torch

from sbertlab.data import InputExample, collate, examples_from_frame, examples_to_frame, groups_of
from sbertlab.data.texts import normalised


def pair(label, **arguments):
    return InputExample(texts=["a", "b"], label=label, **arguments)


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


def test_groups_are_ids_per_row_that_the_printed_example_leaves_out():
    rows = [pair(0, group=group) for group in (1, None, 1)]
    assert groups_of(rows) == [1, None, 1]
    assert groups_of(rows[1:2]) is None
    assert repr(rows[0]) == "InputExample(guid='', texts=['a', 'b'], label=0)"


def test_normalised_texts_are_equal_whatever_their_case_spaces_and_unicode_form():
    assert normalised("\u2003Caf\u00e9 ﬁne\n") == normalised("cafe\u0301\u00a0 FINE") == "caf\u00e9 fine"
    assert normalised("\uff21\uff22\uff23") == "abc"
    assert normalised("a.") != normalised("a")


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "there is no example"),
        ([pair(0), InputExample(texts=["a"], guid="f:7")], r"example 1 \(f:7\) has 1 texts .*, example 0 has 2"),
        ([pair(0.5), pair(None)], "example 1 has 2 texts and the label None, example 0 has 2 and 0.5"),
        ([pair([1.0, 2.0]), pair([1.0])], r"the label \[1.\], example 0 has 2 and \[1. 2.\]"),
        ([pair(0.5), pair(np.nan, guid="f:3")], r"label of example 1 \(f:3\) must be a finite number, .* got nan"),
        ([pair(2**70)], "must be a finite number"),
        ([pair([1e300])], "a flat vector"),
        ([pair([[0.0], [1.0]])], "a flat vector"),
        ([pair([])], "a flat vector"),
        ([pair("neutral")], "got 'neutral'; number the classes"),
        ([InputExample(texts=["a", None])], "example 0 must be an InputExample of texts"),
        ([InputExample(texts=[{"query": "q", "document": "d"}])], "must be .* texts .str or {route: str}"),
        ([{"texts": ["a"]}], "must be an InputExample"),
    ],
)
def test_a_batch_that_fits_no_loss_says_why(examples, message):
    with pytest.raises(ValueError, match=message):
        collate(examples)
    with pytest.raises(ValueError, match="must be a list of texts"):
        InputExample(texts="one text")


FRAME = pd.DataFrame({"q": ["How?", "Where?"], "a": ["So.", "Here."], "s": [0.5, 1.0]})


@pytest.mark.parametrize("labels", [[0.5, 1.0], [1, 2], [np.array([0.5, 0.25]), [1.0, 2.0]]])
def test_examples_survive_the_way_through_a_frame(labels):
    examples = [pair(label, guid=f"x{label}") for label in labels]
    frame = examples_to_frame(examples)
    assert frame.columns.tolist() == ["guid", "text_1", "text_2", "label"]
    assert frame["guid"].tolist() == [row.guid for row in examples]
    columns, tensor = collate(examples_from_frame(frame, texts=["text_2", "text_1"], label="label"))
    assert columns == collate(examples)[0][::-1], "in the order of the named columns"
    assert torch.equal(tensor, collate(examples)[1])
    assert [row.label for row in examples_from_frame(frame, texts=["text_1"])] == [0, 0]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("q", None, "column 'q' of row 1 must be a text, got"),
        ("a", "  ", "empty text in column 'a' of row 1"),
        ("s", "good", "column 's' of row 1 must be a finite number, .* got 'good'.*cat.codes"),
    ],
)
def test_a_bad_cell_of_a_frame_is_named_by_column_and_row_and_so_are_missing_columns(column, value, message):
    frame = FRAME.astype(object)
    frame.loc[1, column] = value
    with pytest.raises(ValueError, match=message):
        examples_from_frame(frame, texts=["q", "a"], label="s")
    with pytest.raises(ValueError, match=r"missing the columns \['r', 'score'\]"):
        examples_from_frame(FRAME, texts=["q", "r"], label="score")
