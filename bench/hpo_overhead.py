"""What a trial of the search costs beside fitting: CPU milliseconds, against Optuna used by hand.

    python -m bench.hpo_overhead [--trials 100] [--rounds 5]

The trial function does nothing but report four fold means, so all that is measured is proposing, recording and deciding.
Goal: at most 5 ms for a trial. Peers: Optuna in memory (nothing survives), Optuna with its journal file (what resuming
by hand would use); same sampler, same space of eight parameters, interleaved, median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna

from recipeline import tune
from recipeline.recipe import Pruning, Range, Tuning

SPACE = (
    *(Range("float", (f"f{i}",), f"f{i}", 0.001, 1.0, log=i % 2 == 0) for i in range(4)),
    *(Range("int", (f"i{i}",), f"i{i}", 1, 50) for i in range(3)),
    Range("categorical", ("kind",), "kind", choices=("a", "b", "c")),
)


def score(values: Mapping[str, Any]) -> float:
    return sum(float(values.get(f"f{i}", 0.5)) for i in range(4)) + float(values.get("i0", 10)) / 50


def ours(trials: int, seed: int) -> None:
    def evaluate(values: Mapping[str, Any], report: Callable[[int, float], bool]) -> float:
        for step in range(4):
            if report(step, score(values) + step / 10):
                raise tune.Pruned
        return score(values)

    with tempfile.TemporaryDirectory() as folder:
        tuning = Tuning(enabled=True, n_trials=trials, pruning=Pruning())
        tune.tune(SPACE, evaluate, tuning, direction="minimize", folder=Path(folder), seed=seed)


def by_hand(trials: int, seed: int, storage: Any) -> None:
    def objective(trial: optuna.Trial) -> float:
        values: dict[str, Any] = {f"f{i}": trial.suggest_float(f"f{i}", 0.001, 1.0, log=i % 2 == 0) for i in range(4)}
        values |= {f"i{i}": trial.suggest_int(f"i{i}", 1, 50) for i in range(3)}
        trial.suggest_categorical("kind", ["a", "b", "c"])
        for step in range(4):
            trial.report(score(values) + step / 10, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return score(values)

    sampler = optuna.samplers.TPESampler(seed=seed)
    optuna.create_study(storage=storage, sampler=sampler, pruner=optuna.pruners.MedianPruner()).optimize(objective, n_trials=trials)


def journal(trials: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        backend = optuna.storages.journal.JournalFileBackend(f"{folder}/journal.log")
        by_hand(trials, seed, optuna.storages.JournalStorage(backend))


CONTENDERS: dict[str, Callable[[int, int], None]] = {
    "recipeline": ours,
    "optuna, in memory": lambda trials, seed: by_hand(trials, seed, None),
    "optuna, journal file": journal,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    cpu: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for run in CONTENDERS.values():
        run(8, 0)  # imports
    for seed in range(options.rounds):
        for name, run in CONTENDERS.items():
            started = time.process_time()
            run(options.trials, seed)
            cpu[name].append((time.process_time() - started) / options.trials * 1e3)
    found = {name: statistics.median(values) for name, values in cpu.items()}
    result = {"trials": options.trials, "cpu_ms_per_trial": found, "goal_ms": 5.0, "reached": found["recipeline"] <= 5.0}
    print(f"CPU ms per trial, {options.trials} trials, {len(SPACE)} parameters, median of {options.rounds} rounds")
    for name, value in found.items():
        print(f"  {name:<22} {value:6.2f}")
    print(f"  goal                     5.00  {'reached' if result['reached'] else 'missed'}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
