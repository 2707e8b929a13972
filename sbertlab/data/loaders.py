"""Loaders that decide which rows share a batch, and the noise of the denoising auto-encoder.

What each of them yields is a function of (seed, epoch) alone. `set_epoch(epoch)` before each epoch gives another order;
`fit` calls it, and so must a hand-written loop.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from sbertlab.checks import checked_number
from sbertlab.data.examples import InputExample
from sbertlab.data.texts import checked_text, plain_text

LOOK_AHEAD = 32  # open batches that a row tries before it begins a new one


class NoDuplicatesDataLoader:
    """Batches in which no text occurs in two rows, for losses with in-batch negatives.

    Texts count as equal after `strip().lower()`; a row may repeat its own text (as in SimCSE). All batches are full and
    no row occurs twice in an epoch: a row goes to the first open batch that can take it, and the rows of batches that
    stay open to the end are left out of the epoch. `len(loader)` is the exact number of batches of this epoch:
    `floor(n / batch_size)`, or less if repeated texts prevent it.

    `collate_fn` makes a batch of a list of rows; by default it returns the list.

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
        rows = [example.texts or () for example in self.train_examples]
        self._texts = [{(plain_text(text) or "").strip().lower() for text in row} for row in rows]
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields, from 0."""
        self.epoch = checked_number("epoch", epoch, whole=True)
        batches: dict[int, list[int]] = {}
        opened: dict[int, set[str]] = {}  # the texts of each batch that is not full
        for row in np.random.default_rng((self.seed, epoch)).permutation(len(self._texts)).tolist():
            texts = self._texts[row]
            fitting = (number for number, held in islice(opened.items(), LOOK_AHEAD) if held.isdisjoint(texts))
            number = next(fitting, len(batches))
            batches.setdefault(number, []).append(row)
            opened.setdefault(number, set()).update(texts)
            if len(batches[number]) == self.batch_size:
                del opened[number]
        self._batches = [batch for batch in batches.values() if len(batch) == self.batch_size]
        if not self._batches:
            raise ValueError(
                f"{len(self.train_examples)} examples give no batch of {self.batch_size} in which no text is repeated; "
                "lower batch_size, or use a plain DataLoader if repeated texts do no harm"
            )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            yield self.collate_fn([self.train_examples[index] for index in batch])


class SentenceLabelDataset(IterableDataset[InputExample]):
    """Rows in groups of `samples_per_label` of one class, for losses that mine triplets in the batch.

    | texts       | label             |
    | ----------- | ----------------- |
    | (sentence,) | int, class number |

    Goes into a plain `DataLoader` whose `batch_size` is a multiple of `samples_per_label`, at least twice that. The
    groups of a class are spread evenly over the epoch, so batches mix classes. Classes with fewer than
    `samples_per_label` rows are left out, with a warning. Without replacement a row occurs at most once per epoch; with
    it all classes are drawn equally often, only the rows of one group are distinct, and the epoch is about as long.

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
        classes = pd.Series(range(len(self.examples))).groupby([example.label for example in self.examples], sort=False)
        self._classes = [rows.tolist() for _, rows in classes if len(rows) >= samples_per_label]
        if len(self._classes) < 2:
            raise ValueError(
                f"triplets need two classes with at least {samples_per_label} examples each, got {len(self._classes)} "
                f"of {classes.ngroups} classes in {len(self.examples)} examples"
            )
        if rare := classes.ngroups - len(self._classes):
            few = f"{rare} of {classes.ngroups} classes have fewer than {samples_per_label} examples"
            warnings.warn(f"{few} and are left out", stacklevel=2)
        evenly = max(1, sum(map(len, self._classes)) // (samples_per_label * len(self._classes)))
        self._counts = [evenly if with_replacement else len(rows) // samples_per_label for rows in self._classes]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields, from 0."""
        self.epoch = checked_number("epoch", epoch, whole=True)

    def __len__(self) -> int:
        return self.samples_per_label * sum(self._counts)

    def __iter__(self) -> Iterator[InputExample]:
        groups = self._draw()
        worker = get_worker_info()
        for group in groups if worker is None else groups[worker.id :: worker.num_workers]:
            for index in group:
                yield self.examples[index]

    def _draw(self) -> list[list[int]]:
        """Return the groups of the epoch in order; group j of the m of a class lies in the j-th m-th of the epoch."""
        draw = np.random.default_rng((self.seed, self.epoch))
        size = self.samples_per_label
        placed: list[tuple[float, list[int]]] = []
        for rows, count in zip(self._classes, self._counts, strict=True):
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

    The noise is `delete` with `del_ratio`, a function of (seed, epoch, index of the text) whatever the order or the
    number of workers; or `noise_fn`, which takes a text and returns a noisy one.

    Relatives: `losses.DenoisingAutoEncoderLoss` rebuilds the text from the embedding of the noisy one.
    Source: Wang, Reimers and Gurevych, 2021, TSDAE (arXiv:2104.06979), section 3: deletion with ratio 0.6.

    >>> DenoisingAutoEncoderDataset(["one two three four five"], seed=1)[0].texts
    ['two four', 'one two three four five']
    """

    def __init__(
        self,
        sentences: Sequence[str],
        noise_fn: Callable[[str], str] | None = None,
        seed: int = 0,
        del_ratio: float = 0.6,
    ) -> None:
        self.sentences = [checked_text(text, f"sentence {index}") for index, text in enumerate(sentences)]
        self.noise_fn = noise_fn
        self.seed = checked_number("seed", seed, whole=True)
        self.del_ratio = checked_number("del_ratio", del_ratio, high=1)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose noise the items get, from 0."""
        self.epoch = checked_number("epoch", epoch, whole=True)

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> InputExample:
        text = self.sentences[index]
        if self.noise_fn is not None:
            return InputExample(texts=[self.noise_fn(text), text])
        draw = np.random.default_rng((self.seed, self.epoch, index % len(self.sentences)))
        return InputExample(texts=[self.delete(text, self.del_ratio, draw), text])

    @staticmethod
    def delete(text: str, del_ratio: float = 0.6, rng: np.random.Generator | None = None) -> str:
        """Delete each space-separated word with probability `del_ratio`, but never all of them.

        >>> DenoisingAutoEncoderDataset.delete("only  spaces   go", del_ratio=0.0)
        'only spaces go'
        """
        words = text.split()
        rng = rng or np.random.default_rng()
        kept = rng.random(len(words)) >= del_ratio
        if len(words) and not kept.any():
            kept[rng.integers(len(words))] = True
        return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)
