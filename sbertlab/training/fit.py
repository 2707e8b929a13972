"""`fit`: the one training loop.

A step takes one batch of every objective in turn. All texts of a batch go through the encoder together, in token-budget
chunks; the loss sees their embeddings and labels (`gradients`). Every step is a function of (seed, step): the data
order and the dropout of a step do not depend on what happened before it, so a run that was stopped goes on as if it had
not been (`checkpoint`).
"""

from __future__ import annotations

import logging
import math
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.tracking import GeneralTracker
from accelerate.utils import InitProcessGroupKwargs
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from sbertlab.checks import checked_number
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.losses.base import Loss
from sbertlab.models import Module, TokenizerModule
from sbertlab.models.fast_cpu import has_native_bfloat16
from sbertlab.training.batches import make_objectives
from sbertlab.training.best_model import Keeper
from sbertlab.training.callbacks import Calls, Event
from sbertlab.training.checkpoint import CheckpointError, Checkpoints
from sbertlab.training.interrupt import Interrupt
from sbertlab.training.optimizer import frozen, make_optimizer, make_schedule
from sbertlab.training.processes import Processes
from sbertlab.training.run import Run
from sbertlab.training.step import Gradient, NonFiniteLossError
from sbertlab.training.trackers import Trackers, tracker_folder, tracker_names
from sbertlab.training.watch import Watch

logger = logging.getLogger(__name__)

PATIENCE = timedelta(hours=12)
"""How long a process waits for the others, e.g. while the first one evaluates; one that is gone is noticed at once."""


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
    cached: bool = False,
    memory_budget: float | None = None,
    resume: bool = False,
    learning_rates: Mapping[str, float] | None = None,
    mask_known_positives: bool = True,
    probe_steps: int | None = None,
    on_collapse: str = "warn",
    early_stopping_patience: int | None = None,
    callbacks: Sequence[Callable[[Event], Any]] = (),
    log_with: str | GeneralTracker | Sequence[str | GeneralTracker] | None = None,
    log_dir: str | Path | None = None,
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
        callback: called with (score, epoch, steps) after every evaluation; steps is -1 at the end of an epoch. One with
            the attribute `takes_events`, such as a TrainingMonitor, is told everything, as those in `callbacks`.
        show_progress_bar: a bar with the loss.
        checkpoint_path: folder for a checkpoint every `checkpoint_save_steps` steps, and on Ctrl-C. Each is a model
            folder and can be gone on from.
        checkpoint_save_steps: steps between them.
        checkpoint_save_total_limit: keep only so many of this run, the newest; 0 keeps all.
        mixed_precision: "no", "bf16", "fp16", or "auto": bf16 where the device multiplies it natively, else "no". The
            losses of `sbertlab.losses` are computed in float32 in any case.
        seed: everything random in the run follows from it, but for loaders that bring a seed or generator of their
            own. The random states of the process are put back at the end.
        token_budget: padded tokens a chunk of the forward pass; chosen by the device when None.
        cached: use the gradient cache, by which the encoder takes the memory of one chunk whatever the size of the
            batch, and a second forward pass. The numbers are the same. What a loss itself keeps, such as the decoder
            of DenoisingAutoEncoderLoss or the triplets of BatchAllTripletLoss, still grows with the batch.
        memory_budget: GiB that a batch's graph may take; batches that would take more are cached.
        resume: go on from the newest whole checkpoint in `checkpoint_path`, to the weights that the run would have
            reached unbroken, to the bit; begin anew, scores included, where there is none. Needs the same arguments
            and data.
        learning_rates: rates by shell pattern over the names of parameters, e.g. `{"*embeddings*": 0, "*layer.0.*":
            1e-5}`; the first that matches counts, 0 freezes (`optimizer.layer_wise` makes some).
        mask_known_positives: losses that take the other rows of a batch as negatives leave out those that the batch
            shows to be positives: texts that are the same, or rows of the same `InputExample.group`.
        probe_steps: every so many steps, and before the first, the space is measured on up to 512 texts of the first
            objective (`space.Probe`); when None, ten times in the run, but every 25 to 100 steps. 0, a shorter run
            and data that are a stream leave it out.
        on_collapse: "warn" of embeddings that become one point or line, with the likely cause; "stop" there; "ignore".
        early_stopping_patience: stop after so many evaluations in a row without a better score.
        callbacks: functions called with an Event after every step, evaluation and checkpoint, and at the end; one that
            returns True at a step or an evaluation ends the run there.
        log_with: trackers by name, "tensorboard", "wandb", "trackio" or another of accelerate, a
            `accelerate.tracking.GeneralTracker` of one's own, or a list of them. Each fit is a run of its own.
        log_dir: where they write files; `runs` when None.

    In several processes (`accelerate launch`, `torchrun`) each calls fit with the same arguments. The batches are
    those that the loaders give; each process embeds its share, the loss sees the whole. The first process evaluates,
    saves and calls back.

    The first Ctrl-C (a notebook's stop button) lets the step be finished, writes a checkpoint and returns; the same
    call with `resume=True` goes on.

    Returns:
        A table with the columns step, epoch, objective, loss, lr (of this step), gradient_norm (before clipping),
        tokens_per_second and padding_share (of what the encoder reads; NaN where a loss of the field hides it),
        known_positives (pairs that were kept out of the negatives) and metric (the score, in the row after which it was
        computed), and of the probe alignment, uniformity, effective_rank, mean_cosine and margin
        (`space.space_metrics`). `history.attrs` says whether the run was `interrupted` or `stopped_early` before its
        last step, whether Ctrl-C was pressed at all (`interrupt_wished`, which may have been in the last one: what
        comes after the run is then not wanted), whether the space `collapsed`, what it was before the first step
        (`space_before`), and the `mixed_precision`.

    Raises:
        TypeError: an argument of the wrong kind, such as a list of examples in place of a DataLoader.
        ValueError: an argument out of range, or data that do not fit the loss, found before the step learns of them.
        OSError: `output_path` or `checkpoint_path` cannot be written, found before the first step.
        CheckpointError: `resume` with other data or arguments than the checkpoint's; what differs is listed.
        NonFiniteLossError: the loss became NaN or infinite; the step and the objective are named, the weights are those
            before that objective's part of the step, and its `history` is that of the run.
        ProcessLostError: another process of the run is gone.
    """
    for name, number, least in (
        ("steps_per_epoch", steps_per_epoch or 0, 0),
        ("warmup_steps", warmup_steps, 0),
        ("evaluation_steps", evaluation_steps, 0),
        ("checkpoint_save_steps", checkpoint_save_steps, 1),
        ("checkpoint_save_total_limit", checkpoint_save_total_limit, 0),
        ("seed", seed, 0),
        ("token_budget", 1 if token_budget is None else token_budget, 1),
        ("probe_steps", probe_steps or 0, 0),
        ("early_stopping_patience", 1 if early_stopping_patience is None else early_stopping_patience, 1),
    ):
        checked_number(name, number, least, whole=True)
    checked_number("epochs", epochs, above=True)
    checked_number("memory_budget", 1 if memory_budget is None else memory_budget, above=True)
    if max_grad_norm != math.inf:
        checked_number("max_grad_norm, unless math.inf,", max_grad_norm, above=True)
    if resume and checkpoint_path is None:
        raise ValueError("resume=True needs checkpoint_path, the folder with the checkpoints to go on from")
    if early_stopping_patience is not None and evaluator is None:
        raise ValueError("early_stopping_patience needs an evaluator, whose score it goes by")
    if getattr(callback, "takes_events", False):
        callbacks, callback = [*callbacks, callback], None  # type: ignore[list-item]
    seed, max_grad_norm, mask_known_positives = int(seed), float(max_grad_norm), bool(mask_known_positives)
    precision = choose_precision(mixed_precision, use_amp, model.device)
    trackers = tracker_names(log_with)
    folder = tracker_folder(log_dir, trackers)
    with apart(precision, model.device, project_dir=folder) as accelerator, frozen(model, learning_rates):
        processes = Processes(model.device)
        if processes.count > 1 and model.device.type != "cpu":
            model.to(accelerator.device)
        objectives = make_objectives(model, train_objectives, seed)
        steps_per_epoch = int(steps_per_epoch or min(map(len, objectives)))
        total = max(1, round(steps_per_epoch * epochs))
        for block in model.modules():
            if isinstance(block, TokenizerModule):
                block.match_vocabulary()
        losses = [objective.loss for objective in objectives]
        foreign = [type(loss).__name__ for loss in losses if not isinstance(loss, Loss)]
        if cached and foreign:
            raise ValueError(
                f"cached=True needs losses of sbertlab.losses, which see embeddings alone; {', '.join(foreign)} embeds "
                "its texts itself"
            )
        optimizer = make_optimizer(model, losses, optimizer_class, optimizer_params, weight_decay, learning_rates)
        schedule = make_schedule(scheduler, optimizer, warmup_steps, total)
        if warmup_steps >= total and scheduler.lower().startswith("warmup"):
            warnings.warn(
                f"warmup_steps={warmup_steps} is not reached in {total} steps: the learning rate only rises and never "
                f"gets to its value; warmup_steps={max(1, total // 10)} would be a tenth of the run",
                stacklevel=2,
            )
        graph_bytes = None if memory_budget is None else memory_budget * 2**30
        gradient = Gradient(model, accelerator, processes, token_budget, cached, graph_bytes)
        prepared = accelerator.prepare(optimizer)
        run = Run(
            model, objectives, gradient, accelerator, prepared, schedule, max_grad_norm, seed, mask_known_positives
        )
        output = output_path if processes.main else None
        keeper = Keeper(model, evaluator, output, save_best_model, callback, early_stopping_patience)
        probed = min(100, max(25, total // 10)) if probe_steps is None else probe_steps
        watch = Watch(model, objectives[0], probed if processes.main else 0, total, on_collapse, seed)
        configuration = {
            "seed": seed,
            "steps": f"{total}, {steps_per_epoch} an epoch",
            "model": architecture(model),
            "schedule": f"{scheduler}, {warmup_steps} warm-up steps",
            "optimizer": f"{type(optimizer).__name__}, {settings_of(optimizer_params)}, weight decay {weight_decay}",
            "learning_rates": str({name: float(rate) for name, rate in (learning_rates or {}).items()}),
            "mask_known_positives": mask_known_positives,
            "max_grad_norm": max_grad_norm,
            "mixed_precision": precision,
            "chunks": f"token_budget={token_budget}, cached={cached}, memory_budget={memory_budget}",
        }
        if checkpoint_path is not None or trackers:
            for objective in objectives:
                configuration |= objective.configuration()
        checkpoints = None
        if checkpoint_path is not None:
            checkpoints = Checkpoints(checkpoint_path, configuration, checkpoint_save_total_limit)
            found = checkpoints.newest() if resume else None
            if found is None and resume:
                keeper.cut_scores({})  # of a run that was killed before its first checkpoint
            elif found is not None:
                run.restore(found.state)
                keeper.restore(found.state["keeper"])
                watch.restore(found.state["watch"])
            if any(processes.any(run.step != int(processes.from_main(run.step)))):
                raise CheckpointError(
                    "the processes found different checkpoints; every machine must see checkpoint_path"
                )
        calls = Calls(callbacks, run, processes, total)
        log = Trackers(accelerator, trackers, "sbertlab", configuration)
        rhythm = Rhythm(total, steps_per_epoch, evaluation_steps, checkpoint_save_steps)
        try:
            outcome = train(run, rhythm, keeper, watch, checkpoints, processes, calls, log, show_progress_bar)
        except NonFiniteLossError as error:
            error.history = run.history()
            raise
        finally:
            run.optimizer.zero_grad()
            model.eval()
            log.close()
        if processes.main and not outcome["interrupted"]:
            keeper.finish()
        calls.tell("end")
    history = run.history()
    history.attrs |= {**outcome, "space_before": watch.first, "mixed_precision": precision}
    return history


def architecture(model: SentenceTransformer) -> str:
    """Return what the weights do not tell of a model: its building blocks, their dropout, and what is trained."""
    blocks = [(type(block).__name__, block.config()) for block in model.modules() if isinstance(block, Module)]
    dropouts = [part.p for part in model.modules() if isinstance(part, nn.Dropout)]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    names = ", ".join(name for name, _ in blocks)
    return f"{names}, {sha256(repr((blocks, dropouts, trained)).encode()).hexdigest()[:16]}"


def settings_of(optimizer_params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return an optimizer's arguments as plain values, in an order that does not depend on how they were written."""
    given = {"lr": 2e-5} if optimizer_params is None else optimizer_params
    return {key: np.asarray(given[key]).tolist() for key in sorted(given)}


class Rhythm(NamedTuple):
    """When what is done, in steps."""

    total: int
    steps_per_epoch: int
    evaluation_steps: int
    checkpoint_save_steps: int

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch, or the run, ends with this step."""
        return step % self.steps_per_epoch == 0 or step == self.total

    def evaluates(self, step: int) -> bool:
        """Whether the model is evaluated after this step."""
        within = step % self.steps_per_epoch
        return self.ends_epoch(step) or (self.evaluation_steps > 0 and within % self.evaluation_steps == 0)


def train(
    run: Run,
    rhythm: Rhythm,
    keeper: Keeper,
    watch: Watch,
    checkpoints: Checkpoints | None,
    processes: Processes,
    calls: Calls,
    log: Trackers,
    show_progress_bar: bool,
) -> dict[str, bool]:
    """Take the steps that are left; return whether and how the run was interrupted or stopped early, or collapsed."""
    interrupted = False
    show = show_progress_bar and processes.main
    with Interrupt() as interrupt, tqdm(total=rhythm.total, desc="Training", unit="step", disable=not show) as bar:
        bar.update(run.step)
        watch.begin()
        [stopped] = processes.any(keeper.exhausted or watch.stops)  # the run that is continued had come to its end
        while run.step < rhythm.total and not (interrupted or stopped):
            epoch = run.step // rhythm.steps_per_epoch
            run.take_step(epoch)
            run.rows[-1] |= watch.after(run.step)
            enough = calls.tell("step") or watch.stops
            if rhythm.evaluates(run.step):
                within = -1 if rhythm.ends_epoch(run.step) else run.step % rhythm.steps_per_epoch
                score = keeper.evaluate(epoch, within) if processes.main else math.nan
                run.rows[-1]["metric"] = processes.from_main(score)
                enough |= calls.tell("evaluation") or keeper.exhausted
            log.log(run.rows[-len(run.objectives) :], several=len(run.objectives) > 1)
            interrupted, stopped = processes.any(interrupt.wished, enough)
            due = interrupted or run.step % rhythm.checkpoint_save_steps == 0
            if checkpoints is not None and due and processes.main:
                state = {**run.state(), "keeper": keeper.state(), "watch": watch.state()}
                if checkpoints.save(run.step, run.model, state) is not None:
                    calls.tell("checkpoint")
            bar.set_postfix(loss=f"{run.rows[-1]['loss']:.4f}", **keeper.postfix(), refresh=False)
            bar.update()
        [wished] = processes.any(interrupt.wished)
    left = run.step < rhythm.total
    return {
        "interrupted": interrupted and left,
        "interrupt_wished": wished,
        "stopped_early": stopped and not interrupted and left,
        "collapsed": watch.collapsed,
    }


@contextmanager
def apart(precision: str, device: torch.device, **settings: Any) -> Iterator[Accelerator]:
    """Give a run an Accelerator and random states that are its own; those of the process are put back afterwards.

    accelerate keeps one state a process, which would tie a run to the precision and device of the one before it.

    """
    kinds = (PartialState, AcceleratorState, GradientState)
    states = [dict(kind._shared_state) for kind in kinds]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            for kind in kinds:
                kind._shared_state.clear()
            yield Accelerator(
                mixed_precision=precision,
                cpu=device.type == "cpu",
                kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
                **settings,
            )
        finally:
            for kind, state in zip(kinds, states, strict=True):
                kind._shared_state.clear()
                kind._shared_state.update(state)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def choose_precision(mixed_precision: str | None, use_amp: bool, device: torch.device) -> str:
    """Return "no", "bf16" or "fp16"; "auto" and `use_amp` are settled by what the device can do."""
    if mixed_precision is None:
        if not use_amp:
            return "no"
        return "fp16" if device.type == "cuda" and not torch.cuda.is_bf16_supported() else "bf16"
    if mixed_precision == "auto":
        native = has_native_bfloat16() if device.type == "cpu" else torch.cuda.is_bf16_supported(False)
        logger.info("mixed_precision auto: %s on this %s", "bf16" if native else "no", device.type)
        return "bf16" if native else "no"
    if mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f'mixed_precision must be "no", "bf16", "fp16" or "auto", got {mixed_precision!r}')
    if mixed_precision == "fp16" and device.type == "cpu":
        raise ValueError('mixed_precision="fp16" needs an accelerator; on a CPU use "bf16" or "no"')
    return mixed_precision
