"""Batches: a data loader, the loss that its batches go to, and a position in the data that can be found again."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from sbertlab.data import InputExample, collate, groups_of
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.losses.base import Loss


def set_seed(device: torch.device, seed: int, *where: int | str) -> None:
    """Seed Python, NumPy and torch from the run's seed and the place in the run, whatever was drawn before."""
    words = [part if isinstance(part, int) else int.from_bytes(part.encode()[:8], "little") for part in where]
    value = int(np.random.SeedSequence([seed, *words]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 (users' data sets draw from it)
    # Without an accelerator, torch.manual_seed spends a millisecond looking for one.
    (torch.default_generator if device.type == "cpu" else torch).manual_seed(value)


class Batch(NamedTuple):
    """What a loss gets apart from the embeddings: texts, labels, and pairs that must not serve as negatives."""

    columns: list[list[Any]]
    labels: Tensor | None
    known: Tensor | None = None


class Objective:
    """A data loader, and the loss that its batches go to: a Loss, or any module with `forward(features, labels)`.

    An exhausted loader starts again; the seed, the index and the number of the pass decide its order. With `mask`,
    known positives are no negatives.
    """

    def __init__(
        self, loader: Any, loss: nn.Module, index: int, seed: int, device: torch.device, mask: bool = True
    ) -> None:
        self.loader, self.loss, self.index, self.seed, self.device = loader, loss, index, seed, device
        self.mask, self.name = mask, f"{index}:{type(loss).__name__}"
        self.place: dict[str, Any] = {"passes": 0}  # its position in the data, for `restore`
        self._batches: Iterator[list[InputExample]] = iter(())
        self._set_epoch(0)

    def next_batch(self, step: int) -> Batch:
        """Return the batch of this step, counted from 1; a ValueError if it does not fit the loss."""
        set_seed(self.device, self.seed, "batch", self.index, step)
        rows = next(self._batches, None)
        if rows is None:
            generators = [generator.get_state() for generator in self._own_generators()]
            passes = self.place["passes"] + 1
            self.place = {"passes": passes, "first": step, "taken": 0, "digest": "", "generators": generators}
            rows = self._begin_pass()
        try:
            columns, labels = collate(rows)
            self.place["taken"] += 1
            self.place["digest"] = digest_of(rows, self.place["digest"])
            if not isinstance(self.loss, Loss):
                return Batch(columns, labels)
            self.loss.check_batch(columns, labels)
            return Batch(columns, labels, self.loss.known_positives(columns, groups_of(rows)) if self.mask else None)
        except ValueError as error:
            where = f"step {step}, objective {self.name}"
            raise ValueError(f"{where}: {error}. The first row: {rows[:1]!r:.300}") from error

    def restore(self, place: Mapping[str, Any]) -> None:
        """Return to a `place`: start its pass again and draw its batches again, which must be the same."""
        self.place = dict(place)
        for generator, saved in zip(self._own_generators(), place["generators"], strict=True):
            generator.set_state(saved)
        digest = digest_of(self._begin_pass())
        for step in range(place["first"] + 1, place["first"] + place["taken"]):
            set_seed(self.device, self.seed, "batch", self.index, step)
            digest = digest_of(next(self._batches, []), digest)
        if digest != place["digest"]:
            seen = f"the {place['taken']} batches of this pass are not those that the checkpoint has seen"
            raise ValueError(f"objective {self.name}: {seen}; give the same data in an order that follows from a seed")

    def sample(self, most: int) -> list[InputExample]:
        """Return up to `most` rows of the data, spread evenly; none of a stream."""
        rows: Any = getattr(self.loader, "dataset", self.loader)
        rows = getattr(rows, "train_examples", getattr(rows, "examples", rows))  # those behind loaders of sbertlab.data
        if isinstance(rows, IterableDataset) or not (hasattr(rows, "__getitem__") and hasattr(rows, "__len__")):
            return []
        set_seed(self.device, self.seed, "sample", self.index)  # for data sets that draw when they are read
        chosen = np.unique(np.linspace(0, max(0, len(rows) - 1), most).astype(np.int64)).tolist()
        return [rows[index] for index in chosen[: len(rows)]]

    def described(self) -> str:
        """Return the loader and the loss with its plain settings, which must not change when a run is resumed."""
        shown = [f"{type(self.loader).__name__}, batch size {getattr(self.loader, 'batch_size', None)}"]
        for part in (part for part in self.loss.modules() if isinstance(part, Loss) or part is self.loss):
            settings = {name: getattr(value, "__qualname__", value) for name, value in vars(part).items()}
            plain = [name for name, value in settings.items() if isinstance(value, (int, float, str, list, tuple))]
            listed = [f"{name}={settings[name]}" for name in plain if name[0] != "_" and name != "training"]
            shown.append(f"{type(part).__name__}({', '.join(listed)})")
        return ", ".join(shown)

    def _begin_pass(self) -> list[InputExample]:
        """Start a pass through the data in its own order, and return its first batch."""
        number = self.place["passes"] - 1
        set_seed(self.device, self.seed, "order", self.index, number)
        self._set_epoch(number)
        self.loader.collate_fn = list  # set for every pass: an evaluator may share the loader and set its own
        if isinstance(self.loader, DataLoader):
            self.loader._iterator = None  # persistent workers would keep the epoch and random state of the last pass
        self._batches = iter(self.loader)
        batch = next(self._batches, None)
        if batch is None:
            raise ValueError(f"the loader of objective {self.name} yields no batch; are there fewer rows than in one?")
        return batch

    def _set_epoch(self, number: int) -> None:
        for part in self._parts():
            if hasattr(part, "set_epoch"):
                part.set_epoch(number)

    def _parts(self) -> list[Any]:
        parts = [getattr(self.loader, name, None) for name in ("dataset", "sampler", "batch_sampler")]
        return [self.loader, *parts, getattr(parts[-1], "sampler", None)]

    def _own_generators(self) -> list[torch.Generator]:
        found = (getattr(part, "generator", None) for part in self._parts())
        return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


def make_objectives(
    model: SentenceTransformer, pairs: Iterable[tuple[Any, nn.Module]], seed: int, mask: bool
) -> list[Objective]:
    """Check the (loader, loss) pairs and move the losses to the model's device."""
    objectives = []
    for index, pair in enumerate(pairs):
        where = f"train_objectives[{index}]"
        loader, loss = pair if isinstance(pair, (tuple, list)) and len(pair) == 2 else (pair, None)
        if not hasattr(loader, "collate_fn") or not isinstance(loss, nn.Module):
            got = f"{type(loader).__name__} and {type(loss).__name__}"
            raise TypeError(f"{where} must be a pair (DataLoader(examples, batch_size=16), loss), got {got}")
        if getattr(loss, "model", None) not in (None, model):
            raise ValueError(f"{where}: {type(loss).__name__} was made with another model than the one to train")
        objectives.append(Objective(loader, loss.to(model.device), index, seed, model.device, mask))
    if not objectives:
        raise ValueError("train_objectives has no (DataLoader, loss) pair")
    return objectives


def batches_per_epoch(objectives: list[Objective]) -> int:
    """Return the length of the shortest loader, at least 1."""
    try:
        return max(1, min(len(objective.loader) for objective in objectives))
    except TypeError as error:
        raise TypeError(f"a loader of train_objectives has no length, so give steps_per_epoch: {error}") from error


def digest_of(rows: Iterable[InputExample], before: str = "") -> str:
    """Return a digest of the rows' texts and labels, in order, and of the digest before."""
    digest = hashlib.sha256(before.encode())
    for row in rows:
        label = np.asarray(row.label).tolist()  # how NumPy writes its numbers depends on its version
        digest.update(repr((row.texts, label, row.group)).encode())
    return digest.hexdigest()
