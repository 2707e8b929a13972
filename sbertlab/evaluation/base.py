"""What every evaluator shares: encoding, the CSV file and the table of examples."""

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd
from torch import Tensor

from sbertlab.storage.files import write_whole
from sbertlab.util import Encoder, as_tensor

logger = logging.getLogger(__name__)

Measurement = tuple[dict[str, float], pd.DataFrame]


class Settings(TypedDict, total=False):
    """What every evaluator takes; see `SentenceEvaluator`."""

    name: str
    batch_size: int
    show_progress_bar: bool
    write_csv: bool
    truncate_dim: int | None


class SentenceEvaluator:
    """Base of all evaluators. Your own overrides `measure(model)`, or `__call__` as in sentence-transformers.

    Args, the same for every evaluator that takes them:
        name: of the data; prefix of the metrics' keys and part of the file name.
        primary_metric: key of the metric that selects the best model, without the name; higher is better.
        csv_file: name of the file that a call with `output_path` appends to; `{}` stands for the name.
        write_csv: False writes no file.
        batch_size, show_progress_bar, truncate_dim (dimensions to keep; None keeps all): for `encode`.
    """

    def __init__(
        self,
        primary_metric: str = "",
        csv_file: str = "evaluation{}_results.csv",
        name: str = "",
        write_csv: bool = True,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        truncate_dim: int | None = None,
    ) -> None:
        self.name = name
        self.primary_metric = self._key(primary_metric) if primary_metric else None
        self.csv_file = csv_file.format(re.sub(r"[^\w.-]+", "_", f"_{name}" if name else ""))
        self.write_csv = write_csv
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.truncate_dim = truncate_dim
        self.per_example = pd.DataFrame()

    def __call__(
        self, model: Encoder, output_path: str | os.PathLike[str] | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Return the metrics, and append them to the CSV in `output_path`: steps -1 is the end of an epoch."""
        if isinstance(model, str):
            raise TypeError(f"an evaluator needs the model itself: SentenceTransformer({model!r})")
        metrics, self.per_example = self.measure(model)
        metrics = {key: float(value) for key, value in metrics.items()}
        if output_path is not None and self.write_csv:
            append_row(Path(output_path) / self.csv_file, {"epoch": epoch, "steps": steps, **metrics})
        metrics = {self._key(key): value for key, value in metrics.items()}
        logger.info("%s, epoch %d, step %d: %s", type(self).__name__, epoch, steps, metrics)
        return metrics

    def measure(self, model: Encoder) -> Measurement:
        """Return the metrics, without the name in their keys, and the table of examples."""
        raise NotImplementedError(f"{type(self).__name__} must define measure(model) or __call__(model, ...)")

    def _key(self, metric: str) -> str:
        return f"{self.name}_{metric}" if self.name else metric

    def _embed(self, model: Encoder, *columns: Sequence[str], role: str = "", **arguments: Any) -> list[Tensor]:
        """Return embeddings `(n, dim)` of each column of texts, encoding equal texts once; role: query, document."""
        places = {text: place for place, text in enumerate(dict.fromkeys(chain.from_iterable(columns)))}
        encode = getattr(model, f"encode_{role}", model.encode) if role else model.encode
        arguments |= {"truncate_dim": self.truncate_dim, "batch_size": self.batch_size}
        given = {name: value for name, value in arguments.items() if value is not None}
        found = encode(list(places), show_progress_bar=self.show_progress_bar, convert_to_tensor=True, **given)
        embeddings = as_tensor(found, f"model.encode's embeddings of {len(places)} texts", finite=True).detach()
        if embeddings.dim() != 2 or len(embeddings) != len(places):
            raise ValueError(f"model.encode returned the shape {tuple(embeddings.shape)} for {len(places)} texts")
        return [embeddings[[places[text] for text in column]] for column in columns]


BaseEvaluator = SentenceEvaluator


class SequentialEvaluator(SentenceEvaluator):
    """Several evaluators in a row: all their metrics, and `sequential_score` (primary) made of their primary ones.

    A key that an earlier evaluator has returned gets the prefix `evaluator_` and the place of the later one. Evaluators
    return a dict or a number. `per_example`: the tables of all, with the place in a column "evaluator".

    >>> SequentialEvaluator([lambda model, *where: 0.25, lambda model, *where: 0.5])(model=None)
    {'evaluator_0': 0.25, 'evaluator_1': 0.5, 'sequential_score': 0.5}
    """

    def __init__(
        self,
        evaluators: Iterable[Callable[..., float | dict[str, float]]],
        main_score_function: Callable[[list[float]], float] = lambda scores: scores[-1],
    ) -> None:
        super().__init__(primary_metric="sequential_score")
        self.evaluators = list(evaluators)
        if not self.evaluators or not all(map(callable, self.evaluators)):
            raise ValueError(f"evaluators must be a list of at least one evaluator, got {self.evaluators!r:.80}")
        self.main_score_function = main_score_function

    def __call__(
        self, model: Encoder, output_path: str | os.PathLike[str] | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Call one evaluator after the other."""
        metrics: dict[str, float] = {}
        scores, tables = [], []
        for place, evaluator in enumerate(self.evaluators):
            result = evaluator(model, output_path, epoch, steps)
            if not isinstance(result, dict):
                result = {f"evaluator_{place}": result}
            scores.append(result[getattr(evaluator, "primary_metric", None) or next(iter(result))])
            metrics |= {f"evaluator_{place}_{key}" if key in metrics else key: value for key, value in result.items()}
            tables.append(getattr(evaluator, "per_example", pd.DataFrame()).assign(evaluator=place))
        self.per_example = pd.concat(tables, ignore_index=True)
        return {**metrics, "sequential_score": float(self.main_score_function(scores))}


def append_row(path: Path, row: Mapping[str, float]) -> None:
    """Append a row to a CSV file, created if missing; new columns are added at the end."""
    table = pd.DataFrame([row])
    if path.exists() and path.stat().st_size:
        table = pd.concat([pd.read_csv(path), table])
    with write_whole(path) as partial:
        table.to_csv(partial, index=False)
