"""The policy that training leaves: the same answers from its arrays, without the library that trained it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from plugins.ppo.test_learner import learner
from plugins.ppo.worlds import ACTIONS, Masked
from recipeline.errors import Damaged, DataError
from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.learner import Learner
from recipeline_ppo.policy import Policy

ROWS = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)


def trained(kind: str = "discrete", **changed: Any) -> Policy:
    training = learner(kind, normal=True, **changed)
    for _ in range(3):
        training.iterate()
    return training.policy()


@pytest.mark.parametrize("kind", [*ACTIONS, "squashed"])
def test_arrays_and_info_are_the_whole_policy(kind: str) -> None:
    policy = trained("box" if kind == "squashed" else kind, squash=kind == "squashed", hidden=(8, 12, 10), activation="relu")
    again = Policy.of({name: a.copy() for name, a in policy.arrays().items()}, json.loads(json.dumps(policy.info(), allow_nan=False)))
    for options in ({}, {"deterministic": False}):
        one, two = (p.act(ROWS, rng=np.random.default_rng(3), **options) for p in (policy, again))
        np.testing.assert_array_equal(one.action, two.action)
        np.testing.assert_array_equal(one.value, two.value)
        np.testing.assert_array_equal(one.log_prob, two.log_prob)


def test_it_answers_as_the_networks_that_were_trained() -> None:
    training = learner(normal=True)
    training.iterate()
    answers = training.policy().act(ROWS)
    assert training.normalizer is not None
    x = training.normalizer.transform(ROWS)
    outputs, values = training.backend.network.forward(x)  # type: ignore[attr-defined]
    np.testing.assert_allclose(answers.value, values, rtol=1e-5)
    np.testing.assert_array_equal(answers.action, outputs.argmax(axis=1))
    log_p = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(answers.log_prob, log_p.max(axis=1), rtol=1e-4)


def test_many_rows_are_answered_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = trained()
    whole = policy.act(ROWS, deterministic=False, rng=np.random.default_rng(1))
    monkeypatch.setattr("recipeline_ppo.policy.PIECE", 7)
    pieces = policy.act(ROWS, deterministic=False, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(pieces.action, whole.action)
    np.testing.assert_allclose(pieces.value, whole.value, rtol=1e-5)
    mask = np.eye(3, dtype=bool)[np.arange(20) % 3]
    assert policy.act(ROWS, masks=mask).action.tolist() == [n % 3 for n in range(20)]


def test_one_row_is_answered_as_it_is_among_many() -> None:
    policy = trained()
    np.testing.assert_allclose(policy.act(ROWS[3:4]).value[0], policy.act(ROWS).value[3], rtol=1e-5)


def test_no_torch_and_no_gymnasium_is_needed(tmp_path: Any) -> None:
    policy = trained()
    np.savez(tmp_path / "arrays.npz", **policy.arrays())
    (tmp_path / "info.json").write_text(json.dumps(policy.info()))
    program = (
        "import json, sys, numpy as np\nsys.modules['torch'] = sys.modules['gymnasium'] = None\n"
        "from recipeline_ppo.policy import Policy\n"
        f"p = Policy.of(dict(np.load({str(tmp_path / 'arrays.npz')!r})), json.load(open({str(tmp_path / 'info.json')!r})))\n"
        "print(float(p.act(np.ones((1, 3), dtype=np.float32)).value[0]).hex())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert said == float(policy.act(np.ones((1, 3), dtype=np.float32)).value[0]).hex()


def test_bad_observations_and_masks_are_named() -> None:
    policy = trained()
    for bad, words in (
        (np.zeros((2, 4), dtype=np.float32), "does not fit"),
        ([["a", "b", "c"]], "does not fit"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), "observation 1 has values that are not finite"),
        (np.array([[0, 0, 1e300]]), "observation 0 has values that are not finite"),
    ):
        with pytest.raises(DataError, match=words):
            policy.act(bad)
    assert np.isfinite(policy.act(np.full((1, 3), 1e30)).value).all()  # large, but finite
    for mask, words in (([[True, False]], r"shape \[1, 2\], not \[1, 3\]"), ([[False] * 3], "mask of observation 0 allows no action")):
        with pytest.raises(DataError, match=words):
            policy.act(ROWS[:1], masks=mask)
    with pytest.raises(DataError, match="cannot be masked"):
        trained("box").act(ROWS[:1], masks=[[True]])
    assert policy.act(ROWS, masks=np.tile([False, True, False], (20, 1))).action.tolist() == [1] * 20


def test_a_dict_of_observations_is_answered_without_its_mask() -> None:
    training = Learner(Config(hidden=(8,), n_steps=8, batch_size=8), Environments(lambda: Masked("dict"), 1), seed=0)
    answers = training.policy().act([{"place": [1.0]}], masks=[[False, False, True, False]])
    assert answers.action.tolist() == [2]


def test_arrays_that_do_not_belong_to_the_info_are_damage() -> None:
    policy = trained()
    arrays, info = policy.arrays(), policy.info()
    with pytest.raises(Damaged, match=r"policy\.0\.weight"):
        Policy.of({name: a for name, a in arrays.items() if name != "policy.0.weight"}, info)
    with pytest.raises(Damaged, match="has shape"):
        Policy.of({**arrays, "policy.0.weight": np.zeros((2, 2))}, info)
    with pytest.raises(Damaged):
        Policy.of(arrays, {name: value for name, value in info.items() if name != "action"})
