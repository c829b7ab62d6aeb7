"""backtests: plans of origins, and their audit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipeline.errors import DataError
from recipeline.timeseries.backtests import Plan, leaking_origins, plan


def test_hold_out_walk_forward_and_rolling_origin_are_one_function():
    """By hand on 100 rows."""
    (one,) = plan(100, horizon=10)
    assert (one.origin, one.first, one.last, one.train_end, one.refit) == (89, 90, 99, 89, True)
    walk = plan(100, horizon=10, n_windows=3, refit="always", embargo=5)
    assert [(w.origin, w.train_end, w.refit, w.warm) for w in walk] == [(69, 64, True, False), (79, 74, True, False), (89, 84, True, False)]
    rolling = plan(100, horizon=10, n_windows=3, step=4)
    assert [(w.origin, w.train_end, w.refit) for w in rolling] == [(81, 81, True), (85, 81, False), (89, 81, False)]
    every = plan(100, horizon=10, n_windows=5, step=2, refit="every_k", every=2)
    assert [w.refit for w in every] == [True, False, True, False, True]
    warm = plan(100, horizon=10, n_windows=3, refit="warm_start")
    assert [(w.refit, w.warm) for w in warm] == [(True, False), (True, True), (True, True)]
    late = plan(100, horizon=10, gap=3)
    assert [(w.origin, w.first, w.last) for w in late] == [(86, 90, 99)]


def test_all_windows_of_a_test_part():
    """ETTh1's protocol: 2880 test rows, horizon 24, stride 1 give 2857 windows, the first forecasting the first test row."""
    made = plan(14_400, horizon=24, test_size=2880, step=1)
    assert len(made) == 2880 - 24 + 1
    assert (made.windows[0].first, made.windows[-1].last) == (14_400 - 2880, 14_399)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    length=st.integers(20, 300), horizon=st.integers(1, 12), count=st.integers(1, 8), step=st.integers(1, 15), gap=st.integers(0, 5),
    embargo=st.integers(0, 5), refit=st.sampled_from(["never", "always", "every_k", "warm_start"]), every=st.integers(1, 3),
)  # fmt: skip
def test_whatever_the_plan_no_label_of_training_is_judged_or_after_the_origin(length, horizon, count, step, gap, embargo, refit, every):
    """Row by row: the fit in force knows only rows up to its origin minus the embargo; the last window ends with the data."""
    arguments = {"horizon": horizon, "n_windows": count, "step": step, "gap": gap, "embargo": embargo, "refit": refit, "every": every}
    if length - (count - 1) * step - gap - horizon - embargo < 1:
        with pytest.raises(DataError, match="to train on"):
            plan(length, **arguments)
        return
    made = plan(length, **arguments)
    fitted_at = None
    for w in made:
        fitted_at = w.origin if w.refit else fitted_at
        train, judged = set(range(w.train_end + 1)), set(range(w.first, w.last + 1))
        assert train
        assert max(train) == fitted_at - embargo
        assert not train & judged
        assert len(judged) == horizon
        assert min(judged) == w.origin + 1 + gap
    assert w.last == length - 1
    assert made.audit()["fits"] == sum(w.refit for w in made)
    assert made.audit()["rows_between_training_and_judged"] >= gap + embargo


def test_the_audit_refuses_a_plan_that_leaks():
    """Each way of looking ahead, said with the window."""
    good = plan(100, horizon=10, n_windows=2)
    first, second = good.windows
    for wrong, what in (
        ((replace(first, train_end=95), second), "training labels reach beyond the origin"),
        ((first, replace(second, first=second.origin)), "judged rows are not after the origin"),
        ((first, replace(second, last=100)), "beyond the data"),
        ((first, replace(second, train_end=second.origin)), "another end of training"),
        ((second, first), "fits nothing"),
        ((first, replace(second, origin=first.origin)), "do not ascend"),
    ):
        with pytest.raises(DataError, match=what):
            Plan(100, 10, tuple(wrong)).audit()


def test_a_plan_that_leaves_too_little_is_refused():
    """With the number of rows that are left and that are needed."""
    with pytest.raises(DataError, match="leave 0 of 30 rows to train on, 1 are needed"):
        plan(30, horizon=10, n_windows=3)
    with pytest.raises(DataError, match="leave 20 of 30 rows to train on, 25 are needed"):
        plan(30, horizon=10, min_train=25)
    with pytest.raises(DataError, match="holds no window"):
        plan(30, horizon=10, test_size=5)
    with pytest.raises(ValueError, match="refit is one of"):
        plan(30, horizon=10, refit="sometimes")


def test_a_single_bit_of_the_future_is_found():
    """A global mean leaks at every origin, a running one at none; nests are compared to the bit."""
    values = np.random.default_rng(0).normal(size=(60, 1))
    assert leaking_origins(lambda v, o: v[: o + 1] - np.nanmean(v), values, range(10, 50)) == tuple(range(10, 50))
    assert leaking_origins(lambda v, o: {"x": [v[: o + 1].cumsum(), o]}, values, range(10, 50)) == ()
    with pytest.raises(TypeError, match="no bits"):
        leaking_origins(lambda v, o: object(), values, [1])
