"""An objective: a loader of data and the loss that its batches go to, with a place that can be found again."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from sbertlab.data import InputExample, NoDuplicatesDataLoader, SentenceLabelDataset, collate, groups_of
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.losses.base import Loss
from sbertlab.training.seeding import set_seed

FINGERPRINTED_ROWS = 100_000
"""Rows of a data set that its fingerprint reads at most, spread evenly."""

HIDDEN = {"model", "training", *vars(Loss)}
"""Attributes of a loss that are no settings."""

SAMPLED_ROWS = 512
"""Rows that `Objective.sample` returns at most."""


class Objective:
    """A data loader and the loss that its batches go to; a loader that runs dry is started again.

    Args:
        loader: yields lists of InputExample once its `collate_fn` is set, which is done here.
        loss: a Loss, or a module of the field with `forward(features, labels)`.
        index: position among the objectives.
        seed: with `index` and the pass through the data it decides the order.
        device: where the model is.
    """

    def __init__(self, loader: Any, loss: nn.Module, index: int, seed: int, device: torch.device) -> None:
        self.loader, self.loss, self.index, self.seed, self.device = loader, loss, index, seed, device
        self.name = f"{index}:{type(loss).__name__}"
        self.passes = 0
        self._first_step = self._taken = 0  # of this pass: the step that began it, and the batches taken
        self._digest = hashlib.sha256()  # of this pass's batches
        self._generators: list[Tensor] = []  # states of the loader's own generators when this pass began
        self._batches: Iterator[list[InputExample]] = iter(())
        self._set_epoch()

    def __len__(self) -> int:
        """Return the number of batches of a pass.

        Raises:
            TypeError: the loader does not know.
            ValueError: there are none.
        """
        try:
            length = len(self.loader)
        except TypeError:
            raise TypeError(f"the loader of objective {self.name} has no length; give steps_per_epoch") from None
        if length == 0:
            raise ValueError(self._nothing())
        return length

    def next_batch(self, step: int) -> list[InputExample]:
        """Return the rows of the batch of this step, counted from 1.

        Raises:
            ValueError: the loader yields nothing.
        """
        set_seed(self.device, self.seed, "batch", self.index, step)
        batch = next(self._batches, None)
        if batch is None:
            self._first_step, self._taken, self._digest = step, 0, hashlib.sha256()
            self._generators = [generator.get_state() for generator in self._own_generators()]
            batch = self._begin_pass()
            self.passes += 1
        self._taken += 1
        self._digest.update(digest_of(batch))
        return batch

    def state(self) -> dict[str, Any]:
        """Return where in the data the objective is, for `restore`."""
        return {
            "passes": self.passes,
            "first_step": self._first_step,
            "taken": self._taken,
            "digest": self._digest.hexdigest(),
            "generators": self._generators,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where the objective was: the pass is begun again, and its batches up to there are drawn anew.

        Raises:
            ValueError: they are not the batches of that time.
        """
        self.passes = state["passes"] - 1
        if self.passes < 0:
            self.passes = 0
            return
        for generator, kept in zip(self._own_generators(), state["generators"], strict=True):
            generator.set_state(kept)
        taken: list[list[InputExample]] = [self._begin_pass()]
        for step in range(state["first_step"] + 1, state["first_step"] + state["taken"]):
            set_seed(self.device, self.seed, "batch", self.index, step)
            taken.append(next(self._batches, []))
        self._digest = hashlib.sha256()
        for batch in taken:
            self._digest.update(digest_of(batch))
        if self._digest.hexdigest() != state["digest"]:
            raise ValueError(
                f"objective {self.name}: the first {len(taken)} batches of this pass are not those that the checkpoint "
                "has seen; give the same data in the same order, and loaders whose order follows from a seed"
            )
        self.passes, self._generators = state["passes"], list(state["generators"])
        self._first_step, self._taken = state["first_step"], state["taken"]

    def sample(self) -> list[InputExample]:
        """Return some rows of the data, the same in every run; none for a stream."""
        set_seed(self.device, self.seed, "sample", self.index)
        found = rows_behind(self.loader, SAMPLED_ROWS)
        return [] if found is None else list(found[0])

    def configuration(self) -> dict[str, Any]:
        """Return what must be the same when a run is continued: the loss, the loader and the data."""
        set_seed(self.device, self.seed, "fingerprint", self.index)  # of data that draw when they are read
        where = f"objective {self.index}"
        return {
            f"{where}, loss": described(self.loss),
            f"{where}, loader": f"{type(self.loader).__name__}, batch size {batch_size_of(self.loader)}",
            f"{where}, data": fingerprint(self.loader),
        }

    def _begin_pass(self) -> list[InputExample]:
        """Start a pass through the data, in an order of its own, and return its first batch."""
        set_seed(self.device, self.seed, "order", self.index, self.passes)
        self._set_epoch()
        self.loader.collate_fn = list  # set for every pass: an evaluator may share the loader and set its own
        if isinstance(self.loader, DataLoader):
            self.loader._iterator = None  # persistent workers would keep the epoch and the randomness of the last pass
        self._batches = iter(self.loader)
        batch = next(self._batches, None)
        if batch is None:
            raise ValueError(self._nothing())
        return batch

    def _set_epoch(self) -> None:
        for part in self._parts():
            if hasattr(part, "set_epoch"):
                part.set_epoch(self.passes)

    def _parts(self) -> list[Any]:
        names = ("dataset", "sampler", "batch_sampler")
        parts = [self.loader, *(getattr(self.loader, name, None) for name in names)]
        return [*parts, getattr(parts[-1], "sampler", None)]

    def _own_generators(self) -> list[torch.Generator]:
        found = (getattr(part, "generator", None) for part in self._parts())
        return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())

    def _nothing(self) -> str:
        return (
            f"the loader of objective {self.name} yields no batch: its data set is empty, smaller than one batch with "
            "drop_last=True, or can be read only once"
        )


class Batch(NamedTuple):
    """What a loss gets of a batch, but for the embeddings."""

    columns: list[list[Any]]
    """Texts."""
    labels: Tensor | None
    """As the loss wants them."""
    known: Tensor | None = None
    """Pairs that are no negatives, because the batch shows them to be positives."""


def checked_batch(rows: Sequence[InputExample], objective: Objective, step: int, mask: bool) -> Batch:
    """Return a batch of rows, once it is found to fit the loss.

    Args:
        rows: of the batch.
        objective: whose loss it goes to.
        step: for messages.
        mask: whether known positives are to be kept out of the negatives.

    Raises:
        ValueError: rows that the loss cannot take.
    """
    try:
        columns, labels = collate(rows)
        if not isinstance(objective.loss, Loss):
            return Batch(columns, labels)
        try:
            objective.loss.check_batch(columns, labels)
        except ValueError as error:
            raise ValueError(f"{error}. The first row has {first_row(columns, labels)}") from error
        known = objective.loss.known_positives(columns, groups_of(rows)) if mask else None
    except ValueError as error:
        raise ValueError(f"step {step}, objective {objective.name}: {error}") from error
    return Batch(columns, labels, known)


def first_row(columns: Sequence[Sequence[Any]], labels: Tensor | None) -> str:
    """Return what the first row of a batch holds, column by column.

    >>> first_row([["a cat"], ["a dog"]], torch.tensor([0.5]))
    "text 1: 'a cat' (str), text 2: 'a dog' (str), label: 0.5 (float32)"
    """
    parts = [f"text {n}: {column[0]!r:.40} ({type(column[0]).__name__})" for n, column in enumerate(columns, start=1)]
    if labels is not None:
        parts.append(f"label: {labels[0].numpy()!s:.40} ({labels.numpy().dtype})")
    return ", ".join(parts)


def digest_of(batch: Iterable[Any]) -> bytes:
    """Return a digest of the rows' texts and labels, in order."""
    digest = hashlib.sha256()
    for row in batch:
        label = getattr(row, "label", None)
        if isinstance(label, Tensor):
            label = label.detach().cpu().tolist()
        elif type(label) not in (bool, int, float, str, type(None)):
            label = np.asarray(label).tolist()  # how NumPy writes its numbers depends on its version
        digest.update(repr((getattr(row, "texts", row), label, getattr(row, "group", None))).encode())
    return digest.digest()


def batch_size_of(loader: Any) -> int | None:
    """Return the rows of a loader's batch, None where it does not say."""
    sampler = getattr(loader, "batch_sampler", None)
    return getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", None)


def doubt_of(loss: nn.Module, batch: Batch) -> str | None:
    """Say what a loss can take of its first batch and most likely should not, or None.

    >>> from sbertlab import losses
    >>> batch = Batch([["a", "b"], ["c", "d"]], torch.tensor([1.0, 0.0]))
    >>> print(doubt_of(losses.MultipleNegativesRankingLoss(), batch)[:63])
    MultipleNegativesRankingLoss ignores labels and takes every row
    """
    if not isinstance(loss, Loss):
        return None
    name, labels = type(loss).__name__, batch.labels
    if loss.in_batch and len(batch.columns[0]) == 1:
        return f"{name} has no negatives in a batch of one row, so nothing is learnt; raise batch_size"
    if labels is None or labels.ndim != 1:
        return None
    if loss.in_batch and loss.columns[0] > 1 and (labels != labels[0]).any():
        low = (labels <= (labels.min() + labels.max()) / 2).double().mean().item()
        return (
            f"{name} ignores labels and takes every row as a positive pair, also the {low:.0%} with low labels; leave "
            "those rows out, or use a loss that reads labels, such as CoSENTLoss"
        )
    if loss.label in ("float", "binary", "int") and len(labels) >= 8 and not labels.any():
        return f"{name} needs labels, and all of the first batch are 0; were they forgotten? InputExample(label=...)"
    return None


def rows_behind(loader: Any, most: int) -> tuple[Iterable[Any], int] | None:
    """Return up to `most` rows behind a loader, spread evenly, and how many there are; None for a stream."""
    dataset = getattr(loader, "dataset", loader)
    rows: Any = dataset
    if isinstance(dataset, (NoDuplicatesDataLoader, SentenceLabelDataset)):
        rows = dataset.train_examples if isinstance(dataset, NoDuplicatesDataLoader) else dataset.examples
    if isinstance(rows, IterableDataset) or not (hasattr(rows, "__getitem__") and hasattr(rows, "__len__")):
        return None
    chosen = np.unique(np.linspace(0, max(0, len(rows) - 1), most).astype(np.int64)).tolist()
    return (rows[index] for index in chosen[: len(rows)]), len(rows)


def fingerprint(loader: Any) -> str:
    """Return the number of rows behind a loader and a digest of them; of a stream, that it is one."""
    found = rows_behind(loader, FINGERPRINTED_ROWS)
    if found is None:
        return f"a stream of {type(getattr(loader, 'dataset', loader)).__name__}"
    rows, count = found
    return f"{count:,} rows, {digest_of(rows).hex()[:16]}"


def described(setting: Any) -> str:
    """Return a loss and what it is set to, the losses inside it too; of models and the like, what they are."""
    if isinstance(setting, Loss):
        settings = {key: value for key, value in {**vars(setting), **setting._modules}.items() if key[0] != "_"}
        shown = [f"{key}={described(settings[key])}" for key in sorted(settings.keys() - HIDDEN)]
        return f"{type(setting).__name__}({', '.join(shown)})"
    if isinstance(setting, (list, tuple)):
        return f"[{', '.join(map(described, setting))}]"
    if isinstance(setting, (bool, int, float, str, type(None))):
        return str(setting)
    return getattr(setting, "__qualname__", type(setting).__name__)


def make_objectives(model: SentenceTransformer, pairs: Any, seed: int) -> list[Objective]:
    """Check the pairs of loader and loss and move the losses to the model's device."""
    pairs = list(pairs) if isinstance(pairs, Iterable) and not isinstance(pairs, (str, Mapping)) else []
    if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise ValueError(
            "train_objectives must be a list of (DataLoader, loss) pairs, e.g. [(train_dataloader, train_loss)]"
        )
    objectives = []
    for index, (loader, loss) in enumerate(pairs):
        where = f"train_objectives[{index}]"
        if not isinstance(loss, nn.Module):
            raise TypeError(
                f"{where}[1] must be a loss, such as CosineSimilarityLoss(model), got {loss!r:.80}; is the order "
                "(loader, loss)?"
            )
        no_batches = isinstance(loader, (Sequence, Iterator, Dataset)) or not hasattr(loader, "__iter__")
        if no_batches or (isinstance(loader, DataLoader) and loader.batch_sampler is None):
            raise TypeError(
                f"{where}[0] must be a DataLoader that makes batches, got {type(loader).__name__}; write "
                "DataLoader(examples, shuffle=True, batch_size=16)"
            )
        collate_name = getattr(getattr(loader, "collate_fn", None), "__name__", "list")
        if collate_name not in ("list", "default_collate", "smart_batching_collate"):
            warnings.warn(
                f"{where}[0].collate_fn, {collate_name}, is not used: fit takes batches of InputExamples as they are; "
                "what changes rows belongs into the data set",
                stacklevel=3,
            )
        for part in loss.modules():
            of_loss = getattr(part, "model", None) if isinstance(part, Loss) or part is loss else None
            if isinstance(of_loss, SentenceTransformer) and of_loss is not model:
                raise ValueError(f"{where}: {type(part).__name__} was made with another model than the one to train")
        objectives.append(Objective(loader, loss.to(model.device), index, seed, model.device))
    return objectives
