"""Loaders and data sets whose order, groups and noise are functions of seed and epoch."""

import time
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from sbertlab.readers import InputExample
from torch.utils.data import DataLoader

from sbertlab.data.loaders import DenoisingAutoEncoderDataset, NoDuplicatesDataLoader, SentenceLabelDataset


def rows(*texts):
    return [InputExample(guid=str(index), texts=row) for index, row in enumerate(texts)]


def random_rows(count, distinct, seed=0):
    draw = np.random.default_rng(seed)
    return rows(*([f"a{draw.integers(distinct)}", f" A{draw.integers(distinct)} ", f"c{i}"] for i in range(count)))


def guids(loader):
    return [[example.guid for example in batch] for batch in loader]


def repeated_texts(batch):
    keys = [key for example in batch for key in {text.strip().lower() for text in example.texts}]
    return [key for key, count in Counter(keys).items() if count > 1]


@pytest.mark.parametrize(("count", "distinct", "batch_size"), [(200, 30, 8), (500, 2000, 32), (2000, 6, 2)])
def test_no_text_occurs_in_two_rows_of_a_batch_and_no_row_twice_in_an_epoch(count, distinct, batch_size):
    loader = NoDuplicatesDataLoader(random_rows(count, distinct), batch_size)
    plain = DataLoader(random_rows(count, distinct), batch_size, shuffle=True, collate_fn=list)
    assert any(repeated_texts(batch) for batch in plain)  # a plain loader would repeat texts
    for epoch in range(4):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) > 0
        assert all(len(batch) == batch_size and not repeated_texts(batch) for batch in batches)
        assert max(Counter(example.guid for batch in batches for example in batch).values()) == 1


def test_texts_are_equal_but_for_case_and_outer_spaces_on_every_route_and_within_a_row():
    loader = NoDuplicatesDataLoader(rows(["Rain", "1"], [" rain\n", "2"], ["sun", "3"], ["SUN", "4"]), 2)
    assert [{row.texts[0].strip().lower() for row in batch} for batch in loader] == [{"rain", "sun"}] * 2
    routes = rows([{"query": "x"}, "1"], [{"query": "X "}, "2"], [{"query": "y"}, "3"], [{"query": "y"}, "4"])
    for batch in NoDuplicatesDataLoader(routes, 2):
        assert {example.texts[0]["query"].strip().lower() for example in batch} == {"x", "y"}
    own = NoDuplicatesDataLoader(rows(*([f"s{i}", f"s{i}"] for i in range(6))), 3)
    assert sorted(chain(*guids(own))) == list("012345"), "a row may repeat its own text"


def test_rows_that_conflict_wait_for_a_later_batch_which_costs_few_batches_and_no_quadratic_planning():
    examples = rows(*([text, f"{text}{i}"] for text in "abcd" for i in range(25)))
    loader = NoDuplicatesDataLoader(examples, 4)
    assert len(loader) == 25  # floor(100 / 4), although each batch can hold one row of each of a, b, c and d only
    assert sorted(chain(*guids(loader)), key=int) == [str(i) for i in range(100)]
    draw = np.random.default_rng(0)
    examples = rows(*([f"a{draw.integers(50)}", f"a{draw.integers(50)}", f"b{i}"] for i in range(1000)))
    assert len(NoDuplicatesDataLoader(examples, 16)) >= 0.9 * (1000 // 16)
    examples = rows(*(["the same anchor", f"positive {i}"] for i in range(20_000)), *([f"x{i}"] for i in range(10)))
    begin = time.process_time()
    loader = NoDuplicatesDataLoader(examples, 2)
    assert time.process_time() - begin < 10  # every pair of rows once would take minutes
    assert len(loader) == 10  # each of the ten other rows beside one with the anchor
    assert not any(repeated_texts(batch) for batch in loader)


def labelled(*counts):
    rows = [(label, i) for label, count in enumerate(counts) for i in range(count)]
    return [InputExample(texts=[f"class {label}, row {i}"], label=label) for label, i in rows]


@pytest.mark.parametrize("with_replacement", [False, True])
@pytest.mark.parametrize("size", [2, 3])
def test_rows_come_in_groups_of_distinct_rows_of_one_class(with_replacement, size):
    dataset = SentenceLabelDataset(labelled(20, 7, 9), size, with_replacement)
    drawn = list(dataset)
    assert len(drawn) == len(dataset)
    for start in range(0, len(drawn), size):
        group = drawn[start : start + size]
        assert len({row.label for row in group}) == 1
        assert len({row.texts[0] for row in group}) == size


def test_rows_occur_once_or_all_classes_equally_often():
    drawn = Counter(row.texts[0] for row in SentenceLabelDataset(labelled(20, 7, 9)))
    assert set(drawn.values()) == {1}
    assert Counter(text.split(",")[0] for text in drawn) == {"class 0": 20, "class 1": 6, "class 2": 8}
    replaced = SentenceLabelDataset(labelled(50, 4), with_replacement=True)
    assert Counter(row.label for row in replaced) == {0: 26, 1: 26}


def test_classes_mix_in_every_batch_and_those_that_cannot_form_a_group_are_reported():
    batches = list(DataLoader(SentenceLabelDataset(labelled(*[10] * 4)), batch_size=8, collate_fn=list))
    assert len(batches) == 5
    assert all(Counter(row.label for row in batch) == {0: 2, 1: 2, 2: 2, 3: 2} for batch in batches)
    with pytest.warns(UserWarning, match="2 of 4 classes have fewer than 3 examples"):
        dataset = SentenceLabelDataset(labelled(4, 2, 6, 1), samples_per_label=3)
    assert {row.label for row in dataset} == {0, 2}


WORDS = [f"number {i} has these eight words in it" for i in range(50)]
MAKERS = {
    "no duplicates": lambda seed: NoDuplicatesDataLoader(random_rows(300, 100), 8, seed),
    "groups": lambda seed: SentenceLabelDataset(labelled(8, 10), seed=seed),
    "noise": lambda seed: DenoisingAutoEncoderDataset(WORDS, seed=seed),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_is_drawn_is_a_function_of_seed_and_epoch_alone(make):
    def drawn(seed, *epochs):
        data = make(seed)
        for epoch in epochs:
            data.set_epoch(epoch)
        return str(list(data))

    assert drawn(3, 2, 0, 1) == drawn(3, 1)
    assert len({drawn(seed, epoch) for seed in (3, 4) for epoch in (0, 1)}) == 4


def test_workers_share_the_groups_and_noise_is_that_of_the_text_whatever_the_order():
    plain, shared = (chain(*DataLoader(MAKERS["groups"](1), 2, num_workers=n, collate_fn=list)) for n in (0, 2))
    assert sorted(row.texts for row in plain) == sorted(row.texts for row in shared)
    noisy, again = MAKERS["noise"](0), MAKERS["noise"](0)
    assert [noisy[i].texts for i in range(50)] == [again[i].texts for i in range(49, -1, -1)][::-1]
    assert [row.texts[1] for row in noisy] == WORDS


def test_deletion_keeps_the_order_four_words_in_ten_and_at_least_one():
    delete, draw = DenoisingAutoEncoderDataset.delete, np.random.default_rng(0)
    kept = delete(" ".join(map(str, range(20_000))), rng=draw).split()
    assert kept == sorted(kept, key=int)
    assert len(kept) / 20_000 == pytest.approx(0.4, abs=0.02)
    assert {delete("a b", del_ratio=1.0, rng=draw) for _ in range(50)} == {"a", "b"}
    assert delete("", rng=draw) == ""
    assert DenoisingAutoEncoderDataset(["a b"], del_ratio=0.0)[0].texts == ["a b", "a b"]
    assert DenoisingAutoEncoderDataset(["a b"], noise_fn=str.upper)[0].texts == ["A B", "a b"]


SAME = rows(*(["same", str(i)] for i in range(9)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoDuplicatesDataLoader(SAME, 2), "9 examples give no batch of 2 in which no text is repeated"),
        (lambda: NoDuplicatesDataLoader(SAME, 0), "batch_size must be a whole number of at least 1"),
        (lambda: SentenceLabelDataset(labelled(5)), "two classes with at least 2 examples each, got 1 of 1"),
        (lambda: DenoisingAutoEncoderDataset(["a", None]), "sentence 1 must be a text, got None"),
        (lambda: DenoisingAutoEncoderDataset(["a b"], del_ratio=60), "del_ratio must be .* at most 1, got 60"),
    ],
)
def test_data_that_do_not_fit_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
