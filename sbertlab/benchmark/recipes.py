"""Fine-tuning recipes, which the benchmark applies to every candidate alike.

| name              | training data                                 | purpose                                        |
| ----------------- | --------------------------------------------- | ---------------------------------------------- |
| helpdesk-triplets | the packaged corpus                           | minutes, offline                               |
| training_nli_v2   | AllNLI, from the Hub or a local AllNLI.tsv.gz | the recipe behind the table of thirteen models |
| nli-local         | the NLI set of a local folder                 | the same code on a small set and two cores     |
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from sbertlab.benchmark.encoders import Candidate, digest_of
from sbertlab.benchmark.local_tasks import DATA_VARIABLE, LocalSet, data_folder
from sbertlab.benchmark.published import DATA
from sbertlab.benchmark.tasks import table_evaluator
from sbertlab.data import InputExample, NoDuplicatesDataLoader, helpdesk
from sbertlab.data.readers import read_table
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.evaluation import SentenceEvaluator
from sbertlab.losses import MultipleNegativesRankingLoss
from sbertlab.training.fit import fit

TRIPLET = ["anchor", "positive", "negative"]


def nli_triplets(pairs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return training triplets from NLI pairs: two for each sentence with an entailment and a contradiction.

    Each pair counts in both directions, and texts are stripped first. A sentence s with the distinct entailments E and
    contradictions C gives (s, e, c) and (e', s, c'), where e, c, e' and c' are drawn independently, in random order.
    Source: `training_nli_v2.py` of sentence-transformers, which draws without a seed. A ValueError says that no
    sentence has both.

    >>> rows = [("A dog runs.", "It moves.", "entailment"), ("A dog runs. ", "It sleeps.", "contradiction")]
    >>> found = nli_triplets(pd.DataFrame(rows, columns=["sentence1", "sentence2", "label"]))
    >>> sorted(found.values.tolist())
    [['A dog runs.', 'It moves.', 'It sleeps.'], ['It moves.', 'A dog runs.', 'It sleeps.']]
    """
    labels = pairs["label"].str.strip().str.lower()
    used = labels.isin(["entailment", "contradiction"])
    columns = [pairs.loc[used, name].str.strip() for name in ("sentence1", "sentence2")]
    codes, texts = pd.factorize(pd.concat(columns, ignore_index=True))
    first, second = np.split(codes.astype(np.int64), 2)
    entails, size = (labels[used] == "entailment").to_numpy(), len(texts)

    def partners(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # distinct, their starts and counts
        one, other = first[chosen], second[chosen]
        keys = np.unique(np.concatenate([one * size + other, other * size + one]))
        counts = np.bincount(keys // size, minlength=size)
        return keys % size, np.cumsum(counts) - counts, counts

    entailed, contradicted = partners(entails), partners(~entails)
    sentences = np.flatnonzero((entailed[2] > 0) & (contradicted[2] > 0))
    if not len(sentences):
        raise ValueError("no sentence has both an entailment and a contradiction; pairs must share sentences")
    random = np.random.default_rng(seed)
    e, c, e2, c2 = (
        found[starts[sentences] + random.integers(counts[sentences])]
        for found, starts, counts in (entailed, contradicted, entailed, contradicted)
    )
    rows = np.concatenate([np.stack([sentences, e, c], axis=1), np.stack([e2, sentences, c2], axis=1)])
    return pd.DataFrame(np.asarray(texts, dtype=object)[random.permutation(rows)], columns=TRIPLET)


@dataclass(frozen=True)
class PairSet:
    """Labelled pairs, from a file of the folder that SBERTLAB_DATA names or, without it, from a data set on the Hub.

    Columns: sentence1, sentence2 and `third`. `split` are the rows of the file to use, `hub` the arguments of
    `datasets.load_dataset`.
    """

    file: str
    third: str
    split: str = "all"
    hub: Mapping[str, str] = field(default_factory=dict)

    def path(self) -> Path | None:
        """Return the path of the file, or None if the Hub is used."""
        path = (data_folder() or Path(f"${DATA_VARIABLE}")) / self.file
        return None if self.hub and not path.is_file() else path

    def source(self) -> tuple[str, str]:
        """Return in words where the pairs come from, and the SHA-256 of the file or what pins the data on the Hub."""
        if path := self.path():
            return f"{self.file}, {LocalSet(self.split).note}", digest_of([path])
        words = f"{self.hub['path']} of the Hub ({self.hub['split']}, revision {self.hub['revision'][:12]})"
        return words, repr(self.hub)

    def read(self) -> pd.DataFrame:
        """Return the columns sentence1, sentence2 and the third; of a file, all as texts."""
        columns = ["sentence1", "sentence2", self.third]
        if path := self.path():
            table = LocalSet(self.split).rows(read_table(path, columns))
            return table[columns].reset_index(drop=True)
        from datasets import load_dataset

        found: Any = load_dataset(**self.hub)
        table = found.to_pandas().rename(columns={"premise": "sentence1", "hypothesis": "sentence2"})[columns]
        names = getattr(found.features[self.third], "names", None)
        if names is not None:  # classes; -1 stands for no agreement
            table[self.third] = np.array([*names, "-"])[table[self.third]]
        return table


ALL_NLI, SNLI_DEVTEST, STSB_DEV = (PairSet(**pairs) for pairs in DATA["pairs"].values())

CHECKPOINT_STEPS = 100
"""Fewest steps between two checkpoints; a shorter fine-tuning is faster to repeat than to save."""


@dataclass(frozen=True)
class Recipe:
    """The ranking loss over triplets of the packaged corpus (`helpdesk.triplets`), which AdamW minimises in one epoch.

    Args:
        name: as it appears in the table and the manifest.
        rows: number of triplets; None takes all.
        batch_size: triplets per step.
        learning_rate: of candidates without a rate of their own for this recipe.
        scale: inverse temperature of the loss.
        warmup: share of the steps over which the learning rate rises; then it falls to 0.
        weight_decay: for AdamW.
    """

    name: str = "helpdesk-triplets"
    rows: int | None = 300
    batch_size: int = 30
    learning_rate: float = 5e-5
    scale: float = 20.0
    warmup: float = 0.1
    weight_decay: float = 0.01

    def data(self) -> dict[str, str]:
        """Return the training data in words, each with its SHA-256, or with what pins it on the Hub."""
        return {f"corpora/{helpdesk.CORPUS.name}": digest_of([helpdesk.CORPUS])}

    def describe(self) -> dict[str, Any]:
        """Return name, settings and data, without any path of this machine."""
        return asdict(self) | {"data": self.data()}

    def objective(self, model: SentenceTransformer, seed: int) -> tuple[Any, MultipleNegativesRankingLoss, dict]:
        """Return the loader of the triplets, the loss, and arguments of `fit` that select the best model, if any."""
        table = helpdesk.triplets(helpdesk.load_helpdesk("train"), seed)[: self.rows]
        examples: Any = [InputExample(texts=texts) for texts in table[TRIPLET].to_numpy().tolist()]
        loss = MultipleNegativesRankingLoss(model, scale=self.scale, hard_negatives="own")
        return DataLoader(examples, batch_size=self.batch_size), loss, {}

    def fine_tune(self, model: SentenceTransformer, candidate: Candidate, seed: int, folder: Path) -> pd.DataFrame:
        """Train the model in place and return `fit`'s history; a killed run resumes from its folder."""
        loader, loss, selection = self.objective(model, seed)
        history = fit(
            model,
            [(loader, loss)],
            optimizer_params={"lr": candidate.learning_rates.get(self.name, self.learning_rate)},
            warmup_steps=math.ceil(self.warmup * len(loader)),
            weight_decay=self.weight_decay,
            seed=seed,
            checkpoint_path=folder / "steps",
            checkpoint_save_steps=max(CHECKPOINT_STEPS, selection.get("evaluation_steps", 0)),
            checkpoint_save_total_limit=1,
            resume=True,
            output_path=folder / "best" if selection else None,
            **selection,
        )
        if history.attrs["interrupt_requested"]:  # `fit` returns after Ctrl-C; nothing may be measured
            raise KeyboardInterrupt
        if selection:
            model.load_state_dict(SentenceTransformer(folder / "best", device="cpu").state_dict())
        return history


@dataclass(frozen=True)
class NLIRecipe(Recipe):
    """NLI triplets, no text twice per batch; of several checkpoints the best one on STSb-dev is measured.

    Args (others as in `Recipe`):
        evaluations: per epoch, evenly spaced, plus one at its end.
        max_seq_length: tokens per text in training.
        keeps_length: restore the model's own length after training.
        pairs: from which `nli_triplets` makes the training data.
        dev: selects the checkpoint, by the highest Spearman correlation of four similarities.
    """

    name: str = "training_nli_v2"
    rows: int | None = None
    batch_size: int = 64
    learning_rate: float = 2e-5
    evaluations: int = 10
    max_seq_length: int = 75
    keeps_length: bool = False
    pairs: PairSet = ALL_NLI
    dev: PairSet = STSB_DEV

    def data(self) -> dict[str, str]:
        """Return both data sets, each with its SHA-256 or what pins it."""
        return dict(part.source() for part in (self.pairs, self.dev))

    def triplets(self, seed: int) -> pd.DataFrame:
        """Return the training triplets."""
        return nli_triplets(self.pairs.read(), seed)[: self.rows]

    def evaluator(self) -> SentenceEvaluator:
        """Return the evaluator that selects the checkpoint."""
        return table_evaluator("STS", self.dev.read())

    def objective(self, model: SentenceTransformer, seed: int) -> tuple[Any, MultipleNegativesRankingLoss, dict]:
        """Return the loader, the loss (an anchor competes with all texts of a batch), and the evaluations."""
        rows = self.triplets(seed).to_numpy().tolist()
        loader: Any = NoDuplicatesDataLoader([InputExample(texts=texts) for texts in rows], self.batch_size, seed)
        selection = {
            "evaluator": self.evaluator(),
            "evaluation_steps": max(1, len(loader) // self.evaluations),
            "save_best_model": True,
            "mask_known_positives": False,  # as in the script; batches without repeated texts need it least
        }
        return loader, MultipleNegativesRankingLoss(model, scale=self.scale), selection

    def fine_tune(self, model: SentenceTransformer, candidate: Candidate, seed: int, folder: Path) -> pd.DataFrame:
        """Train the model in place, on truncated texts, and give it the weights of the best checkpoint."""
        length = model.max_seq_length
        model.max_seq_length = self.max_seq_length if length is None else min(length, self.max_seq_length)
        history = super().fine_tune(model, candidate, seed, folder)
        if self.keeps_length:
            model.max_seq_length = length
        return history


OFFLINE = Recipe()
TRAINING_NLI_V2 = NLIRecipe()
NLI_LOCAL = NLIRecipe(name="nli-local", pairs=SNLI_DEVTEST, rows=2000, evaluations=4, keeps_length=True)
