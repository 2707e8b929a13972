"""What every loss shares: the check of a batch, the cast to float32, and embedding before computing."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbertlab.losses.known_positives import known_positives

Columns = Sequence[Tensor]  # one (batch, dim) tensor of embeddings per column of texts
Texts = Sequence[Sequence[str]]  # one sequence of batch texts per column
Groups = Sequence[Hashable] | None  # one group id per row
Metric = Callable[[Tensor, Tensor], Tensor]  # of two (n, dim) tensors: row by row (n,), or all pairs (n, m)

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
    fewer_scores: tuple[int, ...] = ()
    embedded: slice = slice(None)
    views: int = 1
    needs_texts: bool = False
    in_batch: bool = False

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        if model is not None and not isinstance(model, nn.Module):
            raise ValueError(f"{type(self).__name__}: model must be a SentenceTransformer, got {model!r}")
        self.model = model

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        """Return the loss of checked and cast input; `labels` is empty if there are none."""
        raise NotImplementedError

    def compute(self, embeddings: Columns, labels: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Return the loss of a batch, a scalar, in float32 even under autocast (float64 stays float64).

        Args:
            embeddings: one `(batch, dim)` tensor per embedded column.
            labels: one per row as the class documents, or what `prepare` returned.
            known: the mask that `known_positives` returned, `(batch, candidates)`; ignored unless `in_batch`.

        Raises:
            ValueError: the embeddings, labels or mask do not have the number, shape or type that this loss takes.
        """
        self._check(embeddings, labels)
        dtype = torch.promote_types(embeddings[0].dtype, torch.float32)
        columns = [column.to(dtype) for column in embeddings]
        labels = columns[0].new_zeros(0) if labels is None else labels.to(columns[0].device)
        if self.label in ("float", "binary", "int"):
            labels = labels.reshape(-1)
        if self.label != "none":
            labels = labels.to(torch.int64 if self.label == "int" else dtype)
        with torch.autocast(columns[0].device.type, enabled=False):
            if known is None or not self.in_batch:
                return self._formula(columns, labels)
            return self._formula(columns, labels, known)  # type: ignore[call-arg]

    def prepare(self, columns: Texts, labels: Tensor | None) -> Tensor | None:
        """Return what `compute` takes as labels, given the texts; runs before the forward pass, without gradient."""
        return labels

    def known_positives(self, columns: Texts, groups: Groups = None) -> Tensor | None:
        """Return what `compute` takes as `known`; None if nothing is masked. See the function of the same name."""
        return known_positives(columns, groups) if self.in_batch else None

    def check_batch(self, columns: Texts, labels: Tensor | None) -> None:
        """Check the texts and labels of a batch before it is embedded.

        Raises:
            ValueError: this loss does not take so many texts per row, or such labels; the message names losses that do.
        """
        rows = {len(column) for column in columns}
        if len(rows) != 1 or rows == {0}:
            raise ValueError(f"{type(self).__name__} takes columns of one positive length, got {sorted(rows)}")
        if problem := _problem(self, len(columns), rows.pop(), labels):
            fitting = fitting_losses(len(columns), labels)
            hint = f". Losses for such rows: {', '.join(fitting)}" if fitting else ""
            raise ValueError(f"{type(self).__name__} {problem}{hint}")

    def embed(self, sentence_features: Iterable[dict[str, Tensor]]) -> list[Tensor]:
        """Return the embeddings `(batch, dim)` of the tokenised columns that this loss embeds."""
        if self.model is None:
            raise ValueError(f"{type(self).__name__} was made without a model: give it one, or call compute()")
        features = list(sentence_features)
        if problem := _column_problem(self, len(features)):
            raise ValueError(f"{type(self).__name__} {problem}")
        features = features[self.embedded] * self.views
        return [self.model(dict(column))["sentence_embedding"] for column in features]

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Any:
        """Embed tokenised columns and return their loss, for hand-written training loops.

        Known positives are not masked, because the texts are no longer available; `fit` calls `compute` instead.
        """
        features = list(sentence_features)
        embeddings = self.embed(features)
        if self.needs_texts:
            tokenizer: Any = self.model.tokenizer  # type: ignore[union-attr]
            texts = [tokenizer.batch_decode(column["input_ids"], skip_special_tokens=True) for column in features]
            labels = self.prepare(texts, labels)
        return self.compute(embeddings, labels)

    def _check(self, embeddings: Columns, labels: Tensor | None) -> None:
        """Check shapes and types only, which does not wait for a GPU."""
        name = type(self).__name__
        if not all(isinstance(column, Tensor) for column in embeddings):
            found = [type(column).__name__ for column in embeddings]
            raise ValueError(f"{name} takes embeddings as tensors, got {found}")
        shapes = [tuple(column.shape) for column in embeddings]
        if len(set(shapes)) != 1 or len(shapes[0]) != 2 or not shapes[0][0]:
            raise ValueError(f"{name} takes embeddings of one shape (batch, dim), batch at least 1, got {shapes}")
        fewest = len(range(self.columns[0])[self.embedded])
        most = math.inf if self.columns[1] is None else len(range(self.columns[1])[self.embedded]) * self.views
        if not fewest <= len(shapes) <= most:
            raise ValueError(f"{name} takes the embeddings of {_count(fewest, most)} columns, got {len(shapes)}")
        if problem := _label_problem(self, len(shapes), shapes[0][0], labels):
            raise ValueError(f"{name} {problem}")


def fitting_losses(texts: int, labels: Tensor | None) -> list[str]:
    """Return the names of the losses that take rows of `texts` texts with such labels; all zero counts as no labels.

    >>> "TripletLoss" in fitting_losses(3, None), "TripletLoss" in fitting_losses(2, None)
    (True, False)
    """
    given = labels if isinstance(labels, Tensor) and labels.any() else None
    rows = 1 if given is None or not given.ndim else len(given)
    return [
        kind.__name__
        for kind in _subclasses(Loss)
        if (kind.label == "none") == (given is None) and not (kind.needs_texts or _problem(kind, texts, rows, given))
    ]


def checked_function(name: str, value: Any) -> Any:
    """Return a setting that must be a function."""
    if not callable(value):
        raise ValueError(f"{name} must be a function of tensors of embeddings, got {value!r}")
    return value


def model_dimension(model: nn.Module | None) -> int | None:
    """Return the dimension of a model's embeddings; None if it is unknown."""
    dimension = getattr(model, "get_sentence_embedding_dimension", None)
    return dimension() if callable(dimension) else None


def own_rows(embeddings: Tensor) -> Tensor:
    """Return 0 ... batch - 1: the candidate that belongs to each row, as a class for cross-entropy."""
    return torch.arange(len(embeddings), device=embeddings.device)


def without_known(scores: Tensor, known: Tensor | None) -> Tensor:
    """Return scores `(batch, candidates)` with -inf at known positives; unchanged for None.

    >>> without_known(torch.tensor([[1.0, 2.0]]), torch.tensor([[False, True]]))
    tensor([[1., -inf]])
    """
    if known is None:
        return scores
    if not isinstance(known, Tensor) or known.dtype != torch.bool or known.shape != scores.shape:
        found = f"{known.dtype} {tuple(known.shape)}" if isinstance(known, Tensor) else type(known).__name__
        raise ValueError(
            f"known must be a boolean mask (batch, candidates) = {tuple(scores.shape)}, got {found}; "
            "loss.known_positives(columns, groups) makes it"
        )
    return scores.masked_fill(known.to(scores.device), -torch.inf)


def padded(embeddings: Tensor, dimension: int) -> Tensor:
    """Return `(batch, dim)` embeddings, padded with zeros to `(batch, dimension)`."""
    if embeddings.shape[1] > dimension:
        raise ValueError(f"the loss was made for embeddings of dimension {dimension}, got {embeddings.shape[1]}")
    return F.pad(embeddings, (0, dimension - embeddings.shape[1]))


def _subclasses(loss: type[Loss]) -> list[type[Loss]]:
    return [kind for child in loss.__subclasses__() for kind in (child, *_subclasses(child))]


def _count(fewest: int, most: float | None) -> str:
    return f"{fewest}" if fewest == most else f"{fewest} or more" if most in (None, math.inf) else f"{fewest} to {most}"


def _problem(loss: Loss | type[Loss], texts: int, rows: int, labels: Tensor | None) -> str | None:
    """Return why the loss does not take such rows, or None if it does."""
    if problem := _column_problem(loss, texts) or _label_problem(loss, texts, rows, labels):
        return problem
    if loss.label == "none" or labels is None:
        return None
    wrong = ~labels.isfinite() | (labels != 0) & (labels != 1) & (loss.label == "binary")
    return f"takes {LABELS[loss.label]}, got the label {labels[wrong][0].item():g}" if wrong.any() else None


def _column_problem(loss: Loss | type[Loss], texts: int) -> str | None:
    fewest, most = loss.columns
    if fewest <= texts <= (math.inf if most is None else most):
        return None
    wanted = _count(fewest, most)
    return f"takes {wanted} text{'' if wanted == '1' else 's'} per row, got {texts}"


def _label_problem(loss: Loss | type[Loss], texts: int, rows: int, labels: Tensor | None) -> str | None:
    if labels is not None and not isinstance(labels, Tensor):
        return f"takes labels as a tensor, got {type(labels).__name__}"
    if loss.label == "none":
        return None
    wanted = f"takes {LABELS[loss.label]}"
    if labels is None:
        return f"{wanted}, got no labels; give InputExample a label"
    shapes: set[tuple[int, ...]] = {(rows,), (rows, 1)}
    if loss.label == "vector":
        shapes = {(rows, labels.shape[-1]), (rows, texts, labels.shape[-1])} if labels.ndim > 1 else set()
    elif loss.label == "scores":
        widths = [texts - fewer for fewer in loss.fewer_scores]
        shapes = {(rows, width) for width in widths} | ({(rows,)} if 1 in widths else set())
    if tuple(labels.shape) not in shapes:
        return f"{wanted}, got labels of shape {tuple(labels.shape)} for {rows} rows of {texts} texts"
    if loss.label == "int" and (labels.is_floating_point() or labels.is_complex()):
        found = str(labels.dtype).removeprefix("torch.")
        return f"{wanted}, got {found} labels; if they are classes, use label=int(...)"
    return None
