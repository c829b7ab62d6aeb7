"""The loop around a learner: to the bit after kill -9, back to a good checkpoint after an accident, and all of it on record."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.ppo.worlds import ACTIONS, Corridor, Drift, drift
from recipeline import measures
from recipeline.contracts import Silent
from recipeline.errors import Conflict, DataError, RecipeError, TrainingFailed
from recipeline.operations import RollbacksExhausted
from recipeline_ppo.checkpoints import CheckpointFolder
from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.feedback import Retuner, RetunerSettings
from recipeline_ppo.learner import Learner
from recipeline_ppo.normalizer import ObservationNormalizer
from recipeline_ppo.training import Operations, _Loop, _Record, history_of, train

QUICK = {"hidden": (8,), "n_steps": 16, "batch_size": 32, "epochs": 2, "gamma": 0.95, "learning_rate": 1e-3}
EVERY = {"every_steps": 100, "keep": 3, "probation": 3, "share": 1.0}


class Heard:
    def __init__(self):
        self.events = []

    def emit(self, name, **fields):
        self.events.append({"event": name, **fields})


def learner(kind="discrete", normal=False, n_envs=2, seed=3, factory=None, **changed):
    worlds = Environments(factory or drift(kind), n_envs, max_episode_steps=40)
    return Learner(Config(**{**QUICK, **changed}), worlds, seed=seed, normalizer=ObservationNormalizer() if normal else None)


def bits(one):
    """Everything a training is, without what a resume may know more of (how often a replay was proved)."""
    state = one.state()
    return {name: array.tobytes() for name, array in state.arrays.items()}, json.dumps(state.info, sort_keys=True)


def names(events):
    return [event["event"] for event in events]


class Once:
    """Does something to a learner after the update of a step, the first time only."""

    def __init__(self, target, at, what):
        self.target, self.at, self.what, self.done = target, at, what, False

    def __call__(self, step, metrics):
        if step >= self.at and not self.done:
            self.done = True
            self.what(self.target)
        return False


# --- exact resume ---


def killed(folder, kind, normal, at, operations, total):
    """In a process of its own: train, and be killed by signal 9 after so many updates."""
    one = learner(kind, normal, reward_normalizer="discounted" if normal else None)

    updates = iter(range(1, 10**9))

    def each(step, metrics):
        if next(updates) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    train(one, total, operations, folder, each=each)


def kill_at(*arguments):
    process = multiprocessing.get_context("fork").Process(target=killed, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize("kind", sorted(ACTIONS))
def test_a_killed_training_ends_with_the_bits_of_one_that_was_not(kind, normal, tmp_path):
    """train(N) against train(k), kill -9, resume: before the first checkpoint, between two, and near the end. Four kinds of action."""
    operations = Operations(checkpoint=EVERY, anomaly=False)
    reward = "discounted" if normal else None
    whole = learner(kind, normal, reward_normalizer=reward)
    straight = train(whole, 690, operations, tmp_path / "whole")
    for at in (2, 12, 21):
        kill_at(tmp_path / f"k{at}", kind, normal, at, operations, 690)
        again = learner(kind, normal, reward_normalizer=reward)
        resumed = train(again, 690, operations, tmp_path / f"k{at}")
        assert resumed.resumed == {2: 0, 12: 320, 21: 608}[at]
        assert resumed.exact
        assert bits(again) == bits(whole)
        assert json.dumps(resumed.history) == json.dumps(straight.history)
        infos = [CheckpointFolder(tmp_path / f / "checkpoints", identity=None) for f in ("whole", f"k{at}")]
        assert infos[0].foreign.keys() == infos[1].foreign.keys()


def test_a_rollback_before_the_kill_is_gone_through_again(tmp_path):
    """A rule that goes back now and then; killed after it did: the resumed run goes back as well, and ends with the same bits."""
    operations = Operations(
        checkpoint=EVERY,
        anomaly={"kl_blowup": {"limit": 1e-6, "ratio": 2.0, "cooldown": 0, "warm_up": 8}},
        rollback={"stop": False, "per_run": 6, "per_window": 6},
    )
    whole = learner()
    straight = train(whole, 900, operations, tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "updates.jsonl").read_text().splitlines()]
    back = [line["update"] for line in lines if "undone_after" in line]
    assert len(back) == 6
    for number in back[::2]:
        folder = tmp_path / f"k{number}"
        kill_at(folder, "discrete", False, number + 1, operations, 900)
        again = learner()
        resumed = train(again, 900, operations, folder)
        assert resumed.resumed is not None
        assert bits(again) == bits(whole)
        assert json.dumps(resumed.history) == json.dumps(straight.history)


def test_a_finished_training_is_extended_and_is_not_done_twice(tmp_path):
    """The same steps again: nothing happens. More steps: on from the end, and the record goes on."""
    first = learner()
    train(first, 300, Operations(checkpoint=EVERY), tmp_path)
    again = learner()
    same = train(again, 300, Operations(checkpoint=EVERY), tmp_path)
    assert (same.resumed, same.step, bits(again)) == (300, 300, bits(first))
    more = train(learner(), 500, Operations(checkpoint=EVERY), tmp_path)
    assert (more.resumed, more.step) == (300, 500)
    assert [row["step"] for row in more.history][-1] == 500
    assert sorted({row["step"] for row in more.history}) == [row["step"] for row in more.history]
    assert names(more.events).count("finished") == 3


def test_a_damaged_newest_checkpoint_costs_a_few_steps_and_no_bit(tmp_path):
    """One flipped bit: named, the one before is gone on from, and the end is the same."""
    operations = Operations(checkpoint=EVERY)
    whole = learner()
    train(whole, 500, operations)
    train(learner(), 400, operations, tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir())
    data = bytearray((newest / "state.safetensors").read_bytes())
    data[-3] ^= 1
    (newest / "state.safetensors").write_bytes(data)
    again = learner()
    resumed = train(again, 500, operations, tmp_path)
    assert resumed.resumed < 400
    assert [e["checkpoint"] for e in resumed.events if e["event"] == "checkpoint_damaged"] == [newest.name]
    assert bits(again) == bits(whole)


def test_checkpoints_of_another_training_are_refused_by_name(tmp_path):
    """Another number of environments, another kind of action, with and without a normaliser."""
    train(learner(), 200, Operations(checkpoint=EVERY), tmp_path)
    for other, told in (
        (learner(n_envs=3), "n_envs was 2, and is 3 now"),
        (learner("box"), "action was"),
        (learner(normal=True), "observation_normalizer was false, and is true now"),
    ):
        with pytest.raises(Conflict, match=told):
            train(other, 400, Operations(checkpoint=EVERY), tmp_path)
    assert train(learner(), 400, Operations(checkpoint=EVERY), tmp_path).resumed == 200


class Hidden(Drift):
    """Keeps random numbers of its own that nobody can bring back."""

    def __init__(self):
        super().__init__()
        self.hidden = np.random.default_rng()

    def step(self, action):
        x, reward, over, cut, told = super().step(action)
        return (x + self.hidden.normal(size=3) * 0.01).astype(np.float32), reward, over, cut, told


def test_an_environment_that_cannot_be_brought_back_is_named(tmp_path):
    """The episode starts anew; the record says that the resume was not exact."""
    train(learner(factory=Hidden), 200, Operations(checkpoint=EVERY), tmp_path)
    resumed = train(learner(factory=Hidden), 400, Operations(checkpoint=EVERY), tmp_path)
    assert resumed.exact is False
    assert {"event": "resumed", "step": 200, "exact": False} in resumed.events
    assert "episodes_restarted" in names(resumed.events)


# --- accidents ---


def spoil_parameters(one):
    next(iter(one.parameters().values()))[0] = math.nan


def spoil_moments(one):
    one.backend.adam.second[5] = math.inf


def spoil_normalizer(one):
    one.normalizer.mean[0] = math.nan


@pytest.mark.parametrize("at", [0, 1000])
@pytest.mark.parametrize("what", [spoil_parameters, spoil_moments, spoil_normalizer])
def test_a_nan_in_what_was_learned_is_undone_within_one_update(what, at, tmp_path):
    """Parameters, moments, normaliser; in the first update and late: noticed by the next, good state back, half the rate."""
    one, heard = learner(normal=True), Heard()
    poke = Once(one, at, what)
    done = train(one, 1500, Operations(checkpoint=EVERY), tmp_path, events=heard, each=poke)
    assert done.rollbacks == 1
    spoiled = next(row for row in done.history if row["step"] >= at)
    back = next(e for e in heard.events if e["event"] == "rollback")
    after = next(row for row in done.history if row["update"] == spoiled["update"] + 1)
    assert back["step"] == after["step"]
    assert back["rule"] == "nonfinite"
    assert back["restored_step"] <= at
    assert all(np.isfinite(array).all() for array in one.state().arrays.values())
    resumed = next(row for row in done.history if row["update"] == after["update"] + 1)
    assert resumed["learning_rate"] == pytest.approx(0.5e-3)
    assert done.history[-1]["learning_rate"] == pytest.approx(1e-3 if at == 0 else done.history[-1]["learning_rate"])
    assert done.undone_steps == sum(row.get("undone", False) for row in done.history) * 32 - (32 if after["step"] == spoiled["step"] else 0)


class Poisoned(Drift):
    """Gives a NaN as reward or observation at one of its steps."""

    def __init__(self, what, at):
        super().__init__()
        self.what, self.at, self.n = what, at, 0

    def step(self, action):
        self.n += 1
        x, reward, over, cut, told = super().step(action)
        if self.n == self.at:
            reward, x = (math.nan, x) if self.what == "reward" else (reward, np.full(3, np.nan, np.float32))
        return x, reward, over, cut, told


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_a_nan_from_the_environment_is_dropped_and_told(what):
    """The transition teaches nothing; an event says when, and nothing has to be undone."""
    one, heard = learner(factory=lambda: Poisoned(what, 70), n_envs=2), Heard()
    done = train(one, 400, Operations(), events=heard)
    assert done.rollbacks == 0
    told = [e for e in heard.events if e["event"] == "transitions_dropped"]
    assert sum(e["count"] for e in told) == 2
    assert 140 <= told[0]["step"] <= 172  # the rollout in which it happened
    assert all(np.isfinite(array).all() for array in one.state().arrays.values())


def test_accidents_that_repeat_end_in_a_typed_stop_that_leaves_good_checkpoints(tmp_path):
    """At most three rollbacks per hundred updates, each deeper; then RollbacksExhausted, and the disk holds what was good."""
    one = learner()

    def always(step, metrics):
        if step >= 700:
            spoil_parameters(one)
        return False

    with pytest.raises(RollbacksExhausted, match="3 rollbacks were made already"):
        train(one, 5000, Operations(checkpoint=EVERY), tmp_path, each=always)
    events = [json.loads(line) for line in (tmp_path / "ops_events.jsonl").read_text().splitlines()]
    steps = [e["restored_step"] for e in events if e["event"] == "rollback"]
    assert len(steps) == 3
    assert steps == sorted(steps, reverse=True)
    assert "rollback_refused" in names(events)
    infos = CheckpointFolder(
        tmp_path / "checkpoints", identity=json.loads(next((tmp_path / "checkpoints").glob("*/state.json")).read_text())["identity"]
    )
    assert any(info["status"] == "good" for info in infos.infos().values())


def test_without_rollback_parameters_that_are_not_finite_stop_training():
    """A typed stop in the next update, not a policy of NaN."""
    one = learner()
    with pytest.raises(TrainingFailed, match="not finite"):
        train(one, 500, Operations(rollback=False), each=Once(one, 100, spoil_parameters))


def test_every_event_is_in_the_ledger_the_context_and_the_metrics(tmp_path):
    """Three places, the same events; updates.jsonl is the history, what was undone marked."""
    measures.reset()
    one, heard = learner(), Heard()
    done = train(one, 1500, Operations(checkpoint=EVERY), tmp_path, events=heard, each=Once(one, 1000, spoil_parameters))
    lines = [json.loads(line) for line in (tmp_path / "ops_events.jsonl").read_text().splitlines()]
    assert lines == done.events == heard.events
    assert {"anomaly", "rollback", "checkpoint_saved", "checkpoint_good", "finished"} <= set(names(lines))
    text = measures.exposition()[0].decode()
    assert 'rl_anomaly_total{rule="nonfinite",severity="rollback"} 1.0' in text
    assert 'rl_rollback_total{rule="nonfinite"} 1.0' in text
    assert f'rl_checkpoint_total{{outcome="saved"}} {float(names(lines).count("checkpoint_saved"))}' in text
    assert f'rl_update_total{{algorithm="ppo"}} {float(len(done.history))}' in text
    kept = history_of(json.loads(line) for line in (tmp_path / "updates.jsonl").read_text().splitlines())
    assert [(r["update"], r["step"], r.get("undone")) for r in kept] == [(r["update"], r["step"], r.get("undone")) for r in done.history]
    assert any(row.get("undone") for row in kept)
    steps = [row["step"] for row in kept if not row.get("undone")]
    assert steps == sorted(set(steps))


def test_operations_change_no_bit_of_a_healthy_training(tmp_path):
    """With all of it on, and the learner alone."""
    with_operations, alone = learner("box", normal=True), learner("box", normal=True)
    done = train(with_operations, 800, Operations(checkpoint=EVERY), tmp_path)
    while alone.step < 800:
        alone.iterate(800)
    assert done.rollbacks == 0
    assert bits(with_operations)[0] == bits(alone)[0]


# --- the rest ---


def test_a_search_can_stop_a_training():
    """`report` hears of the mean return at fixed steps and answers True."""
    asked = []

    class Progress:
        def report(self, step, value):
            asked.append((step, value))
            return len(asked) == 3

        def advance(self, done, total=None, label=""):
            pass

    done = train(learner(), 4000, Operations(), progress=Progress())
    assert done.stopped
    assert asked[-1][0] <= done.step < asked[-1][0] + 32  # told of a round step, in the rollout that reached it
    assert done.step < 4000
    assert [step // 200 for step, _ in asked] == sorted({step // 200 for step, _ in asked})


def test_a_rollout_of_nothing_but_nan_is_no_accident_of_the_policy():
    """No update is made of it, none is undone, and training goes on when the environment is well again."""
    spoiled = learner(factory=lambda: Corridor(20, dict.fromkeys(range(17, 49), "reward")))
    done = train(spoiled, 320, Operations(checkpoint=False))
    assert done.step == 320
    assert done.rollbacks == 0
    assert not {"anomaly", "rollback"} & set(names(done.events))
    assert "transitions_dropped" in names(done.events)
    assert [row["epochs"] for row in done.history[:4]] == [2, 0, 0, 2]


def test_what_a_search_hears_is_its_metric():
    """The score of recent episodes, at fixed steps; nothing where there is none. Those that a rollback undid are forgotten."""

    class Told(Silent):
        def __init__(self):
            self.reports = []

        def report(self, step, value):
            self.reports.append((step, value))
            return False

    heard = Told()
    train(learner(), 600, Operations(checkpoint=EVERY), progress=heard, score=lambda recent: float(max(length for _, length in recent)))
    assert heard.reports
    assert all(step % 30 == 0 and value == int(value) >= 1 for step, value in heard.reports)
    silent = Told()
    train(learner(), 600, Operations(checkpoint=EVERY), progress=silent, score=lambda recent: None)
    assert not silent.reports
    loop = _Loop(
        learner(), Operations(), _Record(None), Silent(), None, None, lambda recent: math.fsum(r for r, _ in recent), time.monotonic
    )
    for step in (10, 20, 30):
        loop._remember(step, {"episode_returns": [float(step)] * 5, "episode_lengths": [step] * 5}, None)
    assert loop._scored() == 300.0
    loop._remember(40, {"episode_returns": [1.0], "episode_lengths": [1]}, 20)
    assert loop._scored() == 150.0
    loop._remember(40, {"episode_returns": [], "episode_lengths": []}, 10)
    assert loop._scored() is None


def test_ratings_retune_a_training_that_runs(tmp_path):
    """A server's ratings in the table; the training looks now and then, and its entropy weight is twice the schedule's."""
    ratings = Retuner(tmp_path / "f.db", settings=RetunerSettings(first=1000), value=lambda name: 0.01)
    for number in range(100):
        ratings.add({"rating": 2, "user": f"u{number % 30}", "item": "x"})
    one, heard = learner(ent_coef=0.01), Heard()
    operations = Operations(retuning={"address": str(tmp_path / "f.db"), "mode": "apply"})
    done = train(one, 600, operations, tmp_path / "t", events=heard)
    assert [e["factors"] for e in heard.events if e["event"] == "retuning"] == [{"ent_coef": 2.0}]
    assert done.history[-1]["ent_coef"] == pytest.approx(0.02)


def test_a_checked_retuning_is_taken_back_when_the_score_falls(tmp_path):
    """Thirty updates later the policy is judged again."""
    ratings = Retuner(tmp_path / "f.db", settings=RetunerSettings(first=1000), value=lambda name: 0.01)
    for number in range(100):
        ratings.add({"rating": 2, "user": f"u{number % 30}", "item": "x"})
    one, scores = learner(ent_coef=0.01), iter([5.0, 1.0])
    operations = Operations(retuning={"address": str(tmp_path / "f.db"), "mode": "checked"})
    done = train(one, 32 * 40, operations, evaluate=lambda: next(scores))
    assert [row["ent_coef"] for row in done.history[1:30]] == pytest.approx([0.02] * 29)
    assert done.history[-1]["ent_coef"] == pytest.approx(0.01)
    assert "retuning_settled" in names(done.events)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"checkpoint": {"evry_steps": 5}}, ["checkpoint.evry_steps: unknown key; did you mean every_steps?"]),
        ({"checkpoint": {"every_steps": 0, "share": 0}}, ["checkpoint.every_steps: 0 is not", "checkpoint.share: 0 is not"]),
        ({"anomaly": {"mode": "both"}}, ["anomaly.mode: 'both' is not one of robust, seed"]),
        ({"anomaly": {"loss_spikes": {}}}, ["anomaly.loss_spikes: unknown key; did you mean loss_spike?"]),
        ({"anomaly": {"return_drop": {"patienc": 1}}}, ["anomaly.return_drop.patienc: unknown key; did you mean patience?"]),
        ({"anomaly": {"return_drop": {"fraction": 2}}}, ["anomaly.return_drop: return_drop: fraction lies between 0 and 1"]),
        ({"anomaly": {"mode": "seed", "stuck": {}}}, ["anomaly.stuck: unknown key"]),
        ({"rollback": {"per_run": "many"}, "episodes": 3}, ["rollback", "episodes: 3 is not"]),
        ({"retuning": {"mode": "apply"}}, ["retuning: address is missing"]),
        ({"metrics": {"file": "x"}}, ["metrics.file: unknown key"]),
        ({"bounds": {"clip": [1, 0], "gamma": [0, 1]}}, ["bounds.gamma: unknown key", "bounds.clip: [1, 0] is not"]),
        ({"checkpoint": 5, "anomaly": 5, "rollback": 5}, ["checkpoint: 5 is not", "anomaly: 5 is not", "rollback: 5 is not"]),
    ],
)  # fmt: skip
def test_operations_say_all_that_is_wrong_at_once(given, told):
    """Key, what is wrong, and what to do."""
    with pytest.raises(RecipeError) as caught:
        Operations(**given)
    for part in told:
        assert part in str(caught.value)
    assert len(caught.value.problems) >= len(told)


def test_the_literal_rules_can_be_asked_for():
    """mode seed: half of the reward before is an alarm; a negative reference is refused."""
    rules = {rule.name: rule for rule in Operations(anomaly={"mode": "seed", "reward": 0.4}).rules() if rule.name == "relative"}
    assert rules["relative"].factor == 0.4
    one = learner(factory=lambda: Drift("discrete"))
    with pytest.raises(DataError, match="a multiple of it means nothing"):
        train(one, 4000, Operations(anomaly={"mode": "seed"}))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    a=st.sampled_from([0.125, 2.0, 64.0]), c=st.sampled_from([-1024.0, -64.0, 0.0, 512.0]),
    fall=st.sampled_from([60.0, 120.0, 180.0]), seed=st.integers(0, 9),
)  # fmt: skip
def test_alarms_are_those_of_any_other_scale_of_rewards(a, c, fall, seed):
    """A whole course of episodes through the harness, rollbacks included: replacing r by a r + c changes no outcome."""
    from recipeline.operations import OpsHarness, Rollback, Rotation, standard_rules
    from recipeline.operations.harness import EpisodeLog

    def outcomes(scale, shift):
        rng = np.random.default_rng(seed)
        ops = OpsHarness(rules=standard_rules(), rotation=Rotation(every=200), rollback=Rollback(stop=False), episodes=EpisodeLog(40, 10))
        ops.start(0, dict, lambda n, v: None)
        found = []
        for n in range(1, 240):
            level = 200 * (1 - math.exp(-n / 60)) - (fall if 150 <= n < 200 else 0)
            returns = [round(level + rng.normal(0, 15)) * scale + shift for _ in range(3)]
            loss = (5 * math.exp(rng.normal(0, 0.2))) * scale**2
            got = ops.update(n * 10, {"episode_returns": returns, "value_loss": loss}, dict, lambda s, v: None, lambda n, v: None)
            found.append((tuple((x.rule, x.onset) for x in got.anomalies), got.saved, got.restored))
        return found

    assert outcomes(a, c) == outcomes(1.0, 0.0)
    assert any(restored for _, _, restored in outcomes(1.0, 0.0)) is (fall > 100)


@pytest.mark.parametrize("harm", ["rate", "noise"])
def test_a_policy_that_was_ruined_comes_back(harm):
    """The learning rate times 300 for six updates, or noise on every parameter: gone back, and in the end as good as unharmed."""
    settings_ = {"learning_rate": 5e-3, "epochs": 8, "n_steps": 32, "batch_size": 64, "hidden": (16,)}

    def trained(spoil):
        one = learner(n_envs=4, **settings_)
        plain, left = one.hparam, [6]
        if spoil and harm == "rate":
            one.hparam = lambda name: plain(name) * (300 if name == "learning_rate" and one.step >= 8000 and left[0] > 0 else 1)

        def each(step, metrics):
            if step >= 8000 and left[0] > 0:
                left[0] -= 1
                if spoil and harm == "noise" and left[0] == 0:
                    one.backend.network.parameters += np.random.default_rng(0).normal(0, 3, len(one.backend.network.parameters)).astype("f")
            return False

        done = train(one, 20_000, Operations(), each=each)
        returns = [r for row in done.history if not row.get("undone") and row["step"] > 16_000 for r in row["episode_returns"]]
        return done, float(np.mean(returns))

    healthy, expected = trained(spoil=False)
    ruined, got = trained(spoil=True)
    assert healthy.rollbacks == 0
    assert ruined.rollbacks >= 1
    first = next(e for e in ruined.events if e["event"] == "rollback")
    assert first["restored_step"] <= 8128
    assert got > expected - 3
