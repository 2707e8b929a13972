"""`fit`: the one training loop.

A step takes one batch of every objective in turn. All texts of a batch go through the encoder together, in token-budget
chunks; the loss sees their embeddings and labels. Every step is a function of (seed, step): the data order and the dropout
of a step do not depend on what happened before it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from sbertlab.batching import PaddingMeter
from sbertlab.data import InputExample, collate
from sbertlab.encoder import SentenceTransformer
from sbertlab.losses import Loss
from sbertlab.models import Transformer, features_to

SCHEDULERS = {
    "constantlr": "constant",
    "warmupconstant": "constant_with_warmup",
    "warmuplinear": "linear",
    "warmupcosine": "cosine",
    "warmupcosinewithhardrestarts": "cosine_with_restarts",
}
"""The learning-rate schedules of the field, in lower case, and what transformers calls them."""

NO_DECAY = ("bias", "LayerNorm.weight", "LayerNorm.bias")
"""Parameters whose name contains one of these are not decayed."""

HISTORY_COLUMNS = ["step", "epoch", "objective", "loss", "lr", "gradient_norm", "tokens_per_second", "padding_share", "metric"]


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient became NaN or infinite; the model keeps the weights of the step before."""


class Objective:
    """A data loader and the loss that its batches go to; a loader that runs dry is started again.

    Args:
        loader: yields lists of InputExample once `fit` has set its `collate_fn`.
        loss: a Loss, or a module of the field with `forward(features, labels)`.
        index: position among the objectives.
        seed: with `index` and the pass through the data it decides the order.
    """

    def __init__(self, loader: Any, loss: nn.Module, index: int, seed: int) -> None:
        self.loader, self.loss, self.index, self.seed = loader, loss, index, seed
        self.name = f"{index}:{type(loss).__name__}"
        self.passes = 0
        self._batches: Iterator[list[InputExample]] = iter(())
        loader.collate_fn = list

    def next_batch(self) -> tuple[list[list[str]], Tensor | None]:
        """Return the columns of texts and the labels of the next batch.

        Raises:
            ValueError: the loader yields nothing.
        """
        batch = next(self._batches, None)
        if batch is None:
            set_seed(seed_of(self.seed, "order", self.index, self.passes))
            for part in (self.loader, getattr(self.loader, "dataset", None)):
                if hasattr(part, "set_epoch"):
                    part.set_epoch(self.passes)
            self._batches = iter(self.loader)
            self.passes += 1
            batch = next(self._batches, None)
        if batch is None:
            raise ValueError(f"the data loader of objective {self.name} yields no batch; is its data set empty?")
        return collate(batch)


def seed_of(seed: int, *where: int | str) -> int:
    """Return a 32-bit seed that depends on the run's seed and on the place in it.

    >>> seed_of(0, "step", 1) == seed_of(0, "step", 1) != seed_of(0, "step", 2)
    True
    """
    words = [part if isinstance(part, int) else int.from_bytes(part.encode()[:8], "little") for part in where]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1)[0])


def fit(
    model: SentenceTransformer,
    train_objectives: Iterable[tuple[DataLoader, nn.Module]],
    evaluator: Any = None,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    scheduler: str = "WarmupLinear",
    warmup_steps: int = 10000,
    optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
    optimizer_params: Mapping[str, Any] | None = None,
    weight_decay: float = 0.01,
    evaluation_steps: int = 0,
    output_path: str | Path | None = None,
    save_best_model: bool = True,
    max_grad_norm: float = 1,
    use_amp: bool = False,
    callback: Callable[[float, int, int], None] | None = None,
    show_progress_bar: bool = True,
    checkpoint_path: str | Path | None = None,
    checkpoint_save_steps: int = 500,
    checkpoint_save_total_limit: int = 0,
    *,
    mixed_precision: str | None = None,
    seed: int = 0,
    token_budget: int | None = None,
) -> pd.DataFrame:
    """Train the model in place and return what happened, one row a step and objective.

    Each step takes one batch from every objective, in turn, with an optimizer step after each (round robin). Unlike version
    2.2 of sentence-transformers, which gives every objective an optimizer of its own, all objectives share one optimizer,
    so that shared weights have one momentum; the schedule advances once a step, as there.

    Args:
        model: the encoder.
        train_objectives: pairs of a DataLoader over InputExamples and a loss.
        evaluator: called every `evaluation_steps` and at the end of every epoch; its primary metric is the score.
        epochs: passes through the data, each of `steps_per_epoch` steps.
        steps_per_epoch: the length of the shortest loader when None.
        scheduler: ConstantLR, WarmupConstant, WarmupLinear, WarmupCosine or WarmupCosineWithHardRestarts.
        warmup_steps: steps over which the learning rate rises to its value.
        optimizer_class: an optimizer of torch.
        optimizer_params: its arguments; `{"lr": 2e-5}` when None.
        weight_decay: for all but biases and the weights of layer norms.
        evaluation_steps: steps between evaluations; 0 evaluates at the end of epochs only.
        output_path: folder for the model, with the scores in `eval/`.
        save_best_model: keep the model with the best score there; the last one otherwise, or without an evaluator.
        max_grad_norm: gradients are scaled down to this norm.
        use_amp: the field's older name of mixed precision: bf16 where the device has it, else fp16.
        callback: called with (score, epoch, steps) after every evaluation; steps is -1 at the end of an epoch.
        show_progress_bar: a bar with the loss.
        checkpoint_path: folder for the weights every `checkpoint_save_steps` steps.
        checkpoint_save_steps: steps between them.
        checkpoint_save_total_limit: keep only so many, the newest; 0 keeps all.
        mixed_precision: "no", "bf16" or "fp16". Losses are computed in float32 in any case.
        seed: everything random in the run follows from it.
        token_budget: padded tokens a chunk of the forward pass; chosen by the device when None.

    Returns:
        A table with the columns step, epoch, objective, loss, lr, gradient_norm (before clipping), tokens_per_second,
        padding_share and metric (the score, in the row after which it was computed).

    Raises:
        ValueError: an argument, or data that do not fit the loss; found in the batch before anything is computed of it.
        NonFiniteLossError: the loss became NaN or infinite; the step is named, the weights are those before it.
    """
    check_positive(epochs=epochs, checkpoint_save_steps=checkpoint_save_steps)
    objectives = make_objectives(model, train_objectives, seed)
    if steps_per_epoch is None or steps_per_epoch < 1:
        steps_per_epoch = min(len(objective.loader) for objective in objectives)
        check_positive(batches_in_the_shortest_loader=steps_per_epoch)
    total = int(steps_per_epoch * epochs)
    if warmup_steps >= total and scheduler.lower().startswith("warmup"):
        warnings.warn(
            f"warmup_steps={warmup_steps} is not reached in {total} steps: the learning rate only rises and never gets to its "
            f"value; warmup_steps={max(1, total // 10)} would be a tenth of the run",
            stacklevel=2,
        )
    precision = choose_precision(mixed_precision, use_amp, model.device)
    accelerator = Accelerator(mixed_precision=precision, cpu=model.device.type == "cpu")
    if accelerator.num_processes > 1:
        raise RuntimeError(f"fit trains in one process, and was started in {accelerator.num_processes}; start it by python")
    for block in model.modules():
        if isinstance(block, Transformer):
            block.match_vocabulary()
    optimizer = make_optimizer(model, objectives, optimizer_class, dict(optimizer_params or {"lr": 2e-5}), weight_decay)
    schedule = make_schedule(scheduler, optimizer, warmup_steps, total)
    optimizer = accelerator.prepare(optimizer)
    keeper = Keeper(model, evaluator, output_path, save_best_model, callback)
    rows: list[dict[str, Any]] = []
    try:
        with tqdm(total=total, desc="Training", unit="step", disable=not show_progress_bar) as bar:
            for step in range(1, total + 1):
                epoch = (step - 1) // steps_per_epoch
                model.train()
                for objective in objectives:
                    columns, labels = objective.next_batch()
                    set_seed(seed_of(seed, "step", step, objective.index))
                    row = train_step(model, objective, columns, labels, accelerator, optimizer, max_grad_norm, token_budget, step)
                    row |= {"step": step, "epoch": epoch, "lr": optimizer.param_groups[0]["lr"], "metric": math.nan}
                    rows.append(row)
                if not optimizer.step_was_skipped:
                    schedule.step()
                end_of_epoch = step % steps_per_epoch == 0
                if end_of_epoch or (evaluation_steps > 0 and step % steps_per_epoch % evaluation_steps == 0):
                    rows[-1]["metric"] = keeper.evaluate(epoch, -1 if end_of_epoch else step % steps_per_epoch)
                if checkpoint_path is not None and step % checkpoint_save_steps == 0:
                    save_checkpoint(model, Path(checkpoint_path), step, checkpoint_save_total_limit)
                bar.update()
                bar.set_postfix(loss=f"{rows[-1]['loss']:.4f}", **keeper.postfix())
        keeper.finish()
    finally:
        model.eval()
        AcceleratorState._reset_state()
    return pd.DataFrame(rows)[HISTORY_COLUMNS]


def train_step(
    model: SentenceTransformer,
    objective: Objective,
    columns: Sequence[Sequence[str]],
    labels: Tensor | None,
    accelerator: Accelerator,
    optimizer: Any,
    max_grad_norm: float,
    token_budget: int | None,
    step: int,
) -> dict[str, Any]:
    """Take one optimizer step on one batch; return its loss, gradient norm, speed and padding.

    Raises:
        NonFiniteLossError: before the weights are touched.
    """
    start = time.perf_counter()
    meter = PaddingMeter()
    loss = batch_loss(model, objective.loss, columns, labels, accelerator, token_budget, meter)
    value = loss.item()
    if not math.isfinite(value):
        raise NonFiniteLossError(
            f"the loss of objective {objective.name} is {value} at step {step}; the model keeps the weights before it. "
            "Look at the labels of the batch, lower the learning rate, or use bf16 instead of fp16"
        )
    optimizer.zero_grad()
    accelerator.backward(loss)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = accelerator.clip_grad_norm_(parameters, max_grad_norm)
    norm = float("nan") if norm is None else float(norm)
    if not math.isfinite(norm) and accelerator.scaler is None:
        optimizer.zero_grad()
        raise NonFiniteLossError(
            f"the gradient of objective {objective.name} is not finite at step {step} (loss {value:.4g}); "
            "the model keeps the weights before it. Lower the learning rate or look at the texts of the batch"
        )
    optimizer.step()
    seconds = time.perf_counter() - start
    return {
        "objective": objective.name,
        "loss": value,
        "gradient_norm": norm,
        "tokens_per_second": meter.tokens / seconds,
        "padding_share": meter.share,
    }


def batch_loss(
    model: SentenceTransformer,
    loss: nn.Module,
    columns: Sequence[Sequence[str]],
    labels: Tensor | None,
    accelerator: Accelerator,
    token_budget: int | None,
    meter: PaddingMeter,
) -> Tensor:
    """Embed all texts of the batch together and return the loss of their embeddings."""
    if isinstance(loss, Loss):
        loss.check_batch(columns, labels)
    labels = None if labels is None else labels.to(model.device)
    if not isinstance(loss, Loss):  # a loss of the field, which embeds its columns itself
        with accelerator.autocast():
            return loss([features_to(model.tokenize(column), model.device) for column in columns], labels)
    with torch.no_grad():
        labels = loss.prepare(columns, labels)
    embedded = list(columns[loss.embedded]) * loss.views
    with accelerator.autocast():
        embeddings = model.embed([text for column in embedded for text in column], token_budget, meter=meter)
    return loss.compute(embeddings.split([len(column) for column in embedded]), labels)


# -- What a run is made of ---------------------------------------------------------------------------------------------


def check_positive(**numbers: float) -> None:
    """Raise a ValueError that names the first number which is not a positive finite one."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number < math.inf:
            raise ValueError(f"{name.replace('_', ' ') if 'loader' in name else name} must be positive, got {number!r}")


def make_objectives(model: SentenceTransformer, pairs: Any, seed: int) -> list[Objective]:
    """Check the pairs of loader and loss and move the losses to the model's device."""
    pairs = list(pairs) if not isinstance(pairs, (str, Mapping)) else pairs
    if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise ValueError("train_objectives must be a list of (DataLoader, loss) pairs, e.g. [(train_dataloader, train_loss)]")
    objectives = []
    for index, (loader, loss) in enumerate(pairs):
        if not isinstance(loss, nn.Module):
            raise TypeError(f"train_objectives[{index}][1] must be a loss, got {type(loss).__name__}; is the order (loader, loss)?")
        if not hasattr(loader, "__iter__") or not hasattr(loader, "__len__"):
            raise TypeError(f"train_objectives[{index}][0] must be a DataLoader with a length, got {type(loader).__name__}")
        of_loss = getattr(loss, "model", None)
        if isinstance(of_loss, SentenceTransformer) and of_loss is not model:
            raise ValueError(f"train_objectives[{index}]: {type(loss).__name__} was made with another model than the one to train")
        objectives.append(Objective(loader, loss.to(model.device), index, seed))
    return objectives


def choose_precision(mixed_precision: str | None, use_amp: bool, device: torch.device) -> str:
    """Return "no", "bf16" or "fp16"; `use_amp` means bf16 where the device has it, else fp16."""
    if mixed_precision is None:
        if not use_amp:
            return "no"
        return "fp16" if device.type == "cuda" and not torch.cuda.is_bf16_supported() else "bf16"
    if mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f'mixed_precision must be "no", "bf16" or "fp16", got {mixed_precision!r}')
    if mixed_precision == "fp16" and device.type == "cpu":
        raise ValueError('mixed_precision="fp16" needs an accelerator; on a CPU use "bf16" or "no"')
    return mixed_precision


def make_optimizer(
    model: nn.Module,
    objectives: Sequence[Objective],
    optimizer_class: type[torch.optim.Optimizer],
    arguments: dict[str, Any],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Make one optimizer over the encoder and the losses' own parameters, each once, in two groups: decayed and not."""
    named = {id(parameter): (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad}
    for objective in objectives:
        for name, parameter in objective.loss.named_parameters():
            if parameter.requires_grad:
                named.setdefault(id(parameter), (name, parameter))
    if not named:
        raise ValueError("nothing to train: no parameter of the model or of the losses requires a gradient")
    decayed = [parameter for name, parameter in named.values() if not any(part in name for part in NO_DECAY)]
    plain = [parameter for name, parameter in named.values() if any(part in name for part in NO_DECAY)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if optimizer_class in (torch.optim.AdamW, torch.optim.Adam):
        arguments.setdefault("fused", True)
    return optimizer_class([group for group in groups if group["params"]], **arguments)


def make_schedule(name: str, optimizer: torch.optim.Optimizer, warmup_steps: int, total: int) -> Any:
    """Make the learning-rate schedule of that name, upper or lower case."""
    if name.lower() not in SCHEDULERS:
        raise ValueError(f"scheduler {name!r} is unknown; choose one of {', '.join(SCHEDULERS)}")
    from transformers import get_scheduler  # imports much, so not before a run begins

    return get_scheduler(SCHEDULERS[name.lower()], optimizer, num_warmup_steps=warmup_steps, num_training_steps=total)


class Keeper:
    """Evaluates, tells the callback, and keeps the best model."""

    def __init__(
        self,
        model: SentenceTransformer,
        evaluator: Any,
        output_path: str | Path | None,
        save_best_model: bool,
        callback: Callable[[float, int, int], None] | None,
    ) -> None:
        self.model, self.evaluator, self.callback = model, evaluator, callback
        self.output_path = None if output_path is None else Path(output_path)
        self.keep_best = save_best_model and evaluator is not None
        self.best = -math.inf
        self.score = math.nan

    def evaluate(self, epoch: int, steps: int) -> float:
        """Return the score, NaN without an evaluator; write the model when it is the best so far."""
        if self.evaluator is None:
            return math.nan
        folder = None
        if self.output_path is not None:
            folder = self.output_path / "eval"
            folder.mkdir(parents=True, exist_ok=True)
        self.model.eval()
        result = self.evaluator(self.model, output_path=folder, epoch=epoch, steps=steps)
        self.score = float(result[self.evaluator.primary_metric] if isinstance(result, Mapping) else result)
        if self.callback is not None:
            self.callback(self.score, epoch, steps)
        if self.score > self.best:
            self.best = self.score
            if self.keep_best and self.output_path is not None:
                self.model.save(self.output_path)
        return self.score

    def finish(self) -> None:
        """Write the last model, unless the best one is kept."""
        if self.output_path is not None and not self.keep_best:
            self.model.save(self.output_path)

    def postfix(self) -> dict[str, str]:
        """Return the newest score for the progress bar."""
        return {} if math.isnan(self.score) else {"score": f"{self.score:.4f}"}


def save_checkpoint(model: SentenceTransformer, folder: Path, step: int, limit: int) -> None:
    """Write the model to `folder/step` and remove the oldest such folders beyond the limit (0: none)."""
    import shutil

    model.save(folder / str(step))
    kept = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    for path in kept[:-limit] if limit > 0 else []:
        shutil.rmtree(path)
