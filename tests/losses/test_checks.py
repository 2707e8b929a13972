"""What losses refuse: rows and labels that do not fit, and settings out of range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DistilBertConfig, DistilBertModel

from sbertlab import losses

DIM = 6
TEXTS = [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"], ["i", "j"]]
NUMBERS, CLASSES, BITS = torch.tensor([0.2, 0.9]), torch.tensor([2, 3]), torch.tensor([0, 1])
VECTORS, SCORES = torch.ones(2, DIM), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
PAIRS = [torch.eye(2, DIM), torch.ones(2, DIM)]
Cosine, Ranking, Matryoshka = losses.CosineSimilarityLoss, losses.MultipleNegativesRankingLoss, losses.MatryoshkaLoss


def softmax() -> losses.SoftmaxLoss:
    return losses.SoftmaxLoss(None, DIM, 3)


def gist(guide: nn.Module | None = None, **settings: Any) -> losses.GISTEmbedLoss:
    fake = nn.Identity()
    fake.encode = None  # type: ignore[assignment]
    return losses.GISTEmbedLoss(None, guide or fake, **settings)


WRONG: list[tuple[Callable[[], losses.Loss], Any, Any, str]] = [
    (Cosine, 3, NUMBERS, "takes 2 texts per row, got 3.*Losses for such rows: .*MarginMSELoss"),
    (Cosine, 2, None, "takes one number per row, got no labels"),
    (Cosine, 2, VECTORS, r"got labels of shape \(2, 6\)"),
    (Cosine, 2, torch.tensor(0.5), r"got labels of shape \(\) for 2 rows"),
    (Cosine, 2, [0.5, 0.1], "takes labels as a tensor, got list"),
    (Cosine, 2, torch.tensor([math.nan, 1.0]), "got the label nan"),
    (Cosine, 2, torch.tensor([4.5, 1.0]), "from -1 to 1, as cosines are, got 4.5"),
    (losses.ContrastiveLoss, 2, NUMBERS, "takes one label 0 or 1 per row, got the label 0.2"),
    (softmax, 2, NUMBERS, "takes one integer class per row, got float32 labels.*Losses for such rows: .*Cosine"),
    (softmax, 2, CLASSES, "has the classes 0 to 2, got class 3"),
    (softmax, 2, -BITS, "has the classes 0 to 2, got class -1"),
    (losses.MSELoss, 1, NUMBERS, r"takes one target vector per row, got labels of shape \(2,\)"),
    (losses.MSELoss, 2, torch.ones(2, 3, DIM), r"got labels of shape \(2, 3, 6\) for 2 rows of 2 texts"),
    (losses.MarginMSELoss, 2, NUMBERS, "takes 3 or more texts per row, got 2"),
    (losses.MarginMSELoss, 5, SCORES, "takes one row of candidate scores per row"),
    (losses.BatchHardTripletLoss, 2, BITS, "takes 1 text per row, got 2"),
    (lambda: Matryoshka(None, losses.TripletLoss(), [2]), 2, None, "TripletLoss takes 3 texts per row, got 2"),
]


@pytest.mark.parametrize(("make", "columns", "labels", "message"), WRONG)
def test_rows_that_a_loss_cannot_take_are_refused(
    make: Callable[[], losses.Loss], columns: int, labels: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make().check_batch(TEXTS[:columns], labels)


@pytest.mark.parametrize(
    ("texts", "labels", "fits", "does_not"),
    [
        (2, BITS, "OnlineContrastiveLoss", "MSELoss"),
        (2, NUMBERS, "CoSENTLoss", "OnlineContrastiveLoss"),
        (3, SCORES, "DistillKLDivLoss", "TripletLoss"),
        (1, CLASSES, "BatchAllTripletLoss", "SoftmaxLoss"),
        (2, torch.zeros(2), "MultipleNegativesRankingLoss", "MatryoshkaLoss"),
    ],
)
def test_fitting_losses_take_such_rows(texts: int, labels: Tensor, fits: str, does_not: str) -> None:
    found = losses.fitting_losses(texts, labels)
    assert fits in found
    assert does_not not in found


COMPUTED: list[tuple[Callable[[], losses.Loss], Any, Any, str]] = [
    (Ranking, [], None, r"takes embeddings of one shape \(batch, dim\)"),
    (Ranking, [column[0] for column in PAIRS], None, r"takes embeddings of one shape \(batch, dim\)"),
    (Ranking, [column[:0] for column in PAIRS], None, r"takes embeddings of one shape \(batch, dim\)"),
    (Ranking, [PAIRS[0], PAIRS[1][:1]], None, r"takes embeddings of one shape \(batch, dim\)"),
    (Ranking, [[[1.0, 2.0]], PAIRS[0].numpy()], None, r"takes embeddings as tensors, got \['list', 'ndarray'\]"),
    (Cosine, PAIRS + PAIRS, NUMBERS, "takes the embeddings of 2 columns, got 4"),
    (Cosine, PAIRS, NUMBERS[:1], r"got labels of shape \(1,\)"),
    (Cosine, PAIRS, [0.5, 0.1], "takes labels as a tensor, got list"),
    (losses.MSELoss, PAIRS[:1], torch.ones(2, 4), "give the student a Dense layer with out_features=4"),
    (gist, PAIRS, None, r"prepare\(columns, None\) makes them"),
    (lambda: Matryoshka(None, Ranking(), [8]), PAIRS, None, "matryoshka_dims go up to 8, but the embeddings have 6"),
    (lambda: losses.SoftmaxLoss(None, 4, 3), PAIRS, BITS, "loss was made for embeddings of dimension 4, got 6"),
]


@pytest.mark.parametrize(("make", "embeddings", "labels", "message"), COMPUTED)
def test_compute_names_what_does_not_fit(
    make: Callable[[], losses.Loss], embeddings: Any, labels: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make().compute(embeddings, labels)


def test_columns_of_different_lengths_empty_batches_and_missing_models_are_refused() -> None:
    for columns in ([["a", "b"], ["c"]], [[], []], []):
        with pytest.raises(ValueError, match="columns of one positive length"):
            Ranking().check_batch(columns, None)
    with pytest.raises(ValueError, match="TripletLoss was made without a model"):
        losses.TripletLoss()([{}, {}, {}])


TRIPLET, NO_INPUT = losses.TripletLoss(), {"concatenation_sent_rep": False, "concatenation_sent_difference": False}
BAD_SETTINGS: list[tuple[Callable[[], Any], str]] = [
    (lambda: Ranking(scale=0), "scale must be a number above 0, got 0"),
    (lambda: Ranking(hard_negatives="mine"), "'shared', 'own', got 'mine'"),
    (lambda: Ranking(label_smoothing=1.5), "at most 1, got 1.5"),
    (lambda: Ranking(similarity_fct="cos"), "similarity_fct must be a function"),
    (lambda: Ranking(20.0), "model must be a SentenceTransformer, got 20.0"),
    (lambda: losses.TripletLoss(triplet_margin=-1), "triplet_margin must be a number of at least 0, got -1"),
    (lambda: losses.SoftmaxLoss(None, DIM, 2.5), "num_labels must be a whole number of at least 2, got 2.5"),
    (lambda: losses.SoftmaxLoss(None, DIM, 2, **NO_INPUT), "at least one concatenation_"),
    (lambda: gist(nn.ReLU()), "guide must be a SentenceTransformer, got ReLU"),
    (lambda: gist(margin_strategy="percent"), "'absolute', 'relative', got"),
    (lambda: Matryoshka(None, nn.MSELoss(), [2]), "loss must be a loss of sbertlab.losses, got MSELoss"),
    (lambda: Matryoshka(None, TRIPLET, []), "must hold at least one dimension"),
    (lambda: Matryoshka(None, TRIPLET, [4, 2], [1.0]), "one weight for each"),
    (lambda: Matryoshka(None, TRIPLET, [4, 0]), "matryoshka_dims must be .* got 0"),
    (lambda: Matryoshka(None, TRIPLET, [4], n_dims_per_step=0), "n_dims_per_step"),
]


@pytest.mark.parametrize(("make", "message"), BAD_SETTINGS)
def test_settings_out_of_range_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_settings_that_do_not_fit_the_model_are_refused(tiny: Callable) -> None:
    model, tsdae = tiny(), losses.DenoisingAutoEncoderLoss
    with pytest.raises(ValueError, match="matryoshka_dims must be a whole number of at least 1 and at most 32, got 64"):
        Matryoshka(model, losses.TripletLoss(model), [64, 32])
    with pytest.warns(UserWarning, match="add 32 to matryoshka_dims"):
        Matryoshka(model, losses.TripletLoss(model), [16])
    with pytest.raises(ValueError, match="sentence_embedding_dimension must be the model's, 32, got 16"):
        losses.SoftmaxLoss(model, 16, 3)
    with pytest.raises(ValueError, match="takes a model with a Transformer"):
        tsdae(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="decoder_name_or_path must name a decoder, got None"):
        tsdae(model, tie_encoder_decoder=False)
    with pytest.raises(ValueError, match="up to 32 dimensions, the model's have 64"):
        tsdae(tiny(pooling=["cls", "mean"]))
    with pytest.raises(ValueError, match="takes 2 texts per row, got 1"):
        tsdae(model)([model.tokenize(TEXTS[0])])
    with pytest.raises(ValueError, match=r"takes token ids \(batch, tokens\) as labels, got shape \(3,\)"):
        tsdae(model).compute([torch.ones(3, 32)], torch.tensor([1, 2, 3]))
    model.auto_model = DistilBertModel(DistilBertConfig(vocab_size=9, dim=4, n_heads=1, n_layers=1, hidden_dim=4))
    with pytest.raises(ValueError, match="a distilbert model cannot be the decoder"):
        tsdae(model)
