"""Keeping a model current: train on with some of the old data, see what was gained and lost, choose a point between.

Language changes, so a model is trained again on recent data, and then forgets some of what it knew. Three things help.
Below, `folder` holds the model in use; the evaluators `on_new` and `on_old` share no text with the training data.

    model = SentenceTransformer(folder)
    loader = DataLoader(replay(new, old, share=0.2), batch_size=64, shuffle=True)
    model.fit([(loader, losses.MultipleNegativesRankingLoss(model))])
    gained_and_lost(folder, model, on_new, on_old)  # what did it cost?
    interpolation_curve(folder, model, on_new, on_old)  # does a point between the two cost less?
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
from sbertlab.encoder.lora import has_adapters
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Module, TokenizerModule
from sbertlab.training.best_model import score_of
from sbertlab.util import Encoder

Evaluator = Callable[..., Any]
Evaluators = Evaluator | Sequence[Evaluator] | Mapping[str, Evaluator]

NOT_IN_WEIGHTS = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps", "position_embedding_type")
"""Settings of a transformer that change what it computes and leave the shapes of its weights as they are."""

HARMLESS = {"max_seq_length", "dropout"}
"""Settings of a building block in which two models may differ and still be mixed."""


class ReplayDataset(Dataset[InputExample]):
    """All new rows, and among them, evenly spread, another part of the old ones in every epoch; see `replay`.

    An epoch is a function of (seed, epoch). Epochs walk through the old rows in a random order: none comes back before
    `len(old) // count` epochs are over, then another order begins. The new rows keep theirs.

    Args:
        new: the new rows.
        old: the old rows.
        count: old rows of an epoch, at most as many as there are.
        seed: of the draw.
    """

    def __init__(self, new: Sequence[InputExample], old: Sequence[InputExample], count: int, seed: int = 0) -> None:
        self.new, self.old, self.count, self.seed = list(new), list(old), count, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose rows the items are, from 0; `fit` does it before every pass."""
        checked_number("epoch", epoch, whole=True)
        turn, part = divmod(epoch, max(1, len(self.old) // max(1, self.count)))
        order = np.random.default_rng((self.seed, turn)).permutation(len(self.old))
        drawn = order[part * self.count : (part + 1) * self.count]
        is_old = np.zeros(len(self), dtype=bool)
        is_old[np.linspace(0, len(self), 2 * self.count + 1)[1::2].astype(int)] = True  # middles of `count` equal parts
        self._rows = np.empty(len(self), dtype=int)  # places in new, then in old
        self._rows[is_old] = len(self.new) + drawn
        self._rows[~is_old] = np.arange(len(self.new))

    def __len__(self) -> int:
        return len(self.new) + self.count

    def __getitem__(self, index: int) -> InputExample:
        row = int(self._rows[index])
        return self.new[row] if row < len(self.new) else self.old[row - len(self.new)]


def replay(
    new: Sequence[InputExample], old: Sequence[InputExample], share: float = 0.2, seed: int = 0
) -> ReplayDataset:
    """Return a data set of all `new` rows and, in every epoch, another `share / (1 - share) * len(new)` old ones.

    It goes into an ordinary DataLoader. Under a loss that takes the other rows of a batch as negatives, old and new
    texts are each other's. Data of another kind than the new go into an objective of their own:
    `fit([(new_loader, loss), (old_loader, another_loss)])`.

    Source: rehearsal; Robins, 1995, Catastrophic forgetting, rehearsal and pseudorehearsal (Connection Science 7).

    Args:
        new: rows to learn.
        old: rows that the model was trained on before, with as many texts and the same kind of label.
        share: of the rows of an epoch that are old; 0 trains on the new ones alone.
        seed: of the draw.

    Raises:
        ValueError: no new rows; a share without old rows; rows that do not fit together; an argument out of range.

    Warns:
        UserWarning: there are too few old rows for the share; all of them are in every epoch.

    >>> new, old = ([InputExample(texts=[text]) for text in texts] for texts in ("abc", "xy"))
    >>> rows = replay(new, old, share=0.25)
    >>> len(rows), [row.texts[0] for row in rows]
    (4, ['a', 'b', 'x', 'c'])
    >>> rows.set_epoch(1)
    >>> [row.texts[0] for row in rows]
    ['a', 'b', 'y', 'c']
    """
    checked_number("share", share, 0, 0.99)
    checked_number("seed", seed, whole=True)
    if not len(new) or (share and not len(old)):
        raise ValueError(f"new has {len(new)} rows and old {len(old)}; give rows of both, or share=0 without old ones")
    try:
        collate([*new, *old])
    except ValueError as error:
        raise ValueError(
            f"new and old must be rows that fit one loss; counted on from new to old, which begins at example "
            f"{len(new)}: {error}"
        ) from error
    wanted = max(1, round(len(new) * share / (1 - share))) if share else 0
    if wanted > len(old):
        warnings.warn(
            f"share={share:g} of old rows beside {len(new)} new ones needs {wanted} of them, there are {len(old)}: all "
            f"are taken in every epoch, a share of {len(old) / (len(new) + len(old)):.2g}",
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
    """Return what two models score on new and on old data, one row an evaluator.

    Args:
        before: the model that was in use, or its name or folder.
        after: the model that was trained on.
        on_new: evaluator of the new data, or a list of them, or a dictionary by name.
        on_old: the same of the old data.
        show_progress_bar: a bar over the evaluations.

    Returns:
        Columns side ("new" or "old"), evaluator (its name), metric (the primary one), before, after, difference (after
        - before: above 0 was gained), and better and worse: shares of the examples whose own value of the metric rose
        or fell. These two are missing where the metric has no value for one example, as a correlation has none.

    Raises:
        TypeError: an evaluator that returns neither a number nor its primary metric.
        ValueError: `before` and `after` are one object; no evaluator, or something else in place of one.

    >>> from types import SimpleNamespace
    >>> from sbertlab.evaluation import TripletEvaluator
    >>> def counting(letters):
    ...     return SimpleNamespace(encode=lambda texts, **_: [[text.count(x) + 0.0 for x in letters] for text in texts])
    >>> new, old = TripletEvaluator(["c"], ["c"], ["d"]), TripletEvaluator(["a"], ["a"], ["b"])
    >>> table = gained_and_lost(counting("ab"), counting("cd"), new, old, show_progress_bar=False)
    >>> table[["side", "before", "after", "difference", "better", "worse"]].values.tolist()
    [['new', 0.0, 1.0, 1.0, 1.0, 0.0], ['old', 1.0, 0.0, -1.0, 0.0, 1.0]]
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
    for (side, name, evaluator), (was, old), (now, new) in zip(
        asked, results[: len(asked)], results[len(asked) :], strict=True
    ):
        metric = getattr(evaluator, "primary_metric", None)
        row = {"side": side, "evaluator": name, "metric": metric, "before": was, "after": now, "difference": now - was}
        kept = len(old) == len(new) > 0
        row |= {"better": np.mean(new > old) if kept else np.nan, "worse": np.mean(new < old) if kept else np.nan}
        rows.append(row)
    return pd.DataFrame(rows)


def interpolate(
    base: SentenceTransformer | str | Path, tuned: SentenceTransformer | str | Path, alpha: float
) -> SentenceTransformer:
    """Return a new model with the weights `(1 - alpha) * base + alpha * tuned`.

    On the way from a model to the one that was trained from it, much of the new is often learnt before much of the old
    is lost. Models that were trained apart from each other have nothing useful between them, even of one architecture.

    Computed in float32 at least and kept in the models' own type; alpha 0 and 1 give the two models' very weights. What
    is no weight (integer buffers, prompts, length limit) is that of `tuned`. Both models stay as they are.

    Source: Wortsman et al., 2022, Robust fine-tuning of zero-shot models (arXiv:2109.01903), WiSE-FT.

    Args:
        base: the model before, or its name or folder.
        tuned: the model that was trained from it.
        alpha: from 0 (base) to 1 (tuned).

    Raises:
        ValueError: the models differ in architecture, vocabulary or type, the first difference is named; one has
            adapters, between whose factors the weights do not lie on a line; alpha out of range.

    >>> from sbertlab.models import Dense
    >>> def times(weight):
    ...     dense = Dense(1, 1, bias=False, init_weight=torch.tensor([[weight]]))
    ...     return SentenceTransformer(modules=[dense], device="cpu")
    >>> interpolate(times(1.0), times(3.0), alpha=0.25)[0].linear.weight.item()
    1.5
    """
    checked_number("alpha", alpha, 0, 1)
    first, last = _loaded(base), _loaded(tuned)
    _check_alike(first, last)
    before, after = first.state_dict(), last.state_dict()
    mixed = copy.deepcopy(last).eval()
    mixed.zero_grad()
    for name, weight in mixed.state_dict().items():
        if weight.is_floating_point():
            exact = torch.promote_types(weight.dtype, torch.float32)
            old, new = before[name].to(weight.device, exact), after[name].to(exact)
            weight.copy_(torch.where(old == new, new, (1 - alpha) * old + alpha * new))  # what was frozen stays so
    return mixed


def interpolation_curve(
    base: SentenceTransformer | str | Path,
    tuned: SentenceTransformer | str | Path,
    on_new: Evaluators,
    on_old: Evaluators,
    alphas: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    show_progress_bar: bool = True,
) -> pd.DataFrame:
    """Return how models between `base` and `tuned` score on new and on old data, one row an alpha.

    How to read it: alpha 0 is the model before, alpha 1 the one after. Going down the rows, `new` usually rises early
    and then levels off, while `old` holds and then falls. A good choice is the row behind which `new` gains less than
    `old` loses, weighed by what the two are worth to you; a row in which both are above alpha 0 costs nothing. Where
    `old` falls from the first row on as fast as `new` rises, interpolation does not help: train with a larger share of
    `replay` or a lower learning rate. Differences as small as those between two halves of the test data decide nothing.
    The choice is made on the data of these evaluators, so report the chosen model on others.

    As a picture: `old` to the right and `new` upwards, one dot a row with its alpha beside it, joined by a line, and
    thin lines at the values of alpha 0; whatever lies above and to the right of their crossing is better in both.

    Args:
        base: the model before, or its name or folder.
        tuned: the model that was trained from it.
        on_new: evaluator of the new data, or a list of them, or a dictionary by name.
        on_old: the same of the old data.
        alphas: where to evaluate, from 0 to 1.
        show_progress_bar: a bar over the models.

    Returns:
        Columns alpha, new and old: the primary metric, or the mean of those of several evaluators.

    Raises:
        ValueError: as in `interpolate` and `gained_and_lost`; no alphas.
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
    """Return evaluators by the name that a table gives them: a dictionary's, their own, or their class's."""
    named: dict[str, Evaluator] = {}
    if isinstance(evaluators, Mapping):
        named = dict(evaluators)
    else:
        for place, evaluator in enumerate(evaluators if isinstance(evaluators, list | tuple) else [evaluators]):
            name = getattr(evaluator, "name", "") or type(evaluator).__name__
            named[f"{name} {place}" if name in named else name] = evaluator
    if not named or not all(callable(evaluator) and not isinstance(evaluator, type) for evaluator in named.values()):
        raise ValueError(
            f"{argument} must be an evaluator, a list of them or a dictionary by name, got {evaluators!r:.80}"
        )
    return named


def _example_values(evaluator: Evaluator) -> np.ndarray:
    """Return what each example gave to the primary metric of the last call, `(n,)`; `(0,)` where that is not kept.

    Of a metric that is the greatest over several similarities, these are the values of the similarity that won.
    """
    table = getattr(evaluator, "per_example", pd.DataFrame())
    metric = str(getattr(evaluator, "primary_metric", "")).removeprefix(f"{getattr(evaluator, 'name', '')}_")
    ending = metric.removeprefix("max")
    columns = [str(name) for name in table if name == metric or (ending != metric and str(name).endswith(ending))]
    return table[max(columns, key=lambda name: table[name].mean())].to_numpy() if columns else np.empty(0)


def _facts(model: SentenceTransformer) -> dict[str, Any]:
    """Return, by name, what two models must have in common for their weights to mean the same."""
    facts: dict[str, Any] = {}
    for name, block in model.named_modules():
        if not isinstance(block, Module):
            continue
        facts[f"block {name}"] = kind = type(block).__name__
        where = f"block {name} ({kind})"
        facts |= {f"{key} of {where}": value for key, value in block.config().items() if key not in HARMLESS}
        body = getattr(getattr(block, "auto_model", None), "config", None)
        facts |= {f"{key} of {where}": getattr(body, key) for key in NOT_IN_WEIGHTS if hasattr(body, key)}
        if isinstance(block, TokenizerModule):
            words = sorted((number, word) for word, number in block.tokenizer.get_vocab().items())
            facts |= {f"token {number} in the vocabulary of {where}": word for number, word in words}
    return facts | {
        f"weight {name}": f"{str(weight.dtype).removeprefix('torch.')} {tuple(weight.shape)}"
        for name, weight in model.state_dict().items()
    }


def _check_alike(base: SentenceTransformer, tuned: SentenceTransformer) -> None:
    """Refuse models whose weights do not belong together, naming the first difference."""
    for name, model in (("base", base), ("tuned", tuned)):
        if has_adapters(model):
            raise ValueError(f"{name} has adapters; fold them into its weights first, by adapters.merge(model)")
    first, second = _facts(base), _facts(tuned)
    for fact in first | second:
        ours, theirs = first.get(fact, "missing"), second.get(fact, "missing")
        if ours != theirs:
            raise ValueError(
                f"{fact} is {ours!r:.60} in base and {theirs!r:.60} in tuned; a model can be mixed only with one that "
                "was trained from it"
            )
