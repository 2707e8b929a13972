"""What losses refuse: rows and labels that do not fit, and settings out of range."""

import math

import pytest
import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertModel

from sbertlab import losses

DIM = 6
TEXTS = [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"], ["i", "j"]]
NUMBERS, CLASSES, BITS = torch.tensor([0.2, 0.9]), torch.tensor([2, 3]), torch.tensor([0, 1])
VECTORS, SCORES = torch.ones(2, DIM), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
PAIRS = [torch.eye(2, DIM), torch.ones(2, DIM)]
Cosine, Ranking, Matryoshka = losses.CosineSimilarityLoss, losses.MultipleNegativesRankingLoss, losses.MatryoshkaLoss


def softmax():
    return losses.SoftmaxLoss(None, DIM, 3)


@pytest.mark.parametrize(
    ("make", "columns", "labels", "message"),
    [
        (Cosine, 3, NUMBERS, r"takes 2 text\(s\) per row, got 3.*Losses for such rows: .*MarginMSELoss"),
        (Cosine, 2, None, "takes one number per row, got no labels"),
        (Cosine, 2, VECTORS, r"got labels of shape \(2, 6\)"),
        (Cosine, 2, torch.tensor([math.nan, 1.0]), "got the label nan"),
        (Cosine, 2, torch.tensor([4.5, 1.0]), r"in \[-1, 1\], got the label 4.5"),
        (losses.ContrastiveLoss, 2, NUMBERS, "takes one label 0 or 1 per row .*got the label 0.2"),
        (softmax, 2, NUMBERS, "takes one integer class per row, got float32 labels.*Losses for such rows: .*Cosine"),
        (softmax, 2, CLASSES, r"in \[0, 2\], got the label 3"),
        (losses.MSELoss, 1, NUMBERS, r"takes one target vector per row, got labels of shape \(2,\)"),
        (losses.MSELoss, 2, torch.ones(2, 3, DIM), r"got labels of shape \(2, 3, 6\) for 2 rows of 2 texts"),
        (losses.MarginMSELoss, 2, NUMBERS, r"takes 3 or more text\(s\) per row, got 2"),
        (losses.MarginMSELoss, 5, SCORES, "takes one row of candidate scores per row"),
        (lambda: Matryoshka(None, losses.TripletLoss(), [2]), 2, None, r"takes 3 text\(s\) per row, got 2"),
    ],
)
def test_rows_that_a_loss_cannot_take_are_refused(make, columns, labels, message):
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
def test_fitting_losses_take_such_rows(texts, labels, fits, does_not):
    found = losses.fitting_losses(texts, labels)
    assert fits in found
    assert does_not not in found


@pytest.mark.parametrize(
    ("make", "embeddings", "labels", "message"),
    [
        (Ranking, [], None, r"takes embeddings of one shape \(batch, dim\)"),
        (Ranking, [column[0] for column in PAIRS], None, r"takes embeddings of one shape \(batch, dim\)"),
        (Ranking, [PAIRS[0], PAIRS[1][:1]], None, r"takes embeddings of one shape \(batch, dim\)"),
        (Cosine, PAIRS + PAIRS, NUMBERS, "takes the embeddings of 2 columns, got 4"),
        (Cosine, PAIRS, NUMBERS[:1], r"got labels of shape \(1,\)"),
        (losses.MSELoss, PAIRS[:1], torch.ones(2, 4), "teacher's vectors have 4 dimensions, the student's 6"),
        (lambda: losses.GISTEmbedLoss(None, nn.Identity()), PAIRS, None, r"prepare\(columns, None\) makes"),
        (lambda: Matryoshka(None, Ranking(), [8]), PAIRS, None, "matryoshka_dims go up to 8, but the embeddings have"),
        (lambda: losses.SoftmaxLoss(None, 4, 3), PAIRS, BITS, "loss was made for embeddings of dimension 4, got 6"),
    ],
)
def test_compute_names_what_does_not_fit(make, embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        make().compute(embeddings, labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ranking(scale=0), "scale must be a number above 0, got 0"),
        (lambda: Ranking(hard_negatives="mine"), "'shared', 'own', got 'mine'"),
        (lambda: losses.GISTEmbedLoss(None, nn.Identity(), margin_strategy="percent"), "'absolute', 'relative', got"),
        (lambda: Matryoshka(None, losses.TripletLoss(), [4, 0]), "matryoshka_dims must be .* got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_models_that_cannot_be_decoders_and_token_ids_that_are_none_are_refused(tiny):
    model, tsdae = tiny(), losses.DenoisingAutoEncoderLoss
    with pytest.raises(ValueError, match="takes a model with a Transformer"):
        tsdae(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"prepare\(columns, None\) makes"):
        tsdae(model).compute([torch.ones(3, 32)], torch.tensor([1, 2, 3]))
    model.auto_model = DistilBertModel(DistilBertConfig(vocab_size=9, dim=4, n_heads=1, n_layers=1, hidden_dim=4))
    with pytest.raises(ValueError, match="a distilbert model cannot be the decoder"):
        tsdae(model)
