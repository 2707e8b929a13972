"""Loaders that decide which rows share a batch, and the noise of the denoising auto-encoder.

What each of them yields is a function of (seed, epoch) alone. `set_epoch(epoch)` before each epoch gives another order;
`fit` calls it, and so must a hand-written loop.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from sbertlab.checks import checked_number
from sbertlab.data.examples import InputExample
from sbertlab.data.texts import checked_text, plain_text

__all__ = ["DenoisingAutoEncoderDataset", "NoDuplicatesDataLoader", "SentenceLabelDataset"]

LOOK_AHEAD = 32  # open batches that a row tries before it goes behind all that hold its texts
ATTEMPTS = 20  # orders that an epoch tries before it has no full batch


class NoDuplicatesDataLoader:
    """Batches in which no text occurs in two rows, for losses with in-batch negatives.

    Texts count as equal after `strip().lower()`; a row may repeat its own text (as in SimCSE). All batches are full and
    no row occurs twice in an epoch. A row that conflicts is deferred to the next batch that can take it; rows left over
    at the end, usually fewer than a batch, come first in the next epoch. `len(loader)` is the exact number of batches
    of this epoch: `floor(n / batch_size)`, or less if repeated texts prevent it.

    A row goes to the first open batch that can take it, or after some trials behind all that hold one of its texts, so
    an epoch is planned in O(n). `collate_fn` makes a batch of a list of rows; by default it returns the list.

    Relatives: `losses.GISTEmbedLoss` and the masking of known positives keep such rows together instead.

    >>> rows = [InputExample(texts=[a, b]) for a, b in [("x", "1"), ("X ", "2"), ("y", "3"), ("z", "4")]]
    >>> [sorted(row.texts[0] for row in batch) for batch in NoDuplicatesDataLoader(rows, batch_size=2, seed=1)]
    [['x', 'y'], ['X ', 'z']]
    """

    def __init__(self, train_examples: Sequence[InputExample], batch_size: int, seed: int = 0) -> None:
        self.train_examples = list(train_examples)
        self.batch_size = checked_number("batch_size", batch_size, 1, whole=True)
        self.seed = checked_number("seed", seed, whole=True)
        self.collate_fn: Callable[[list[InputExample]], Any] = list
        numbers: dict[str, int] = {}
        self._keys: list[list[int]] = []  # the distinct texts of each row, as numbers
        for index, example in enumerate(self.train_examples):
            texts = [plain_text(text) for text in getattr(example, "texts", None) or [None]]
            if None in texts:
                raise ValueError(f"example {index} must be an InputExample with texts, got {example!r}")
            distinct = dict.fromkeys(text.strip().lower() for text in texts if text is not None)
            self._keys.append([numbers.setdefault(text, len(numbers)) for text in distinct])
        self._number_of_texts = len(numbers)
        self._epoch = -1
        self._batches: list[list[int]] = []
        self._left_over: list[int] = []
        self.set_epoch(0)

    @property
    def epoch(self) -> int:
        """The epoch that iteration yields."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields, from 0."""
        checked_number("epoch", epoch, whole=True)
        if epoch < self._epoch:
            self._epoch, self._left_over = -1, []
        while self._epoch < epoch:
            self._epoch += 1
            self._plan()

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            yield self.collate_fn([self.train_examples[index] for index in batch])

    def _plan(self) -> None:
        """Plan one more epoch: the rows left over, then the others in a new order."""
        waiting = set(self._left_over)
        for attempt in range(ATTEMPTS):
            draw = np.random.default_rng((self.seed, self._epoch, attempt))
            order = draw.permutation(len(self.train_examples)).tolist()
            if attempt == 0:
                order = self._left_over + [index for index in order if index not in waiting]
            batches = self._pack(order)
            if any(len(batch) == self.batch_size for batch in batches):
                break
        else:
            raise ValueError(
                f"{len(self.train_examples)} examples give no batch of {self.batch_size} in which no text is repeated; "
                "lower batch_size, or use a plain DataLoader if repeated texts do no harm"
            )
        self._batches = [batch for batch in batches if len(batch) == self.batch_size]
        self._left_over = [index for batch in batches if len(batch) < self.batch_size for index in batch]

    def _pack(self, order: Iterable[int]) -> list[list[int]]:
        """Put all rows into batches, full and others, in this order; see the class for the rule."""
        batches: list[list[int]] = []
        held: list[set[int]] = []  # the texts of each batch, emptied once it is full
        after = [0] * self._number_of_texts  # the first batch behind all that hold the text
        forward = [0]  # following these from any batch leads to the next one that is not full

        def not_full(batch: int) -> int:
            while forward[batch] != batch:
                forward[batch] = forward[forward[batch]]
                batch = forward[batch]
            return batch

        for index in order:
            keys = self._keys[index]
            batch = not_full(0)
            for _ in range(LOOK_AHEAD):
                if batch == len(batches) or held[batch].isdisjoint(keys):
                    break
                batch = not_full(batch + 1)
            else:
                batch = not_full(max(batch, *(after[key] for key in keys)))
            if batch == len(batches):
                batches.append([])
                held.append(set())
                forward.append(batch + 1)
            batches[batch].append(index)
            held[batch].update(keys)
            for key in keys:
                after[key] = max(after[key], batch + 1)
            if len(batches[batch]) == self.batch_size:
                held[batch] = set()
                forward[batch] = batch + 1
        return batches


class SentenceLabelDataset(IterableDataset[InputExample]):
    """Rows in groups of `samples_per_label` of one class, for losses that mine triplets in the batch.

    | texts       | label             |
    | ----------- | ----------------- |
    | (sentence,) | int, class number |

    Goes into a plain `DataLoader` whose `batch_size` is a multiple of `samples_per_label`, at least twice that. The
    groups of a class are spread evenly over the epoch, so batches mix classes. Classes with fewer than
    `samples_per_label` rows are left out, with a warning.

    Without replacement a row occurs at most once per epoch, and up to `samples_per_label - 1` rows of each class wait.
    With replacement all classes are drawn equally often, only the rows of one group are distinct, and the epoch is
    about as long as the data. `len(dataset)` is the exact number of rows.

    Relatives: `losses.BatchHardTripletLoss` and its siblings need these batches.

    >>> rows = [InputExample(texts=[f"text {i}"], label=i % 2) for i in range(8)]
    >>> [row.label for row in SentenceLabelDataset(rows, samples_per_label=2)]
    [0, 0, 1, 1, 0, 0, 1, 1]
    """

    def __init__(
        self,
        examples: Sequence[InputExample],
        samples_per_label: int = 2,
        with_replacement: bool = False,
        seed: int = 0,
    ) -> None:
        self.examples = list(examples)
        self.samples_per_label = checked_number("samples_per_label", samples_per_label, 1, whole=True)
        self.with_replacement = with_replacement
        self.seed = checked_number("seed", seed, whole=True)
        self.epoch = 0
        classes: dict[int, list[int]] = {}
        for index, example in enumerate(self.examples):
            label = getattr(example, "label", None)
            if isinstance(label, bool) or not isinstance(label, int | np.integer):
                raise ValueError(
                    f"the label of example {index} must be a class number (int), got {label!r} of type "
                    f"{type(label).__name__}; LabelSentenceReader numbers classes"
                )
            classes.setdefault(int(label), []).append(index)
        self._classes = {label: rows for label, rows in classes.items() if len(rows) >= samples_per_label}
        if len(self._classes) < 2:
            raise ValueError(
                f"triplets need two classes with at least {samples_per_label} examples each, got "
                f"{len(self._classes)} of {len(classes)} classes in {len(self.examples)} examples"
            )
        if rare := sorted(classes.keys() - self._classes.keys()):
            warnings.warn(
                f"{len(rare)} of {len(classes)} classes have fewer than {samples_per_label} examples and are left out: "
                f"{', '.join(map(str, rare[:20]))}{', ...' if len(rare) > 20 else ''}",
                stacklevel=2,
            )
        drawable = sum(map(len, self._classes.values()))
        evenly = max(1, drawable // (samples_per_label * len(self._classes)))
        self._groups = {
            label: evenly if with_replacement else len(rows) // samples_per_label
            for label, rows in self._classes.items()
        }

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields, from 0."""
        self.epoch = checked_number("epoch", epoch, whole=True)

    def __len__(self) -> int:
        return self.samples_per_label * sum(self._groups.values())

    def __iter__(self) -> Iterator[InputExample]:
        groups = self._draw()
        worker = get_worker_info()
        for group in groups if worker is None else groups[worker.id :: worker.num_workers]:
            for index in group:
                yield self.examples[index]

    def _draw(self) -> list[list[int]]:
        """Return the groups of the epoch in order; group j of the m of a class lies in the j-th m-th of the epoch."""
        draw = np.random.default_rng((self.seed, self.epoch))
        placed: list[tuple[float, list[int]]] = []
        for label, rows in self._classes.items():
            count, size = self._groups[label], self.samples_per_label
            if self.with_replacement:
                groups = [draw.choice(rows, size, replace=False).tolist() for _ in range(count)]
            else:
                groups = draw.permutation(rows)[: count * size].reshape(count, size).tolist()
            places = (np.arange(count) + draw.random(count)) / count
            placed += zip(places.tolist(), groups, strict=True)
        return [group for _, group in sorted(placed)]


class DenoisingAutoEncoderDataset(Dataset[InputExample]):
    """Pairs (noisy text, text) for the denoising auto-encoder.

    | texts              | label     |
    | ------------------ | --------- |
    | (noisy text, text) | 0, unused |

    The noise of a text is a function of (seed, epoch, its index), whatever the order or the number of workers.

    Relatives: `losses.DenoisingAutoEncoderLoss` rebuilds the text from the embedding of the noisy one.
    Source: Wang, Reimers and Gurevych, 2021, TSDAE (arXiv:2104.06979), section 3: deletion with ratio 0.6.

    `noise_fn` makes a text noisy; None deletes words with ratio 0.6. A parameter called `rng` receives the generator
    to draw from, as in `functools.partial(DenoisingAutoEncoderDataset.delete, del_ratio=0.4)`.

    >>> DenoisingAutoEncoderDataset(["one two three four five"], seed=1)[0].texts
    ['two four', 'one two three four five']
    """

    def __init__(self, sentences: Sequence[str], noise_fn: Callable[..., str] | None = None, seed: int = 0) -> None:
        if isinstance(sentences, str) or not len(sentences):
            raise ValueError(f"sentences must be a list of at least one text, got {sentences!r}")
        self.sentences = [checked_text(text, f"sentence {index}") for index, text in enumerate(sentences)]
        self.noise_fn = noise_fn or self.delete
        self.seed = checked_number("seed", seed, whole=True)
        self.epoch = 0
        self._seeded = "rng" in inspect.signature(self.noise_fn).parameters

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose noise the items get, from 0."""
        self.epoch = checked_number("epoch", epoch, whole=True)

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> InputExample:
        text = self.sentences[index]
        if not self._seeded:
            return InputExample(texts=[self.noise_fn(text), text])
        draw = np.random.default_rng((self.seed, self.epoch, index % len(self.sentences)))
        return InputExample(texts=[self.noise_fn(text, rng=draw), text])

    @staticmethod
    def delete(text: str, del_ratio: float = 0.6, rng: np.random.Generator | None = None) -> str:
        """Delete each space-separated word with probability `del_ratio`, but never all of them.

        >>> DenoisingAutoEncoderDataset.delete("only  spaces   go", del_ratio=0.0)
        'only spaces go'
        """
        checked_number("del_ratio", del_ratio, high=1)
        words = text.split()
        if not words:
            return text
        rng = rng or np.random.default_rng()
        kept = rng.random(len(words)) >= del_ratio
        if not kept.any():
            kept[rng.integers(len(words))] = True
        return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)
