"""Batches: a data loader, the loss that its batches go to, and a position in the data that can be found again."""

from __future__ import annotations

import hashlib
import random
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

FINGERPRINTED_ROWS = 100_000
"""Most rows of a data set that its fingerprint reads."""

NOT_SETTINGS = {"model", "training", *vars(Loss)}
"""Attributes of a loss that are not settings."""


def set_seed(device: torch.device, seed: int, *where: int | str) -> None:
    """Seed Python, NumPy and torch from the run's seed and the place in the run, whatever was drawn before."""
    words = [part if isinstance(part, int) else int.from_bytes(part.encode()[:8], "little") for part in where]
    value = int(np.random.SeedSequence([seed, *words]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 (users' data sets draw from it)
    # Without an accelerator, torch.manual_seed spends a millisecond looking for one.
    (torch.default_generator if device.type == "cpu" else torch).manual_seed(value)


class Batch(NamedTuple):
    """What a loss gets apart from the embeddings."""

    columns: list[list[Any]]
    """Texts."""
    labels: Tensor | None
    known: Tensor | None = None
    """Pairs that are not negatives, because the batch shows that they are positives."""


class Objective:
    """A data loader and the loss that its batches go to; an exhausted loader starts again.

    Args:
        loader: yields lists of InputExample once its `collate_fn` is set, which is done here.
        loss: a Loss, or any module with `forward(features, labels)`.
        index: position among the objectives.
        seed: together with `index` and the number of the pass, it decides the order of the data.
        device: of the model.
        mask: keep known positives out of the negatives.
    """

    def __init__(
        self, loader: Any, loss: nn.Module, index: int, seed: int, device: torch.device, mask: bool = True
    ) -> None:
        self.loader, self.loss, self.index, self.seed, self.device = loader, loss, index, seed, device
        self.mask = bool(mask)
        self.name = f"{index}:{type(loss).__name__}"
        self.passes = 0
        self._first_step = self._taken = 0  # of this pass: the step that began it, and the batches taken
        self._digest = hashlib.sha256()  # of this pass's batches
        self._generators: list[Tensor] = []  # states of the loader's own generators when this pass began
        self._batches: Iterator[list[InputExample]] = iter(())
        self._set_epoch()

    def __len__(self) -> int:
        """Return the number of batches per pass, which must be known and above 0."""
        try:
            length = len(self.loader)
        except TypeError:
            raise TypeError(f"the loader of objective {self.name} has no length; give steps_per_epoch") from None
        if length == 0:
            raise ValueError(self._empty())
        return length

    def next_batch(self, step: int) -> Batch:
        """Return the batch of this step, counted from 1; a ValueError if it does not fit the loss."""
        set_seed(self.device, self.seed, "batch", self.index, step)
        rows = next(self._batches, None)
        if rows is None:
            self._first_step, self._taken, self._digest = step, 0, hashlib.sha256()
            self._generators = [generator.get_state() for generator in self._own_generators()]
            rows = self._begin_pass()
            self.passes += 1
        self._taken += 1
        self._digest.update(digest_of(rows))
        try:
            columns, labels = collate(rows)
            if not isinstance(self.loss, Loss):
                return Batch(columns, labels)
            self.loss.check_batch(columns, labels)
            return Batch(columns, labels, self.loss.known_positives(columns, groups_of(rows)) if self.mask else None)
        except ValueError as error:
            raise ValueError(
                f"step {step}, objective {self.name}: {error}. The first row: {rows[:1]!r:.300}"
            ) from error

    def state(self) -> dict[str, Any]:
        """Return the position in the data, for `restore`."""
        return {
            "passes": self.passes,
            "first_step": self._first_step,
            "taken": self._taken,
            "digest": self._digest.hexdigest(),
            "generators": self._generators,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a position: start its pass again and draw its batches again, which must be the same."""
        self.passes = max(0, state["passes"] - 1)
        if not state["passes"]:
            return
        for generator, saved in zip(self._own_generators(), state["generators"], strict=True):
            generator.set_state(saved)
        self._digest = hashlib.sha256(digest_of(self._begin_pass()))
        for step in range(state["first_step"] + 1, state["first_step"] + state["taken"]):
            set_seed(self.device, self.seed, "batch", self.index, step)
            self._digest.update(digest_of(next(self._batches, [])))
        if self._digest.hexdigest() != state["digest"]:
            raise ValueError(
                f"objective {self.name}: the first {state['taken']} batches of this pass are not those that the "
                "checkpoint has seen; give the same data in the same order, and loaders whose order follows from a seed"
            )
        self.passes, self._generators = state["passes"], list(state["generators"])
        self._first_step, self._taken = state["first_step"], state["taken"]

    def sample(self, count: int) -> list[InputExample]:
        """Return up to `count` rows of the data, the same in every run; none for a stream."""
        set_seed(self.device, self.seed, "sample", self.index)
        found = rows_behind(self.loader, count)
        return [] if found is None else list(found[0])

    def configuration(self) -> dict[str, Any]:
        """Return what must not change when a run is resumed: the loss, the loader and the data."""
        set_seed(self.device, self.seed, "fingerprint", self.index)  # for data sets that draw when they are read
        sampler = getattr(self.loader, "batch_sampler", None)
        size = getattr(self.loader, "batch_size", None) or getattr(sampler, "batch_size", None)
        found = rows_behind(self.loader, FINGERPRINTED_ROWS)
        data = f"a stream of {type(getattr(self.loader, 'dataset', self.loader)).__name__}"
        if found is not None:
            data = f"{found[1]:,} rows, {digest_of(found[0]).hex()[:16]}"
        return {
            f"objective {self.index}, loss": described(self.loss),
            f"objective {self.index}, loader": f"{type(self.loader).__name__}, batch size {size}",
            f"objective {self.index}, data": data,
            f"objective {self.index}, mask_known_positives": self.mask,
        }

    def _begin_pass(self) -> list[InputExample]:
        """Start a pass through the data in its own order, and return its first batch."""
        set_seed(self.device, self.seed, "order", self.index, self.passes)
        self._set_epoch()
        self.loader.collate_fn = list  # set for every pass: an evaluator may share the loader and set its own
        if isinstance(self.loader, DataLoader):
            self.loader._iterator = None  # persistent workers would keep the epoch and random state of the last pass
        self._batches = iter(self.loader)
        batch = next(self._batches, None)
        if batch is None:
            raise ValueError(self._empty())
        return batch

    def _set_epoch(self) -> None:
        for part in self._parts():
            if hasattr(part, "set_epoch"):
                part.set_epoch(self.passes)

    def _parts(self) -> list[Any]:
        parts = [getattr(self.loader, name, None) for name in ("dataset", "sampler", "batch_sampler")]
        return [self.loader, *parts, getattr(parts[-1], "sampler", None)]

    def _own_generators(self) -> list[torch.Generator]:
        found = (getattr(part, "generator", None) for part in self._parts())
        return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())

    def _empty(self) -> str:
        return (
            f"the loader of objective {self.name} yields no batch: its data set is empty, smaller than one batch with "
            "drop_last=True, or can be read only once"
        )


def make_objectives(model: SentenceTransformer, pairs: Any, seed: int, mask: bool) -> list[Objective]:
    """Check the (loader, loss) pairs and move the losses to the model's device."""
    pairs = list(pairs) if isinstance(pairs, Iterable) and not isinstance(pairs, (str, Mapping)) else []
    if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise ValueError(
            "train_objectives must be a list of (DataLoader, loss) pairs, e.g. [(train_dataloader, train_loss)]"
        )
    for index, (loader, loss) in enumerate(pairs):
        _check_pair(f"train_objectives[{index}]", loader, loss, model)
    return [
        Objective(loader, loss.to(model.device), index, seed, model.device, mask)
        for index, (loader, loss) in enumerate(pairs)
    ]


def _check_pair(where: str, loader: Any, loss: Any, model: SentenceTransformer) -> None:
    if not isinstance(loss, nn.Module):
        raise TypeError(f"{where}[1] must be a loss, got {loss!r:.80}; is the order (loader, loss)?")
    no_batches = isinstance(loader, (Sequence, Iterator, Dataset)) or not hasattr(loader, "__iter__")
    if no_batches or (isinstance(loader, DataLoader) and loader.batch_sampler is None):
        raise TypeError(
            f"{where}[0] must be a DataLoader that makes batches, got {type(loader).__name__}; write "
            "DataLoader(examples, shuffle=True, batch_size=16)"
        )
    collate_name = getattr(getattr(loader, "collate_fn", None), "__name__", "list")
    if collate_name not in ("list", "default_collate", "smart_batching_collate"):
        warnings.warn(
            f"{where}[0].collate_fn, {collate_name}, is not used: fit takes batches of InputExamples as they are; put "
            "what changes rows into the data set",
            stacklevel=4,
        )
    for part in loss.modules():
        of_loss = getattr(part, "model", None) if isinstance(part, Loss) or part is loss else None
        if isinstance(of_loss, SentenceTransformer) and of_loss is not model:
            raise ValueError(f"{where}: {type(part).__name__} was made with another model than the one to train")


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


def likely_mistake(loss: nn.Module, batch: Batch) -> str | None:
    """Return a warning about a likely mistake in the first batch, or None."""
    labels = batch.labels
    if not isinstance(loss, Loss):
        return None
    if loss.in_batch and len(batch.columns[0]) == 1:
        return "no negatives in a batch of one row, so nothing is learnt; raise batch_size"
    if labels is None or labels.ndim != 1:
        return None
    if loss.in_batch and loss.columns[0] > 1 and (labels != labels[0]).any():
        low = (labels <= (labels.min() + labels.max()) / 2).double().mean().item()
        return (
            f"the loss ignores labels and takes every row as a positive pair, including the {low:.0%} with low labels; "
            "leave those rows out, or use a loss that reads labels, such as CoSENTLoss"
        )
    if loss.label in ("float", "binary", "int") and len(labels) >= 8 and not labels.any():
        return "the loss needs labels, and all of the first batch are 0; were they forgotten? InputExample(label=...)"
    return None


def rows_behind(loader: Any, most: int) -> tuple[Iterable[Any], int] | None:
    """Return up to `most` rows behind a loader, spread evenly, and how many there are; None for a stream."""
    rows: Any = getattr(loader, "dataset", loader)
    if isinstance(rows, NoDuplicatesDataLoader):
        rows = rows.train_examples
    elif isinstance(rows, SentenceLabelDataset):
        rows = rows.examples
    if isinstance(rows, IterableDataset) or not (hasattr(rows, "__getitem__") and hasattr(rows, "__len__")):
        return None
    chosen = np.unique(np.linspace(0, max(0, len(rows) - 1), most).astype(np.int64)).tolist()
    return (rows[index] for index in chosen[: len(rows)]), len(rows)


def described(setting: Any) -> str:
    """Return a loss with its settings, including the losses inside it; of models and the like, only the kind."""
    if isinstance(setting, Loss):
        settings = {key: value for key, value in {**vars(setting), **setting._modules}.items() if key[0] != "_"}
        shown = [f"{key}={described(settings[key])}" for key in sorted(settings.keys() - NOT_SETTINGS)]
        return f"{type(setting).__name__}({', '.join(shown)})"
    if isinstance(setting, (list, tuple)):
        return f"[{', '.join(map(described, setting))}]"
    if isinstance(setting, (bool, int, float, str, type(None))):
        return str(setting)
    return getattr(setting, "__qualname__", type(setting).__name__)
