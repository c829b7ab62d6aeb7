"""An agent on the whole line, through the real commands: trained, killed, resumed, extended, tuned, served, asked in a batch."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import httpx
import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces

import recipeline
from crashing import Nursery
from plugins.ppo.agents import CARTPOLE, address, arrays, lay_out, same, wait_for
from recipeline import settings

pytestmark = pytest.mark.xdist_group("agents")

STATES = pd.DataFrame(
    {
        "observation_0": [0.01, -1.5, 2.0, 0.0], "observation_1": [0.3, 0.0, -0.2, 1.0],
        "observation_2": [0.02, 0.1, -0.2, 0.0], "observation_3": [-0.4, 2.0, 0.0, -1.0],
    }
)  # fmt: skip


@dataclass(frozen=True)
class Agent:
    """A trained pole with its server."""

    home: Path
    nursery: Nursery
    artifact: Path
    run_id: str
    url: str
    answer: dict[str, Any]

    def batch(self, frame: pd.DataFrame, kind: str = "parquet") -> pd.DataFrame:
        given, output = self.home / f"states.{kind}", self.home / f"actions.{kind}"
        frame.to_parquet(given) if kind == "parquet" else frame.to_csv(given, index=False)
        command = ["batch-inference", "--run-id", self.run_id, "--input", given, "--output", output, "--overwrite", "--json"]
        ended = self.nursery.run(self.home, *command)
        assert ended.code == 0, ended
        return pd.read_parquet(output) if kind == "parquet" else pd.read_csv(output, float_precision="round_trip")

    def post(self, path: str, body: Any) -> httpx.Response:
        content = body if isinstance(body, str) else json.dumps(body)
        return httpx.post(f"{self.url}{path}", content=content, headers={"content-type": "application/json"}, timeout=20)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, nursery: Nursery) -> Iterator[Agent]:
    home = lay_out(tmp_path_factory.mktemp("agent") / "home", empty_store, report=True)
    (home / "pole.yaml").write_text(CARTPOLE)
    trained = nursery.run(home, "train", "--recipe-file", "pole.yaml", "--json")
    assert trained.code == 0, trained
    server = nursery.start(home, "serve-api", "--run-id", trained.json["run_id"], "--port", "0")
    try:
        yield Agent(home, nursery, Path(trained.json["artifact"]), trained.json["run_id"], address(server.out), trained.json)
    finally:
        assert nursery.stop(server) in (0, 143)


# --- trained ---------------------------------------------------------------------------------------------------------------


def test_a_run_says_how_well_and_how_sure(agent: Agent) -> None:
    """Metrics beside those of chance, a row for each sealed episode, intervals, learning curves in the report."""
    assert agent.answer["metrics"]["return_mean"] > 2 * agent.answer["baselines"]["random"]["return_mean"]
    episodes = pd.read_parquet(agent.artifact / "tables" / "episodes.parquet")
    assert len(episodes) == episodes["seed"].nunique() == 10
    split = json.loads((agent.artifact / "split.json").read_text())
    assert split["seeds"] == episodes["seed"].tolist()
    assert episodes["return"].mean() == agent.answer["metrics"]["return_mean"]
    report = (agent.artifact / "report.html").read_text()
    for title in ("Return while training", "Episode length while training", "Schedules", "How far each update moved", "sealed episodes"):
        assert title in report
    assert "could not be drawn" not in report


# --- asked -----------------------------------------------------------------------------------------------------------------


def test_one_observation_gives_the_same_bits_through_every_door(agent: Agent) -> None:
    """Library, batch to Parquet and CSV, /predict, /predict/rows: action, value and log-probability."""
    pipeline = recipeline.load(agent.artifact, settings=settings.load(project=agent.home, environ={}))
    for number in range(len(STATES)):
        one = STATES.iloc[[number]].reset_index(drop=True)
        expected = pipeline.predict(one)
        assert list(expected.columns) == ["action", "value", "log_prob"]
        for kind in ("parquet", "csv") if number == 0 else ():
            pd.testing.assert_frame_equal(agent.batch(one, kind), expected, check_exact=True, check_dtype=False)
        said = agent.post("/predict", {"observation": one.iloc[0].tolist()}).json()
        listed = agent.post("/predict/rows", one.iloc[0].to_dict()).json()["predictions"][0]
        row = expected.iloc[0].to_dict()
        assert {name: said[name] for name in row} == listed == row
        assert (said["step"], said["version"]) == (2048, f"pole-{agent.run_id[:8]}")


def test_a_file_of_states_becomes_a_file_of_actions_in_the_same_order(agent: Agent) -> None:
    """Row for row, whatever the size of a batch; the answers to many at once are those to each alone, but for the last digits."""
    many = pd.concat([STATES] * 5, ignore_index=True)
    answered = agent.batch(many)
    assert len(answered) == len(many)
    each = pd.concat([agent.batch(STATES)] * 5, ignore_index=True)
    assert answered["action"].tolist() == each["action"].tolist()
    np.testing.assert_allclose(answered["value"], each["value"], rtol=1e-5)  # float32, another order of summation


def test_a_batch_without_a_file_of_states_is_told_to_name_one(agent: Agent) -> None:
    """The run's own source is an environment."""
    ended = agent.nursery.run(agent.home, "batch-inference", "--run-id", agent.run_id, "--json")
    assert ended.code == 2
    assert "--input" in ended.json["error"]["hint"]


def test_an_observation_that_does_not_fit_gets_422_and_says_where(agent: Agent) -> None:
    """Shape, NaN, range, text, a mask for an environment without masks; the next good one is answered."""
    good = STATES.iloc[0].tolist()
    for body, pointer in (
        ({"observation": good[:3]}, "/observation"),
        ({"observation": [*good[:3], 99.0]}, None),  # velocities have no bounds
        ({"observation": [5.0, *good[1:]]}, "/observation/0"),
        ({"observation": ["x", *good[1:]]}, "/observation/0"),
        (json.dumps({"observation": [float("nan"), *good[1:]]}), "/observation/0"),
        ({"observation": good, "action_mask": [1, 1]}, "/action_mask"),
        ({"observations": good}, "/observation"),
    ):
        response = agent.post("/predict", body)
        if pointer is None:
            assert response.status_code == 200
            continue
        assert response.status_code == 422, response.text
        assert any(error["pointer"].startswith(pointer) for error in response.json()["errors"])
    rows = agent.post("/predict/rows", {**STATES.iloc[0].to_dict(), "observation_0": 5.0})
    assert rows.status_code == 422
    assert "observation_0" in rows.json()["detail"]
    drawn = [agent.post("/predict", {"observation": good, "deterministic": False}).json()["action"] for _ in range(30)]
    assert set(drawn) == {0, 1}  # after so little training the policy is far from sure
    assert agent.post("/predict", {"observation": good}).status_code == 200


# --- killed, extended, tuned -----------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, empty_store: Path) -> Path:
    return lay_out(tmp_path / "home", empty_store)


def killed(home: Path, nursery: Nursery, when: Callable[[], Any]) -> None:
    """Start `train pole.yaml`, and kill -9 it as soon as something is there."""
    started = nursery.start(home, "train", "--recipe-file", "pole.yaml")
    wait_for(when)
    assert nursery.stop(started, signal.SIGKILL) == -signal.SIGKILL


def test_a_training_killed_in_the_middle_is_gone_on_with_to_the_same_bits(home: Path, nursery: Nursery) -> None:
    """kill -9, then `--resume`: the same policy, normaliser and metrics as those of a run that nobody killed, in one tracked run."""
    (home / "pole.yaml").write_text(CARTPOLE.replace("total_steps: 2048", "total_steps: 8000"))
    whole = nursery.run(
        home, "train", "--recipe-file", "pole.yaml", "--json", environ={"RECIPELINE__EXECUTION__WORK_FOLDER": str(home / "else")}
    )
    work = home / ".recipeline" / "work"
    killed(home, nursery, lambda: len(list(work.glob("*/fold-episodes/fit/training/checkpoints/checkpoint_*"))) >= 4)
    assert list(work.glob("*/fold-episodes/fit/training/checkpoints/checkpoint_*")), "it was over before it could be killed"
    resumed = nursery.run(home, "train", "--recipe-file", "pole.yaml", "--resume", "--json")
    assert resumed.code == 0, resumed
    assert resumed.json["resumed"] is True
    assert resumed.json["metrics"] == whole.json["metrics"]
    assert same(arrays(resumed.json["artifact"]), arrays(whole.json["artifact"]))
    assert any(
        '"resumed"' in line for line in (Path(resumed.json["artifact"]) / "parts/model/training/events.json").read_text().splitlines()
    )


def test_a_finished_run_is_trained_further_with_more_steps_and_nothing_else_changed(home: Path, nursery: Nursery) -> None:
    """1,024 steps and then 1,024 more are 2,048; the new run names the old one; another learning rate or environment is a conflict."""
    (home / "pole.yaml").write_text(CARTPOLE)
    whole = nursery.run(
        home, "train", "--recipe-file", "pole.yaml", "--json", environ={"RECIPELINE__EXECUTION__WORK_FOLDER": str(home / "else")}
    )
    (home / "pole.yaml").write_text(CARTPOLE.replace("2048", "1024"))
    first = nursery.run(home, "train", "--recipe-file", "pole.yaml", "--json").json
    (home / "pole.yaml").write_text(CARTPOLE)
    further = nursery.run(home, "train", "--recipe-file", "pole.yaml", "--resume", first["run_id"][:10], "--json")
    assert further.code == 0, further
    assert further.json["run_id"] != first["run_id"]
    assert same(arrays(further.json["artifact"]), arrays(whole.json["artifact"]))
    assert further.json["metrics"] == whole.json["metrics"]
    assert json.loads((Path(further.json["artifact"]) / "manifest.json").read_text())["extends"] == first["run_id"]
    for old, new, named in (
        ("1.0e-3", "2.0e-3", "learning_rate"),
        ("n_envs: 4", "n_envs: 8", "n_envs"),
        ("CartPole-v1", "CartPole-v0", "data"),
    ):
        (home / "pole.yaml").write_text(CARTPOLE.replace("2048", "4096").replace(old, new))
        refused = nursery.run(home, "train", "--recipe-file", "pole.yaml", "--resume", first["run_id"], "--json")
        assert refused.code == 8, refused
        assert named in refused.json["error"]["message"]
    (home / "pole.yaml").write_text(CARTPOLE.replace("2048", "512"))
    less = nursery.run(home, "train", "--recipe-file", "pole.yaml", "--resume", first["run_id"], "--json")
    assert less.code == 5
    assert "total_steps above 1024" in less.json["error"]["hint"]


def test_another_number_of_environments_cannot_go_on_from_a_checkpoint(home: Path, nursery: Nursery) -> None:
    """An unfinished run with another n_envs is another run: exit 8, and what to do."""
    (home / "pole.yaml").write_text(CARTPOLE.replace("total_steps: 2048", "total_steps: 50000"))
    work = home / ".recipeline" / "work"
    killed(home, nursery, lambda: list(work.glob("*/fold-episodes/fit/training/checkpoints/checkpoint_*")))
    (home / "pole.yaml").write_text(CARTPOLE.replace("total_steps: 2048", "total_steps: 50000").replace("n_envs: 4", "n_envs: 2"))
    refused = nursery.run(home, "train", "--recipe-file", "pole.yaml", "--resume", "--json")
    assert refused.code == 8
    assert "recipe" in refused.json["error"]["message"]


TUNED = (
    CARTPOLE.replace("2048", "1024")
    .replace("learning_rate: 1.0e-3", "learning_rate: {type: float, low: 1.0e-4, high: 1.0e-2, log: true, default: 1.0e-3}")
    .replace(
        "evaluation:",
        """hyperparameter_tuning:
  enabled: true
  n_trials: 4
  metric: return_lcb
  direction: maximize
  seeds_per_trial: 2
  pruning: {enabled: true, n_startup_trials: 2, n_warmup_steps: 500}
evaluation:""",
    )
)


def test_a_search_trains_with_several_seeds_prunes_at_fixed_steps_and_survives_a_kill(home: Path, nursery: Nursery) -> None:
    """The trials after a kill are those that would have come; the interrupted one counts as failed and is drawn again."""
    (home / "pole.yaml").write_text(TUNED)
    whole = nursery.run(
        home, "train", "--recipe-file", "pole.yaml", "--json", environ={"RECIPELINE__EXECUTION__WORK_FOLDER": str(home / "else")}
    )
    assert whole.code == 0, whole
    trials = json.loads((Path(whole.json["artifact"]) / "hpo.json").read_text())["optimization_history"]
    assert len(trials) == 4
    assert (
        whole.json["best_params"]["learning_rate"]
        == max((t for t in trials if t["state"] == "complete"), key=lambda t: t["value"])["params"]["learning_rate"]
    )
    journal = home / ".recipeline" / "work"
    killed(home, nursery, lambda: any(path.read_bytes().count(b'"end"') >= 2 for path in journal.glob("*/fold-episodes/hpo/study.log")))
    resumed = nursery.run(home, "train", "--recipe-file", "pole.yaml", "--json")
    assert resumed.code == 0, resumed
    again = json.loads((Path(resumed.json["artifact"]) / "hpo.json").read_text())["optimization_history"]
    known = {json.dumps(trial["params"]): trial["value"] for trial in trials if trial["state"] == "complete"}
    repeated = [trial for trial in again if trial["state"] == "complete" and json.dumps(trial["params"]) in known]
    assert len(repeated) >= 2
    assert all(trial["value"] == known[json.dumps(trial["params"])] for trial in repeated)


# --- environments that break -----------------------------------------------------------------------------------------------


class Strange(gymnasium.Env):  # type: ignore[misc]
    """An environment that does one wrong thing."""

    def __init__(self, what: str = "nothing") -> None:
        self.what, self.at = what, 0
        self.observation_space = spaces.Text(4) if what == "space" else spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return self.seen()

    def seen(self) -> Any:
        bad = self.what == "observation" and self.at % 3 == 2
        observation = np.full(2, np.nan if bad else 0.1, np.float32)
        return observation, {"action_mask": np.array([0, 0] if self.what == "mask" and self.at == 5 else [1, 1], np.int8)}

    def step(self, action: Any) -> Any:
        self.at += 1
        observation, info = self.seen()
        reward = float("nan") if self.what == "reward" and self.at % 3 == 2 else 1.0
        return observation, reward, self.at >= 20 and self.what != "endless", False, info


@pytest.fixture
def strange() -> Iterator[None]:
    from recipeline import registry

    recipeline.register("part", "strange", Strange)
    yield
    registry.unregister("part", "strange")


def with_environment(what: str, more: str = "") -> str:
    loader = f"loader: {{name: gymnasium, params: {{environment: {{class_path: strange, params: {{what: {what}}}}}, n_envs: 2{more}}}}}"
    text = CARTPOLE.replace("loader: {name: gymnasium, params: {id: CartPole-v1, n_envs: 4}}", loader).replace(", success_rate", "")
    return text.replace("total_steps: 2048", "total_steps: 512").replace("hidden: [16, 16]", "hidden: [8]\n    max_nonfinite: 20")


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("space", 5, "observation space Text is not supported"),
        ("mask", 5, "allows no action"),
        ("reward", 5, "max_nonfinite"),
        ("observation", 5, "not finite"),
        ("endless", 5, "did not end"),
    ],
)
def test_a_broken_environment_ends_the_command_in_one_line(
    what: str, code: int, words: str, strange: None, project: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its name and what to do; a few NaN are dropped and counted, more of them stop; no traceback."""
    monkeypatch.setattr("recipeline_ppo.episodes.LONGEST", 200)
    Path("strange.yaml").write_text(with_environment(what))
    answer = command("train", "--recipe-file", "strange.yaml", "--set", "execution.report=false")
    assert answer.code == code, answer
    line = answer.err.strip().splitlines()[-1]
    assert line.startswith("error[")
    assert words in line
    assert "Traceback" not in answer.err


def test_a_few_nan_are_dropped_and_told_and_no_finished_episode_yet_is_no_mistake(
    strange: None, project: Path, command: Callable[..., Any]
) -> None:
    """Fewer than max_nonfinite: the run ends well and its events count them; a training shorter than an episode has no curve."""
    text = with_environment("reward").replace("max_nonfinite: 20", "max_nonfinite: 1000").replace("episodes: 10", "episodes: 1")
    Path("strange.yaml").write_text(text)
    refused = command("train", "--recipe-file", "strange.yaml", "--set", "execution.report=false")
    assert refused.code == 5  # trained, but an evaluation with NaN is none
    assert "reward is nan" in refused.err
    Path("strange.yaml").write_text(
        with_environment("nothing")
        .replace("total_steps: 512", "total_steps: 64")
        .replace("n_steps: 32", "n_steps: 8")
        .replace("batch_size: 64", "batch_size: 16")
    )
    answer = command("train", "--recipe-file", "strange.yaml", "--json")
    assert answer.code == 0, answer
    assert answer.json["metrics"]["return_mean"] == 20.0


def test_our_environments_are_not_left_open(agent: Agent) -> None:
    """Nothing of the project is left in memory or on the disk after a run."""
    assert not list((agent.home / ".recipeline" / "work").iterdir())
    assert not [path for path in agent.home.rglob(".tmp-*") if path.parent.name != "notes"]
    assert (agent.artifact / "manifest.json").is_file()
