"""`fit`: the one training loop.

A step takes one batch of every objective in turn. All texts of a batch go through the encoder together, in token-budget
chunks; the loss sees their embeddings and labels. Every step is a function of (seed, step): the data order and the
dropout of a step do not depend on what happened before it.
"""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from sbertlab.batching import PaddingMeter
from sbertlab.checkpoint import Keeper, save_checkpoint, writable_folder
from sbertlab.data import InputExample, collate
from sbertlab.encoder import SentenceTransformer
from sbertlab.loss import Loss, checked_number
from sbertlab.models import TokenizerModule, features_to
from sbertlab.optimizer import make_optimizer, make_schedule

HISTORY_COLUMNS = [
    "step",
    "epoch",
    "objective",
    "loss",
    "lr",
    "gradient_norm",
    "tokens_per_second",
    "padding_share",
    "metric",
]


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient became NaN or infinite; the model keeps the weights of the step before."""


class Objective:
    """A data loader and the loss that its batches go to; a loader that runs dry is started again.

    Args:
        loader: yields lists of InputExample once its `collate_fn` is set, which is done here.
        loss: a Loss, or a module of the field with `forward(features, labels)`.
        index: position among the objectives.
        seed: with `index` and the pass through the data it decides the order.
        device: where the model is.
    """

    def __init__(self, loader: Any, loss: nn.Module, index: int, seed: int, device: torch.device) -> None:
        self.loader, self.loss, self.index, self.seed, self.device = loader, loss, index, seed, device
        self.name = f"{index}:{type(loss).__name__}"
        self.passes = 0
        self._batches: Iterator[list[InputExample]] = iter(())
        self._set_epoch()

    def __len__(self) -> int:
        """Return the number of batches of a pass.

        Raises:
            TypeError: the loader does not know.
            ValueError: there are none.
        """
        try:
            length = len(self.loader)
        except TypeError:
            raise TypeError(f"the loader of objective {self.name} has no length; give steps_per_epoch") from None
        if length == 0:
            raise ValueError(self._nothing())
        return length

    def next_batch(self, step: int) -> tuple[list[list[Any]], Tensor | None]:
        """Return the columns of texts and the labels of the batch of this step.

        Raises:
            ValueError: the loader yields nothing, or rows that the loss cannot take.
        """
        set_seed(self.device, self.seed, "batch", self.index, step)
        batch = next(self._batches, None)
        if batch is None:
            batch = self._first_batch()
        try:
            columns, labels = collate(batch)
            if isinstance(self.loss, Loss):
                self.loss.check_batch(columns, labels)
        except ValueError as error:
            raise ValueError(f"step {step}, objective {self.name}: {error}") from error
        return columns, labels

    def _first_batch(self) -> list[InputExample]:
        """Start the next pass through the data, in an order of its own."""
        set_seed(self.device, self.seed, "order", self.index, self.passes)
        self._set_epoch()
        self.loader.collate_fn = list  # set for every pass: an evaluator may share the loader and set its own
        if isinstance(self.loader, DataLoader):
            self.loader._iterator = None  # persistent workers would keep the epoch and the randomness of the last pass
        self._batches = iter(self.loader)
        self.passes += 1
        batch = next(self._batches, None)
        if batch is None:
            raise ValueError(self._nothing())
        return batch

    def _set_epoch(self) -> None:
        parts = (getattr(self.loader, name, None) for name in ("dataset", "sampler", "batch_sampler"))
        for part in (self.loader, *parts):
            if hasattr(part, "set_epoch"):
                part.set_epoch(self.passes)

    def _nothing(self) -> str:
        return (
            f"the loader of objective {self.name} yields no batch: its data set is empty, smaller than one batch with "
            "drop_last=True, or can be read only once"
        )


def set_seed(device: torch.device, seed: int, *where: int | str) -> None:
    """Let what is drawn next, by Python, NumPy and torch, follow from the run's seed and the place in it."""
    value = seed_of(seed, *where)
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 (data sets of others draw from it)
    # Where there is no accelerator, torch.manual_seed spends a millisecond on asking for one.
    (torch.default_generator if device.type == "cpu" else torch).manual_seed(value)


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
    epochs: float = 1,
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

    Each step takes one batch from every objective, in turn, with an optimizer step after each (round robin). Unlike
    version 2.2 of sentence-transformers, which gives every objective an optimizer of its own, all objectives share one
    optimizer, so that shared weights have one momentum; the schedule advances once a step, as there.

    Args:
        model: the encoder.
        train_objectives: pairs of a DataLoader over InputExamples and a loss.
        evaluator: called every `evaluation_steps` and at the end of every epoch; its primary metric is the score.
        epochs: passes through the data, each of `steps_per_epoch` steps; the last may be a part of one.
        steps_per_epoch: the length of the shortest loader when None or 0.
        scheduler: ConstantLR, WarmupConstant, WarmupLinear, WarmupCosine or WarmupCosineWithHardRestarts.
        warmup_steps: steps over which the learning rate rises to its value.
        optimizer_class: an optimizer of torch.
        optimizer_params: its arguments; `{"lr": 2e-5}` when None.
        weight_decay: for all but biases and what is called LayerNorm, as in the field.
        evaluation_steps: steps between evaluations; 0 evaluates at the end of epochs only.
        output_path: folder for the model, with the scores in `eval/`.
        save_best_model: keep the model with the best score there; the last one otherwise, or without an evaluator.
        max_grad_norm: gradients are scaled down to this norm; `math.inf` leaves them.
        use_amp: the field's older name of mixed precision: bf16 where the device has it, else fp16.
        callback: called with (score, epoch, steps) after every evaluation; steps is -1 at the end of an epoch.
        show_progress_bar: a bar with the loss.
        checkpoint_path: folder for the weights every `checkpoint_save_steps` steps.
        checkpoint_save_steps: steps between them.
        checkpoint_save_total_limit: keep only so many of this run, the newest; 0 keeps all.
        mixed_precision: "no", "bf16" or "fp16". The losses of `sbertlab.losses` are computed in float32 in any case.
        seed: everything random in the run follows from it, but for loaders that bring a seed or generator of their
            own. The random states of the process are put back at the end.
        token_budget: padded tokens a chunk of the forward pass; chosen by the device when None.

    Returns:
        A table with the columns step, epoch, objective, loss, lr (of this step), gradient_norm (before clipping),
        tokens_per_second and padding_share (of what the encoder reads; NaN where a loss of the field hides it) and
        metric (the score, in the row after which it was computed).

    Raises:
        TypeError: an argument of the wrong kind, such as a list of examples in place of a DataLoader.
        ValueError: an argument out of range, or data that do not fit the loss, found before the step learns of them.
        OSError: `output_path` or `checkpoint_path` cannot be written, found before the first step.
        NonFiniteLossError: the loss became NaN or infinite; the step is named, the weights are those before it.
    """
    checked_number("epochs", epochs, above=True)
    if max_grad_norm != math.inf:
        checked_number("max_grad_norm, unless math.inf,", max_grad_norm, above=True)
    for name, number, least in (
        ("steps_per_epoch", steps_per_epoch or 0, 0),
        ("warmup_steps", warmup_steps, 0),
        ("evaluation_steps", evaluation_steps, 0),
        ("checkpoint_save_steps", checkpoint_save_steps, 1),
        ("checkpoint_save_total_limit", checkpoint_save_total_limit, 0),
        ("seed", seed, 0),
        ("token_budget", 1 if token_budget is None else token_budget, 1),
    ):
        checked_number(name, number, least, whole=True)
    precision = choose_precision(mixed_precision, use_amp, model.device)
    objectives = make_objectives(model, train_objectives, seed)
    steps_per_epoch = int(steps_per_epoch or min(map(len, objectives)))
    total = max(1, round(steps_per_epoch * epochs))
    for block in model.modules():
        if isinstance(block, TokenizerModule):
            block.match_vocabulary()
    raw_optimizer = make_optimizer(
        model, [objective.loss for objective in objectives], optimizer_class, optimizer_params, weight_decay
    )
    schedule = make_schedule(scheduler, raw_optimizer, warmup_steps, total)
    if warmup_steps >= total and scheduler.lower().startswith("warmup"):
        warnings.warn(
            f"warmup_steps={warmup_steps} is not reached in {total} steps: the learning rate only rises and never gets "
            f"to its value; warmup_steps={max(1, total // 10)} would be a tenth of the run",
            stacklevel=2,
        )
    checkpoints = None if checkpoint_path is None else writable_folder("checkpoint_path", checkpoint_path)
    keeper = Keeper(model, evaluator, output_path, save_best_model, callback)
    rows: list[dict[str, Any]] = []
    written: list[Path] = []
    with (
        apart(precision, model.device) as accelerator,
        tqdm(total=total, desc="Training", unit="step", disable=not show_progress_bar) as bar,
    ):
        optimizer = accelerator.prepare(raw_optimizer)
        try:
            train_mode(model, objectives)
            for step in range(1, total + 1):
                epoch = (step - 1) // steps_per_epoch
                batches = [
                    objective.next_batch(step) for objective in objectives
                ]  # all are checked before one is learnt
                for objective, (columns, labels) in zip(objectives, batches, strict=True):
                    set_seed(model.device, seed, "step", step, objective.index)
                    row = train_step(
                        model, objective, columns, labels, accelerator, optimizer, max_grad_norm, token_budget, step
                    )
                    row |= {
                        "step": step,
                        "epoch": epoch,
                        "lr": float(optimizer.param_groups[0]["lr"]),
                        "metric": math.nan,
                    }
                    rows.append(row)
                if not optimizer.step_was_skipped:
                    schedule.step()
                end_of_epoch = step % steps_per_epoch == 0 or step == total
                if end_of_epoch or (evaluation_steps > 0 and step % steps_per_epoch % evaluation_steps == 0):
                    rows[-1]["metric"] = keeper.evaluate(epoch, -1 if end_of_epoch else step % steps_per_epoch)
                    train_mode(model, objectives)
                if checkpoints is not None and step % checkpoint_save_steps == 0:
                    save_checkpoint(model, checkpoints / str(step), written, checkpoint_save_total_limit)
                bar.set_postfix(loss=f"{rows[-1]['loss']:.4f}", **keeper.postfix(), refresh=False)
                bar.update()
            keeper.finish()
        finally:
            optimizer.zero_grad()
            model.eval()
    return pd.DataFrame(rows)[HISTORY_COLUMNS]


@contextmanager
def apart(precision: str, device: torch.device) -> Iterator[Accelerator]:
    """Give a run an Accelerator and random states that are its own; those of the process are put back afterwards.

    accelerate keeps one state a process, which would tie a run to the precision and device of the one before it.

    Raises:
        RuntimeError: the process is one of several.
    """
    kinds = (PartialState, AcceleratorState, GradientState)
    states = [dict(kind._shared_state) for kind in kinds]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            for kind in kinds:
                kind._shared_state.clear()
            accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
            if accelerator.num_processes > 1:
                raise RuntimeError(
                    f"fit trains in one process, and was started in {accelerator.num_processes}; start it by python"
                )
            yield accelerator
        finally:
            for kind, state in zip(kinds, states, strict=True):
                kind._shared_state.clear()
                kind._shared_state.update(state)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def train_mode(model: nn.Module, objectives: Sequence[Objective]) -> None:
    """Turn on the dropout of the model and of the losses' own modules."""
    for module in (model, *(objective.loss for objective in objectives)):
        module.train()


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
        TypeError: the loss is no number that can be differentiated.
    """
    start = time.perf_counter()
    meter = PaddingMeter()
    loss = batch_loss(model, objective.loss, columns, labels, accelerator, token_budget, meter)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        shape = f" of shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}" if isinstance(loss, Tensor) else ""
        raise TypeError(
            f"objective {objective.name} must return a tensor of one number that depends on what is trained, got "
            f"{type(loss).__name__}{shape}"
        )
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
        "tokens_per_second": meter.tokens / seconds if meter.padded else math.nan,
        "padding_share": meter.share if meter.padded else math.nan,
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
    labels = None if labels is None else labels.to(model.device)
    if not isinstance(loss, Loss):  # a loss of the field, which embeds its columns itself
        features = [model.tokenize(column) for column in columns]
        for mask in (column["attention_mask"] for column in features if "attention_mask" in column):
            meter.add(mask.sum(dim=1).tolist())
        with accelerator.autocast():
            return loss([features_to(column, model.device) for column in features], labels)
    with torch.no_grad():
        labels = loss.prepare(columns, labels)
    embedded = list(columns[loss.embedded]) * loss.views
    with accelerator.autocast():
        embeddings = model.embed([text for column in embedded for text in column], token_budget, meter=meter)
    return loss.compute(embeddings.split([len(column) for column in embedded]), labels)


# -- What a run is made of ---------------------------------------------------------------------------------------------


def make_objectives(model: SentenceTransformer, pairs: Any, seed: int) -> list[Objective]:
    """Check the pairs of loader and loss and move the losses to the model's device."""
    pairs = list(pairs) if isinstance(pairs, Iterable) and not isinstance(pairs, (str, Mapping)) else []
    if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise ValueError(
            "train_objectives must be a list of (DataLoader, loss) pairs, e.g. [(train_dataloader, train_loss)]"
        )
    objectives = []
    for index, (loader, loss) in enumerate(pairs):
        where = f"train_objectives[{index}]"
        if not isinstance(loss, nn.Module):
            raise TypeError(
                f"{where}[1] must be a loss, such as CosineSimilarityLoss(model), got {loss!r:.80}; is the order "
                "(loader, loss)?"
            )
        no_batches = isinstance(loader, (Sequence, Iterator, Dataset)) or not hasattr(loader, "__iter__")
        if no_batches or (isinstance(loader, DataLoader) and loader.batch_sampler is None):
            raise TypeError(
                f"{where}[0] must be a DataLoader that makes batches, got {type(loader).__name__}; write "
                "DataLoader(examples, shuffle=True, batch_size=16)"
            )
        collate_name = getattr(getattr(loader, "collate_fn", None), "__name__", "list")
        if collate_name not in ("list", "default_collate", "smart_batching_collate"):
            warnings.warn(
                f"{where}[0].collate_fn, {collate_name}, is not used: fit takes batches of InputExamples as they are; "
                "what changes rows belongs into the data set",
                stacklevel=3,
            )
        for part in loss.modules():
            of_loss = getattr(part, "model", None) if isinstance(part, Loss) or part is loss else None
            if isinstance(of_loss, SentenceTransformer) and of_loss is not model:
                raise ValueError(f"{where}: {type(part).__name__} was made with another model than the one to train")
        objectives.append(Objective(loader, loss.to(model.device), index, seed, model.device))
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
