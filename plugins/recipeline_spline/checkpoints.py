"""What training has learned so far, kept as safetensors and JSON, whole or not at all."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipeline.errors import Damaged
from recipeline.operations import OpsHarness
from recipeline.stores import files
from recipeline_spline.batches import Source

TENSORS, STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Plan:
    """How to train; equal plans on equal data give equal bits on one machine.

    max_epochs     at most; after `patience` epochs without a better validation loss it is over
    epoch_windows  windows of one epoch, drawn anew for each (None: all)
    learning_rate  at its highest, after `warm_up` (share of all steps); falls to `final` times that along a cosine
    clip           norm that gradients are scaled down to
    average        decay of the running average of weights that is judged and kept (0: the weights themselves)
    """

    max_epochs: int = 50
    patience: int = 8
    batch_size: int = 128
    epoch_windows: int | None = None
    learning_rate: float = 1e-3
    final: float = 0.01
    warm_up: float = 0.02
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.0
    seed: int = 0

    def steps_per_epoch(self, windows: int) -> int:
        return max(1, -(-min(windows, self.epoch_windows or windows) // self.batch_size))


@dataclass
class State:
    """What changes while training, but for tensors."""

    epoch: int = 0
    best: float = math.inf
    best_epoch: int = -1
    pruned: bool = False
    done: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Learned:
    """The tensors that change while training: weights, moments, the running average of the weights, and the best ones.

    rate  what rollbacks make of the learning rate
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    best: dict[str, Tensor]
    rate: float = 1.0

    @classmethod
    def of(cls, network: nn.Module, optimizer: torch.optim.Optimizer) -> Learned:
        average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        return cls(network, optimizer, average, {name: value.clone() for name, value in average.items()})

    def tree(self) -> dict[str, Any]:
        moments = self.optimizer.state_dict()["state"]
        return {"network": self.network.state_dict(), "optimizer": moments, "average": self.average, "best": self.best}

    def copy(self) -> dict[str, Tensor]:
        """All of it, flat, on the CPU."""
        return flat(self.tree())

    def put(self, tensors: Mapping[str, Tensor], advance: int = 0) -> None:
        """Back to what `copy` gave; the best weights stay where `advance` says that training goes back, not on."""
        device = next(self.network.parameters()).device

        def part(name: str) -> dict[str, Tensor]:
            return {key.partition("/")[2]: value.to(device) for key, value in tensors.items() if key.partition("/")[0] == name}

        self.network.load_state_dict(part("network"))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer").items():
            number, _, name = key.partition("/")
            moments.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        for mine, name in ((self.average, "average"), *(() if advance else ((self.best, "best"),))):
            for key, value in part(name).items():
                mine[key].copy_(value)

    def set_hparam(self, name: str, value: float) -> None:
        assert name == "learning_rate"
        self.rate = value


def flat(tree: Any, path: str = "") -> dict[str, Tensor]:
    """A nest of mappings as `{"optimizer/0/exp_avg": tensor}`; safetensors wants each tensor contiguous and alone in its memory."""
    if isinstance(tree, Tensor):
        return {path: tree.detach().cpu().contiguous().clone()}
    return {name: tensor for key, part in tree.items() for name, tensor in flat(part, f"{path}/{key}" if path else str(key)).items()}


def fingerprint(*sides: Source) -> str:
    """SHA-256 of how many windows there are and of some of them, evenly chosen: other data have another."""
    said = hashlib.sha256()
    for windows in sides:
        said.update(str(len(windows)).encode())
        rows = torch.linspace(0, len(windows) - 1, min(64, len(windows))).long()
        for part in windows.batch(rows).parts:
            said.update(b"-" if part is None else part.cpu().contiguous().numpy().tobytes())
    return said.hexdigest()


def keep(folder: Path, tree: Mapping[str, Any], state: State, plan: Plan, data: str, harness: OpsHarness | None = None) -> None:
    """The folder holds these tensors and this state, whole, when this returns."""
    with files.atomic_folder(folder, replace=True) as unfinished:
        with files.atomic_path(unfinished / TENSORS) as target:
            save_file(flat(tree), target)
        said = {"data": data, "plan": asdict(plan), "state": asdict(state), "operations": None if harness is None else harness.state()}
        files.write_json(unfinished / STATE, said, null_for_nan=True)


def restore(folder: Path, learned: Learned, plan: Plan, data: str, harness: OpsHarness | None = None) -> State:
    """Put everything back where `keep` found it.

    Raises Damaged for a checkpoint of another plan, other data or another network, or one that cannot be read.
    """
    kept = files.read_json(folder / STATE)
    if kept["data"] != data:
        raise Damaged("the checkpoint is of other data", hint="remove it, or give another folder", where=files.shown(folder))
    if kept["plan"] != asdict(plan):
        changed = ", ".join(sorted(key for key, value in asdict(plan).items() if kept["plan"].get(key) != value))
        raise Damaged(f"the checkpoint is of another plan ({changed})", hint="remove it, or train as before", where=files.shown(folder))
    try:
        learned.put(load_file(folder / TENSORS))
    except (RuntimeError, KeyError, SafetensorError) as error:
        raise Damaged("the checkpoint is cut short, or of another network", hint="remove it", where=files.shown(folder)) from error
    if harness is not None and kept["operations"] is not None:
        harness.restore(kept["operations"])
        harness.rotation.rewind(kept["operations"]["checkpoints"], step=kept["state"]["epoch"])
        learned.rate = harness.value("learning_rate", kept["state"]["epoch"])
    best = kept["state"]["best"]
    return State(**{**kept["state"], "best": math.inf if best is None else best})


class OnDisk:
    """A `CheckpointWriter` of `recipeline.operations`: one folder per checkpoint, each replaced whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = sorted(folder.glob("checkpoint_*/info.json")) if folder.is_dir() else []
        self._infos: dict[str, dict[str, Any]] = {path.parent.name: files.read_json(path) for path in found}

    def write(self, name: str, state: Any, info: Mapping[str, Any]) -> Any:
        with files.atomic_folder(self.folder / name, replace=True) as unfinished:
            with files.atomic_path(unfinished / TENSORS) as target:
                save_file(state["state"], target)
            files.write_json(unfinished / STATE, state["operations"], null_for_nan=True)
            files.write_json(unfinished / "info.json", info, null_for_nan=True)
        self._infos[name] = dict(info)
        return name

    def read(self, name: str) -> Any:
        return {"state": load_file(self.folder / name / TENSORS), "operations": files.read_json(self.folder / name / STATE)}

    def mark(self, name: str, info: Mapping[str, Any]) -> None:
        files.write_json(self.folder / name / "info.json", info, null_for_nan=True)
        self._infos[name] = dict(info)

    def delete(self, name: str) -> None:
        files.remove(self.folder / name)
        del self._infos[name]

    def infos(self) -> dict[str, dict[str, Any]]:
        return {name: dict(info) for name, info in self._infos.items()}
