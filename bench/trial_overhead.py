"""A whole trial of the search: five inner folds fitted and scored by the engine, against Optuna and scikit-learn by hand.

Same rows, same folds, same model, same sampler; the model is one that fits in a moment, so that what is beside fitting shows.
Goal: at most 5 ms of CPU per trial more than by hand.

    python -m bench.trial_overhead [--trials 40] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from sklearn import datasets
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from recipeline import tune
from recipeline.assemble import Components, assemble
from recipeline.contracts import Silent
from recipeline.folds import Line, Trial
from recipeline.recipe import load
from recipeline.settings import load as load_settings

GOAL = 5.0  # ms
SETS = ("iris", "breast_cancer", "digits")


def recipe(source: Path, trials: int) -> dict[str, Any]:
    return {
        "name": "trial",
        "model": {
            "class_path": "sklearn.naive_bayes.GaussianNB",
            "hyperparameters": {"var_smoothing": {"type": "float", "low": 1e-12, "high": 1e-3, "log": True}},
            "loader": {"name": "default_loader", "source_uri": str(source)},
            "preprocessor": {"name": "default_preprocessor", "params": {"numerical_strategy": "standard"}},
            "data_interface": {"task_type": "classification", "target_col": "target"},
        },
        "hyperparameter_tuning": {"enabled": True, "n_trials": trials, "metric": "log_loss"},
    }


def by_hand(folds: list[tuple[Any, Any, Any, Any]], trials: int) -> None:
    def objective(trial: optuna.Trial) -> float:
        smoothing = trial.suggest_float("var_smoothing", 1e-12, 1e-3, log=True)
        scores = []
        for step, (X, y, held_back, labels) in enumerate(folds):
            model = make_pipeline(StandardScaler(), GaussianNB(var_smoothing=smoothing)).fit(X, y)
            scores.append(log_loss(labels, model.predict_proba(held_back)))
            trial.report(float(np.mean(scores)), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(scores))

    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=42), pruner=optuna.pruners.NopPruner())
    study.optimize(objective, n_trials=trials)


def by_engine(line: Line, components: Components, data: Any, folder: Path) -> None:
    trial = Trial(line, line.selected, data, "log_loss", folder)
    tune.tune(
        components.space, trial.score, components.recipe.tuning, direction="minimize", folder=folder, seed=42, detail=False,
        defaults=components.defaults(),
    )  # fmt: skip


def seconds(work: Any) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = []
    for name in SETS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            bunch = getattr(datasets, f"load_{name}")(as_frame=True)
            bunch.data.assign(target=bunch.target).to_parquet(folder / "data.parquet")
            components = assemble(load(recipe(folder / "data.parquet", options.trials)), load_settings(project=folder, environ={}))
            data = components.loader.load()
            schema = components.task.describe(data)
            selected = components.task.select(data, schema, targets=True)
            line = Line(components, data, selected, schema, None, Silent(), Silent())  # type: ignore[arg-type]  # no run, no work folder
            X, y = bunch.data.to_numpy(float), bunch.target.to_numpy()
            inner = components.splitter.inner(selected, components.task, 5)
            folds = [(X[fold.train], y[fold.train], X[fold.test], y[fold.test]) for fold in inner]
            ours, hand = [], []
            for number in range(options.rounds + 1):  # the first round warms up
                ours.append(seconds(partial(by_engine, line, components, data, folder / f"study{number}")))
                hand.append(seconds(partial(by_hand, folds, options.trials)))
            more = statistics.median((a - b) * 1000 / options.trials for a, b in zip(ours[1:], hand[1:], strict=True))
            each = [statistics.median(side[1:]) * 1000 / options.trials for side in (ours, hand)]
            rows.append({"data": name, "ours_ms": round(each[0], 2), "by_hand_ms": round(each[1], 2), "more_ms": round(more, 2)})
            print(f"{name:<14} ours {each[0]:6.2f} ms   by hand {each[1]:6.2f} ms   more {more:5.2f} ms   goal {GOAL}")
    print(json.dumps({"bench": "trial_overhead", "rows": rows, "passed": all(row["more_ms"] <= GOAL for row in rows)}))


if __name__ == "__main__":
    main()
