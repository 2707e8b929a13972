"""Fine-tuning recipes, which the benchmark applies to every candidate alike.

| name              | training data                                 | purpose                                        |
| ----------------- | --------------------------------------------- | ---------------------------------------------- |
| helpdesk-triplets | the packaged corpus                           | minutes, offline                               |
| training_nli_v2   | AllNLI, from the Hub or a local AllNLI.tsv.gz | the recipe behind the table of thirteen models |
| nli-local         | the NLI set of a local folder                 | the same code on a small set and two cores     |
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from torch.utils.data import DataLoader

from sbertlab.benchmark.encoders import Candidate
from sbertlab.benchmark.local_tasks import data_folder
from sbertlab.benchmark.nli_pairs import ALL_NLI, SNLI_DEVTEST, STSB_DEV, TRIPLET, PairSet, nli_triplets
from sbertlab.benchmark.published import DATA
from sbertlab.data import InputExample, NoDuplicatesDataLoader, helpdesk
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.evaluation import EmbeddingSimilarityEvaluator
from sbertlab.losses import MultipleNegativesRankingLoss
from sbertlab.storage.files import sha256_of
from sbertlab.training.fit import fit

CHECKPOINT_STEPS = 100
"""Fewest steps between two checkpoints; a shorter fine-tuning is faster to repeat than to save."""


@dataclass(frozen=True)
class Recipe:
    """What all recipes share: the ranking loss over triplets, AdamW, and a learning rate that rises and falls.

    Args:
        name: as it appears in the table and the manifest.
        rows: number of triplets; None takes all.
        batch_size: triplets per step.
        learning_rate: of candidates without a rate of their own for this recipe.
        scale: inverse temperature of the loss.
        warmup: share of the steps over which the learning rate rises; then it falls to 0.
        weight_decay: for AdamW.
    """

    name: str
    rows: int | None
    batch_size: int
    learning_rate: float
    scale: float = 20.0
    warmup: float = 0.1
    weight_decay: float = 0.01

    @property
    def differences(self) -> list[str]:
        """Every difference from `training_nli_v2.py`, the public script behind the published table, in words."""
        return list(DATA["differences"].get(self.name, []))

    def data(self) -> dict[str, str]:
        """Return the training data in words, each with its SHA-256, or with what pins it on the Hub."""
        raise NotImplementedError

    def objective(self, model: SentenceTransformer, seed: int) -> tuple[Any, MultipleNegativesRankingLoss]:
        """Return the loader of the triplets and the loss."""
        raise NotImplementedError

    def settings(self, loader: Any, folder: Path) -> dict[str, Any]:
        """Return the other arguments of `fit`, which may use the folder."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise an error, before anything is trained, if the data are unavailable or unusable."""

    def data_sha256(self) -> str:
        """Return one SHA-256 of the training data."""
        digests = list(self.data().values())
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return name, settings and data, without any path of this machine."""
        settings = {name: value for name, value in asdict(self).items() if name not in ("pairs", "dev", "folder")}
        return settings | {"data": list(self.data())}

    def fine_tune(
        self, model: SentenceTransformer, candidate: Candidate, seed: int, checkpoints: Path | None = None
    ) -> pd.DataFrame:
        """Train the model in place and return `fit`'s history; a killed run resumes from its folder of checkpoints.

        Raises:
            KeyboardInterrupt: the training was interrupted, so nothing may be measured.
            ValueError: fewer triplets than a batch.
        """
        loader, loss = self.objective(model, seed)
        with TemporaryDirectory() if checkpoints is None else nullcontext(checkpoints) as folder:
            settings = self.settings(loader, Path(folder))
            if checkpoints is not None:
                steps = max(CHECKPOINT_STEPS, settings.get("evaluation_steps", 0))
                settings |= {"checkpoint_path": checkpoints / "steps", "resume": True, "checkpoint_save_steps": steps}
                settings["checkpoint_save_total_limit"] = 1
            history = fit(
                model,
                [(loader, loss)],
                optimizer_params={"lr": candidate.learning_rates.get(self.name, self.learning_rate)},
                weight_decay=self.weight_decay,
                seed=seed,
                **settings,
            )
            if history.attrs["interrupt_requested"]:  # `fit` returns after Ctrl-C
                raise KeyboardInterrupt
            if best := settings.get("output_path"):
                model.load_state_dict(SentenceTransformer(best, device="cpu").state_dict())
        return history


@dataclass(frozen=True)
class HelpdeskRecipe(Recipe):
    """Triplets of the training intents of the packaged corpus; the model after the last step is measured.

    The rows are those of `helpdesk.triplets`: a batch never holds an intent twice if its size divides the number of
    training intents, and each row has a negative from a near intent for its own anchor.
    """

    name: str = "helpdesk-triplets"
    rows: int | None = 300
    batch_size: int = 30
    learning_rate: float = 5e-5

    def data(self) -> dict[str, str]:
        """Return the corpus with its SHA-256."""
        return {f"corpora/{helpdesk.CORPUS.name}": sha256_of(helpdesk.CORPUS)}

    def objective(self, model: SentenceTransformer, seed: int) -> tuple[Any, MultipleNegativesRankingLoss]:
        """Each anchor competes with its own hard negative and the positives of the batch."""
        table = helpdesk.triplets(helpdesk.load_helpdesk("train"), seed)[: self.rows]
        examples: Any = [InputExample(texts=texts) for texts in table[TRIPLET].to_numpy().tolist()]
        loss = MultipleNegativesRankingLoss(model, scale=self.scale, hard_negatives="own")
        return DataLoader(examples, batch_size=self.batch_size), loss

    def settings(self, loader: Any, folder: Path) -> dict[str, Any]:
        """Only the warm-up."""
        return {"warmup_steps": max(1, round(self.warmup * len(loader)))}


@dataclass(frozen=True)
class NLIRecipe(Recipe):
    """NLI triplets for one epoch, no text twice per batch; the checkpoint that is best on STSb-dev is measured.

    Args (others as in `Recipe`):
        evaluations: per epoch, evenly spaced, plus one at its end.
        max_seq_length: tokens per text in training.
        keeps_length: restore the model's own length after training.
        pairs: from which `nli_triplets` makes the training data.
        dev: selects the checkpoint, by the highest Spearman correlation of four similarities.
        folder: of local data sets; None takes the one that SBERTLAB_DATA names.
    """

    name: str = "training_nli_v2"
    rows: int | None = None
    batch_size: int = 64
    evaluations: int = 10
    max_seq_length: int = 75
    keeps_length: bool = False
    learning_rate: float = 2e-5
    pairs: PairSet = ALL_NLI
    dev: PairSet = STSB_DEV
    folder: Path | None = None

    def data(self) -> dict[str, str]:
        """Return both data sets, each with its SHA-256 or what pins it."""
        folder = data_folder(self.folder)
        return {part.source(folder): part.digest(folder) for part in (self.pairs, self.dev)}

    def check(self) -> None:
        """Read the data, and raise an error if a batch of triplets or the evaluator cannot be made of them."""
        part = self.pairs
        try:
            if (found := len(self.triplets(0))) < self.batch_size:
                raise ValueError(f"{found} triplets do not fill a batch of {self.batch_size}; more pairs are needed")
            part = self.dev
            self.evaluator()
        except ValueError as error:
            raise ValueError(f"{part.source(data_folder(self.folder))}: {error}") from error

    def triplets(self, seed: int) -> pd.DataFrame:
        """Return the training triplets."""
        return nli_triplets(self.pairs.read(data_folder(self.folder)), seed)[: self.rows]

    def evaluator(self) -> EmbeddingSimilarityEvaluator:
        """Return the evaluator that selects the checkpoint."""
        table = self.dev.read(data_folder(self.folder))
        first, second, scores = (table[name].tolist() for name in ("sentence1", "sentence2", "score"))
        return EmbeddingSimilarityEvaluator(first, second, scores, name="sts-dev", write_csv=False)

    def objective(self, model: SentenceTransformer, seed: int) -> tuple[Any, MultipleNegativesRankingLoss]:
        """Each anchor competes with all positives and hard negatives of the batch."""
        rows = self.triplets(seed).to_numpy().tolist()
        loader: Any = NoDuplicatesDataLoader([InputExample(texts=texts) for texts in rows], self.batch_size, seed)
        return loader, MultipleNegativesRankingLoss(model, scale=self.scale)

    def settings(self, loader: Any, folder: Path) -> dict[str, Any]:
        """Warm-up, and the evaluations that select the best checkpoint."""
        return {
            "evaluator": self.evaluator(),
            "evaluation_steps": max(1, len(loader) // self.evaluations),
            "warmup_steps": math.ceil(self.warmup * len(loader)),
            "output_path": folder / "best",
            "save_best_model": True,
            "mask_known_positives": False,  # as in the script; batches without repeated texts need it least
        }

    def fine_tune(
        self, model: SentenceTransformer, candidate: Candidate, seed: int, checkpoints: Path | None = None
    ) -> pd.DataFrame:
        """Train the model in place, on truncated texts, and give it the weights of the best checkpoint."""
        length = model.max_seq_length
        model.max_seq_length = self.max_seq_length if length is None else min(length, self.max_seq_length)
        history = super().fine_tune(model, candidate, seed, checkpoints)
        if self.keeps_length:
            model.max_seq_length = length
        return history


OFFLINE = HelpdeskRecipe()
TRAINING_NLI_V2 = NLIRecipe()
NLI_LOCAL = NLIRecipe(name="nli-local", pairs=SNLI_DEVTEST, rows=2000, evaluations=4, keeps_length=True)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (OFFLINE, TRAINING_NLI_V2, NLI_LOCAL)}
"""All recipes by name."""
