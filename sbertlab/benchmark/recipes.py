"""Recipes of fine-tuning that the benchmark applies to every encoder alike.

| name              | learns from                                   | what for                                         |
| ----------------- | --------------------------------------------- | ------------------------------------------------ |
| helpdesk-triplets | the packaged corpus                           | minutes, offline                                 |
| training_nli_v2   | AllNLI, from the Hub or a local AllNLI.tsv.gz | the recipe behind the table of thirteen models   |
| nli-local         | the NLI set of a local folder                 | the same code on a small set and two cores       |

A recipe names its data, can tell whether they are there before anything is trained, and lists in words every way in
which it differs from `training_nli_v2.py`, the public script behind the table.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pandas as pd
from torch.utils.data import DataLoader

from sbertlab.benchmark.encoders import Encoder
from sbertlab.benchmark.local_tasks import DATA_VARIABLE
from sbertlab.benchmark.nli_pairs import ALL_NLI, SNLI_DEVTEST, STSB_DEV, TRIPLET, PairSet, nli_triplets
from sbertlab.data import InputExample, NoDuplicatesDataLoader, helpdesk
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.evaluation import EmbeddingSimilarityEvaluator
from sbertlab.losses import MultipleNegativesRankingLoss
from sbertlab.storage.files import sha256_of
from sbertlab.training.fit import fit


class Recipe(Protocol):
    """What the benchmark asks of a recipe."""

    @property
    def name(self) -> str:
        """As it appears in the table."""

    @property
    def differences(self) -> tuple[str, ...]:
        """Every way in which it differs from `training_nli_v2.py`, in words."""

    def check(self) -> None:
        """Raise, before anything is trained, when the data cannot be had."""

    def data_files(self) -> tuple[Path, ...]:
        """Return the local files that it reads."""

    def data_sha256(self) -> str:
        """Return a SHA-256 of the data, or of the revision that pins them, for the key of a cell."""

    def describe(self) -> dict[str, Any]:
        """Return name, settings, data and differences, for the manifest."""

    def fine_tune(
        self, model: SentenceTransformer, encoder: Encoder, seed: int, checkpoints: Path | None = None
    ) -> pd.DataFrame:
        """Train the model in place, by the encoder's own learning rate where it has one; return `fit`'s history.

        Args:
            model: what to train.
            encoder: that made it.
            seed: what is random in the training follows from it.
            checkpoints: a folder of this very fine-tuning; one that was killed goes on from what it left there.
        """


CHECKPOINT_STEPS = 100
"""Steps between two checkpoints at least; a shorter fine-tuning is quicker repeated than written down."""


def _checkpointed(folder: Path | None, steps: int = 0) -> dict[str, Any]:
    """The arguments by which `fit` leaves a checkpoint in the folder every so many steps, and goes on from it."""
    if folder is None:
        return {}
    rhythm = {"checkpoint_save_steps": max(CHECKPOINT_STEPS, steps), "checkpoint_save_total_limit": 1}
    return {"checkpoint_path": folder / "steps", "resume": True, **rhythm}


@contextmanager
def _kept_or_temporary(folder: Path | None) -> Iterator[Path]:
    """Give the folder, or where there is none one that is removed at the end."""
    if folder is not None:
        yield folder
        return
    with TemporaryDirectory() as temporary:
        yield Path(temporary)


def _finished(history: pd.DataFrame) -> pd.DataFrame:
    """Return the history of a run; after Ctrl-C, on which `fit` returns, nothing may be measured, whole or not."""
    if history.attrs["interrupt_requested"]:
        raise KeyboardInterrupt
    return history


# -- The packaged corpus -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HelpdeskRecipe:
    """Ranking loss over triplets of the training intents, by `training.fit`.

    Rows are those of `helpdesk.triplets`: batches never hold an intent twice, and every row brings a negative of a near
    intent for its own anchor. Nothing is selected on the way; the model after the last step counts.

    Args:
        name: as it appears in the table and the manifest.
        rows: triplets in all.
        batch_size: triplets a step; a divisor of the number of training intents.
        learning_rate: of encoders that bring none.
        scale: inverse temperature of the loss.
        warmup: share of the steps over which the learning rate rises; then it falls to 0.
        weight_decay: for AdamW.
    """

    name: str = "helpdesk-triplets"
    rows: int = 300
    batch_size: int = 30
    learning_rate: float = 5e-5
    scale: float = 20.0
    warmup: float = 0.1
    weight_decay: float = 0.01
    differences: tuple[str, ...] = (
        "data: triplets of the packaged help-desk corpus instead of some 563,650 of AllNLI",
        "batches of 30 instead of 64, each of whole topics, in the order of the corpus's triplets",
        "each anchor competes with its own hard negative and the positives of the batch, not with all hard negatives",
        "the learning rate is the encoder's, chosen on the dev intents, instead of 2e-5",
        "the model after the last step counts; nothing is selected by STSb-dev",
        "max_seq_length stays the encoder's instead of 75",
        "the encoders are finished sentence encoders and cuts of them, not base models; they keep their Normalize",
        "everything random is seeded",
    )

    def check(self) -> None:
        """Nothing can be missing: the corpus is a part of the package."""

    def data_files(self) -> tuple[Path, ...]:
        """Return the file of the corpus."""
        return (helpdesk.CORPUS,)

    def data_sha256(self) -> str:
        """Return the SHA-256 of the corpus."""
        return sha256_of(helpdesk.CORPUS)

    def describe(self) -> dict[str, Any]:
        """Return name, settings, data and differences."""
        return asdict(self) | {"differences": list(self.differences), "data": [f"corpora/{helpdesk.CORPUS.name}"]}

    def fine_tune(
        self, model: SentenceTransformer, encoder: Encoder, seed: int, checkpoints: Path | None = None
    ) -> pd.DataFrame:
        """Train the model in place and return the history of `fit`; see `Recipe`.

        Raises:
            KeyboardInterrupt: the run was interrupted.
        """
        table = helpdesk.triplets(helpdesk.load_helpdesk("train"), seed).head(self.rows)
        examples: Any = [InputExample(texts=texts) for texts in table[TRIPLET].to_numpy().tolist()]
        loader: DataLoader[InputExample] = DataLoader(examples, batch_size=self.batch_size)
        history = fit(
            model,
            [(loader, MultipleNegativesRankingLoss(model, scale=self.scale, hard_negatives="own"))],
            warmup_steps=max(1, round(self.warmup * len(loader))),
            optimizer_params={"lr": encoder.learning_rates.get(self.name, self.learning_rate)},
            weight_decay=self.weight_decay,
            seed=seed,
            **_checkpointed(checkpoints),
        )
        return _finished(history)


# -- The recipe behind the published table -----------------------------------------------------------------------------


@dataclass(frozen=True)
class NLIRecipe:
    """Ranking loss over NLI triplets, one epoch, the checkpoint that is best on STSb-dev: `training_nli_v2.py`.

    Args:
        name: as it appears in the table and the manifest.
        pairs: what the triplets are made of, by `nli_triplets`.
        dev: what checkpoints are selected by: the best Spearman correlation of four similarities.
        rows: so many triplets, the first in the order of the seed; None takes all.
        batch_size: triplets a step, no text twice.
        evaluations: in the epoch, evenly spaced; one more at its end.
        max_seq_length: tokens of a text that are read in training.
        keeps_length: put the encoder's own length back after training.
        learning_rate: of encoders that bring none for this recipe.
        scale: inverse temperature of the loss, over the cosine.
        warmup: share of the steps over which the learning rate rises; then it falls to 0.
        weight_decay: for AdamW.
        differences: from `training_nli_v2.py`.
        folder: of local sets; what SBERTLAB_DATA names when None.
    """

    name: str = "training_nli_v2"
    pairs: PairSet = ALL_NLI
    dev: PairSet = STSB_DEV
    rows: int | None = None
    batch_size: int = 64
    evaluations: int = 10
    max_seq_length: int = 75
    keeps_length: bool = False
    learning_rate: float = 2e-5
    scale: float = 20.0
    warmup: float = 0.1
    weight_decay: float = 0.01
    differences: tuple[str, ...] = ()
    folder: Path | None = None

    def check(self) -> None:
        """Raise what would keep it from being trained: data that cannot be had, or a file of which nothing can be made.

        Files are read whole; sets of the Hub are pinned, so they only have to be there.

        Raises:
            FileNotFoundError: a set cannot be had, or the folder of local sets is not there.
            ValueError: a file with other columns, labels or scores, without the rows that count, or too few of them.
            ImportError: a package is missing.
        """
        self.pairs.check(self._folder(), self._check_pairs)
        self.dev.check(self._folder(), _dev_evaluator)

    def data_files(self) -> tuple[Path, ...]:
        """Return the local files that it reads; none where the Hub is asked."""
        paths = [part.path(self._folder()) for part in (self.pairs, self.dev)]
        return tuple(path for path in paths if path is not None)

    def data_sha256(self) -> str:
        """Return one SHA-256 of both sets, or of what pins them on the Hub."""
        digests = [part.digest(self._folder()) for part in (self.pairs, self.dev)]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return name, settings, data and differences; nothing in it depends on where the folder is."""
        settings = {name: value for name, value in asdict(self).items() if name not in ("pairs", "dev", "folder")}
        data = [part.source(self._folder()) for part in (self.pairs, self.dev)]
        return settings | {"differences": list(self.differences), "data": data}

    def triplets(self, seed: int) -> pd.DataFrame:
        """Return the triplets that it trains on."""
        return nli_triplets(self.pairs.read(self._folder()), seed)[: self.rows]

    def evaluator(self) -> EmbeddingSimilarityEvaluator:
        """Return what checkpoints are selected by."""
        return _dev_evaluator(self.dev.read(self._folder()))

    def fine_tune(
        self, model: SentenceTransformer, encoder: Encoder, seed: int, checkpoints: Path | None = None
    ) -> pd.DataFrame:
        """Train the model in place, give it the weights of the best checkpoint, return `fit`'s history; see `Recipe`.

        Raises:
            KeyboardInterrupt: the run was interrupted.
            ValueError: fewer triplets than a batch.
        """
        rows = self.triplets(seed).to_numpy().tolist()
        loader: Any = NoDuplicatesDataLoader([InputExample(texts=texts) for texts in rows], self.batch_size, seed)
        length = model.max_seq_length
        model.max_seq_length = self.max_seq_length if length is None else min(length, self.max_seq_length)
        steps = max(1, len(loader) // self.evaluations)
        with _kept_or_temporary(checkpoints) as folder:
            history = fit(
                model,
                [(loader, MultipleNegativesRankingLoss(model, scale=self.scale))],
                evaluator=self.evaluator(),
                evaluation_steps=steps,
                warmup_steps=math.ceil(self.warmup * len(loader)),
                optimizer_params={"lr": encoder.learning_rates.get(self.name, self.learning_rate)},
                weight_decay=self.weight_decay,
                output_path=folder / "best",
                save_best_model=True,
                seed=seed,
                mask_known_positives=False,  # the script does not; batches without repeated texts need it least
                **_checkpointed(checkpoints, steps),
            )
            _finished(history)
            model.load_state_dict(SentenceTransformer(folder / "best", device="cpu").state_dict())
        if self.keeps_length:
            model.max_seq_length = length
        return history

    def _check_pairs(self, pairs: pd.DataFrame) -> None:
        """Raise what `nli_triplets` raises, or that its triplets do not fill a batch."""
        found = len(nli_triplets(pairs)[: self.rows])
        if found < self.batch_size:
            raise ValueError(
                f"{len(pairs)} pairs give {found} triplets, fewer than a batch of {self.batch_size}; "
                "give more pairs, or lower batch_size"
            )

    def _folder(self) -> Path | None:
        named = self.folder or os.environ.get(DATA_VARIABLE)
        if named and not Path(named).is_dir():
            raise FileNotFoundError(
                f"the folder of data sets, {str(named)!r}, is not there; correct or unset {DATA_VARIABLE}"
            )
        return Path(named) if named else None


def _dev_evaluator(table: pd.DataFrame) -> EmbeddingSimilarityEvaluator:
    texts = (table["sentence1"].tolist(), table["sentence2"].tolist())
    return EmbeddingSimilarityEvaluator(*texts, table["score"].tolist(), name="sts-dev", write_csv=False)


# -- Which recipes there are -------------------------------------------------------------------------------------------

_OF_THE_CODE = (
    "the draw of the triplets, their order and the dropout follow from a seed; the script draws without one",
    "batches without a repeated text are planned ahead, so that a row waits for the next batch that can take it",
    "the versions of the libraries are those of the manifest (AdamW is torch's); those of the published runs are not "
    "recorded",
)

OFFLINE = HelpdeskRecipe()
"""The recipe on the packaged corpus."""

TRAINING_NLI_V2 = NLIRecipe(
    differences=(
        "batches of 64, as the Training Overview says, instead of the script's 128",
        *_OF_THE_CODE,
        "AllNLI and STSb-dev come from the Hub at pinned revisions, unless the local folder has them",
        "the revisions of the thirteen base models are not pinned, for the documents give none: those that the Hub "
        "has count, and the manifest names them",
        "an encoder that is a sentence encoder already keeps its pooling and its Normalize; base models get mean "
        "pooling alone, as in the script",
    )
)
"""The recipe behind the table of the Training Overview."""

NLI_LOCAL = NLIRecipe(
    name="nli-local",
    pairs=SNLI_DEVTEST,
    rows=2000,
    evaluations=4,
    keeps_length=True,
    differences=(
        "data: 2,000 triplets of SNLI's dev and test, by the same rule, instead of some 563,650 of AllNLI",
        "31 steps or so of batch 64 instead of 8,807; the script's own batch is 128",
        "STSb-dev is computed 4 times in the epoch, and at its end, instead of 10 times",
        "texts are cut to 75 tokens in training only; measured is with the encoder's own length, as when untuned",
        "the encoders are finished sentence encoders and cuts of them, not base models; they keep their Normalize",
        "an encoder without a transformer (MiniLM-tokens) has a learning rate of its own, for 2e-5 does not move it",
        *_OF_THE_CODE,
    ),
)
"""The same code on the NLI set of a local folder: what two cores can do."""

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (OFFLINE, TRAINING_NLI_V2, NLI_LOCAL)}
"""All recipes by name."""
