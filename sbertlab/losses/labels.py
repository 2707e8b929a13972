"""Losses that fit labels: similarity scores, classes of pairs, a teacher's scores or vectors."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbertlab.checks import checked_number
from sbertlab.losses.base import Columns, Loss, Metric, Model, padded
from sbertlab.util import pairwise_angle_sim, pairwise_cos_sim, pairwise_dot_score


class CosineSimilarityLoss(Loss):
    """The cosine of a pair must equal its label: `mean (cos(a, b) - label)^2`.

    `cos_score_transformation` is applied to the cosines first; `loss_fct` takes them and the labels, both `(batch,)`.

    Rows: (a, b), label from -1 to 1.
    Relatives: CoSENTLoss and AnglELoss learn only the order of the labels, which is a stronger signal.
    Source: Reimers and Gurevych, 2019, Sentence-BERT (arXiv:1908.10084), section 3.

    >>> a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]])  # cosines 1 and 0
    >>> CosineSimilarityLoss().compute([a, b], torch.tensor([1.0, 0.5])).item()  # mean of 0 and 0.25
    0.125
    """

    label = "float"

    def __init__(
        self,
        model: Model = None,
        loss_fct: Metric = F.mse_loss,
        cos_score_transformation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(model)
        self.loss_fct = loss_fct
        self.cos_score_transformation = cos_score_transformation or nn.Identity()
        if isinstance(self.cos_score_transformation, nn.Identity):
            self.label_range = (-1, 1)

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        return self.loss_fct(self.cos_score_transformation(pairwise_cos_sim(*embeddings)), labels)


class CoSENTLoss(Loss):
    """Pairs must rank as their labels do: `log(1 + sum exp(scale * (s_i - s_j)))` over all i, j with label_i < label_j.

    Rows: (a, b), labelled with any number.
    Relatives: a stronger signal than CosineSimilarityLoss, as it compares all pairs of the batch with each other.
    Source: Su, 2022, CoSENT (https://kexue.fm/archives/8847).

    >>> a, b = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # similarities 1 and 0, labels the other way round
    >>> round(CoSENTLoss(scale=1.0).compute([a, b], torch.tensor([0.0, 1.0])).item(), 4)  # log(1 + e)
    1.3133
    """

    label = "float"

    def __init__(self, model: Model = None, scale: float = 20.0, similarity_fct: Metric = pairwise_cos_sim) -> None:
        super().__init__(model)
        self.scale = checked_number("scale", scale, above=True)
        self.similarity_fct = similarity_fct

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        scores = self.scale * self.similarity_fct(*embeddings)
        excess = scores.unsqueeze(1) - scores.unsqueeze(0)  # (batch, batch)
        should_be_negative = excess[labels.unsqueeze(1) < labels.unsqueeze(0)]
        return torch.logsumexp(torch.cat([scores.new_zeros(1), should_be_negative]), dim=0)


class AnglELoss(CoSENTLoss):
    """CoSENT with the angle of complex vectors as similarity, `pairwise_angle_sim`.

    Rows: (a, b), labelled with any number.
    Relatives: CoSENTLoss, whose cosine has almost no gradient near 1 and -1, where the angle still has one.
    Source: Li and Li, 2023, AnglE-optimized Text Embeddings (arXiv:2309.12871), equations 4 to 8.

    >>> a, b = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # both similarities are 1
    >>> round(AnglELoss(scale=1.0).compute([a, b], torch.tensor([0.0, 1.0])).item(), 4)  # log(1 + e^0)
    0.6931
    """

    def __init__(self, model: Model = None, scale: float = 20.0) -> None:
        super().__init__(model, scale, similarity_fct=pairwise_angle_sim)


class SoftmaxLoss(Loss):
    """Cross-entropy of a linear classifier on `[u; v; |u - v|]`, trained together with the encoder.

    The `concatenation_...` arguments say whether the classifier sees u and v, |u - v| and u * v; `loss_fct` takes its
    logits `(batch, num_labels)` and the classes `(batch,)`. Embeddings of fewer dimensions than
    `sentence_embedding_dimension`, as in MatryoshkaLoss, are padded with zeros.

    Rows: (u, v), labelled with an int from 0 to num_labels - 1.
    Relatives: on NLI data MultipleNegativesRankingLoss with (anchor, entailment, contradiction) does far better.
    Source: Reimers and Gurevych, 2019, Sentence-BERT (arXiv:1908.10084), section 3.

    >>> loss = SoftmaxLoss(None, sentence_embedding_dimension=2, num_labels=4)
    >>> _ = nn.init.zeros_(loss.classifier.weight), nn.init.zeros_(loss.classifier.bias)
    >>> round(loss.compute([torch.eye(2), torch.eye(2)], torch.tensor([3, 0])).item(), 4)  # four equal classes: log 4
    1.3863
    """

    label = "int"

    def __init__(
        self,
        model: Model,
        sentence_embedding_dimension: int,
        num_labels: int,
        concatenation_sent_rep: bool = True,
        concatenation_sent_difference: bool = True,
        concatenation_sent_multiplication: bool = False,
        loss_fct: Metric = F.cross_entropy,
    ) -> None:
        super().__init__(model)
        self.sentence_embedding_dimension = sentence_embedding_dimension
        self.num_labels, self.label_range = num_labels, (0, num_labels - 1)
        self.concatenation_sent_rep = concatenation_sent_rep
        self.concatenation_sent_difference = concatenation_sent_difference
        self.concatenation_sent_multiplication = concatenation_sent_multiplication
        parts = 2 * concatenation_sent_rep + concatenation_sent_difference + concatenation_sent_multiplication
        width, device = parts * sentence_embedding_dimension, getattr(model, "device", None)
        self.classifier = nn.Linear(width, num_labels, device=device)
        self.loss_fct = loss_fct

    def logits(self, embeddings: Columns) -> Tensor:
        """Return the classifier's scores of pairs u and v, `(batch, num_labels)`."""
        u, v = (padded(column.to(self.classifier.weight), self.sentence_embedding_dimension) for column in embeddings)
        parts = [u, v] if self.concatenation_sent_rep else []
        parts += [(u - v).abs()] if self.concatenation_sent_difference else []
        parts += [u * v] if self.concatenation_sent_multiplication else []
        return self.classifier(torch.cat(parts, dim=1))

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        return self.loss_fct(self.logits(embeddings).to(embeddings[0].dtype), labels)


class MSELoss(Loss):
    """Embeddings must equal the teacher's: `mean (student - teacher)^2` over rows, texts and dimensions.

    Rows: (text_1, ..., text_n), labelled with one vector `(dim,)` for all of them, or with one for each, `(n, dim)`.
    Relatives: MarginMSELoss and DistillKLDivLoss learn a teacher's scores and leave the vectors free.
    Source: Reimers and Gurevych, 2020, Making Monolingual Sentence Embeddings Multilingual (arXiv:2004.09813).

    >>> MSELoss().compute([torch.tensor([[1.0, 2.0]])], torch.tensor([[1.0, 0.0]])).item()  # mean of 0 and 4
    2.0
    """

    columns, label = (1, None), "vector"

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        students = torch.stack(list(embeddings), dim=1)  # (batch, texts, dim)
        teachers = labels if labels.ndim == 3 else labels.unsqueeze(1)
        if teachers.shape[-1] != students.shape[-1]:
            sizes = f"the teacher's vectors have {teachers.shape[-1]} dimensions, the student's {students.shape[-1]}"
            raise ValueError(f"{sizes}; give the student a Dense layer")
        return F.mse_loss(students, teachers.expand_as(students))


class MarginMSELoss(Loss):
    """The margin of positive over negative must equal the teacher's: `mean (s(q, p) - s(q, n) - label)^2`.

    Rows: (query, positive, negative_1, ..., n), labelled with n margins, or n + 1 scores with the positive's first.
    Relatives: DistillKLDivLoss compares distributions over the candidates; MSELoss copies vectors.
    Source: Hofstätter et al., 2020, Improving Efficient Neural Ranking Models (arXiv:2010.02666), section 3.

    >>> query, positive, negative = torch.tensor([[2.0]]), torch.tensor([[3.0]]), torch.tensor([[1.0]])
    >>> MarginMSELoss().compute([query, positive, negative], torch.tensor([3.0])).item()  # (6 - 2 - 3)^2
    1.0
    """

    columns, label, fewer_scores = (3, None), "scores", (2, 1)

    def __init__(self, model: Model = None, similarity_fct: Metric = pairwise_dot_score) -> None:
        super().__init__(model)
        self.similarity_fct = similarity_fct

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        query, positive, *negatives = embeddings
        score = self.similarity_fct(query, positive)
        margins = torch.stack([score - self.similarity_fct(query, negative) for negative in negatives], dim=1)
        labels = labels.reshape(len(query), -1)  # (batch, n) or (batch, n + 1)
        wanted = labels if labels.shape == margins.shape else labels[:, :1] - labels[:, 1:]
        return F.mse_loss(margins, wanted)


class DistillKLDivLoss(Loss):
    """Scores must be distributed as the teacher's: `t_s^2 * mean KL(softmax(label / t_t) || softmax(s / t_s))`.

    s are the similarities of the query to its candidates; `temperature` is the default of t_s (`student_temperature`)
    and t_t (`teacher_temperature`).

    Rows: (query, positive, negative_1, ..., n), labelled with the teacher's n + 1 scores of positive and negatives.
    Relatives: MarginMSELoss needs margins on the student's own scale; here only differences after the softmax count.
    Source: Lin et al., 2020 (arXiv:2010.11386), section 3; Hinton et al., 2015 (arXiv:1503.02531), for the temperature.

    >>> query = positive = negative = torch.tensor([[1.0, 0.0]])  # student: 1/2, 1/2
    >>> scores = torch.tensor([[3.0, 1.0]]).log()  # teacher: 3/4, 1/4
    >>> round(DistillKLDivLoss().compute([query, positive, negative], scores).item(), 4)  # 3/4 log 3/2 + 1/4 log 1/2
    0.1308
    """

    columns, label, fewer_scores = (3, None), "scores", (1,)

    def __init__(
        self,
        model: Model = None,
        similarity_fct: Metric = pairwise_dot_score,
        temperature: float = 1.0,
        student_temperature: float | None = None,
        teacher_temperature: float | None = None,
    ) -> None:
        super().__init__(model)
        self.similarity_fct = similarity_fct
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
