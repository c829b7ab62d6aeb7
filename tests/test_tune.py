"""Search: defaults first, conditional spaces, pruning that prunes, failures with reasons, and going on after a kill."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import optuna
import pytest

from recipeline import recipe as recipes
from recipeline import tune
from recipeline.contracts import Progress, Silent
from recipeline.errors import Conflict, Damaged, DataError, Exhausted, TrainingFailed, Unavailable
from recipeline.recipe import Pruning, Range, Tuning
from recipeline.stores import files

X = Range("float", ("x",), "x", 0.0, 1.0)
N = Range("int", ("n",), "n", 1, 9)
KIND = Range("categorical", ("kind",), "kind", choices=("a", "b", "c"))


class Ear(Silent):
    """Hears progress and events."""

    def __init__(self):
        self.events, self.done = [], []

    def emit(self, name, **fields):
        self.events.append((name, fields))

    def advance(self, done, total=None, label=""):
        self.done.append((done, total, label))


def bowl(values, report):
    """Best (0) at x = 0.3, n = 4, kind b."""
    return -((values.get("x", 0.9) - 0.3) ** 2) - 0.01 * abs(values.get("n", 9) - 4) - (0.1 if values.get("kind", "a") != "b" else 0.0)


def search(folder, evaluate=bowl, space=(X, N, KIND), *, n_trials=30, direction="maximize", seed=7, pruning=None, **rest):
    tuning = Tuning(enabled=True, n_trials=n_trials, pruning=pruning or Pruning(enabled=False), timeout=rest.pop("recipe_timeout", None))
    return tune.tune(space, evaluate, tuning, direction=direction, folder=Path(folder), seed=seed, **rest)


def trials_of(tuned):
    return [(trial["number"], trial["params"], trial["value"], trial["state"]) for trial in tuned.history]


def test_the_search_comes_nearer_to_the_optimum_than_random_draws_do(tmp_path):
    """After the random start the sampler learns: the second half of the trials is better than the first, and so is the best."""
    tuned = search(tmp_path, n_trials=60)
    values = [trial["value"] for trial in tuned.history]
    assert sorted(values[30:])[15] > sorted(values[:30])[15]
    assert tuned.score > -0.02
    assert tuned.values["kind"] == "b"
    assert tuned.total_trials == 60
    assert tuned.failed_trials == tuned.pruned_trials == 0


def test_a_score_to_minimize_is_minimized(tmp_path):
    tuned = search(tmp_path, lambda values, report: -bowl(values, report), direction="minimize")
    assert tuned.score == min(trial["value"] for trial in tuned.history)
    assert tuned.direction == "minimize"


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(tmp_path):
    one, two, other = search(tmp_path / "1"), search(tmp_path / "2"), search(tmp_path / "3", seed=8)
    assert trials_of(one) == trials_of(two)
    assert [t["params"] for t in one.history[1:]] != [t["params"] for t in other.history[1:]]


# --- trial 0 -------------------------------------------------------------------------------------


def test_trial_0_is_the_defaults_even_outside_of_the_ranges(tmp_path):
    """A range's own default goes before the constructor's; None and what lies outside of the range are evaluated all the same."""
    space = (
        Range("int", ("depth",), "depth", 2, 9, default=None),
        Range("float", ("rate",), "rate", 0.1, 0.5),
        Range("int", ("size",), "size", 1, 5, default=50),
        KIND,
    )
    seen = []

    def evaluate(values, report):
        seen.append(values)
        return float(len(seen))

    tuned = search(tmp_path, evaluate, space, n_trials=12, direction="minimize", defaults={"rate": 7.0, "size": 3, "kind": "c"})
    assert seen[0] == {"depth": None, "rate": 7.0, "size": 50, "kind": "c"}
    assert tuned.history[0]["params"] == seen[0]
    assert (tuned.values, tuned.score) == (seen[0], 1.0)
    for values in seen[1:]:
        assert 2 <= values["depth"] <= 9
        assert 0.1 <= values["rate"] <= 0.5


def test_a_default_that_a_range_cannot_say_is_left_out_so_that_the_constructor_says_it(tmp_path):
    """`max_features=1.0` under an int range is not 1, and a class that is no choice is not the first choice."""
    seen = []

    def evaluate(values, report):
        seen.append(values)
        return 0.0

    search(tmp_path, evaluate, (N, KIND), n_trials=1, defaults={"n": 1.0, "kind": "gini"})
    assert seen == [{}]


def test_tuning_is_never_worse_than_the_defaults_and_they_win_ties(tmp_path):
    tuned = search(tmp_path, lambda values, report: 0.5, defaults={"x": 0.25, "n": 2, "kind": "a"})
    assert tuned.history[0]["params"] == {"x": 0.25, "n": 2, "kind": "a"}
    assert tuned.values == tuned.history[0]["params"]


def test_the_sampler_learns_from_defaults_that_lie_inside(tmp_path):
    """They are a trial of the study with parameters; outside ones are a trial without, and the search works as well."""
    search(tmp_path / "in", n_trials=3, defaults={"x": 0.25, "n": 2, "kind": "a"})
    search(tmp_path / "out", n_trials=3, defaults={"x": 25.0, "n": 2, "kind": "a"})
    assert study(tmp_path / "in").trials[0].params == {"x": 0.25, "n": 2, "kind": "a"}
    assert study(tmp_path / "out").trials[0].params == {}


def study(folder):
    """The journal through Optuna's own reader."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
    return optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend))


def test_the_journal_is_one_that_optuna_itself_opens(tmp_path):
    tuned = search(tmp_path, n_trials=6)
    assert [trial.value for trial in study(tmp_path).trials] == [trial["value"] for trial in tuned.history]
    assert study(tmp_path).best_value == tuned.score


# --- spaces --------------------------------------------------------------------------------------

CONDITIONAL = """
name: families
model:
  class_path: sklearn.pipeline.Pipeline
  hyperparameters:
    steps:
    - name: clf
      estimator:
        type: categorical
        choices:
        - class_path: sklearn.ensemble.RandomForestClassifier
          hyperparameters:
            n_estimators: {type: int, low: 10, high: 50}
            criterion: {type: categorical, choices: [gini, entropy]}
        - class_path: sklearn.linear_model.LogisticRegression
          hyperparameters: {C: {type: float, low: 0.01, high: 10, log: true}}
  loader: {source_uri: x.csv, name: default_loader}
  data_interface: {task_type: classification, target_col: y}
hyperparameter_tuning: {enabled: true, n_trials: 40}
"""


def test_only_the_ranges_of_the_chosen_branch_are_drawn(tmp_path):
    recipe = recipes.load(CONDITIONAL)
    names = {one.name for one in recipe.ranges()}
    forest = {name for name in names if name.endswith(("n_estimators", "criterion"))}
    logistic = {name for name in names if name.endswith(".C")}
    (chooser,) = names - forest - logistic

    def evaluate(values, report):
        recipe.resolved(values)  # every proposal is a recipe
        (c,) = logistic
        return 1.0 / values[c] if c in values else 0.1

    tuned = search(tmp_path, evaluate, recipe.ranges(), n_trials=40)
    assert tuned.history[0]["params"][chooser] == "RandomForestClassifier"
    for trial in tuned.history[1:]:
        inner = forest if trial["params"][chooser] == "RandomForestClassifier" else logistic
        assert set(trial["params"]) == inner | {chooser}
    assert {trial["params"][chooser] for trial in tuned.history} == {"RandomForestClassifier", "LogisticRegression"}
    assert tuned.values[chooser] == "LogisticRegression"
    assert tuned.score > 30
    assert recipes.load(recipe.resolved(tuned.values)).ranges() == ()


def test_steps_logs_and_choices_of_different_kinds_are_drawn_as_written(tmp_path):
    """1, 1.0, True and "1" are four choices; steps stay on their grid, also where `high` is not on it."""
    space = (
        Range("int", ("step",), "step", 1, 10, step=4),
        Range("float", ("grid",), "grid", 0.1, 0.75, step=0.2),
        Range("float", ("log",), "log", 1e-4, 1.0, log=True),
        Range("categorical", ("mixed",), "mixed", choices=(1, 1.0, True, "1", None, [1, 2])),
    )
    tuned = search(tmp_path, lambda values, report: values.get("log", 0.5), space, n_trials=60, direction="minimize")
    drawn = [trial["params"] for trial in tuned.history[1:]]
    assert {values["step"] for values in drawn} == {1, 5, 9}
    assert {round(values["grid"], 9) for values in drawn} == {0.1, 0.3, 0.5, 0.7}
    assert {repr(values["mixed"]) for values in drawn} == {"1", "1.0", "True", "'1'", "None", "'[1, 2]'"}
    assert sum(values["log"] < 1e-2 for values in drawn) > 20
    assert json.loads(json.dumps(tuned.as_dict())) == tuned.as_dict()


# --- pruning --------------------------------------------------------------------------------------


def fitted_in_steps(fits, steps=5):
    """A trial that reports after each of its folds and counts the folds that it paid for."""

    def evaluate(values, report):
        for step in range(steps):
            fits.append(values)
            if report(step, values.get("x", 0.5)):
                raise tune.Pruned
        return values.get("x", 0.5)

    return evaluate


@pytest.mark.parametrize("algorithm", ["MedianPruner", "PercentilePruner", "SuccessiveHalvingPruner", "HyperbandPruner"])
def test_pruning_really_saves_fits(tmp_path, algorithm):
    fits = []
    tuned = search(tmp_path, fitted_in_steps(fits), (X,), n_trials=40, pruning=Pruning(algorithm=algorithm))
    assert tuned.pruned_trials >= 5
    assert len(fits) < 40 * 5 - 2 * tuned.pruned_trials
    assert tuned.score == max(trial["value"] for trial in tuned.history if trial["state"] == "complete")
    assert tuned.history[0]["state"] == "complete"


def test_an_easy_first_fold_does_not_stop_the_pruner(tmp_path):
    """Every trial scores 1 on the first fold, and the bad ones fall behind later: they are pruned nevertheless."""

    def evaluate(values, report):
        x, scores = values.get("x", 0.5), []
        for step in range(5):
            scores.append(1.0 if step == 0 else x)
            if report(step, sum(scores) / len(scores)):
                raise tune.Pruned
        return sum(scores) / len(scores)

    tuned = search(tmp_path, evaluate, (X,), n_trials=40, pruning=Pruning())
    assert tuned.pruned_trials >= 8


def test_a_trial_that_returns_instead_of_raising_counts_as_pruned(tmp_path):
    def evaluate(values, report):
        for step in range(3):
            if report(step, values.get("x", 0.5)):
                return 99.0
        return values.get("x", 0.5)

    tuned = search(tmp_path, evaluate, (X,), n_trials=30, pruning=Pruning())
    assert tuned.pruned_trials > 0
    assert tuned.score < 1.0


@pytest.mark.parametrize("pruning", [Pruning(enabled=False), Pruning(algorithm="NopPruner")])
def test_nothing_is_pruned_where_pruning_is_off(tmp_path, pruning):
    tuned = search(tmp_path, fitted_in_steps([]), (X,), pruning=pruning)
    assert tuned.pruned_trials == 0


@pytest.mark.parametrize("algorithm", ["MedianPruner", "SuccessiveHalvingPruner"])
def test_start_up_trials_and_warm_up_are_kept(tmp_path, algorithm):
    """No trial stops before five have ended, nor before its third report."""
    tuned = search(
        tmp_path, fitted_in_steps([]), (X,), n_trials=40, pruning=Pruning(algorithm=algorithm, n_startup_trials=5, n_warmup_steps=2)
    )
    first = next(trial["number"] for trial in tuned.history if trial["state"] == "pruned")
    assert sum(trial["state"] == "complete" for trial in tuned.history[:first]) >= 5
    reports = {trial.number: len(trial.intermediate_values) for trial in study(tmp_path).trials}
    assert min(reports[trial["number"]] for trial in tuned.history if trial["state"] == "pruned") >= 3


def test_a_warm_up_that_can_never_end_is_said(tmp_path):
    """The guide's own block: ten warm-up steps, five folds."""
    tuned = search(tmp_path, fitted_in_steps([]), (X,), n_trials=10, pruning=Pruning(n_warmup_steps=10))
    assert tuned.pruned_trials == 0
    assert [note for note in tuned.notes if "reports 5 times" in note and "n_warmup_steps" in note]
    assert search(tmp_path / "b", fitted_in_steps([]), (X,), n_trials=10, pruning=Pruning(n_warmup_steps=3)).notes == ()
    few = search(tmp_path / "c", fitted_in_steps([]), (X,), n_trials=4, pruning=Pruning())
    assert "n_startup_trials" in few.notes[0]


def test_a_second_report_at_the_same_step_is_told_and_has_no_effect(tmp_path):
    ear = Ear()

    def evaluate(values, report):
        report(0, 0.5)
        report(0, -100.0)
        return 0.5

    search(tmp_path, evaluate, (X,), n_trials=3, events=ear)
    assert [fields["trial"] for name, fields in ear.events if name == "report-ignored"] == [0, 1, 2]
    assert study(tmp_path).trials[1].intermediate_values == {0: 0.5}


def test_pruned_without_having_been_asked_is_a_bug_that_is_not_swallowed(tmp_path):
    def evaluate(values, report):
        raise tune.Pruned

    with pytest.raises(TypeError, match="report had not asked"):
        search(tmp_path, evaluate)


# --- failures --------------------------------------------------------------------------------------


def test_a_failed_trial_keeps_its_reason_and_the_search_goes_on(tmp_path):
    def evaluate(values, report):
        if values.get("kind") == "c":
            raise ValueError("solver lbfgs does not take c\nmore words")
        if values.get("kind") == "a" and values.get("n", 9) < 4:
            raise DataError("column 'x' is constant")
        return math.nan if values.get("n") == 5 else bowl(values, report)

    ear = Ear()
    tuned = search(tmp_path, evaluate, n_trials=40, events=ear, progress=ear, defaults={"kind": "a", "n": 9, "x": 0.5})
    reasons = {trial["reason"] for trial in tuned.history if trial["state"] == "failed"}
    assert "ValueError: solver lbfgs does not take c" in reasons
    assert "column 'x' is constant" in reasons
    assert "the score is nan" in reasons
    assert tuned.failed_trials == sum(trial["value"] is None for trial in tuned.history) > 3
    assert tuned.total_trials == 40
    assert [fields["number"] for name, fields in ear.events if name == "trial"] == list(range(40))
    assert [said[:2] for said in ear.done] == [(number + 1, 40) for number in range(40)]
    assert all(re.fullmatch(r"trials, best -?[\d.e-]+", said[2]) for said in ear.done)


def test_when_every_trial_fails_the_training_fails_with_the_commonest_reason(tmp_path):
    def evaluate(values, report):
        raise ValueError("no classes")

    with pytest.raises(TrainingFailed, match=r"none of 5 trials has a score: ValueError: no classes \(5 times\)") as caught:
        search(tmp_path, evaluate, n_trials=5)
    assert caught.value.code == 10


@pytest.mark.parametrize("error", [Exhausted("disk full"), Unavailable("database gone"), KeyboardInterrupt(), SystemExit(143)])
def test_what_says_nothing_of_the_values_stops_the_search(tmp_path, error):
    calls = []

    def evaluate(values, report):
        calls.append(values)
        if len(calls) == 4:
            raise error
        return bowl(values, report)

    with pytest.raises(type(error)):
        search(tmp_path, evaluate, n_trials=12)
    assert len(calls) == 4
    tuned = search(tmp_path, n_trials=12)
    assert tuned.history[3]["state"] == "failed"
    assert tuned.history[3]["reason"] == "interrupted"
    assert tuned.total_trials == 12


def test_a_score_that_is_no_number_is_a_bug_that_is_not_swallowed(tmp_path):
    with pytest.raises(TypeError):
        search(tmp_path, lambda values, report: None)


# --- stopping and going on ----------------------------------------------------------------------------


def test_an_interrupted_draw_comes_again_and_the_rest_is_as_if_nothing_had_happened(tmp_path):
    """The interrupted trial takes a number; the proposals are those of the uninterrupted search, one fewer."""
    whole = search(tmp_path / "whole", n_trials=25)
    calls = []

    def evaluate(values, report):
        calls.append(values)
        if len(calls) == 14:
            raise KeyboardInterrupt
        return bowl(values, report)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", evaluate, n_trials=25)
    resumed = search(tmp_path / "cut", n_trials=25)
    assert resumed.total_trials == 25
    assert resumed.failed_trials == 1
    kept = [trial["params"] for trial in resumed.history if trial["state"] == "complete"]
    assert kept == [trial["params"] for trial in whole.history[:24]]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from recipeline import tune
    from recipeline.recipe import Range, Tuning
    space = (Range("float", ("x",), "x", 0.0, 1.0), Range("int", ("n",), "n", 1, 9))
    count = 0
    def evaluate(values, report):
        global count
        report(0, 1.0)
        if count == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return values.get("x", 0.5)
    storage = sys.argv[3] if len(sys.argv) > 3 else None
    tune.tune(space, evaluate, Tuning(enabled=True, n_trials=10), direction="maximize", folder=Path(sys.argv[1]), seed=3, storage=storage)
"""


def killed(folder, after, *storage):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), folder, str(after), *storage], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("after", [0, 4])
def test_after_kill_9_in_mid_trial_the_trial_counts_as_failed_and_the_total_is_exact(tmp_path, after):
    killed(tmp_path, after)
    calls = []

    def evaluate(values, report):
        calls.append(values)
        return values.get("x", 0.5)

    started = time.monotonic()
    tuned = search(tmp_path, evaluate, (X, Range("int", ("n",), "n", 1, 9)), n_trials=10, seed=3)
    assert time.monotonic() - started < 10  # no lock of the dead is waited for
    assert tuned.total_trials == 10
    assert len(calls) == 9 - after
    assert tuned.history[after]["state"] == "failed"
    assert tuned.history[after]["reason"] == "interrupted"
    assert tuned.failed_trials == 1
    assert calls[0] == tuned.history[after]["params"]  # the same draw once more
    if after == 0:
        assert tuned.history[1]["params"] == {}  # the defaults are owed


def test_kill_9_with_a_database_as_storage(tmp_path):
    """SQLite: the trial is failed when its worker comes back, and the total is exact."""
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    killed(tmp_path / "a/b/hpo", 3, storage)
    tuned = search(
        tmp_path / "a/b/hpo", lambda v, r: v.get("x", 0.5), (X, Range("int", ("n",), "n", 1, 9)), n_trials=10, seed=3, storage=storage
    )
    assert tuned.total_trials == 10
    assert [trial["number"] for trial in tuned.history if trial["state"] == "failed"] == [3]


def test_a_draw_that_kills_the_process_each_time_is_given_up(tmp_path):
    bad = []

    def evaluate(values, report):
        if values and (not bad or values in bad):
            bad.append(values)
            raise KeyboardInterrupt
        return bowl(values, report)

    for _ in range(tune.ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, evaluate, n_trials=10)
    tuned = search(tmp_path, evaluate, n_trials=10)
    assert len(bad) == tune.ATTEMPTS
    assert all(values == bad[0] for values in bad)
    assert tuned.failed_trials == tune.ATTEMPTS
    assert tuned.total_trials == 10


def test_a_finished_search_is_read_not_run_again(tmp_path):
    first = search(tmp_path)

    def evaluate(values, report):
        raise AssertionError

    again = search(tmp_path, evaluate)
    assert trials_of(again) == trials_of(first)
    assert (again.values, again.score, again.importances) == (first.values, first.score, first.importances)


def test_a_line_that_was_not_written_whole_is_as_if_never_written(tmp_path):
    """A power cut in the middle of the last append."""
    search(tmp_path, n_trials=6)
    log = tmp_path / "study.log"
    log.write_bytes(log.read_bytes()[:-20])
    tuned = search(tmp_path, n_trials=8)
    assert tuned.total_trials == 8
    assert study(tmp_path).trials[7].state.name == "COMPLETE"


def test_a_journal_with_damage_in_the_middle_is_an_error_that_names_it(tmp_path):
    search(tmp_path, n_trials=6)
    log = tmp_path / "study.log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:9], b"{ not json\n", *lines[10:]]))
    with pytest.raises(Damaged, match="journal of the search"):
        search(tmp_path, n_trials=6)


def test_two_searches_on_one_folder_are_a_conflict(tmp_path):
    with files.Lock(tmp_path / "study.lock"), pytest.raises(Conflict):
        search(tmp_path)


def test_the_time_limit_stops_running_trials_at_their_next_report_but_never_the_defaults(tmp_path):
    def evaluate(values, report):
        for step in range(100):
            time.sleep(0.01)
            if report(step, 0.5):
                raise tune.Pruned
        return 0.5

    started = time.monotonic()
    tuned = search(tmp_path, evaluate, n_trials=50, timeout=1.2, recipe_timeout=100.0)
    assert time.monotonic() - started < 10
    assert tuned.history[0]["state"] == "complete"
    assert tuned.history[-1]["state"] == "pruned"
    assert tuned.history[-1]["reason"] == "out of time"
    assert tuned.total_trials < 5
    assert search(tmp_path, evaluate, n_trials=50, timeout=1.2).total_trials == tuned.total_trials  # the time before counts


def test_trials_in_threads_make_the_same_number_and_fail_together(tmp_path):
    tuned = search(tmp_path / "a", n_trials=24, n_jobs=4)
    assert [trial["number"] for trial in tuned.history] == list(range(24))
    assert sum(trial["params"] == {"kind": "a"} or not trial["params"] for trial in tuned.history) == 1  # the defaults, once

    def evaluate(values, report):
        if values.get("n", 0) > 7:
            raise Exhausted("disk full")
        return bowl(values, report)

    with pytest.raises(Exhausted):
        search(tmp_path / "b", evaluate, n_trials=200, n_jobs=4)


# --- shared studies --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_workers_that_share_a_storage_make_the_trials_together(tmp_path, kind):
    """The second worker finds the trials of the first and adds what is missing; both come to the same end."""
    storage = str(tmp_path / "studies.log") if kind == "journal" else f"sqlite:///{tmp_path / 'studies.db'}"
    one, two = tmp_path / "one/key/fold-0/hpo", tmp_path / "two/key/fold-0/hpo"
    counts = {"one": 0, "two": 0}

    def counting(name, limit):
        def evaluate(values, report):
            counts[name] += 1
            if counts[name] > limit:
                raise Unavailable("lost its machine")
            return bowl(values, report)

        return evaluate

    with pytest.raises(Unavailable):
        search(one, counting("one", 5), n_trials=12, storage=storage)
    tuned = search(two, counting("two", 99), n_trials=12, storage=storage)
    assert counts["one"] == 6
    assert counts["two"] == 6
    assert tuned.total_trials == 12
    assert trials_of(search(one, counting("one", 0), n_trials=12, storage=storage)) == trials_of(tuned)


def test_a_database_that_is_not_there_is_unavailable_and_its_password_is_not_said(tmp_path):
    with pytest.raises(Unavailable) as caught:
        search(tmp_path, storage=f"sqlite:////{tmp_path}/no/such/folder/x.db?key=hunter2")
    assert "hunter2" not in str(caught.value)


# --- what is told ----------------------------------------------------------------------------------


def test_the_dictionary_is_that_of_hpo_json(tmp_path):
    found = search(tmp_path, n_trials=30).as_dict()
    assert found["enabled"] is True
    assert found["engine"] == "optuna"
    assert {"best_params", "best_score", "optimization_history", "total_trials", "pruned_trials", "optimization_time"} <= set(found)
    assert {"number", "value", "params", "state", "seconds"} <= set(found["optimization_history"][3])
    files.write_json(tmp_path / "hpo.json", found)
    assert files.read_json(tmp_path / "hpo.json") == found


def test_importances_name_what_mattered(tmp_path):
    """Only x moves the score."""
    tuned = search(tmp_path, lambda values, report: -((values.get("x", 0.9) - 0.3) ** 2), n_trials=60)
    assert next(iter(tuned.importances)) == "x"
    assert tuned.importances["x"] > 0.5
    assert search(tmp_path, n_trials=60, detail=False).importances == {}


def test_optuna_says_nothing_and_keeps_the_callers_level(tmp_path, capfd):
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        search(tmp_path, n_trials=12)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_only_this_module_loads_optuna_and_only_when_it_searches():
    code = "import sys, recipeline.tune; assert 'optuna' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})


def test_workers_that_make_the_tables_at_the_same_moment_do_not_stumble(tmp_path):
    """Six processes on a database that is not there yet: a table that another has just made is no error."""
    code = "import sys\nfrom recipeline.tune import _Shared\nsys.stdin.read()\n_Shared(sys.argv[1]).close()\n"
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    workers = [
        subprocess.Popen([sys.executable, "-c", code, storage], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)
    ]
    time.sleep(1)
    for worker in workers:
        worker.stdin.close()
    errors = [worker.stderr.read() for worker in workers]
    for worker in workers:
        worker.stderr.close()
    assert [worker.wait(60) for worker in workers] == [0] * 6, errors


def test_a_trial_that_its_first_seed_prunes_does_not_train_the_others() -> None:
    """With `seeds_per_trial`, the iterations of the first training are the clock; nobody waits for the rest."""
    from recipeline.folds import Trial

    trained: list[int] = []

    def scored(values: object, training: object, held: object, part: object, seed: int, heard: Progress) -> float:
        trained.append(seed)
        heard.report(1, 0.0)
        return 0.5

    trial = object.__new__(Trial)
    trial.seeds, trial.folds = range(7, 10), [(None, None, None)]  # type: ignore[assignment]
    trial._scored = scored  # type: ignore[method-assign]
    assert trial.score({}, lambda step, value: False) == 0.5
    assert trained == [7, 8, 9]
    with pytest.raises(tune.Pruned):
        trial.score({}, lambda step, value: True)
    assert trained[3:] == [7]
