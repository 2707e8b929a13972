"""Token-budget chunks against the rules they promise and against packing by hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from sbertlab.encoder.batching import (
    ACCELERATOR_TOKEN_BUDGET,
    CHUNK_COST,
    CPU_TOKEN_BUDGET,
    PaddingMeter,
    default_token_budget,
    original_order,
    token_budget_chunks,
)

RANDOM = [np.random.default_rng(seed).integers(0, 80, size=200).tolist() for seed in range(3)]


def least_cost(lengths: list[int], budget: int) -> int:
    """The least cost of any cuts of the sorted texts, by trying them all."""
    sizes = sorted(lengths, reverse=True)
    overhead = max(1, budget // CHUNK_COST)

    @cache
    def of(first: int) -> int:
        if first == len(sizes):
            return 0
        fitting = [n for n in range(1, len(sizes) - first + 1) if n == 1 or n * sizes[first] <= budget]
        return min(n * sizes[first] + overhead + of(first + n) for n in fitting)

    return of(0)


def cost_of(chunks: list[list[int]], lengths: list[int], budget: int) -> int:
    return sum(len(chunk) * max(lengths[i] for i in chunk) + max(1, budget // CHUNK_COST) for chunk in chunks)


@pytest.mark.parametrize("lengths", RANDOM)
@pytest.mark.parametrize("budget", [1, 64, 256, 1024, 5000])
def test_no_other_cuts_are_much_cheaper(lengths, budget):
    lengths = [max(1, length) for length in lengths]
    least = least_cost(lengths, budget)
    assert least <= cost_of(token_budget_chunks(lengths, budget), lengths, budget) <= 1.03 * least


def test_spread_lengths_are_cut_finer_than_equal_ones():
    assert len(token_budget_chunks([20] * 50, budget=1024)) == 1
    assert len(token_budget_chunks([40] * 10 + [10] * 60, budget=1024)) == 2
    assert len(token_budget_chunks([11] * 20 + [10] * 50, budget=1024)) == 1, "50 tokens of padding are cheaper"
    assert len(token_budget_chunks([11] * 8 + [10] * 70, budget=1024)) == 2, "70 are not"


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


def test_no_texts_give_no_chunks():
    assert token_budget_chunks([], budget=10) == []
    assert original_order([]).tolist() == []


def test_a_budget_below_one_is_refused():
    with pytest.raises(ValueError, match="budget must be at least 1"):
        token_budget_chunks([1, 2], budget=0)


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
