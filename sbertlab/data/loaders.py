"""Loaders that decide which rows stand together in a batch, and the noise of the denoising auto-encoder.

What each of them yields is a pure function of (seed, epoch): `set_epoch(epoch)` before each epoch gives it another
order, the same one in every run. Training calls it; a loop written by hand calls it itself.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from sbertlab.data.readers import InputExample
from sbertlab.data.rows import check_whole, checked_text

__all__ = ["DenoisingAutoEncoderDataset", "NoDuplicatesDataLoader", "SentenceLabelDataset"]

LOOK_AHEAD = 32  # open batches that a row tries before it goes behind all that hold its texts
ATTEMPTS = 20  # orders that an epoch of few rows tries before there is said to be no full batch


class NoDuplicatesDataLoader:
    """Batches in which no text occurs in two rows, for losses that take the other rows of a batch as negatives.

    Texts count as equal after `strip().lower()`; a row may repeat its own text (as SimCSE does). A row that conflicts
    is deferred, never dropped: it comes first in the next batch. All batches are full and no row occurs twice in an
    epoch; rows that are left over, usually fewer than a batch, come first in the next epoch. `len(loader)` is the exact
    number of batches of this epoch: `floor(n / batch_size)`, or less where repeated texts stand in the way.

    A row goes to the first open batch that can take it, or after some trials behind all that hold one of its texts, so
    an epoch is planned in O(n). What is left over depends on the epochs before: going to epoch k from an earlier one
    plans those between once.

    Relatives: `losses.GISTEmbedLoss` and the masking of known positives keep such rows together instead.

    Args:
        train_examples: the rows; texts are texts or `{route: text}`.
        batch_size: rows of a batch.
        seed: of the order.

    Attributes:
        collate_fn: makes the batch of a list of `InputExample`s; returns the list itself at first.

    Raises:
        ValueError: no full batch without a repeated text is found; a wrong argument; a row without texts.

    >>> rows = [InputExample(texts=[a, b]) for a, b in [("x", "1"), ("X ", "2"), ("y", "3"), ("z", "4")]]
    >>> [sorted(row.texts[0] for row in batch) for batch in NoDuplicatesDataLoader(rows, batch_size=2, seed=1)]
    [['x', 'y'], ['X ', 'z']]
    """

    def __init__(self, train_examples: Sequence[InputExample], batch_size: int, seed: int = 0) -> None:
        check_whole("batch_size", batch_size, 1)
        check_whole("seed", seed, 0)
        self.train_examples = list(train_examples)
        self.batch_size = batch_size
        self.seed = seed
        self.collate_fn: Callable[[list[InputExample]], Any] = list
        numbers: dict[str, int] = {}
        self._keys = [
            tuple(numbers.setdefault(text, len(numbers)) for text in _normalised(example, index))
            for index, example in enumerate(self.train_examples)
        ]
        self._number_of_texts = len(numbers)
        self._epoch = -1
        self._batches: list[list[int]] = []
        self._left_over: list[int] = []
        self.set_epoch(0)

    @property
    def epoch(self) -> int:
        """The epoch that iteration yields; `set_epoch` chooses it."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields, from 0."""
        check_whole("epoch", epoch, 0)
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
                "lower batch_size, or use a plain DataLoader if the repetition does no harm"
            )
        self._batches = [batch for batch in batches if len(batch) == self.batch_size]
        self._left_over = [index for batch in batches if len(batch) < self.batch_size for index in batch]

    def _pack(self, order: Iterable[int]) -> list[list[int]]:
        """Put all rows into batches, full ones and others, in this order; see the class for the rule."""
        batches: list[list[int]] = []
        held: list[set[int]] = []  # the texts of each batch, emptied once it is full
        after = [0] * self._number_of_texts  # the first batch behind all that hold the text
        forward = [0]  # a batch that is not full, reached by following these from any batch

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


def _normalised(example: InputExample, index: int) -> Iterable[str]:
    entries = getattr(example, "texts", None) or []
    texts = [text for entry in entries for text in (entry.values() if isinstance(entry, dict) else [entry])]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"example {index} must be an InputExample with texts, got {example!r}")
    return dict.fromkeys(text.strip().lower() for text in texts)


class SentenceLabelDataset(IterableDataset[InputExample]):
    """Rows in groups of `samples_per_label` of one class, for losses that look for triplets inside a batch.

    | texts       | label             |
    | ----------- | ----------------- |
    | (sentence,) | int, class number |

    Goes into a plain `DataLoader` whose `batch_size` is a multiple of `samples_per_label` and at least twice that.
    The groups of a class are spread evenly over the epoch, so that batches mix classes. Classes with fewer rows than
    `samples_per_label` cannot form a group and are left out, with a warning.

    Without replacement a row occurs at most once in an epoch; up to `samples_per_label - 1` rows of each class wait for
    another epoch. With replacement all classes are drawn equally often, and only the rows of one group are distinct;
    the epoch is about as long as the data. `len(dataset)` is the exact number of rows.

    Relatives: `losses.BatchHardTripletLoss` and its siblings need these batches.

    Args:
        examples: rows whose label is a class number.
        samples_per_label: rows in a group.
        with_replacement: draw the rows of each group anew.
        seed: of the draw.

    Raises:
        ValueError: a label that is no class number; fewer than two classes with enough rows; a wrong argument.

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
        check_whole("samples_per_label", samples_per_label, 1)
        check_whole("seed", seed, 0)
        self.examples = list(examples)
        self.samples_per_label = samples_per_label
        self.with_replacement = with_replacement
        self.seed = seed
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
        rare = sorted(classes.keys() - self._classes.keys())
        if rare:
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
        check_whole("epoch", epoch, 0)
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples_per_label * sum(self._groups.values())

    def __iter__(self) -> Iterator[InputExample]:
        groups = self._draw()
        worker = get_worker_info()
        for group in groups if worker is None else groups[worker.id :: worker.num_workers]:
            for index in group:
                yield self.examples[index]

    def _draw(self) -> list[list[int]]:
        """Return the epoch's groups in order; group j of the m of a class lies in the j-th m-th of the epoch."""
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

    Args:
        sentences: the texts.
        noise_fn: makes a text noisy; None deletes words with ratio 0.6. A parameter called `rng` receives the
            generator to draw from (`functools.partial(DenoisingAutoEncoderDataset.delete, del_ratio=0.4)` has one); a
            function without it must see to its own randomness.
        seed: of the noise.

    Raises:
        ValueError: no text; something that is no text, or empty.

    >>> DenoisingAutoEncoderDataset(["one two three four five"], seed=1)[0].texts
    ['two four', 'one two three four five']
    """

    def __init__(self, sentences: Sequence[str], noise_fn: Callable[..., str] | None = None, seed: int = 0) -> None:
        check_whole("seed", seed, 0)
        if isinstance(sentences, str) or not len(sentences):
            raise ValueError(f"sentences must be a list of at least one text, got {sentences!r}")
        self.sentences = [checked_text(text, f"sentence {index}") for index, text in enumerate(sentences)]
        self.noise_fn = noise_fn or self.delete
        self.seed = seed
        self.epoch = 0
        self._seeded = "rng" in inspect.signature(self.noise_fn).parameters

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose noise the items get, from 0."""
        check_whole("epoch", epoch, 0)
        self.epoch = epoch

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
        """Delete each word with probability `del_ratio`, but never all; words are what stands between spaces.

        Args:
            text: the text.
            del_ratio: 0..1.
            rng: what to draw from; None draws something new each time.

        >>> DenoisingAutoEncoderDataset.delete("only  spaces   go", del_ratio=0.0)
        'only spaces go'
        """
        if not 0 <= del_ratio <= 1:
            raise ValueError(f"del_ratio must lie in 0..1, got {del_ratio!r}")
        words = text.split()
        if not words:
            return text
        rng = rng or np.random.default_rng()
        kept = rng.random(len(words)) >= del_ratio
        if not kept.any():
            kept[rng.integers(len(words))] = True
        return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)
