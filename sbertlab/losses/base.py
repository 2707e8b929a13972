"""What every loss shares: the check of a batch, the cast to float32, embedding first; and MatryoshkaLoss around any."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbertlab.checks import checked_number
from sbertlab.losses.known_positives import known_positives

Columns = Sequence[Tensor]  # one (batch, dim) tensor of embeddings per column of texts
Texts = Sequence[Sequence[str]]  # one sequence of batch texts per column
Groups = Sequence[Hashable] | None  # one group id per row
Metric = Callable[[Tensor, Tensor], Tensor]  # of two (n, dim) tensors: row by row (n,), or all pairs (n, m)
Model = nn.Module | None  # the encoder, needed by `forward` only

LABELS = {
    "none": "no labels",
    "float": "one number per row",
    "binary": "one label 0 or 1 per row",
    "int": "one integer class per row",
    "vector": "one target vector per row",
    "scores": "one row of candidate scores per row",
}


class Loss(nn.Module):
    """A loss declares what rows of data it takes, checks them, and computes its `_formula` on their embeddings.

    The model becomes a submodule, so `loss.parameters()` includes the encoder's.

    Attributes:
        columns: minimum and maximum number of texts per row; None for no maximum.
        label: kind of label, a key of `LABELS`; "none" ignores labels.
        label_range: least and greatest label.
        fewer_scores: for "scores", by how many the scores of a row may be fewer than its texts.
        embedded: the columns that are embedded.
        views: how often each of them is embedded; dropout makes the views differ.
        needs_texts: `prepare` turns the texts into what `compute` takes as labels.
        in_batch: texts of other rows are negatives. The formula then is `_formula(embeddings, labels, known)` and
            leaves out the pairs marked in `known`.

    A new loss is a formula:

    >>> class DotLoss(Loss):
    ...     label = "float"
    ...     def _formula(self, embeddings, labels):
    ...         return (labels - (embeddings[0] * embeddings[1]).sum(dim=-1)).square().mean()
    >>> DotLoss().compute([torch.eye(2), torch.eye(2)], torch.tensor([1.0, 0.0])).item()
    0.5
    """

    columns: tuple[int, int | None] = (2, 2)
    label: str = "none"
    label_range: tuple[float, float] = (-math.inf, math.inf)
    fewer_scores: tuple[int, ...] = ()
    embedded: slice = slice(None)
    views: int = 1
    needs_texts: bool = False
    in_batch: bool = False

    def __init__(self, model: Model = None) -> None:
        super().__init__()
        self.model = model

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        """Return the loss of checked and cast input; `labels` is empty if there are none."""
        raise NotImplementedError

    def compute(self, embeddings: Columns, labels: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Return the loss of a batch, a scalar, in float32 even under autocast (float64 stays float64).

        `embeddings` are one `(batch, dim)` tensor per embedded column, `labels` one per row as the class documents, or
        what `prepare` returned, and `known` the mask `(batch, candidates)` that `known_positives` returned.
        """
        self._check(embeddings, labels)
        dtype = torch.promote_types(embeddings[0].dtype, torch.float32)
        columns = [column.to(dtype) for column in embeddings]
        labels = columns[0].new_zeros(0) if labels is None else labels.to(columns[0].device)
        if self.label in ("float", "binary", "int"):
            labels = labels.reshape(-1)
        if self.label != "none":
            labels = labels.to(torch.int64 if self.label == "int" else dtype)
        masked = () if known is None else (known,)
        with torch.autocast(columns[0].device.type, enabled=False):
            return self._formula(columns, labels, *masked)

    def prepare(self, columns: Texts, labels: Tensor | None) -> Tensor | None:
        """Return what `compute` takes as labels, given the texts; runs before the forward pass, without gradient."""
        return labels

    def known_positives(self, columns: Texts, groups: Groups = None) -> Tensor | None:
        """Return what `compute` takes as `known`; None if nothing is masked. See the function of the same name."""
        return known_positives(columns, groups) if self.in_batch else None

    def check_batch(self, columns: Texts, labels: Tensor | None) -> None:
        """Check the texts and labels of a batch before it is embedded; an error names losses for such rows."""
        if problem := _problem(self, len(columns), len(columns[0]), labels):
            fitting = ", ".join(fitting_losses(len(columns), labels)) or "none"
            raise ValueError(f"{type(self).__name__} {problem}. Losses for such rows: {fitting}")

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Embed tokenised columns and return their loss, for hand-written loops; known positives are not masked."""
        model: Any = self.model
        features = list(sentence_features)
        embeddings = [model(dict(column))["sentence_embedding"] for column in features[self.embedded] * self.views]
        if self.needs_texts:
            decode = model.tokenizer.batch_decode
            labels = self.prepare(
                [decode(column["input_ids"], skip_special_tokens=True) for column in features], labels
            )
        return self.compute(embeddings, labels)

    def _check(self, embeddings: Columns, labels: Tensor | None) -> None:
        """Check shapes and types only, which does not wait for a GPU."""
        name, texts = type(self).__name__, len(embeddings)
        shapes = [tuple(column.shape) for column in embeddings]
        if len(set(shapes)) != 1 or len(shapes[0]) != 2:
            raise ValueError(f"{name} takes embeddings of one shape (batch, dim), got {shapes}")
        fewest, most = (len(range(texts if limit is None else limit)[self.embedded]) for limit in self.columns)
        if not fewest <= texts <= most * self.views:
            raise ValueError(f"{name} takes the embeddings of {fewest} columns, got {texts}")
        if problem := _label_problem(self, texts, shapes[0][0], labels):
            raise ValueError(f"{name} {problem}")


class MatryoshkaLoss(Loss):
    """Weighted sum of a loss on truncated embeddings: `sum_k weight_k * loss(normalised e[:dim_k])`.

    `matryoshka_dims` should include the model's own dimension. `matryoshka_weights` are one per dimension, 1 by
    default; `n_dims_per_step` dimensions are drawn per step with torch's generator, all of them for -1.

    Rows: as the inner loss; target vectors are truncated likewise, but not normalised.
    Relatives: it wraps any other loss, whose own weights all dimensions share; see `encode(truncate_dim=...)`.
    Source: Kusupati et al., 2022, Matryoshka Representation Learning (arXiv:2205.13147), section 3.

    >>> from sbertlab import losses
    >>> a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> loss = MatryoshkaLoss(None, losses.CosineSimilarityLoss(), matryoshka_dims=[2, 1], matryoshka_weights=[1, 0.5])
    >>> value = loss.compute([a, b], torch.tensor([1.0, 0.0]))  # cosines in two dimensions 1 and 0.6, in one 1 and 1
    >>> round(value.item(), 4)  # 0.6^2 / 2 + 0.5 * 1^2 / 2
    0.43
    """

    columns = (0, 0)  # no rows: an instance takes the rules of its inner loss

    def __init__(
        self,
        model: Model,
        loss: Loss,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
    ) -> None:
        super().__init__(model)
        for dim in matryoshka_dims:
            checked_number("each of matryoshka_dims", dim, 1, whole=True)
        weights = [1.0] * len(matryoshka_dims) if matryoshka_weights is None else matryoshka_weights
        by_dim = sorted(zip(matryoshka_dims, weights, strict=True), reverse=True)
        self.matryoshka_dims, self.matryoshka_weights = (list(column) for column in zip(*by_dim, strict=True))
        self.loss, self.n_dims_per_step = loss, n_dims_per_step
        for rule in (*Loss.__annotations__, "prepare", "known_positives"):
            setattr(self, rule, getattr(loss, rule))

    def _formula(self, embeddings: Columns, labels: Tensor, known: Tensor | None = None) -> Tensor:
        width, count = embeddings[0].shape[1], len(self.matryoshka_dims)
        if self.matryoshka_dims[0] > width:
            raise ValueError(f"matryoshka_dims go up to {self.matryoshka_dims[0]}, but the embeddings have {width}")
        drawn = torch.randperm(count)[: self.n_dims_per_step].tolist() if self.n_dims_per_step > 0 else range(count)
        losses = []
        for index in drawn:
            dim, weight = self.matryoshka_dims[index], self.matryoshka_weights[index]
            truncated = [F.normalize(column[:, :dim], dim=-1) for column in embeddings]
            targets = labels[..., :dim] if self.label == "vector" and labels.shape[-1] == width else labels
            losses.append(weight * self.loss.compute(truncated, targets, known))
        return torch.stack(losses).sum()


def fitting_losses(texts: int, labels: Tensor | None) -> list[str]:
    """Return the names of the losses that take rows of `texts` texts with such labels; all zero counts as no labels.

    >>> "TripletLoss" in fitting_losses(3, None), "TripletLoss" in fitting_losses(2, None)
    (True, False)
    """
    given = None if labels is None or not labels.any() else labels
    rows = 1 if given is None else len(given)
    return [
        kind.__name__
        for kind in _subclasses(Loss)
        if (kind.label == "none") == (given is None) and not (kind.needs_texts or _problem(kind, texts, rows, given))
    ]


def padded(embeddings: Tensor, dimension: int) -> Tensor:
    """Return `(batch, dim)` embeddings, padded with zeros to `(batch, dimension)`."""
    if embeddings.shape[1] > dimension:
        raise ValueError(f"the loss was made for embeddings of dimension {dimension}, got {embeddings.shape[1]}")
    return F.pad(embeddings, (0, dimension - embeddings.shape[1]))


def _subclasses(loss: type[Loss]) -> list[type[Loss]]:
    return [kind for child in loss.__subclasses__() for kind in (child, *_subclasses(child))]


def _problem(loss: Loss | type[Loss], texts: int, rows: int, labels: Tensor | None) -> str | None:
    """Return why the loss does not take such rows, or None if it does."""
    fewest, most = loss.columns
    if not fewest <= texts <= (texts if most is None else most):
        return f"takes {fewest}{' or more' if most is None else ''} text(s) per row, got {texts}"
    if problem := _label_problem(loss, texts, rows, labels):
        return problem
    if loss.label == "none" or labels is None:
        return None
    low, high = loss.label_range
    fits = (labels >= low) & (labels <= high)  # False for NaN
    if loss.label == "binary":
        fits &= labels == labels.round()
    if fits.all():
        return None
    remedy = "; divide scores by the top of their scale" if loss.label == "float" else ""
    return f"takes {LABELS[loss.label]} in [{low:g}, {high:g}], got the label {labels[~fits][0].item():g}{remedy}"


def _label_problem(loss: Loss | type[Loss], texts: int, rows: int, labels: Tensor | None) -> str | None:
    """Return why the loss does not take labels of this shape and type, or None if it does."""
    if loss.label == "none":
        return None
    wanted = f"takes {LABELS[loss.label]}"
    if labels is None:
        return f"{wanted}, got no labels"
    shapes: set[tuple[int, ...]] = {(rows,), (rows, 1)}
    if loss.label == "vector":
        shapes = {(rows, *labels.shape[-1:]), (rows, texts, *labels.shape[-1:])}
    elif loss.label == "scores":
        widths = [texts - fewer for fewer in loss.fewer_scores]
        shapes = {(rows, width) for width in widths} | ({(rows,)} if 1 in widths else set())
    if tuple(labels.shape) not in shapes:
        return f"{wanted}, got labels of shape {tuple(labels.shape)} for {rows} rows of {texts} texts"
    if loss.label == "int" and labels.is_floating_point():
        return f"{wanted}, got {str(labels.dtype).removeprefix('torch.')} labels"
    return None
