"""Draws follow the probabilities that are told of them; what is masked has none."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipeline_ppo.distributions import Categorical, DiagGaussian, distribution, impossible, log_one_minus_tanh2
from recipeline_ppo.spaces import ActionSpec

SPECS = {
    "discrete": ActionSpec("discrete", (4,)),
    "multidiscrete": ActionSpec("multidiscrete", (2, 3), (2,)),
    "multibinary": ActionSpec("multibinary", (3,), (3,)),
}


def every(spec: ActionSpec) -> np.ndarray[Any, Any]:
    """All actions there are."""
    sizes = spec.sizes if spec.kind != "multibinary" else (2,) * spec.sizes[0]
    found = np.array(list(itertools.product(*map(range, sizes))))
    return found[:, 0] if spec.kind == "discrete" else found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", SPECS)
def test_draws_follow_the_probabilities(kind: str, masked: bool) -> None:
    """Probabilities over all actions sum to 1, entropy is theirs, and 40,000 draws come within 5 standard errors of them."""
    spec, rng, n = SPECS[kind], np.random.default_rng(3), 40_000
    pi = distribution(spec)
    logits = rng.standard_normal((1, pi.outputs))
    mask = None
    if masked:
        mask = np.ones((1, spec.mask_width), dtype=bool)
        mask[0, [0, spec.mask_width - 1]] = False
    actions = every(spec)
    wide = np.repeat(logits, len(actions), 0)
    log_prob, entropy = pi.log_prob_and_entropy(wide, actions, None if mask is None else np.repeat(mask, len(actions), 0))
    p = np.exp(log_prob)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert entropy[0] == pytest.approx(-(p[p > 0] * log_prob[p > 0]).sum(), abs=1e-9)
    if masked:
        assert (p == 0).any()
    drawn = pi.sample(np.repeat(logits, n, 0), pi.noise(rng, n), None if mask is None else np.repeat(mask, n, 0))
    same = (drawn[:, None] == actions[None]) if drawn.ndim == 1 else (drawn[:, None, :] == actions[None]).all(axis=2)
    frequency = same.mean(axis=0)
    assert (np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()
    if kind == "discrete" or not masked:  # the most likely of independent choices is the most likely action
        assert (pi.mode(logits, mask)[0] == actions[p.argmax()]).all()


def test_squashed_draws_have_the_density_that_is_told() -> None:
    """The density over the interval integrates to 1."""
    spec = ActionSpec("box", (), (1,), 0, (-2.0,), (6.0,), "float64")
    pi = DiagGaussian(spec, squash=True)
    pi.log_std = np.array([-0.4])
    u = np.linspace(-6, 6, 40_001)[:, None]
    log_prob, _ = pi.log_prob_and_entropy(np.full_like(u, 0.3), u)
    action = np.tanh(u[:, 0]) * 4 + 2
    assert np.trapezoid(np.exp(log_prob), action) == pytest.approx(1, abs=1e-6)
    native = pi.native(np.array([[-50.0], [50.0]]))
    assert native.tolist() == [[-2.0], [6.0]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(-40, 40))
def test_the_change_of_variables_is_exact_far_out(u: float) -> None:
    found = float(log_one_minus_tanh2(np.array([u]))[0])
    assert found == pytest.approx(-2 * np.log(np.cosh(u)), abs=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), st.integers(0, 2))
def test_a_choice_is_never_drawn_where_it_is_masked(logits: list[float], allowed: int) -> None:
    pi = Categorical(ActionSpec("discrete", (3,)))
    mask = np.zeros((50, 3), dtype=bool)
    mask[:, allowed] = True
    drawn = pi.sample(np.tile(np.float32(logits), (50, 1)), pi.noise(np.random.default_rng(0), 50), mask)
    assert (drawn == allowed).all()


def test_impossible_masks_are_seen() -> None:
    mask = np.array([[1, 0, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=bool)
    assert impossible(ActionSpec("multidiscrete", (2, 3), (2,)), mask).tolist() == [False, True, True]
    assert impossible(ActionSpec("multibinary", (2,), (2,)), mask[:, :4]).tolist() == [False, True, True]
    assert impossible(ActionSpec("discrete", (2,)), mask[:, :2]).tolist() == [False, True, False]
