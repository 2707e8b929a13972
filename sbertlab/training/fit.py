"""`fit`: the one training loop.

`step` says what happens to a batch, `callbacks` what happens beside it. Every step is a function of (seed, step): the
order of the data and the dropout of a step do not depend on what happened before, so a stopped run resumes exactly.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate.tracking import GeneralTracker
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from sbertlab.checks import check_choice, check_sizes, checked_number
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Module
from sbertlab.models.fast_cpu import has_native_bfloat16
from sbertlab.training.batches import batches_per_epoch, make_objectives
from sbertlab.training.callbacks import Event, Functions, IdleSteps, Interrupt, Run, Trackers, tracker_settings
from sbertlab.training.checkpoint import BestModel, Checkpoints
from sbertlab.training.optimizer import frozen, make_optimizer, make_schedule
from sbertlab.training.probe import METRICS, make_probe
from sbertlab.training.processes import any_process, isolated_accelerator
from sbertlab.training.step import OBJECTIVE_COLUMNS, Step

HISTORY_COLUMNS = ["step", "epoch", "objective", *OBJECTIVE_COLUMNS, "metric", *METRICS]


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
    resume: bool = False,
    learning_rates: Mapping[str, float] | None = None,
    mask_known_positives: bool = True,
    probe_steps: int | None = None,
    on_collapse: str = "warn",
    callbacks: Sequence[Callable[[Event], Any]] = (),
    log_with: str | GeneralTracker | Sequence[str | GeneralTracker] | None = None,
    log_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Train the model in place and return the history, one row per step and objective.

    Each step takes one batch from every objective in turn, with an update of the weights after each, by one optimizer;
    the schedule advances once per step. In several processes (`accelerate launch`, `torchrun`) each calls fit with the
    same arguments and embeds its share of every batch; the loss sees the whole batch. The first Ctrl-C (a notebook's
    stop button) finishes the step, writes a checkpoint and returns; the same call with `resume=True` continues.

    Args:
        model: the encoder.
        train_objectives: pairs of a DataLoader over InputExamples and a loss.
        evaluator: called every `evaluation_steps` and at the end of every epoch; its primary metric is the score.
        epochs: passes through the data, each of `steps_per_epoch` steps; the last may be partial.
        steps_per_epoch: the length of the shortest loader when None or 0.
        scheduler: ConstantLR, WarmupConstant, WarmupLinear, WarmupCosine or WarmupCosineWithHardRestarts.
        warmup_steps: steps over which the learning rate rises to its value.
        optimizer_class: an optimizer of torch.
        optimizer_params: its arguments; `{"lr": 2e-5}` when None.
        weight_decay: for all but biases and what is called LayerNorm, as in the field.
        evaluation_steps: steps between evaluations; 0 evaluates at the end of epochs only.
        output_path: folder for the model, with the scores in `eval/`.
        save_best_model: keep the model with the best score there; otherwise, or without an evaluator, the last one.
        max_grad_norm: gradients are scaled down to this norm; `math.inf` leaves them.
        use_amp: the field's older name of mixed precision: bf16 where the device has it, else fp16.
        callback: called with (score, epoch, steps) after every evaluation; steps is -1 at the end of an epoch.
        show_progress_bar: a bar with the loss.
        checkpoint_path: folder for the checkpoints, each of which is a model folder.
        checkpoint_save_steps: steps between them; Ctrl-C writes one too.
        checkpoint_save_total_limit: most checkpoints of this run to keep, the newest; 0 keeps all.
        mixed_precision: "no", "bf16", "fp16", or "auto": bf16 where the device multiplies it natively, else "no".
        seed: decides everything random in the run, except in loaders with a seed or generator of their own.
        token_budget: padded tokens per chunk of the forward pass; chosen by the device when None.
        cached: gradient cache: a batch of any size in the memory of one chunk, same numbers, two forward passes.
        resume: continue from the newest complete checkpoint, if there is one, to the weights of the unbroken run.
        learning_rates: rates by pattern over the names of parameters, e.g. `{"*embeddings*": 0}`; 0 freezes.
        mask_known_positives: keep equal texts, and rows of one `InputExample.group`, out of the negatives.
        probe_steps: steps between measurements of the space (`probe.space_metrics`); 0: none; None: ten per run or so.
        on_collapse: "warn", with likely causes, when the embeddings become one point or line; "stop"; or "ignore".
        callbacks: functions called with an `Event`; one that returns True at a step or evaluation ends the run.
        log_with: trackers by name ("tensorboard", "wandb", ...) or as `accelerate.tracking.GeneralTracker` objects.
        log_dir: where they write files; `runs` when None.

    Returns:
        A table of `HISTORY_COLUMNS`; metric is the score after the row. `history.attrs` holds interrupted,
        interrupt_requested (perhaps during the last step), stopped_early, collapsed and mixed_precision.

    Raises:
        TypeError, ValueError: a wrong argument, or data that do not fit the loss, found before a step learns from them.
        CheckpointError: `resume` with other data or arguments than the checkpoint's; what differs is listed.
        NonFiniteLossError: the loss became NaN or infinite; the weights are those before it.
        OSError, ProcessLostError: a folder cannot be written (found before the first step); another process died.
    """
    checked_number("epochs", epochs, above=True)
    checked_number("seed", seed, whole=True)
    checked_number("evaluation_steps", evaluation_steps, whole=True)
    budget = 1 if token_budget is None else token_budget
    check_sizes(steps_per_epoch=steps_per_epoch or 1, checkpoint_save_steps=checkpoint_save_steps, token_budget=budget)
    if resume and checkpoint_path is None:
        raise ValueError("resume=True needs checkpoint_path, the folder with the checkpoints")
    precision = choose_precision(mixed_precision, use_amp, model.device)
    settings = tracker_settings(log_with, log_dir)
    model.match_vocabulary()
    with isolated_accelerator(precision, model.device, **settings) as accelerator, frozen(model, learning_rates):
        main = accelerator.is_main_process
        if accelerator.num_processes > 1 and model.device.type != "cpu":
            model.to(accelerator.device)
        objectives = make_objectives(model, train_objectives, int(seed), mask_known_positives)
        steps_per_epoch = int(steps_per_epoch or batches_per_epoch(objectives))
        total = max(1, round(steps_per_epoch * epochs))
        losses = [objective.loss for objective in objectives]
        optimizer = make_optimizer(model, losses, optimizer_class, optimizer_params, weight_decay, learning_rates)
        schedule = make_schedule(scheduler, optimizer, warmup_steps, total)
        prepared = accelerator.prepare(optimizer)
        step = Step(model, objectives, prepared, schedule, accelerator, token_budget, cached, max_grad_norm)

        configuration = {
            "seed": int(seed),
            "steps": f"{total}, {steps_per_epoch} per epoch",
            "schedule": f"{scheduler}, {warmup_steps} warm-up steps",
            "optimizer": f"{type(optimizer).__name__}, {optimizer_params}, decay {weight_decay}, norm {max_grad_norm}",
            "learning_rates": str(learning_rates),
            "mixed_precision": precision,
            "chunks": f"token_budget={token_budget}, cached={cached}",
            "mask_known_positives": mask_known_positives,
            "model": architecture(model),
        } | {f"objective {one.index}": one.described() for one in objectives}
        interrupt, checkpoints = Interrupt(), None
        probe = make_probe(objectives[0], probe_steps, total, seed, on_collapse) if main else None
        best = BestModel(evaluator, output_path if main else None, save_best_model, callback)
        if checkpoint_path is not None:
            checkpoints = Checkpoints(checkpoint_path, configuration, checkpoint_save_total_limit)
        functions = Functions(callbacks) if callbacks else None
        trackers = Trackers(accelerator, configuration) if settings else None
        used = (interrupt, probe, best, checkpoints, functions, IdleSteps(), trackers)
        run = Run(step, total, steps_per_epoch, evaluation_steps, [one for one in used if one is not None])
        if checkpoints is not None and resume:
            checkpoints.resume(run)
        train(run, interrupt, checkpoint_save_steps, show_progress_bar)
    history = pd.DataFrame(step.rows, columns=HISTORY_COLUMNS)
    history.attrs |= {
        "interrupted": run.interrupted,
        "interrupt_requested": interrupt.requested,
        "stopped_early": run.stopped and not run.interrupted,
        "collapsed": probe is not None and probe.collapsed,
        "mixed_precision": precision,
    }
    return history


def train(run: Run, interrupt: Interrupt, checkpoint_save_steps: int, show_progress_bar: bool) -> None:
    """Take the steps that are left, until a callback stops the run or Ctrl-C interrupts it."""
    step, accelerator = run.step, run.step.accelerator
    show = show_progress_bar and run.is_main_process
    bar = tqdm(total=run.total, initial=step.number, desc="Training", unit="step", disable=not show)
    try:
        run.tell("on_begin")
        while step.number < run.total:
            stops = any(callback.stops for callback in run.callbacks)
            run.interrupted, run.stopped = any_process(accelerator, interrupt.requested, stops)
            if run.interrupted or run.stopped:
                break
            step.take(epoch=step.number // run.steps_per_epoch)
            run.tell("on_step")
            within = run.within_epoch
            if within == -1 or (run.evaluation_steps and within % run.evaluation_steps == 0):
                run.tell("on_evaluation")
            run.tell("on_step_end")
            if step.number % checkpoint_save_steps == 0:
                run.tell("on_checkpoint")
            shown = {key: step.rows[-1][key] for key in ("loss", "metric") if not math.isnan(step.rows[-1][key])}
            bar.set_postfix(shown, refresh=False)
            bar.update()
        if run.interrupted and run.saved < step.number:
            run.tell("on_checkpoint")
        [interrupt.requested] = any_process(accelerator, interrupt.requested)
        step.model.eval()
        run.tell("on_end")
    finally:
        bar.close()
        step.optimizer.zero_grad()
        step.model.eval()
        run.tell("close")


def architecture(model: SentenceTransformer) -> str:
    """Return the blocks of a model, and a digest of their settings, dropouts and trained parameters."""
    blocks = [(type(block).__name__, block.config()) for block in model.modules() if isinstance(block, Module)]
    dropouts = [part.p for part in model.modules() if isinstance(part, nn.Dropout)]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    digest = sha256(repr((blocks, dropouts, trained)).encode()).hexdigest()[:16]
    return f"{', '.join(name for name, _ in blocks)}, {digest}"


def choose_precision(mixed_precision: str | None, use_amp: bool, device: torch.device) -> str:
    """Return "no", "bf16" or "fp16"; for "auto" and `use_amp` the device decides."""
    on_cpu, asked = device.type == "cpu", mixed_precision or "no"
    check_choice("mixed_precision", asked, ("no", "bf16", "fp16", "auto"))
    if use_amp and mixed_precision is None:
        return "bf16" if on_cpu or torch.cuda.is_bf16_supported() else "fp16"
    if asked == "fp16" and on_cpu:
        raise ValueError('mixed_precision="fp16" needs an accelerator; on a CPU use "bf16" or "no"')
    if asked == "auto":
        return "bf16" if (has_native_bfloat16() if on_cpu else torch.cuda.is_bf16_supported(False)) else "no"
    return asked
