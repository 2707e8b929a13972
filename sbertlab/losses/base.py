"""What every loss shares: the checks of a batch, the one cast to float32, and the loop that embeds and computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbertlab.losses.known_positives import known_positives

Metric = Callable[[Tensor, Tensor], Tensor]  # of two (n, dim) tensors: row by row (n,), or every pair (n, m)

LABELS = {
    "none": "no labels",
    "float": "one number a row",
    "binary": "a label 0 or 1 a row",
    "int": "one integer class a row",
    "vector": "one target vector a row",
    "scores": "the candidates' scores a row",
}


class Loss(nn.Module):
    """A loss states what a row of data must look like, checks it, and is mathematics on embeddings: its `_formula`.

    Args:
        model: the encoder, which `forward` needs and `compute` does not. As in the field it becomes a submodule:
            `loss.parameters()` includes the encoder's.

    Attributes:
        columns: fewest and most texts a row; None for any number.
        label: what a row's label must be, a key of `LABELS`. "none" ignores labels.
        fewer_scores: for "scores", by how many a row's scores may be fewer than its texts.
        embedded: which columns the encoder embeds.
        views: how often it embeds each of them; dropout makes the views differ.
        needs_texts: whether `prepare` makes what `compute` takes as labels out of the texts.
        in_batch: whether texts of other rows are taken as negatives. Such a loss has a `_formula(embeddings, labels,
            known)` that leaves out the pairs of scores marked in `known`.

    Raises:
        ValueError: `model` is not a module.

    A loss of one's own is a formula:

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

    def _formula(self, embeddings: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the loss, given what `compute` checked and cast; `labels` is empty where there are none."""
        raise NotImplementedError

    def compute(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, a scalar, in float32 whatever autocast says (float64 stays float64).

        Args:
            embeddings: one `(batch, dim)` tensor per embedded column.
            labels: one per row, as the class says; or what `prepare` returned.
            known: what `known_positives` returned: the pairs `(batch, candidates)` that are no negatives. Losses that
                are not `in_batch` ignore it.

        Raises:
            ValueError: number or shapes of the embeddings, or shape or type of the labels or of `known`, do not fit
                this loss.
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

    def prepare(self, columns: Sequence[Sequence[str]], labels: Tensor | None) -> Tensor | None:
        """Return what `compute` takes as labels, given the texts; runs before the forward pass, without gradient."""
        return labels

    def known_positives(
        self, columns: Sequence[Sequence[str]], groups: Sequence[Hashable] | None = None
    ) -> Tensor | None:
        """Return what `compute` takes as `known`, given the texts and the rows' group ids; None if nothing is masked.

        The function of this name says what counts as one. `int(known.count_nonzero())` is the number of pairs masked.
        """
        return known_positives(columns, groups) if self.in_batch else None

    def check_batch(self, columns: Sequence[Sequence[str]], labels: Tensor | None) -> None:
        """Check the columns and labels of a batch before it is embedded.

        Raises:
            ValueError: this loss cannot take so many texts a row, or such labels. The message names losses that can.
        """
        rows = {len(column) for column in columns}
        if len(rows) != 1 or rows == {0}:
            raise ValueError(f"{type(self).__name__} takes columns of one positive length, got {sorted(rows)}")
        problem = _column_problem(self, len(columns))
        problem = problem or _label_problem(self, len(columns), rows.pop(), labels, values=True)
        if problem:
            fitting = fitting_losses(len(columns), labels)
            hint = f". Losses for such rows: {', '.join(fitting)}" if fitting else ""
            raise ValueError(f"{type(self).__name__} {problem}{hint}")

    def embed(self, sentence_features: Iterable[dict[str, Tensor]]) -> list[Tensor]:
        """Return the `(batch, dim)` embeddings of the tokenised columns this loss needs.

        Raises:
            ValueError: the loss was made without a model, or takes another number of columns.
        """
        if self.model is None:
            raise ValueError(f"{type(self).__name__} was made without a model: give it one, or call compute()")
        features = list(sentence_features)
        problem = _column_problem(self, len(features))
        if problem:
            raise ValueError(f"{type(self).__name__} {problem}")
        features = features[self.embedded] * self.views
        return [self.model(dict(column))["sentence_embedding"] for column in features]

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Any:
        """Embed tokenised columns and return their loss, for training loops written by hand.

        Known positives are not masked, as texts cannot be compared any more; such loops call `compute`, as `fit` does.
        """
        features = list(sentence_features)
        embeddings = self.embed(features)
        if self.needs_texts:
            tokenizer: Any = self.model.tokenizer  # type: ignore[union-attr]
            texts = [tokenizer.batch_decode(column["input_ids"], skip_special_tokens=True) for column in features]
            labels = self.prepare(texts, labels)
        return self.compute(embeddings, labels)

    def _check(self, embeddings: Sequence[Tensor], labels: Tensor | None) -> None:
        """Check shapes and types only, so that nothing waits for a GPU."""
        name = type(self).__name__
        if not all(isinstance(column, Tensor) for column in embeddings):
            raise ValueError(
                f"{name} takes embeddings as tensors, got {[type(column).__name__ for column in embeddings]}"
            )
        shapes = [tuple(column.shape) for column in embeddings]
        if len(set(shapes)) != 1 or len(shapes[0]) != 2 or not shapes[0][0]:
            raise ValueError(f"{name} takes embeddings of one shape (batch, dim), batch at least 1, got {shapes}")
        fewest = len(range(self.columns[0])[self.embedded])
        most = math.inf if self.columns[1] is None else len(range(self.columns[1])[self.embedded]) * self.views
        if not fewest <= len(shapes) <= most:
            raise ValueError(f"{name} takes the embeddings of {_count(fewest, most)} columns, got {len(shapes)}")
        problem = _label_problem(self, len(shapes), shapes[0][0], labels, values=False)
        if problem:
            raise ValueError(f"{name} {problem}")


def fitting_losses(texts: int, labels: Tensor | None) -> list[str]:
    """Name the losses that take rows of so many texts with such labels.

    Labels that are missing, or all zero as InputExample leaves them, count as no labels.

    Args:
        texts: texts a row.
        labels: labels of some rows, `(rows,)` or `(rows, width)`.

    >>> from sbertlab import losses
    >>> fitting_losses(1, torch.tensor([0.2, 1.0]))
    []
    >>> "TripletLoss" in fitting_losses(3, None), "TripletLoss" in fitting_losses(2, None)
    (True, False)
    """
    if isinstance(labels, Tensor) and not labels.any():
        labels = None
    rows = labels.shape[0] if isinstance(labels, Tensor) and labels.ndim else 1
    return [
        loss.__name__
        for loss in _kinds_of(Loss)
        if (loss.label == "none") == (labels is None)
        and not loss.needs_texts
        and not _column_problem(loss, texts)
        and not _label_problem(loss, texts, rows, labels, values=True)
    ]


def checked_function(name: str, value: Any) -> Any:
    """Return a setting that must be a function.

    Raises:
        ValueError: it is not.
    """
    if not callable(value):
        raise ValueError(f"{name} must be a function of two tensors of embeddings, got {value!r}")
    return value


def model_dimension(model: nn.Module | None) -> int | None:
    """Return the dimension of a model's embeddings, None where it cannot be known."""
    dimension = getattr(model, "get_sentence_embedding_dimension", None)
    return dimension() if callable(dimension) else None


def own_rows(embeddings: Tensor) -> Tensor:
    """Return 0 ... batch - 1: the candidate that belongs to each row, as a class for cross-entropy."""
    return torch.arange(len(embeddings), device=embeddings.device)


def without_known(scores: Tensor, known: Tensor | None) -> Tensor:
    """Return scores `(batch, candidates)` with -inf where a candidate is known to be a positive; unchanged for None.

    Raises:
        ValueError: `known` is no mask of these scores.

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
    """Return `(batch, dim)` embeddings followed by zeros, `(batch, dimension)`.

    Raises:
        ValueError: the embeddings have more than `dimension` dimensions.
    """
    if embeddings.shape[1] > dimension:
        raise ValueError(f"the loss was made for embeddings of dimension {dimension}, got {embeddings.shape[1]}")
    return F.pad(embeddings, (0, dimension - embeddings.shape[1]))


def _kinds_of(loss: type[Loss]) -> Iterator[type[Loss]]:
    for kind in loss.__subclasses__():
        if kind._formula is not Loss._formula:
            yield kind
        yield from _kinds_of(kind)


def _count(fewest: int, most: float | None) -> str:
    if fewest == most:
        return f"{fewest}"
    return f"{fewest} or more" if most in (None, math.inf) else f"{fewest} to {most}"


def _column_problem(loss: Loss | type[Loss], texts: int) -> str | None:
    """Say what is wrong with `texts` columns for `loss`, or None."""
    fewest, most = loss.columns
    if fewest <= texts and (most is None or texts <= most):
        return None
    wanted = _count(fewest, most)
    return f"takes {wanted} text{'' if wanted == '1' else 's'} a row, got {texts}"


def _label_problem(loss: Loss | type[Loss], texts: int, rows: int, labels: Tensor | None, values: bool) -> str | None:
    """Say what is wrong with `labels` for `loss`, or None; `values` looks at the numbers, too."""
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
        return (
            f"{wanted}, got {str(labels.dtype).removeprefix('torch.')} labels; if they are classes, use label=int(...)"
        )
    wrong = ~labels.isfinite() if values else labels.new_zeros(0)
    if wrong.any():
        return f"{wanted}, got the label {labels[wrong][0].item()}; repair or drop such rows"
    if values and loss.label == "binary":
        wrong = (labels != 0) & (labels != 1)
        if wrong.any():
            return f"{wanted}, got the label {labels[wrong][0].item():g}"
    return None
