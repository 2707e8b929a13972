"""Keeping a model current: train it on new data with some of the old, and see what was gained and lost.

Below, `folder` holds the model in use; the evaluators `on_new` and `on_old` share no text with the training data.
A model may be given by its name or folder; evaluators as one, a list, or a dictionary by name.

    model = SentenceTransformer(folder)
    loader = DataLoader(replay(new, old, share=0.2), batch_size=64, shuffle=True)
    model.fit([(loader, losses.MultipleNegativesRankingLoss(model))])
    gained_and_lost(folder, model, on_new, on_old)  # what did it cost?
    interpolation_curve(folder, model, on_new, on_old)  # does a model between the two cost less?
    interpolate(folder, model, alpha=0.5).save(new_folder)
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from sbertlab.checks import checked_number
from sbertlab.data import InputExample, collate
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Module, TokenizerModule
from sbertlab.training.best_model import score_of
from sbertlab.util import Encoder

Evaluator = Callable[..., Any]
Evaluators = Evaluator | Sequence[Evaluator] | Mapping[str, Evaluator]

NOT_IN_WEIGHTS = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps", "position_embedding_type")
"""Settings of a transformer that change what it computes, but not the shapes of its weights."""

HARMLESS = {"max_seq_length", "dropout"}
"""Settings of a building block in which models may differ and still be mixed."""


class ReplayDataset(Dataset[InputExample]):
    """All new rows in their order, and evenly among them `count` old ones, others in every epoch; made by `replay`.

    An epoch is a function of (seed, epoch). No old row returns before all others had their turn.
    """

    def __init__(self, new: Sequence[InputExample], old: Sequence[InputExample], count: int, seed: int = 0) -> None:
        self.new, self.old, self.count, self.seed = list(new), list(old), count, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the old rows of an epoch, counted from 0; `fit` calls this before every pass."""
        checked_number("epoch", epoch, whole=True)
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


def replay(
    new: Sequence[InputExample], old: Sequence[InputExample], share: float = 0.2, seed: int = 0
) -> ReplayDataset:
    """Return a data set of all `new` rows in which a `share` of the rows is old, other ones in every epoch.

    Old and new rows need as many texts and labels of one kind. Source: Robins, 1995, Catastrophic forgetting, rehearsal
    and pseudorehearsal (Connection Science 7).

    >>> new, old = ([InputExample(texts=[text]) for text in texts] for texts in ("abc", "xy"))
    >>> rows = replay(new, old, share=0.25)
    >>> [row.texts[0] for row in rows]
    ['a', 'b', 'x', 'c']
    """
    checked_number("share", share, 0, 0.99)
    checked_number("seed", seed, whole=True)
    if not len(new) or (share and not len(old)):
        raise ValueError(f"new has {len(new)} rows and old {len(old)}; give rows of both, or share=0 without old ones")
    try:
        collate([*new, *old])
    except ValueError as error:
        raise ValueError(f"new and old must fit one loss; old begins at example {len(new)}: {error}") from error
    wanted = max(1, round(len(new) * share / (1 - share))) if share else 0
    if wanted > len(old):
        warnings.warn(
            f"share={share:g} of old rows among {len(new)} new ones needs {wanted}, but there are {len(old)}: every "
            f"epoch takes all, a share of {len(old) / (len(new) + len(old)):.2g}",
            stacklevel=2,
        )
    return ReplayDataset(new, old, min(wanted, len(old)), seed)


def gained_and_lost(
    before: Encoder | str | Path,
    after: Encoder | str | Path,
    on_new: Evaluators,
    on_old: Evaluators,
    show_progress_bar: bool = True,
) -> pd.DataFrame:
    """Return the scores of two models on new and old data, one row per evaluator.

    Columns: side ("new" or "old"), evaluator, metric, before, after, difference, and better and worse: the shares of
    examples whose own value rose or fell (NaN for a metric without one, such as a correlation).
    """
    if before is after:
        raise ValueError(
            "before and after are the same object, and fit trains a model in place; give the folder of the model as it "
            "was, or a copy.deepcopy(model) made before the training"
        )
    sides = {"new": _by_name("on_new", on_new), "old": _by_name("on_old", on_old)}
    asked = [(side, name, evaluator) for side, evaluators in sides.items() for name, evaluator in evaluators.items()]
    results = []
    with tqdm(total=2 * len(asked), desc="Evaluating", unit="evaluation", disable=not show_progress_bar) as bar:
        for model in map(_loaded, (before, after)):
            for _, _, evaluator in asked:
                results.append((score_of(evaluator, evaluator(model)), _example_values(evaluator)))
                bar.update()
    rows = []
    for place, (side, name, evaluator) in enumerate(asked):
        (was, old), (now, new) = results[place], results[place + len(asked)]
        metric = getattr(evaluator, "primary_metric", None)
        row = {"side": side, "evaluator": name, "metric": metric, "before": was, "after": now, "difference": now - was}
        kept = len(old) == len(new) > 0
        row |= {"better": np.mean(new > old) if kept else np.nan, "worse": np.mean(new < old) if kept else np.nan}
        rows.append(row)
    return pd.DataFrame(rows)


def interpolate(
    base: SentenceTransformer | str | Path, tuned: SentenceTransformer | str | Path, alpha: float
) -> SentenceTransformer:
    """Return a new model with the weights `(1 - alpha) * base + alpha * tuned`; `tuned` must be trained from `base`.

    Computed in float32 at least and kept in the models' dtype; alpha 0 and 1 give exactly the two models' weights. What
    is not a weight (integer buffers, prompts, length limit) is that of `tuned`. Source: Wortsman et al., 2022, Robust
    fine-tuning of zero-shot models (arXiv:2109.01903), WiSE-FT.
    """
    checked_number("alpha", alpha, 0, 1)
    first, last = _loaded(base), _loaded(tuned)
    facts = _facts(first), _facts(last)
    for fact in facts[0] | facts[1]:
        ours, theirs = (found.get(fact, "missing") for found in facts)
        if ours != theirs:
            raise ValueError(
                f"{fact} is {ours!r:.60} in base and {theirs!r:.60} in tuned; a model can be mixed only with one that "
                "was trained from it"
            )
    before, after = first.state_dict(), last.state_dict()
    mixed = copy.deepcopy(last).eval()
    mixed.zero_grad()
    for name, weight in mixed.state_dict().items():
        if weight.is_floating_point():
            exact = torch.promote_types(weight.dtype, torch.float32)
            old, new = before[name].to(weight.device, exact), after[name].to(exact)
            weight.copy_(torch.where(old == new, new, (1 - alpha) * old + alpha * new))  # frozen weights stay equal
    return mixed


def interpolation_curve(
    base: SentenceTransformer | str | Path,
    tuned: SentenceTransformer | str | Path,
    on_new: Evaluators,
    on_old: Evaluators,
    alphas: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    show_progress_bar: bool = True,
) -> pd.DataFrame:
    """Return the scores of the models between two: columns alpha, new and old (means over several evaluators).

    The best alpha is chosen with the help of these evaluators, so report the chosen model on others.
    """
    sides = {"new": _by_name("on_new", on_new), "old": _by_name("on_old", on_old)}
    alphas = [float(checked_number("every one of alphas", alpha, 0, 1)) for alpha in alphas]
    if not alphas:
        raise ValueError("alphas is empty; give at least one number from 0 to 1")
    base, tuned = _loaded(base), _loaded(tuned)
    rows = []
    for alpha in tqdm(alphas, desc="Interpolating", unit="model", disable=not show_progress_bar):
        model = interpolate(base, tuned, alpha)
        scores = {side: [score_of(one, one(model)) for one in several.values()] for side, several in sides.items()}
        rows.append({"alpha": alpha, **{side: float(np.mean(values)) for side, values in scores.items()}})
    return pd.DataFrame(rows)


def _loaded(model: Any) -> Any:
    return SentenceTransformer(model) if isinstance(model, str | Path) else model


def _by_name(argument: str, evaluators: Evaluators) -> dict[str, Evaluator]:
    """Return evaluators by a dictionary's names, their own names, or those of their classes."""
    named: dict[str, Evaluator] = dict(evaluators) if isinstance(evaluators, Mapping) else {}
    several = [] if named else evaluators if isinstance(evaluators, list | tuple) else [evaluators]
    for place, evaluator in enumerate(several):
        name = getattr(evaluator, "name", "") or type(evaluator).__name__
        named[f"{name} {place}" if name in named else name] = evaluator
    if not named or not all(callable(evaluator) and not isinstance(evaluator, type) for evaluator in named.values()):
        raise ValueError(
            f"{argument} must be an evaluator, a list of them or a dictionary by name, got {evaluators!r:.80}"
        )
    return named


def _example_values(evaluator: Evaluator) -> np.ndarray:
    """Return the primary metric of each example in the last call, `(n,)`; `(0,)` if examples have none of their own.

    Of a metric that is the maximum over several similarities, these are the values of the best similarity.
    """
    table = getattr(evaluator, "per_example", pd.DataFrame())
    metric = str(getattr(evaluator, "primary_metric", "")).removeprefix(f"{getattr(evaluator, 'name', '')}_")
    ending = metric.removeprefix("max")
    columns = [str(name) for name in table if name == metric or (ending != metric and str(name).endswith(ending))]
    return table[max(columns, key=lambda name: table[name].mean())].to_numpy() if columns else np.empty(0)


def _facts(model: SentenceTransformer) -> dict[str, Any]:
    """Return, by name, what must be equal for the weights of two models to mean the same."""
    facts: dict[str, Any] = {}
    for name, block in model.named_modules():
        if isinstance(block, Module):
            where = f"block {name} ({type(block).__name__})"
            facts[f"block {name}"] = type(block).__name__
            facts |= {f"{key} of {where}": value for key, value in block.config().items() if key not in HARMLESS}
            body = getattr(getattr(block, "auto_model", None), "config", None)
            facts |= {f"{key} of {where}": getattr(body, key, None) for key in NOT_IN_WEIGHTS}
            if isinstance(block, TokenizerModule):
                facts[f"the vocabulary of {where}"] = block.tokenizer.get_vocab()
    return facts | {f"weight {name}": (weight.dtype, *weight.shape) for name, weight in model.state_dict().items()}
