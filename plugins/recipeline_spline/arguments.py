"""What a forecaster may be told: mistakes in its arguments are found before any data is read, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeGuard, get_args

from recipeline.contracts import Events, Silent
from recipeline.errors import Problem
from recipeline.operations import CheckpointWriter, InMemory, OpsHarness, Rollback, Rotation, standard_rules

Encoder = Literal["seglstm", "lstm", "gru", "attention_lstm", "bilstm", "linear"]
Decoder = Literal["direct", "segments"]
Skip = Literal["mean", "nlinear", "none"]
Loss = Literal["pinball", "mse", "mae", "huber"]
COUNTS = (
    "horizon", "lookback", "hidden_size", "layers", "segment", "max_epochs", "patience", "batch_size", "epoch_windows", "ensemble",
    "threads",
)  # fmt: skip
RANGES = {  # lowest, highest, and whether the lowest itself will do; the highest will not
    "calibration": (0, 1, False), "dropout": (0, 1, True), "average": (0, 1, True), "learning_rate": (0, 1e9, False),
    "weight_decay": (0, 1e9, True), "clip": (0, 1e9, False),
}  # fmt: skip


WORDS = {
    "encoder": get_args(Encoder), "decoder": get_args(Decoder), "skip": get_args(Skip), "loss": get_args(Loss), "blend": ("auto",),
}  # fmt: skip


def problems_of(params: Mapping[str, Any]) -> list[Problem]:
    """Every value that cannot be; search ranges in the place of values are left to the search."""
    return [*_numbers(params), *_words(params), *_levels(params.get("quantiles")), *_together(params)]


def _bad(name: str, what: str, hint: str = "") -> Problem:
    return Problem("bad-value", (name,), what, hint, "value")


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(params: Mapping[str, Any]) -> Iterator[Problem]:
    for name in COUNTS:
        value = params.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            yield _bad(name, f"{value} is not 1 or more")
    for name, (low, high, lowest) in RANGES.items():
        value = params.get(name)
        if _number(value) and not (low < value < high or (lowest and value == low)):
            yield _bad(name, f"{value:g} is out of range", f"{'from' if lowest else 'above'} {low} to below {high:g}")
    blend = params.get("blend")
    if _number(blend) and not 0 <= blend <= 1:
        yield _bad("blend", f"{blend:g} is not a share between 0 and 1")


def _words(params: Mapping[str, Any]) -> Iterator[Problem]:
    for name, known in WORDS.items():
        value = params.get(name)
        if isinstance(value, str) and value not in known:
            yield _bad(name, f"{value!r} is not one of {', '.join(known)}")


def _levels(levels: Any) -> Iterator[Problem]:
    if not isinstance(levels, list | tuple):
        return
    if not all(_number(level) and 0 < level < 1 for level in levels):
        yield _bad("quantiles", "levels between 0 and 1 expected", "write quantiles: [0.1, 0.5, 0.9]")
    elif list(levels) != sorted(set(levels)):
        yield _bad("quantiles", f"{list(levels)} is not in ascending order", "each level once, sorted")


def _together(params: Mapping[str, Any]) -> Iterator[Problem]:
    size = params.get("hidden_size")
    if params.get("encoder") == "bilstm" and isinstance(size, int) and size % 2:
        yield _bad("hidden_size", "bilstm halves it between its two directions", "give an even number")
    if params.get("decoder") == "segments" and params.get("encoder", "seglstm") in set(get_args(Encoder)) - {"seglstm"}:
        yield _bad("decoder", "segments goes on with the LSTM of seglstm", f"{params['encoder']} has none: take direct")
    operations = params.get("operations")
    if isinstance(operations, Mapping):
        try:
            harness_of(operations, InMemory(), Silent())
        except (TypeError, ValueError) as error:
            yield _bad("operations", str(error).rpartition("__init__() ")[2], "its keys are rules, rollback, every, keep, probation")


def harness_of(asked: Mapping[str, Any], writer: CheckpointWriter, events: Events) -> OpsHarness:
    """Rules and rollback around the epochs; those of agents (returns, KL, entropy) are off. ValueError or TypeError for a bad argument."""
    given = dict(asked)
    rules = {"loss_spike": {"metric": "train_loss", "warm_up": 3}, **dict(given.pop("rules", {}))}
    rules = {**dict.fromkeys(("return_drop", "kl_blowup", "entropy_collapse", "stuck"), False), **rules}
    rollback = given.pop("rollback", {})
    rotation = Rotation(writer, **{"every": 1, "keep": 3, "probation": 2, **given}, events=events)
    limits = None if rollback is False else Rollback(**({} if rollback is True else rollback))
    return OpsHarness(
        hparams={"learning_rate": 1.0}, rules=standard_rules(rules), rotation=rotation, rollback=limits, score=None, events=events
    )
