"""Losses that fit labels: similarity scores, classes of pairs, a teacher's scores or vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbertlab.checks import checked_number
from sbertlab.losses.base import Columns, Loss, Metric, Texts, checked_function, model_dimension, padded
from sbertlab.util import pairwise_angle_sim, pairwise_cos_sim, pairwise_dot_score


class CosineSimilarityLoss(Loss):
    """The cosine of a pair must equal its label: `mean (cos(a, b) - label)^2`.

    | texts  | labels                             |
    | ------ | ---------------------------------- |
    | (a, b) | float, target cosine, from -1 to 1 |

    Relatives: CoSENTLoss and AnglELoss learn only the order of the labels, which is a stronger signal.
    Source: Reimers and Gurevych, 2019, Sentence-BERT (arXiv:1908.10084), section 3.

    Args:
        loss_fct: compares outputs and labels, both `(batch,)`; mean squared error by default.
        cos_score_transformation: applied to the cosines first; the identity by default.

    >>> a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]])  # cosines 1 and 0
    >>> CosineSimilarityLoss().compute([a, b], torch.tensor([1.0, 0.5])).item()  # mean of 0 and 0.25
    0.125
    """

    label = "float"

    def __init__(
        self,
        model: nn.Module | None = None,
        loss_fct: Metric = F.mse_loss,
        cos_score_transformation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(model)
        self.loss_fct = checked_function("loss_fct", loss_fct)
        self.cos_score_transformation = checked_function(
            "cos_score_transformation", cos_score_transformation or nn.Identity()
        )

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        return self.loss_fct(self.cos_score_transformation(pairwise_cos_sim(*embeddings)), labels)

    def check_batch(self, columns: Texts, labels: Tensor | None) -> None:
        """Check the batch, and that cosines can reach its labels."""
        super().check_batch(columns, labels)
        outside = torch.empty(0) if labels is None else labels[labels.abs() > 1]
        if len(outside) and isinstance(self.cos_score_transformation, nn.Identity):
            raise ValueError(
                f"CosineSimilarityLoss takes labels from -1 to 1, as cosines are, got {outside[0].item():g}; "
                "divide scores by the top of their scale, such as scores of 0-5 by 5"
            )


class CoSENTLoss(Loss):
    """Pairs must rank as their labels do: `log(1 + sum exp(scale * (s_i - s_j)))` over all i, j with label_i < label_j.

    | texts  | labels                         |
    | ------ | ------------------------------ |
    | (a, b) | float; only their order counts |

    Relatives: a stronger signal than CosineSimilarityLoss, because all pairs of the batch are compared with each other,
    more of them in larger batches. AnglELoss has another similarity.
    Source: Su, 2022, CoSENT (https://kexue.fm/archives/8847).

    >>> a, b = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # similarities 1 and 0, labels the other way round
    >>> round(CoSENTLoss(scale=1.0).compute([a, b], torch.tensor([0.0, 1.0])).item(), 4)  # log(1 + e)
    1.3133
    """

    label = "float"

    def __init__(
        self, model: nn.Module | None = None, scale: float = 20.0, similarity_fct: Metric = pairwise_cos_sim
    ) -> None:
        super().__init__(model)
        self.scale = checked_number("scale", scale, above=True)
        self.similarity_fct = checked_function("similarity_fct", similarity_fct)

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        scores = self.scale * self.similarity_fct(*embeddings)
        excess = scores.unsqueeze(1) - scores.unsqueeze(0)  # (batch, batch)
        should_be_negative = excess[labels.unsqueeze(1) < labels.unsqueeze(0)]
        return torch.logsumexp(torch.cat([scores.new_zeros(1), should_be_negative]), dim=0)


class AnglELoss(CoSENTLoss):
    """CoSENT with the angle of complex vectors as similarity: `s = |Re(z) + Im(z)|`.

    `z = sum_k a_k conj(b_k) / (|a| |b|)`; the first half of an embedding holds the real parts, the second half the
    imaginary parts.

    | texts  | labels                         |
    | ------ | ------------------------------ |
    | (a, b) | float; only their order counts |

    Relatives: CoSENTLoss, whose cosine has almost no gradient near 1 and -1, where the angle still has one.
    Source: Li and Li, 2023, AnglE-optimized Text Embeddings (arXiv:2309.12871), equations 4 to 8.

    >>> a, b = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # z = 1 and i: both similarities are 1
    >>> round(AnglELoss(scale=1.0).compute([a, b], torch.tensor([0.0, 1.0])).item(), 4)  # log(1 + e^0)
    0.6931
    """

    def __init__(self, model: nn.Module | None = None, scale: float = 20.0) -> None:
        super().__init__(model, scale, similarity_fct=pairwise_angle_sim)


class SoftmaxLoss(Loss):
    """Cross-entropy of a linear classifier on `[u; v; |u - v|]`, trained together with the encoder.

    | texts  | labels                                |
    | ------ | ------------------------------------- |
    | (u, v) | int, a class from 0 to num_labels - 1 |

    Relatives: on NLI data MultipleNegativesRankingLoss with (anchor, entailment, contradiction) does far better. Inside
    MatryoshkaLoss all dimensions share the classifier; truncated embeddings are padded with zeros.
    Source: Reimers and Gurevych, 2019, Sentence-BERT (arXiv:1908.10084), section 3.

    Args:
        sentence_embedding_dimension: dimension of the embeddings.
        num_labels: number of classes, at least 2.
        concatenation_sent_rep, concatenation_sent_difference, concatenation_sent_multiplication: whether the
            classifier sees u and v, |u - v|, and u * v.
        loss_fct: compares logits `(batch, num_labels)` and classes `(batch,)`; cross-entropy by default.

    >>> loss = SoftmaxLoss(None, sentence_embedding_dimension=2, num_labels=4)
    >>> _ = nn.init.zeros_(loss.classifier.weight), nn.init.zeros_(loss.classifier.bias)
    >>> round(loss.compute([torch.eye(2), torch.eye(2)], torch.tensor([3, 0])).item(), 4)  # four equal classes: log 4
    1.3863
    """

    label = "int"

    def __init__(
        self,
        model: nn.Module | None,
        sentence_embedding_dimension: int,
        num_labels: int,
        concatenation_sent_rep: bool = True,
        concatenation_sent_difference: bool = True,
        concatenation_sent_multiplication: bool = False,
        loss_fct: Metric = F.cross_entropy,
    ) -> None:
        super().__init__(model)
        self.sentence_embedding_dimension = checked_number(
            "sentence_embedding_dimension", sentence_embedding_dimension, 1, whole=True
        )
        if model_dimension(model) not in (None, sentence_embedding_dimension):
            raise ValueError(
                f"sentence_embedding_dimension must be the model's, {model_dimension(model)}, "
                f"got {sentence_embedding_dimension}; pass model.get_sentence_embedding_dimension()"
            )
        self.num_labels = checked_number("num_labels", num_labels, 2, whole=True)
        self.concatenation_sent_rep = concatenation_sent_rep
        self.concatenation_sent_difference = concatenation_sent_difference
        self.concatenation_sent_multiplication = concatenation_sent_multiplication
        parts = 2 * concatenation_sent_rep + concatenation_sent_difference + concatenation_sent_multiplication
        if parts == 0:
            raise ValueError("the classifier has no input: at least one concatenation_... argument must be True")
        self.classifier = nn.Linear(
            parts * self.sentence_embedding_dimension, self.num_labels, device=getattr(model, "device", None)
        )
        self.loss_fct = checked_function("loss_fct", loss_fct)

    def logits(self, embeddings: Columns) -> Tensor:
        """Return the classifier's scores of pairs u and v, `(batch, num_labels)`."""
        u, v = (padded(column.to(self.classifier.weight), self.sentence_embedding_dimension) for column in embeddings)
        parts = [u, v] if self.concatenation_sent_rep else []
        parts += [(u - v).abs()] if self.concatenation_sent_difference else []
        parts += [u * v] if self.concatenation_sent_multiplication else []
        return self.classifier(torch.cat(parts, dim=1))

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        return self.loss_fct(self.logits(embeddings).to(embeddings[0].dtype), labels)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Any:
        """Return the loss, or `(embeddings, logits)` if there are no labels, as in the field."""
        embeddings = self.embed(sentence_features)
        return (embeddings, self.logits(embeddings)) if labels is None else self.compute(embeddings, labels)

    def check_batch(self, columns: Texts, labels: Tensor | None) -> None:
        """Check the batch, and that the classifier knows its classes."""
        super().check_batch(columns, labels)
        outside = torch.empty(0) if labels is None else labels[(labels < 0) | (labels >= self.num_labels)]
        if len(outside):
            raise ValueError(
                f"SoftmaxLoss has the classes 0 to {self.num_labels - 1}, got class {outside[0].item()}; "
                "raise num_labels, or number the classes from 0"
            )


class MSELoss(Loss):
    """Embeddings must equal the teacher's: `mean (student - teacher)^2` over rows, texts and dimensions.

    | texts                 | labels                                                                         |
    | --------------------- | ------------------------------------------------------------------------------ |
    | text                  | vector, the teacher's embedding, `(batch, dim)`                                |
    | (text_1, ..., text_n) | one vector for all of them, `(batch, dim)`, or one for each, `(batch, n, dim)` |

    Relatives: MarginMSELoss and DistillKLDivLoss learn a teacher's scores and leave the vectors free.
    Source: Reimers and Gurevych, 2020, Making Monolingual Sentence Embeddings Multilingual (arXiv:2004.09813),
    section 2.

    >>> MSELoss().compute([torch.tensor([[1.0, 2.0]])], torch.tensor([[1.0, 0.0]])).item()  # mean of 0 and 4
    2.0
    """

    columns = (1, None)
    label = "vector"

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        students = torch.stack(list(embeddings), dim=1)  # (batch, texts, dim)
        teachers = labels if labels.ndim == 3 else labels.unsqueeze(1)
        if teachers.shape[-1] != students.shape[-1]:
            raise ValueError(
                f"MSELoss takes target vectors of the embeddings' dimension {students.shape[-1]}, got "
                f"{teachers.shape[-1]}; give the student a Dense layer with out_features={teachers.shape[-1]}"
            )
        return F.mse_loss(students, teachers.expand_as(students))


class MarginMSELoss(Loss):
    """The margin of positive over negative must equal the teacher's: `mean (s(q, p) - s(q, n) - label)^2`.

    | texts                                 | labels                                                       |
    | ------------------------------------- | ------------------------------------------------------------ |
    | (query, positive, negative)           | float, the teacher's margin                                  |
    | (query, positive, negative_1, ..., n) | scores: n margins, or n + 1 scores with the positive's first |

    Relatives: DistillKLDivLoss compares distributions over the candidates; MSELoss copies vectors.
    Source: Hofstätter et al., 2020, Improving Efficient Neural Ranking Models (arXiv:2010.02666), section 3.

    >>> query, positive, negative = torch.tensor([[2.0]]), torch.tensor([[3.0]]), torch.tensor([[1.0]])
    >>> MarginMSELoss().compute([query, positive, negative], torch.tensor([3.0])).item()  # (6 - 2 - 3)^2
    1.0
    """

    columns = (3, None)
    label = "scores"
    fewer_scores = (2, 1)

    def __init__(self, model: nn.Module | None = None, similarity_fct: Metric = pairwise_dot_score) -> None:
        super().__init__(model)
        self.similarity_fct = checked_function("similarity_fct", similarity_fct)

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        query, positive, *negatives = embeddings
        score = self.similarity_fct(query, positive)
        margins = torch.stack([score - self.similarity_fct(query, negative) for negative in negatives], dim=1)
        labels = labels.reshape(len(query), -1)  # (batch, n) or (batch, n + 1)
        wanted = labels if labels.shape == margins.shape else labels[:, :1] - labels[:, 1:]
        return F.mse_loss(margins, wanted)


class DistillKLDivLoss(Loss):
    """Scores must be distributed as the teacher's: `t_s^2 * mean KL(softmax(label / t_t) || softmax(s / t_s))`.

    s are the similarities of the query to its candidates, t_s and t_t the temperatures of student and teacher.

    | texts                                 | labels                                                    |
    | ------------------------------------- | --------------------------------------------------------- |
    | (query, positive, negative_1, ..., n) | scores: the teacher's n + 1 for positive and negatives    |

    Relatives: MarginMSELoss needs margins on the student's own scale; here only differences after the softmax count.
    Source: Lin et al., 2020, Distilling Dense Representations for Ranking (arXiv:2010.11386), section 3; the squared
    temperature is that of Hinton et al., 2015 (arXiv:1503.02531), section 2.

    Args:
        temperature: default of both temperatures.
        student_temperature, teacher_temperature: t_s and t_t.

    >>> query = positive = negative = torch.tensor([[1.0, 0.0]])  # student: 1/2, 1/2
    >>> scores = torch.tensor([[3.0, 1.0]]).log()  # teacher: 3/4, 1/4
    >>> round(DistillKLDivLoss().compute([query, positive, negative], scores).item(), 4)  # 3/4 log 3/2 + 1/4 log 1/2
    0.1308
    """

    columns = (3, None)
    label = "scores"
    fewer_scores = (1,)

    def __init__(
        self,
        model: nn.Module | None = None,
        similarity_fct: Metric = pairwise_dot_score,
        temperature: float = 1.0,
        student_temperature: float | None = None,
        teacher_temperature: float | None = None,
    ) -> None:
        super().__init__(model)
        self.similarity_fct = checked_function("similarity_fct", similarity_fct)
        self.temperature = checked_number("temperature", temperature, above=True)
        student = temperature if student_temperature is None else student_temperature
        teacher = temperature if teacher_temperature is None else teacher_temperature
        self.student_temperature = checked_number("student_temperature", student, above=True)
        self.teacher_temperature = checked_number("teacher_temperature", teacher, above=True)

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        query, *candidates = embeddings
        scores = torch.stack([self.similarity_fct(query, candidate) for candidate in candidates], dim=1)
        student = F.log_softmax(scores / self.student_temperature, dim=1)  # (batch, candidates)
        teacher = F.softmax(labels / self.teacher_temperature, dim=1)
        return F.kl_div(student, teacher, reduction="batchmean") * self.student_temperature**2


DistillKLLoss = DistillKLDivLoss
