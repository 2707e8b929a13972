"""Keeping a model current: train it on new data with some of the old, and see what was gained and lost.

`before` is a copy of the model as it was. The evaluators, one or a list, share no text with the training data.

    loader = DataLoader(replay(new, old, share=0.2), batch_size=64, shuffle=True)
    model.fit([(loader, losses.MultipleNegativesRankingLoss(model))])
    gained_and_lost(before, model, on_new, on_old)
    interpolation_curve(before, model, on_new, on_old)  # does a model between the two cost less?
    interpolate(before, model, alpha=0.5).save(folder)
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from sbertlab.checks import checked_number
from sbertlab.data import InputExample, collate
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Module
from sbertlab.training.checkpoint import score_of
from sbertlab.util import Encoder

Evaluators = Callable[..., Any] | Sequence[Callable[..., Any]]


class ReplayDataset(Dataset[InputExample]):
    """All `new` rows in their order and evenly among them old ones, a `share` of the rows, others in every epoch.

    Where there are too few, every epoch takes all. No old row returns before all others had their turn; an epoch is a
    function of (seed, epoch). Source: Robins, 1995, Catastrophic forgetting, rehearsal and pseudorehearsal.

    >>> new, old = ([InputExample(texts=[text]) for text in texts] for texts in ("abc", "xy"))
    >>> [row.texts[0] for row in replay(new, old, share=0.25)]
    ['a', 'b', 'x', 'c']
    """

    def __init__(
        self, new: Sequence[InputExample], old: Sequence[InputExample], share: float = 0.2, seed: int = 0
    ) -> None:
        checked_number("share", share, 0, 0.99)
        collate([*new, *old])  # which refuses rows that fit no common loss
        wanted = max(1, round(len(new) * share / (1 - share))) if share else 0
        self.new, self.old, self.count, self.seed = list(new), list(old), min(wanted, len(old)), seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the old rows of an epoch, counted from 0; `fit` calls this before every pass."""
        turn, part = divmod(epoch, max(1, len(self.old) // max(1, self.count)))
        order = np.random.default_rng((self.seed, turn)).permutation(len(self.old))
        is_old = np.zeros(len(self), dtype=bool)
        is_old[np.linspace(0, len(self), 2 * self.count + 1)[1::2].astype(int)] = True  # middles of `count` equal parts
        self._rows = np.empty(len(self), dtype=int)  # places in new, then in old
        self._rows[is_old] = len(self.new) + order[part * self.count : (part + 1) * self.count]
        self._rows[~is_old] = np.arange(len(self.new))

    def __len__(self) -> int:
        return len(self.new) + self.count

    def __getitem__(self, index: int) -> InputExample:
        row = int(self._rows[index])
        return self.new[row] if row < len(self.new) else self.old[row - len(self.new)]


replay = ReplayDataset


def gained_and_lost(
    before: Encoder, after: Encoder, on_new: Evaluators, on_old: Evaluators, show_progress_bar: bool = True
) -> pd.DataFrame:
    """Return the scores of two models on new and old data, one row per evaluator.

    Columns: side ("new" or "old"), evaluator, metric, before, after, difference, and better and worse: the shares of
    examples whose own value rose or fell (NaN for a metric without one, such as a correlation).
    """
    if before is after:
        raise ValueError("before and after are one object, as fit trains in place; give a copy.deepcopy made before it")
    asked = [("new", one) for one in _listed(on_new)] + [("old", one) for one in _listed(on_old)]
    rows = []
    for side, evaluator in tqdm(asked, desc="Evaluating", unit="evaluator", disable=not show_progress_bar):
        name = getattr(evaluator, "name", "") or type(evaluator).__name__
        row = {"side": side, "evaluator": name, "metric": getattr(evaluator, "primary_metric", None)}
        scores, values = [], []
        for model in (before, after):
            scores.append(score_of(evaluator, evaluator(model)))
            values.append(_example_values(evaluator))
        row |= {"before": scores[0], "after": scores[1], "difference": scores[1] - scores[0]}
        row |= {"better": (values[1] > values[0]).mean(), "worse": (values[1] < values[0]).mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def interpolate(base: SentenceTransformer, tuned: SentenceTransformer, alpha: float) -> SentenceTransformer:
    """Return a new model with the weights `(1 - alpha) * base + alpha * tuned`; `tuned` must be trained from `base`.

    Computed in float32 at least and kept in the models' dtype; alpha 0 and 1 give exactly the two models' weights. What
    is not a weight (integer buffers, prompts, length limit) is that of `tuned`. Source: Wortsman et al., 2022, Robust
    fine-tuning of zero-shot models (arXiv:2109.01903), WiSE-FT.
    """
    checked_number("alpha", alpha, 0, 1)
    facts = _facts(base), _facts(tuned)
    if odd := [name for name in facts[0] | facts[1] if facts[0].get(name) != facts[1].get(name)]:
        raise ValueError(f"{odd[0]} differs: a model can be mixed only with one that was trained from it")
    before, after = base.state_dict(), tuned.state_dict()
    mixed = copy.deepcopy(tuned).eval()
    mixed.zero_grad()
    for name, weight in mixed.state_dict().items():
        if weight.is_floating_point():
            exact = torch.promote_types(weight.dtype, torch.float32)
            old, new = before[name].to(weight.device, exact), after[name].to(exact)
            weight.copy_(torch.where(old == new, new, (1 - alpha) * old + alpha * new))  # frozen weights stay equal
    return mixed


def interpolation_curve(
    base: SentenceTransformer,
    tuned: SentenceTransformer,
    on_new: Evaluators,
    on_old: Evaluators,
    alphas: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    show_progress_bar: bool = True,
) -> pd.DataFrame:
    """Return the scores of the models between two: columns alpha, new and old (means over several evaluators).

    The best alpha is chosen with the help of these evaluators, so report the chosen model on others.
    """
    rows = []
    for alpha in tqdm(alphas, desc="Interpolating", unit="model", disable=not show_progress_bar):
        model = interpolate(base, tuned, alpha)
        new, old = ([score_of(one, one(model)) for one in _listed(several)] for several in (on_new, on_old))
        rows.append({"alpha": float(alpha), "new": float(np.mean(new)), "old": float(np.mean(old))})
    return pd.DataFrame(rows)


def _listed(evaluators: Evaluators) -> Sequence[Callable[..., Any]]:
    return [evaluators] if callable(evaluators) else evaluators


def _facts(model: SentenceTransformer) -> dict[str, Any]:
    """Return, by name, what must be equal for the weights of two models to mean the same."""
    facts: dict[str, Any] = {f"weight {name}": (one.shape, one.dtype) for name, one in model.state_dict().items()}
    for name, block in model.named_modules():
        if isinstance(block, Module):
            facts[f"block {name}"] = block.config() | {"max_seq_length": None, "dropout": None}  # which may differ
    return facts


def _example_values(evaluator: Any) -> pd.Series:
    """Return the primary metric of each example in the last call; empty if examples have none of their own.

    Of a metric that is the maximum over several similarities, these are the values of the best similarity.
    """
    table = getattr(evaluator, "per_example", pd.DataFrame())
    metric = str(getattr(evaluator, "primary_metric", "")).removeprefix(f"{getattr(evaluator, 'name', '')}_")
    ending = metric.removeprefix("max")
    columns = [str(name) for name in table if name == metric or (ending != metric and str(name).endswith(ending))]
    return table[max(columns, key=lambda name: table[name].mean())] if columns else pd.Series(dtype=float)
