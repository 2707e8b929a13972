"""What losses refuse: rows and labels that do not fit, settings out of range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DistilBertConfig, DistilBertModel

from sbertlab import losses
from sbertlab.losses.base import fitting_losses

DIM = 6
TEXTS = [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"], ["i", "j"]]
NUMBERS, CLASSES, BITS = torch.tensor([0.2, 0.9]), torch.tensor([2, 3]), torch.tensor([0, 1])
VECTORS, SCORES = torch.ones(2, DIM), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
PAIRS = [torch.eye(2, DIM), torch.ones(2, DIM)]


def fake_guide() -> nn.Module:
    guide = nn.Identity()
    guide.encode = None  # type: ignore[assignment]
    return guide


WRONG: list[tuple[Callable[[], losses.Loss], int, Tensor | None, str]] = [
    (losses.CosineSimilarityLoss, 3, NUMBERS, "takes 2 texts per row, got 3"),
    (losses.CosineSimilarityLoss, 2, None, "takes one number per row, got no labels"),
    (losses.CosineSimilarityLoss, 2, VECTORS, r"takes one number per row, got labels of shape \(2, 6\)"),
    (losses.CosineSimilarityLoss, 2, torch.tensor([4.5, 1.0]), "from -1 to 1, as cosines are, got 4.5"),
    (losses.CosineSimilarityLoss, 2, torch.tensor([math.nan, 1.0]), "got the label nan"),
    (losses.CosineSimilarityLoss, 2, torch.tensor(0.5), r"got labels of shape \(\) for 2 rows"),
    (losses.CosineSimilarityLoss, 2, [0.5, 0.1], "takes labels as a tensor, got list"),
    (losses.CoSENTLoss, 1, NUMBERS, "takes 2 texts per row, got 1"),
    (losses.CoSENTLoss, 2, torch.tensor([math.inf, 1.0]), "got the label inf"),
    (losses.AnglELoss, 3, NUMBERS, "AnglELoss takes 2 texts"),
    (losses.AnglELoss, 2, None, "AnglELoss takes one number per row, got no labels"),
    (losses.ContrastiveLoss, 2, NUMBERS, "takes one label 0 or 1 per row, got the label 0.2"),
    (losses.ContrastiveLoss, 3, BITS, "takes 2 texts"),
    (losses.OnlineContrastiveLoss, 2, CLASSES, "takes one label 0 or 1 per row, got the label 2"),
    (losses.OnlineContrastiveLoss, 1, BITS, "takes 2 texts"),
    (lambda: losses.SoftmaxLoss(None, DIM, 3), 2, NUMBERS, "takes one integer class per row, got float32 labels"),
    (lambda: losses.SoftmaxLoss(None, DIM, 3), 2, CLASSES, "has the classes 0 to 2, got class 3"),
    (lambda: losses.SoftmaxLoss(None, DIM, 3), 2, -BITS, "has the classes 0 to 2, got class -1"),
    (lambda: losses.SoftmaxLoss(None, DIM, 3), 3, BITS, "takes 2 texts"),
    (losses.MSELoss, 1, NUMBERS, r"takes one target vector per row, got labels of shape \(2,\)"),
    (losses.MSELoss, 2, torch.ones(2, 3, DIM), r"got labels of shape \(2, 3, 6\) for 2 rows of 2 texts"),
    (losses.MarginMSELoss, 2, NUMBERS, "takes 3 or more texts per row, got 2"),
    (losses.MarginMSELoss, 5, SCORES, r"takes one row of candidate scores per row, got labels of shape \(2, 2\)"),
    (losses.MarginMSELoss, 3, None, "got no labels"),
    (losses.DistillKLDivLoss, 3, NUMBERS, "takes one row of candidate scores per row"),
    (losses.DistillKLDivLoss, 4, SCORES, "takes one row of candidate scores per row"),
    (losses.DistillKLDivLoss, 3, SCORES * math.nan, "got the label nan"),
    (losses.TripletLoss, 2, None, "takes 3 texts per row, got 2"),
    (losses.BatchHardTripletLoss, 1, NUMBERS, "takes one integer class per row, got float32 labels"),
    (losses.BatchHardTripletLoss, 2, BITS, "takes 1 text per row, got 2"),
    (losses.BatchHardSoftMarginTripletLoss, 1, None, "takes one integer class per row, got no labels"),
    (losses.BatchSemiHardTripletLoss, 3, BITS, "takes 1 text per row, got 3"),
    (losses.BatchAllTripletLoss, 1, NUMBERS, "takes one integer class per row, got float32 labels"),
    (losses.MultipleNegativesRankingLoss, 1, None, "takes 2 or more texts per row, got 1"),
    (losses.MultipleNegativesSymmetricRankingLoss, 1, None, "takes 2 or more texts per row, got 1"),
    (losses.MegaBatchMarginLoss, 3, None, "takes 2 texts per row, got 3"),
    (losses.ContrastiveTensionLossInBatchNegatives, 2, None, "takes 1 text per row, got 2"),
    (lambda: losses.GISTEmbedLoss(None, fake_guide()), 1, None, "takes 2 or more texts per row, got 1"),
    (
        lambda: losses.MatryoshkaLoss(None, losses.TripletLoss(), [2]),
        2,
        None,
        "TripletLoss takes 3 texts per row, got 2",
    ),
]


@pytest.mark.parametrize(("make", "columns", "labels", "message"), WRONG)
def test_rows_that_a_loss_cannot_take_are_refused(
    make: Callable[[], losses.Loss], columns: int, labels: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make().check_batch(TEXTS[:columns], labels)


def test_tsdae_refuses_texts_without_their_damaged_twins(tiny: Callable) -> None:
    model = tiny()
    loss = losses.DenoisingAutoEncoderLoss(model)
    loss.check_batch(TEXTS[:2], None)
    with pytest.raises(ValueError, match="takes 2 texts per row, got 1"):
        loss.check_batch(TEXTS[:1], None)
    with pytest.raises(ValueError, match="takes 2 texts per row, got 1"):
        loss([model.tokenize(TEXTS[0])])
    with pytest.raises(ValueError, match=r"takes token ids \(batch, tokens\) as labels, got shape \(3,\)"):
        loss.compute([torch.ones(3, 32)], torch.tensor([1, 2, 3]))


def test_the_refusal_names_losses_that_take_such_rows() -> None:
    with pytest.raises(
        ValueError, match=r"Losses for such rows: .*MultipleNegativesRankingLoss.*TripletLoss|TripletLoss"
    ):
        losses.CosineSimilarityLoss().check_batch(TEXTS[:3], torch.zeros(2))
    with pytest.raises(ValueError, match=r"Losses for such rows: .*CosineSimilarityLoss"):
        losses.SoftmaxLoss(None, DIM, 3).check_batch(TEXTS[:2], NUMBERS)
    assert "OnlineContrastiveLoss" in fitting_losses(2, BITS)
    assert "OnlineContrastiveLoss" not in fitting_losses(2, NUMBERS)
    assert fitting_losses(1, VECTORS) == ["MSELoss"]
    assert {"MarginMSELoss", "DistillKLDivLoss"} <= set(fitting_losses(3, SCORES))
    assert "BatchAllTripletLoss" in fitting_losses(1, CLASSES)
    assert "MatryoshkaLoss" not in fitting_losses(2, None)


def test_columns_of_different_lengths_and_empty_batches_are_refused() -> None:
    for columns in ([["a", "b"], ["c"]], [[], []], []):
        with pytest.raises(ValueError, match="columns of one positive length"):
            losses.MultipleNegativesRankingLoss().check_batch(columns, None)


def test_embeddings_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"takes embeddings as tensors, got \['list', 'ndarray'\]"):
        losses.MegaBatchMarginLoss().compute([[[1.0, 2.0]], torch.ones(1, 2).numpy()])


def test_a_teacher_of_another_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="dimension 6, got 4; give the student a Dense layer with out_features=4"):
        losses.MSELoss().compute([torch.ones(2, 6)], torch.ones(2, 4))


BAD_SETTINGS: list[tuple[Callable[[], Any], str]] = [
    (lambda: losses.MultipleNegativesRankingLoss(scale=0), "scale must be a number above 0, got 0"),
    (lambda: losses.MultipleNegativesRankingLoss(scale=math.nan), "scale must be a number above 0, got nan"),
    (lambda: losses.MultipleNegativesRankingLoss(scale="20"), "scale must be a number above 0, got '20'"),
    (lambda: losses.MultipleNegativesRankingLoss(hard_negatives="mine"), "'shared', 'own', got 'mine'"),
    (lambda: losses.MultipleNegativesRankingLoss(label_smoothing=1.5), "at most 1, got 1.5"),
    (lambda: losses.MultipleNegativesRankingLoss(similarity_fct="cos"), "similarity_fct must be a function"),
    (lambda: losses.MultipleNegativesRankingLoss(20.0), "model must be a SentenceTransformer, got 20.0"),
    (lambda: losses.MultipleNegativesSymmetricRankingLoss(scale=-1), "scale must be a number above 0, got -1"),
    (lambda: losses.CoSENTLoss(scale=-20), "scale must be a number above 0"),
    (lambda: losses.AnglELoss(scale=math.inf), "scale must be a number above 0, got inf"),
    (lambda: losses.ContrastiveTensionLossInBatchNegatives(scale=0), "scale must be a number above 0"),
    (lambda: losses.TripletLoss(triplet_margin=-1), "triplet_margin must be a number of at least 0, got -1"),
    (lambda: losses.TripletLoss(distance_metric="cosine"), "distance_metric must be a function"),
    (lambda: losses.ContrastiveLoss(margin=-0.5), "margin must be a number of at least 0, got -0.5"),
    (lambda: losses.OnlineContrastiveLoss(margin=-0.5), "margin must be"),
    (lambda: losses.BatchHardTripletLoss(margin=-5), "margin must be"),
    (lambda: losses.BatchSemiHardTripletLoss(margin=-5), "margin must be"),
    (lambda: losses.BatchAllTripletLoss(margin=-5), "margin must be"),
    (lambda: losses.BatchHardSoftMarginTripletLoss(distance_metric=None), "distance_metric must be a function"),
    (lambda: losses.MegaBatchMarginLoss(positive_margin=1.2), "positive_margin must be .* at most 1, got 1.2"),
    (lambda: losses.MegaBatchMarginLoss(negative_margin=-0.1), "negative_margin must be"),
    (lambda: losses.MarginMSELoss(similarity_fct=3), "similarity_fct must be a function"),
    (lambda: losses.CosineSimilarityLoss(loss_fct="mse"), "loss_fct must be a function"),
    (lambda: losses.DistillKLDivLoss(temperature=0), "temperature must be a number above 0"),
    (lambda: losses.DistillKLDivLoss(teacher_temperature=-2), "teacher_temperature must be"),
    (lambda: losses.SoftmaxLoss(None, DIM, 1), "num_labels must be a whole number of at least 2, got 1"),
    (lambda: losses.SoftmaxLoss(None, DIM, 2.5), "num_labels must be a whole number of at least 2, got 2.5"),
    (lambda: losses.SoftmaxLoss(None, 0, 2), "sentence_embedding_dimension must be a whole number of at least 1"),
    (
        lambda: losses.SoftmaxLoss(None, DIM, 2, concatenation_sent_rep=False, concatenation_sent_difference=False),
        "at least one concatenation_",
    ),
    (lambda: losses.GISTEmbedLoss(None, nn.Identity()), "guide must be a SentenceTransformer, got Identity"),
    (lambda: losses.GISTEmbedLoss(None, fake_guide(), temperature=0), "temperature must be"),
    (lambda: losses.GISTEmbedLoss(None, fake_guide(), margin=-0.1), "margin must be"),
    (lambda: losses.GISTEmbedLoss(None, fake_guide(), margin_strategy="percent"), "'absolute', 'relative', got"),
    (lambda: losses.MatryoshkaLoss(None, nn.MSELoss(), [2]), "loss must be a loss of sbertlab.losses, got MSELoss"),
    (lambda: losses.MatryoshkaLoss(None, losses.TripletLoss(), []), "must hold at least one dimension"),
    (lambda: losses.MatryoshkaLoss(None, losses.TripletLoss(), [4, 2], [1.0]), "one weight for each"),
    (lambda: losses.MatryoshkaLoss(None, losses.TripletLoss(), [4, 0]), "matryoshka_dims must be .* got 0"),
    (lambda: losses.MatryoshkaLoss(None, losses.TripletLoss(), [4], [-1]), "matryoshka_weights must be .* got -1"),
    (lambda: losses.MatryoshkaLoss(None, losses.TripletLoss(), [4], n_dims_per_step=0), "n_dims_per_step"),
]


@pytest.mark.parametrize(("make", "message"), BAD_SETTINGS)
def test_settings_out_of_range_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_settings_that_do_not_fit_the_model_are_refused(tiny: Callable, tmp_path: Any) -> None:
    model = tiny()
    with pytest.raises(ValueError, match="matryoshka_dims must be a whole number of at least 1 and at most 32, got 64"):
        losses.MatryoshkaLoss(model, losses.TripletLoss(model), [64, 32])
    with pytest.warns(UserWarning, match="add 32 to matryoshka_dims"):
        losses.MatryoshkaLoss(model, losses.TripletLoss(model), [16])
    with pytest.raises(ValueError, match="matryoshka_dims go up to 8, but the embeddings have 6"):
        losses.MatryoshkaLoss(None, losses.MegaBatchMarginLoss(), [8]).compute(PAIRS)
    with pytest.raises(ValueError, match="sentence_embedding_dimension must be the model's, 32, got 16"):
        losses.SoftmaxLoss(model, 16, 3)
    with pytest.raises(ValueError, match="loss was made for embeddings of dimension 4, got 6"):
        losses.SoftmaxLoss(None, 4, 3).compute(PAIRS, BITS)
    with pytest.raises(ValueError, match="takes a model with a Transformer"):
        losses.DenoisingAutoEncoderLoss(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="decoder_name_or_path must name a decoder, got None"):
        losses.DenoisingAutoEncoderLoss(model, tie_encoder_decoder=False)
    with pytest.raises(ValueError, match="up to 32 dimensions, the model's have 64"):
        losses.DenoisingAutoEncoderLoss(tiny(pooling=["cls", "mean"]))
    model.auto_model = DistilBertModel(DistilBertConfig(vocab_size=9, dim=4, n_heads=1, n_layers=1, hidden_dim=4))
    with pytest.raises(ValueError, match="a distilbert model cannot be the decoder"):
        losses.DenoisingAutoEncoderLoss(model)


def test_gist_without_the_guides_embeddings_says_what_makes_them() -> None:
    with pytest.raises(ValueError, match=r"prepare\(columns, None\) makes them"):
        losses.GISTEmbedLoss(None, fake_guide()).compute(PAIRS)
