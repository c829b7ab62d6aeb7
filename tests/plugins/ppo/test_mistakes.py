"""What an agent's commands say to bad input: the exit code, one line that names the field and a fix, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recipeline
from answers import Answer
from plugins.ppo.agents import CARTPOLE, arrays, same
from plugins.ppo.worlds import Corridor
from recipeline import registry
from recipeline_ppo.learner import Learner

pytestmark = pytest.mark.xdist_group("agents")

SMALL = (
    CARTPOLE.replace("total_steps: 2048", "total_steps: 1024")
    .replace("hidden: [16, 16]", "hidden: [8]")
    .replace("every_steps: 256", "every_steps: 128")
    .replace("episodes: 10", "episodes: 2")
)
QUIET = ("--set", "execution.report=false", "--set", "execution.champion=false")

Train = Callable[..., Answer]


@pytest.fixture
def train(project: Path, command: Callable[..., Answer]) -> Train:
    """Train `pole.yaml` with some words of it replaced."""

    def run(*more: str, **changes: str) -> Answer:
        text = SMALL
        for old, new in changes.items():
            before = {"rate": "learning_rate: 1.0e-3", "environment": "CartPole-v1", "n_steps": "n_steps: 32", "share": "share: 1"}[old]
            assert before in text
            text = text.replace(before, new)
        Path("pole.yaml").write_text(text)
        return command("train", "--recipe-file", "pole.yaml", *QUIET, *more)

    return run


def last_line(answer: Answer) -> str:
    assert "Traceback" not in answer.err
    return answer.err.strip().splitlines()[-1]


# --- recipes ---------------------------------------------------------------------------------------------------------------


def test_a_recipe_that_cannot_be_trained_is_exit_3_before_anything_is_made(train: Train) -> None:
    """An unknown environment, a rollout that fills no minibatch, a discount above 1 and a negative clip, each at its line."""
    answer = train(environment="CartPool-v1", n_steps="n_steps: 8", rate="learning_rate: 1.0e-3\n    gamma: 1.5\n    clip: -0.1")
    assert answer.code == 3, answer
    for words in (
        "pole.yaml:10:17: model.hyperparameters.batch_size: a rollout has n_envs * n_steps = 4 * 8 = 32 transitions",
        "pole.yaml:13:12: model.hyperparameters.gamma: 1.5 is not between 0 and 1",
        "pole.yaml:14:11: model.hyperparameters.clip: -0.1 is negative",
        "no environment is registered as CartPool-v1; did you mean CartPole-v1",
    ):
        assert words in answer.err
    assert answer.err.count("error[") == 4
    assert not Path(".recipeline", "work").exists()


def test_training_that_keeps_going_wrong_is_exit_10(train: Train) -> None:
    """Every update overflows: three rollbacks to the untrained policy, then a typed stop; nothing is saved as a model."""
    answer = train(rate="learning_rate: 1.0e+30", share="share: 1}, bounds: {learning_rate: [0, 1.0e+38]")
    assert answer.code == 10, answer
    line = last_line(answer)
    assert line.startswith(
        "error[rollbacks-exhausted]: nonfinite at step 128 (value_loss is not finite), and 3 rollbacks were made already"
    )
    assert line.endswith("lower the learning rate")
    assert not list(Path("mlruns").glob("*/*/artifacts/model"))
    assert train().code == 0  # the next good one succeeds


def test_without_a_good_checkpoint_there_is_nothing_to_go_back_to(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refused the untrained policy, and the first update goes wrong."""
    monkeypatch.setattr("recipeline.operations.checkpoints.Rotation.save", lambda *_, **__: None)
    answer = train(rate="learning_rate: 1.0e+30", share="share: 1}, bounds: {learning_rate: [0, 1.0e+38]")
    assert answer.code == 10, answer
    assert "there is no good checkpoint yet; lower the learning rate" in last_line(answer)


# --- checkpoints -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(train: Train, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A training that somebody stopped with Ctrl-C after half of its steps: its checkpoints, oldest first."""
    iterate = Learner.iterate

    def stops(self: Learner, until: int | None = None) -> dict[str, Any]:
        if self.step >= 512:
            raise KeyboardInterrupt
        return iterate(self, until)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "iterate", stops)
        answer = train()
    assert answer.code == 130, answer
    assert last_line(answer) == "error[interrupted]: interrupted; the same command again goes on where it stopped"
    found = sorted(Path(".recipeline", "work").glob("*/fold-episodes/fit/training/checkpoints/checkpoint_*"))
    assert [path.name[-3:] for path in found] == ["000", "128", "256", "384", "512"]
    return found


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def events(answer: Answer) -> list[dict[str, Any]]:
    path = Path(answer.json["artifact"], "parts/model/training/events.json")
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def test_damaged_checkpoints_are_named_and_the_one_before_is_gone_on_from(interrupted: list[Path], train: Train) -> None:
    """One cut short, one with a flipped bit in its arrays, one in its document: the resumed run ends in the bits of a whole one."""
    cut(interrupted[-1] / "state.safetensors")
    flip(interrupted[-2] / "state.safetensors")
    flip(interrupted[-3] / "state.json")
    answer = train("--resume", "--json")
    assert answer.code == 0, answer
    named = [event["checkpoint"] for event in events(answer) if event["event"] == "checkpoint_damaged"]
    assert sorted(named) == [path.name for path in interrupted[-3:]]
    assert all(name in answer.err for name in named)
    assert [event["step"] for event in events(answer) if event["event"] == "resumed"] == [128]
    whole = train("--json", "--set", "execution.work_folder=else")
    assert same(arrays(answer.json["artifact"]), arrays(whole.json["artifact"]))
    assert answer.json["metrics"] == whole.json["metrics"]


def test_without_any_checkpoint_that_can_be_read_training_begins_anew_and_says_so(interrupted: list[Path], train: Train) -> None:
    for path in interrupted:
        cut(path / "state.json")
    answer = train("--resume", "--json")
    assert answer.code == 0, answer
    assert "WARNING" in answer.err
    assert "none of 5 checkpoints can be gone on from: training begins at step 0" in answer.err
    assert [event["unreadable"] for event in events(answer) if event["event"] == "started_anew"] == [5]
    assert len(pd.read_parquet(Path(answer.json["artifact"], "parts/model/training/updates.parquet"))) == 1024 // 128


def test_checkpoints_of_another_recipe_are_exit_8_and_left_alone(interrupted: list[Path], train: Train) -> None:
    """Somebody put those of another environment into the folder: what differs is named, and nothing of them is removed."""
    for path in interrupted:
        document = json.loads((path / "state.json").read_text())
        document["identity"] |= {"environment": "Acrobot-v1", "n_envs": 16}
        (path / "state.json").write_text(json.dumps(document))
    before = {path: path.read_bytes() for folder in interrupted for path in folder.iterdir()}
    answer = train("--resume")
    assert answer.code == 8, answer
    line = last_line(answer)
    assert line.startswith("error[foreign-checkpoint]: checkpoint_000000000: does not belong to this training: environment was")
    assert '"Acrobot-v1", and is "CartPole-v1" now; train in a fresh folder' in line
    assert {path: path.read_bytes() for path in before} == before


def test_an_unfinished_run_of_another_recipe_is_exit_8(interrupted: list[Path], train: Train) -> None:
    """Another environment: what was stopped is not mixed with it, and can still be gone on with."""
    answer = train("--resume", environment="CartPole-v0")
    assert answer.code == 8, answer
    assert "train anew without --resume" in last_line(answer) or "recipe" in last_line(answer)
    assert train("--resume").code == 0


def test_a_damaged_record_is_exit_9_and_the_checkpoints_stay(interrupted: list[Path], train: Train) -> None:
    """A learning curve with a hole would pass for a whole one."""
    record = interrupted[0].parents[1] / "updates.jsonl"
    lines = record.read_text().splitlines()
    record.write_text("\n".join([lines[0][:-9], *lines[1:]]) + "\n")
    answer = train("--resume")
    assert answer.code == 9, answer
    assert "updates.jsonl: line 1 is not what was written; take that line out" in last_line(answer)
    record.write_text("\n".join(lines) + "\n")
    assert train("--resume").code == 0


# --- environments that break while it is night -----------------------------------------------------------------------------


class Fragile(Corridor):
    """Raises, or gives a NaN, at a step of its life, until a file says that somebody mended it."""

    def __init__(self, breaks: int = 150, nan: bool = False) -> None:
        super().__init__(20)
        self.breaks, self.nan = breaks, nan

    def step(self, action: Any) -> Any:
        observation, reward, over, cut, info = super().step(action)
        if self.done >= self.breaks and not Path("mended").exists():
            if not self.nan:
                raise OSError("the licence server of the simulator is away\nand more")
            reward = float("nan")
        return observation, reward, over, cut, info

    def get_state(self) -> Any:
        return {"place": self.place, "done": self.done}

    def set_state(self, state: Any) -> None:
        self.place, self.done = state["place"], state["done"]


@pytest.fixture
def fragile() -> Iterator[None]:
    recipeline.register("part", "fragile", Fragile)
    yield
    registry.unregister("part", "fragile")


@pytest.mark.parametrize(
    ("params", "words", "resumed"),
    [
        (
            "breaks: 200",
            "the environment raised OSError in step 800: the licence server of the simulator is away;",
            True,
        ),  # in training, of which four copies have a quarter each
        ("breaks: 10, nan: true", "the reward is nan in step 9", False),  # the evaluation, where one is enough
    ],
)
def test_hours_of_training_outlive_an_environment_that_breaks(
    params: str, words: str, resumed: bool, fragile: None, project: Path, command: Callable[..., Answer]
) -> None:
    """Exit 5 in one line; mended, the same command goes on in the same run, and ends as one that never broke."""
    loader = f"environment: {{class_path: fragile, params: {{{params}}}}}"
    text = (
        SMALL.replace("id: CartPole-v1", loader)
        .replace(", success_rate", "")
        .replace("hidden: [8]", "hidden: [8]\n    max_nonfinite: 9999")
    )
    Path("fragile.yaml").write_text(text)
    arguments = ("train", "--recipe-file", "fragile.yaml", "--json", *QUIET)
    broken = command(*arguments)
    assert broken.code == 5, broken
    assert words in last_line(broken)
    assert "mend the environment; the same command again" in last_line(broken)
    assert list(Path(".recipeline", "work").glob("*/fold-episodes/**/state.safetensors"))
    Path("mended").touch()
    mended = command(*arguments)
    assert mended.code == 0, mended
    assert mended.json["resumed"] is True
    assert bool([event for event in events(mended) if event["event"] == "resumed"]) is resumed
    assert not list(Path(".recipeline", "work").iterdir())
    listed = command("list", "runs", "--json").json
    assert "FAILED" not in str(listed)
    if resumed:
        whole = command(*arguments, "--set", "execution.work_folder=else")
        assert same(arrays(mended.json["artifact"]), arrays(whole.json["artifact"]))


# --- a batch of states -----------------------------------------------------------------------------------------------------


STATE: dict[str, Any] = {f"observation_{number}": [0.1, -0.2] for number in range(4)}


def test_a_file_of_states_that_does_not_fit_is_exit_5(train: Train, command: Callable[..., Answer]) -> None:
    """A column that is missing, NaN, outside of the space, text; no output is left, and the earlier one stays as it is."""
    run = train("--json").json["run_id"]
    asked = ("batch-inference", "--run-id", run, "--input", "states.csv", "--output", "actions.csv")
    pd.DataFrame(STATE).to_csv("states.csv", index=False)
    assert command(*asked).code == 0
    before = Path("actions.csv").read_bytes()
    for column, values in (
        ("observation_2", None),
        ("observation_2", [0.1, np.nan]),
        ("observation_0", [0.1, 99.0]),
        ("observation_1", ["x", "y"]),
    ):
        changed = {name: given for name, given in {**STATE, column: values}.items() if given is not None}
        pd.DataFrame(changed).to_csv("states.csv", index=False)
        answer = command(*asked, "--overwrite")
        assert answer.code == 5, answer
        assert column in last_line(answer)
        assert Path("actions.csv").read_bytes() == before
    assert not list(Path().glob(".tmp-*"))
    pd.DataFrame(STATE).to_csv("states.csv", index=False)
    assert command(*asked, "--overwrite").code == 0


def test_a_state_whose_mask_allows_nothing_is_exit_5(train: Train, command: Callable[..., Answer]) -> None:
    """Named by its row; a mask with one action leaves no choice."""
    environment = "id: CartPole-v1"
    text = SMALL.replace(environment, "environment: {class_path: packing, params: {items: 4}}").replace("1024", "256")
    Path("bag.yaml").write_text(text)
    trained = command("train", "--recipe-file", "bag.yaml", "--json", *QUIET)
    assert trained.code == 0, trained
    columns = [column["name"] for column in json.loads(Path(trained.json["artifact"], "input_schema.json").read_text())["columns"]]
    masks = [name for name in columns if name.startswith("action_mask")]
    states = pd.DataFrame(0.5, index=range(3), columns=columns)
    states[masks] = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 0]], bool)
    asked = ("batch-inference", "--run-id", trained.json["run_id"], "--input", "bags.csv", "--output", "items.csv")
    states.to_csv("bags.csv", index=False)
    answer = command(*asked)
    assert answer.code == 5, answer
    assert "row 1" in last_line(answer)
    assert not Path("items.csv").exists()
    states.drop(index=1).to_csv("bags.csv", index=False)
    assert command(*asked).code == 0
    assert pd.read_csv("items.csv")["action"].tolist()[1] == 2
