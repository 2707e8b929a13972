"""Token-budget chunks against the rules they promise and against packing by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sbertlab.batching import (
    ACCELERATOR_TOKEN_BUDGET,
    CPU_TOKEN_BUDGET,
    PaddingMeter,
    default_token_budget,
    original_order,
    token_budget_chunks,
)

RANDOM = [np.random.default_rng(seed).integers(0, 80, size=200).tolist() for seed in range(3)]


def packed_one_by_one(lengths: list[int], budget: int, largest: int) -> list[list[int]]:
    """The same chunks by asking of every text whether it still fits."""
    chunks: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = chunks and (len(chunks[-1]) + 1) * max(1, lengths[chunks[-1][0]]) <= budget
        if fits and len(chunks[-1]) < largest:
            chunks[-1].append(index)
        else:
            chunks.append([index])
    return chunks


@pytest.mark.parametrize("lengths", RANDOM)
@pytest.mark.parametrize(("budget", "largest"), [(1, 3), (64, 7), (256, 1), (1024, 1000)])
def test_chunks_are_those_of_packing_one_text_after_another(lengths, budget, largest):
    assert token_budget_chunks(lengths, budget, largest) == packed_one_by_one(lengths, budget, largest)


@pytest.mark.parametrize("lengths", RANDOM)
def test_every_text_is_in_one_chunk_and_no_chunk_with_two_exceeds_the_budget(lengths):
    chunks = token_budget_chunks(lengths, budget=100)
    assert sorted(index for chunk in chunks for index in chunk) == list(range(len(lengths)))
    assert any(len(chunk) > 1 for chunk in chunks)
    assert all(len(chunk) * max(lengths[i] for i in chunk) <= 100 for chunk in chunks if len(chunk) > 1)


def test_a_text_longer_than_the_budget_has_a_chunk_of_its_own():
    assert token_budget_chunks([3, 50, 3, 60], budget=10) == [[3], [1], [0, 2]]


def test_texts_of_equal_length_keep_their_order():
    assert token_budget_chunks([5] * 6, budget=15) == [[0, 1, 2], [3, 4, 5]]


def test_texts_without_tokens_share_a_chunk_of_bounded_size():
    assert token_budget_chunks([0, 0, 0], budget=2) == [[0, 1], [2]]


def test_no_texts_give_no_chunks():
    assert token_budget_chunks([], budget=10) == []
    assert original_order([]).tolist() == []


def test_lengths_may_be_an_array():
    assert token_budget_chunks(np.array([3, 9, 4, 2]), budget=10) == token_budget_chunks([3, 9, 4, 2], budget=10)


@pytest.mark.parametrize(("arguments", "named"), [({"budget": 0}, "budget"), ({"budget": 9, "largest": 0}, "largest")])
def test_a_budget_or_bound_below_one_is_refused_by_name(arguments, named):
    with pytest.raises(ValueError, match=f"{named} must be at least 1"):
        token_budget_chunks([1, 2], **arguments)


@pytest.mark.parametrize("lengths", RANDOM)
def test_original_order_undoes_the_sorting(lengths):
    chunks = token_budget_chunks(lengths, budget=64)
    rows = torch.tensor([lengths[index] for chunk in chunks for index in chunk])
    assert rows.tolist() != lengths
    assert rows[original_order(chunks)].tolist() == lengths


def test_an_accelerator_gets_larger_chunks_than_a_cpu():
    assert default_token_budget(torch.device("cpu")) == CPU_TOKEN_BUDGET
    assert default_token_budget(torch.device("cuda", 1)) == ACCELERATOR_TOKEN_BUDGET > CPU_TOKEN_BUDGET


def test_the_padding_meter_adds_up_chunks():
    meter = PaddingMeter()
    assert meter.share == 0
    for lengths in ([4, 1], [2, 2], []):
        meter.add(lengths)
    assert (meter.tokens, meter.padded) == (9, 12)
    assert meter.share == pytest.approx(3 / 12)


def test_sorting_by_tokens_wastes_less_than_batches_in_the_order_given():
    sorted_meter, unsorted_meter = PaddingMeter(), PaddingMeter()
    lengths = RANDOM[0]
    for chunk in token_budget_chunks(lengths, budget=512):
        sorted_meter.add([lengths[index] for index in chunk])
    for start in range(0, len(lengths), 8):
        unsorted_meter.add(lengths[start : start + 8])
    assert sorted_meter.tokens == unsorted_meter.tokens == sum(lengths)
    assert sorted_meter.share < unsorted_meter.share / 3
