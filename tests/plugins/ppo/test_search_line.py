"""A search that minimises hears, while its trials train, of the very metric that it minimises."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import recipeline
from answers import Answer
from plugins.ppo.agents import CARTPOLE
from plugins.ppo.worlds import Corridor
from recipeline import registry, tune

pytestmark = pytest.mark.xdist_group("agents")


class Short(Corridor):
    """Twenty steps, whose return is 210, whatever is done."""

    def __init__(self) -> None:
        super().__init__(20)


SEARCH = (
    CARTPOLE.replace("id: CartPole-v1, n_envs: 4", "environment: {class_path: short}, n_envs: 2")
    .replace("hidden: [16, 16]", "hidden: [4]")
    .replace("total_steps: 2048", "total_steps: 512")
    .replace("learning_rate: 1.0e-3", "learning_rate: {type: float, low: 1.0e-4, high: 1.0e-2, default: 1.0e-3}")
    .replace("return_mean, success_rate", "return_mean, METRIC")
    .replace("episodes: 10", "episodes: 2")
    .replace(
        "evaluation:",
        "hyperparameter_tuning:\n  enabled: true\n  n_trials: 3\n  metric: METRIC\n  direction: minimize\n  seeds_per_trial: 2\n"
        "  pruning: {enabled: true, n_startup_trials: 1, n_warmup_steps: 0}\nevaluation:",
    )
)
QUIET = ("--set", "execution.report=false", "--set", "execution.champion=false")


@pytest.fixture
def short() -> Iterator[None]:
    recipeline.register("part", "short", Short)
    yield
    registry.unregister("part", "short")


def test_what_is_minimised_is_what_is_reported(
    short: None, project: Path, command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean length is 20, and not the return of 210; all trials are alike here, so none is worse and none is pruned."""
    heard: list[tuple[int, float]] = []
    answer = tune._Report.__call__

    def listens(self: tune._Report, step: int, value: float) -> bool:
        heard.append((step, value))
        return answer(self, step, value)

    monkeypatch.setattr(tune._Report, "__call__", listens)
    Path("short.yaml").write_text(SEARCH.replace("METRIC", "episode_length"))
    done = command("train", "--recipe-file", "short.yaml", "--json", *QUIET)
    assert done.code == 0, done
    assert len(heard) >= 3
    assert {value for _, value in heard} == {20.0}
    hpo = json.loads(Path(done.json["artifact"], "hpo.json").read_text())
    assert (hpo["direction"], hpo["best_score"], hpo["pruned_trials"], hpo["notes"]) == ("minimize", 20.0, 0, [])


def test_a_search_that_cannot_prune_says_so(
    short: None, project: Path, command: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is reported of a metric that training cannot know: no other figure stands in for it."""
    monkeypatch.setattr("recipeline_ppo.model.while_training", lambda *_: lambda _: None)
    Path("short.yaml").write_text(SEARCH.replace("METRIC", "episode_length"))
    done = command("train", "--recipe-file", "short.yaml", "--json", *QUIET)
    assert done.code == 0, done
    said = "no trial can be pruned: nothing is known of the tuned metric before a trial ends"
    assert json.loads(Path(done.json["artifact"], "hpo.json").read_text())["notes"] == [said]
    assert "WARNING" in done.err
    assert said in done.err
