"""The training loop: epochs of shuffled windows, AdamW under a cosine, the best state by validation kept.

Everything random in epoch e follows from (seed, e) alone: the permutation and the dropout. So the state between two epochs is
the weights, the optimizer's moments and a few numbers, and a run that was killed goes on from its last epoch to the same bits.

    folder/last/   weights, optimizer and the best weights (safetensors), epoch and history (JSON): replaced whole, every epoch
    folder/best/   the weights of the best epoch
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from recipeline.contracts import Events, Progress, Silent
from recipeline.errors import TrainingFailed
from recipeline.operations import OpsHarness, Schedule
from recipeline_spline.batches import Batch, Source
from recipeline_spline.checkpoints import Learned, Plan, State, fingerprint, keep, restore

Criterion: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]
CHUNK = 4096  # windows that are forecast at once where nothing is learned


def train(
    network: nn.Module,
    objective: Criterion,
    windows: Source,
    validation: Source,
    plan: Plan,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
    events: Events | None = None,
    harness: OpsHarness | None = None,
    before: int = 0,
    tell: Callable[[nn.Module], float | None] | None = None,
) -> State:
    """Train `network` in place; it ends with the weights of its best epoch.

    folder  where checkpoints are kept and found again (None: nowhere)      before  epochs already reported by other networks
    harness rules and rollback of `recipeline.operations`, asked once per epoch with train_loss, val_loss and grad_norm
    tell    what `progress.report` hears of the network after each epoch, None: nothing; without it the validation loss

    Raises TrainingFailed when the loss is no longer finite, Damaged for a checkpoint of another plan or network.
    """
    progress, events = progress or Silent(), events or Silent()
    device = next(network.parameters()).device
    steps = plan.steps_per_epoch(len(windows))
    total = steps * plan.max_epochs
    schedule = Schedule("cosine", plan.learning_rate, plan.learning_rate * plan.final, total + 1, warm_up=int(plan.warm_up * total))
    weights = as_one(network)
    optimizer = torch.optim.AdamW(weights, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True)
    learned, state = Learned.of(network, optimizer), State()
    data = "" if folder is None else fingerprint(windows, validation)
    if folder is not None and (folder / "last").is_dir():
        state = restore(folder / "last", learned, plan, data, harness)
        events.emit("resumed", epoch=state.epoch)
    elif harness is not None:
        harness.start(0, learned.copy, learned.set_hparam)
    for epoch in range(state.epoch, plan.max_epochs):
        if state.done:
            break
        with seeded(plan.seed, epoch, device):
            order = torch.randperm(len(windows))[: steps * plan.batch_size if plan.epoch_windows else None]
            loss, norm = learn(learned, objective, windows, order, plan, schedule, epoch * steps)
        judged = learned.average if plan.average else {name: value.detach() for name, value in network.state_dict().items()}
        with holding(network, judged if plan.average else None):
            value = judge(network, objective, validation)
            told = value if tell is None else tell(network)
        row = {"epoch": epoch, "train_loss": loss, "val_loss": value, "grad_norm": norm,
               "learning_rate": schedule((epoch + 1) * steps) * learned.rate}  # fmt: skip
        if harness is not None:
            outcome = harness.update(epoch + 1, row, learned.copy, learned.put, learned.set_hparam)
            if outcome.restored is not None:  # the epochs go on, with other windows first, from the weights of before
                continue
        if not (math.isfinite(row["train_loss"]) and math.isfinite(value)):
            hint = "lower learning_rate, or look for extreme values in the targets"
            raise TrainingFailed(f"the loss of epoch {epoch} is not finite", hint=hint, slug="not-finite", where="spline_lstm")
        state.history.append(row)
        events.emit("epoch", **row)
        if value < state.best:
            state.best, state.best_epoch = value, epoch
            for name, tensor in judged.items():
                learned.best[name].copy_(tensor)
        state.epoch = epoch + 1
        state.pruned = told is not None and progress.report(before + epoch, told)
        state.done = state.pruned or epoch - state.best_epoch >= plan.patience
        if folder is not None:
            if state.best_epoch == epoch:
                keep(folder / "best", {"network": learned.best}, state, plan, data)
            keep(folder / "last", learned.tree(), state, plan, data, harness)
        progress.advance(before + epoch + 1, before + plan.max_epochs, "epochs")
    network.load_state_dict(learned.best)
    network.eval()
    return state


def learn(
    learned: Learned, objective: Criterion, windows: Source, order: Tensor, plan: Plan, schedule: Schedule, step: int
) -> tuple[float, float]:
    """One epoch over the windows in `order`, from that `step` of training on; its mean loss and mean gradient norm."""
    network, optimizer = learned.network, learned.optimizer
    network.train()
    losses, norms = [], []
    for rows in torch.split(order, plan.batch_size):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step) * learned.rate
        batch = windows.batch(rows)
        assert batch.labels is not None
        loss = objective(network(batch.past, batch.future, batch.static, batch.codes), batch.labels, batch.mask)
        optimizer.zero_grad(set_to_none=False)  # gradients are views of one tensor
        loss.backward()  # type: ignore[no-untyped-call]
        norms.append(nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], plan.clip))
        optimizer.step()
        losses.append(loss.detach())  # looked at once per epoch: a GPU is not waited for at every step
        step += 1
        if plan.average:
            follow(learned.average, network, min(plan.average, step / (9 + step)))
    return float(torch.stack(losses).mean()), float(torch.stack(norms).mean())


def as_one(network: nn.Module) -> list[Tensor]:
    """All weights as views of one tensor, so that clipping and the optimizer are a few operations instead of some per weight.

    On a GPU they stay as they are: cuDNN wants those of a recurrent layer in an order of its own.
    """
    weights: list[Tensor] = list(network.parameters())
    if weights[0].device.type != "cpu":
        return weights
    whole = nn.Parameter(torch.cat([weight.detach().reshape(-1) for weight in weights]))
    whole.grad = torch.zeros_like(whole)
    start = 0
    for weight in weights:
        part = slice(start, start + weight.numel())
        weight.data = whole.data[part].view_as(weight)
        weight.grad = whole.grad[part].view_as(weight)
        start = part.stop
    return [whole]


def judge(network: nn.Module, objective: Criterion, windows: Source) -> float:
    """The mean loss of all windows, each observed label counting once."""
    network.eval()
    total, count = 0.0, 0.0
    with torch.inference_mode():
        for rows in chunks(len(windows)):
            batch = windows.batch(rows)
            assert batch.labels is not None
            many = float(batch.labels.numel() if batch.mask is None else batch.mask.sum())
            loss = objective(network(batch.past, batch.future, batch.static, batch.codes), batch.labels, batch.mask)
            total, count = total + float(loss) * many, count + many
    return total / count if count else math.nan


def forecast(network: nn.Module, windows: Source, chunk: int = CHUNK) -> Tensor:
    """(N, H, n, Q) on the CPU."""
    pieces = [answer(network, windows.batch(rows)) for rows in chunks(len(windows), chunk)]
    return torch.cat(pieces)


def answer(network: nn.Module, batch: Batch) -> Tensor:
    """(B, H, n, Q) on the CPU."""
    if network.training:
        network.eval()
    with torch.inference_mode():
        said: Tensor = network(batch.past, batch.future, batch.static, batch.codes).cpu()
    return said


def chunks(count: int, size: int = CHUNK) -> Iterator[Tensor]:
    for start in range(0, count, size):
        yield torch.arange(start, min(start + size, count))


@contextlib.contextmanager
def seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """All random numbers inside follow from (seed, epoch); the world's stay as they were."""
    with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed((seed * 1_000_003 + epoch + 1) % 2**63)
        yield


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Small networks lose by more than one thread, and sums over other numbers of threads end in other bits."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def follow(average: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for name, value in network.state_dict().items():
            average[name].lerp_(value, 1 - decay)


@contextlib.contextmanager
def holding(network: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """The network with other weights for a while."""
    if weights is None:
        yield
        return
    own = {name: value.detach().clone() for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    try:
        yield
    finally:
        network.load_state_dict(own)
