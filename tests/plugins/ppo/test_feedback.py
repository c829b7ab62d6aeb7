"""Retuning from feedback: what is kept, when it is judged, and on what evidence something changes."""

from __future__ import annotations

import math
import multiprocessing
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipeline.errors import DataError, RecipeError
from recipeline.stores.sql import StateTable
from recipeline_ppo.feedback import Estimate, Retuner, RetunerSettings

VALUES = {"ent_coef": 0.01, "learning_rate": 3e-4, "clip": 0.2}


def retuner(path, values=None, **rest):
    values = dict(VALUES) if values is None else values
    made = RetunerSettings(**rest.pop("settings", {}))

    def apply(name, factor):
        values[name] *= factor

    return Retuner(path / "feedback.db", settings=made, value=values.__getitem__, apply=apply, **rest)


def feed(r, ratings, users=40, start=0):
    """What came of each rating, by its number from 1."""
    found = {}
    for number, rating in enumerate(ratings, start=start):
        told = r.add({"rating": float(rating), "user": f"u{number % users}", "item": "F001"})
        if told is not None:
            found[number + 1 - start] = told
    return found


def test_bad_ratings_from_many_users_double_the_entropy(tmp_path):
    """Mean below 3 with its whole interval; nothing before the hundredth."""
    found = feed(retuner(tmp_path), [2, 3] * 50)
    assert list(found) == [100]
    assert found[100].factors == {"ent_coef": 2.0}
    assert found[100].values == {"ent_coef": 0.02}
    assert found[100].estimate.mean == 2.5


def test_divided_ratings_lower_the_learning_rate_and_good_ones_the_clip(tmp_path):
    """sd above 1.5 to a third; mean at or above 4 to a half."""
    divided = np.random.default_rng(0).choice([1, 5], 100)
    assert feed(retuner(tmp_path / "a"), divided)[100].factors["learning_rate"] == pytest.approx(1 / 3)
    found = feed(retuner(tmp_path / "b"), [5, 4, 5, 5] * 25)
    assert found[100].values == {"clip": pytest.approx(0.1)}


def test_a_mean_that_is_below_three_by_chance_changes_nothing(tmp_path):
    """2.95 of 100 ratings is not below 3 with confidence; a bare mean would act."""
    ratings = np.array([2.0, 3, 3, 4] * 25)
    ratings[:5] -= 1
    assert ratings.mean() == 2.95
    assert feed(retuner(tmp_path), ratings) == {}


def test_judged_at_a_hundred_and_then_per_hundred_new_over_the_last_three_hundred(tmp_path):
    """Numbers of judgements and what they were about."""
    found = feed(retuner(tmp_path), [1] * 600)
    assert list(found) == [100, 200, 300, 400, 500, 600]
    assert [t.estimate.n for t in found.values()] == [100, 200, 300, 300, 300, 300]


def test_one_user_counts_for_a_tenth_at_most(tmp_path):
    """A user who gives half of all ratings is ten of a hundred; one alone is no evidence at all."""
    r = retuner(tmp_path / "a")
    for number in range(100):
        loud = number % 2
        told = r.add({"rating": 1 if loud else 2, "user": "loud" if loud else f"u{number}", "item": "F"})
    assert told.estimate.n == 60
    assert told.estimate.mean == pytest.approx((10 + 100) / 60)
    assert feed(retuner(tmp_path / "b"), [1] * 200, users=1) == {}


def test_the_same_key_counts_once(tmp_path):
    """A client that tries again changes nothing."""
    r = retuner(tmp_path)
    for _ in range(3):
        r.add({"rating": 1, "user": "u", "item": "F", "key": "k1"})
    assert len(r) == 1


def test_ratings_and_judgements_survive_restart(tmp_path):
    """Sixty, a new process, forty more; and what was judged is not judged again."""
    assert feed(retuner(tmp_path), [1] * 60) == {}
    assert list(feed(retuner(tmp_path), [1] * 40, start=60)) == [40]
    assert feed(retuner(tmp_path), [1] * 99, start=100) == {}
    assert list(feed(retuner(tmp_path), [1], start=199)) == [1]


def test_what_is_applied_stays_applied_and_rests(tmp_path):
    """In the mode apply the value changes; before so many new ratings it does not change again, and older ones no longer count."""
    values = dict(VALUES)
    found = feed(retuner(tmp_path, values, settings={"mode": "apply", "cooldown": 200}), [1] * 500)
    assert [n for n, t in found.items() if "ent_coef" in t.factors] == [100, 300, 500]
    assert values["ent_coef"] == pytest.approx(0.08)
    assert retuner(tmp_path).factors() == {"ent_coef": pytest.approx(8.0)}
    happy = feed(retuner(tmp_path, values, settings={"mode": "apply", "cooldown": 200}), [5] * 300, start=500)
    assert [t.factors.keys() for n, t in happy.items()] == [{"clip"}, {"clip"}] or values["clip"] < 0.2


def test_bounds_hold(tmp_path):
    """Entropy at most 0.1; at the bound nothing is suggested any more."""
    values = {**VALUES, "ent_coef": 0.08}
    found = feed(retuner(tmp_path, values, settings={"mode": "apply", "cooldown": 0}), [1] * 300)
    assert values["ent_coef"] == pytest.approx(0.1)
    assert found[100].factors["ent_coef"] == pytest.approx(1.25)
    assert 200 not in found


@pytest.mark.parametrize(("after", "stays"), [(9.0, False), (11.0, True), (math.nan, False)])
def test_a_checked_change_is_taken_back_where_the_score_falls(tmp_path, after, stays):
    """Evaluated before and some updates later."""
    values, scores = dict(VALUES), iter([10.0, after])
    r = retuner(tmp_path, values, settings={"mode": "checked"}, evaluate=lambda: next(scores))
    feed(r, [1] * 100)
    assert values["ent_coef"] == 0.02
    assert r.settle() is stays
    assert values["ent_coef"] == pytest.approx(0.02 if stays else 0.01)
    assert r.factors()["ent_coef"] == pytest.approx(2.0 if stays else 1.0)
    assert r.settle() is None


@pytest.mark.parametrize(
    ("feedback", "field"),
    [
        ({"rating": 6, "user": "u"}, "rating"),
        ({"rating": 0.9, "user": "u"}, "rating"),
        ({"rating": math.nan, "user": "u"}, "rating"),
        ({"rating": True, "user": "u"}, "rating"),
        ({"rating": "5", "user": "u"}, "rating"),
        ({"user": "u"}, "rating"),
        ({"rating": 5}, "user"),
        ({"rating": 5, "user": ""}, "user"),
        ({"rating": 5, "user": "u" * 300}, "user"),
        ({"rating": 5, "user": "u", "item": ["x"]}, "item"),
        ({"rating": 5, "user": "u", "key": ""}, "key"),
        ({"rating": 5, "user": "u", "time": math.inf}, "time"),
    ],
)
def test_feedback_that_is_none_is_refused_by_field(tmp_path, feedback, field):
    """DataError names the field; nothing is kept."""
    r = retuner(tmp_path)
    with pytest.raises(DataError, match=field) as caught:
        r.add(feedback)
    assert caught.value.where == field
    assert len(r) == 0


def test_settings_without_meaning_are_refused():
    for wrong in ({"mode": "guess"}, {"share": 0}, {"low": 4.5, "high": 4}, {"every": 0}, {"explore": 0}):
        with pytest.raises(ValueError):
            RetunerSettings(**wrong)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=20, max_size=200))
def test_the_interval_is_that_of_cluster_sampling(rows):
    """Against the formula by numpy; users as clusters."""
    e = Estimate.of([(str(u), float(x)) for u, x in rows])
    x, users = np.array([float(v) for _, v in rows]), np.array([u for u, _ in rows])
    assert e.mean == pytest.approx(x.mean())
    groups = np.unique(users)
    if len(groups) < 2:
        assert e.mean_low == -math.inf
        return
    sums = np.array([(x[users == g] - x.mean()).sum() for g in groups])
    se = math.sqrt(len(groups) / (len(groups) - 1) * (sums**2).sum()) / len(x)
    assert e.mean_high == pytest.approx(x.mean() + 1.96 * se)
    assert e.sd == pytest.approx(x.std())


def test_the_interval_covers():
    """The true mean of ratings lies in it about 95 times of 100, with users who differ."""
    inside = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        taste = rng.normal(0, 0.5, 40)
        ratings = [(str(u), float(3 + taste[u] + rng.normal(0, 0.7))) for u in rng.integers(0, 40, 200)]
        e = Estimate.of(ratings)
        inside += e.mean_low <= 3 <= e.mean_high
    assert 0.90 <= inside / 300 <= 0.99


def add_many(path, start):
    r = Retuner(path, value=VALUES.__getitem__)
    return [told.at for n in range(start, start + 50) if (told := r.add({"rating": 1, "user": f"u{n}", "item": "F"}))]


def test_several_processes_add_without_loss_and_judge_once(tmp_path):
    """Two processes, a hundred ratings each: two hundred rows, one judgement per hundred."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        judged = pool.starmap(add_many, [(tmp_path / "f.db", 50 * k) for k in range(4)], chunksize=2)
    table = StateTable(
        tmp_path / "f.db", "feedback", {"key": str, "user": str, "item": str, "rating": float, "time": float}, unique=["key"]
    )
    assert table.count() == 200
    assert len({row["user"] for row in table.rows()}) == 200
    assert 1 <= len([at for found in judged for at in found]) <= 2


# --- the table itself ---


def test_a_state_table_gives_its_rows_in_the_order_they_were_added(tmp_path):
    """last, after, count; a second opening finds them."""
    table = StateTable(tmp_path / "deep" / "s.db", "things", {"name": str, "n": int, "on": bool}, unique=["name"])
    assert [table.add({"name": name, "n": i, "on": i % 2 == 0}) for i, name in enumerate("abcb")] == [True, True, True, False]
    again = StateTable(tmp_path / "deep" / "s.db", "things", {"name": str, "n": int, "on": bool}, unique=["name"])
    assert [row["name"] for row in again.rows()] == ["a", "b", "c"]
    assert [row["name"] for row in again.rows(last=2)] == ["b", "c"]
    first = again.rows()[0]
    assert (again.count(), again.count(after=first["id"]), first["on"]) == (3, 2, True)
    assert "things" in repr(again)


def test_a_state_table_says_what_is_wrong_with_its_place(tmp_path):
    """No database, another table, no folder, no address; the password of an address is in no message."""
    (tmp_path / "x.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(DataError, match="not a readable SQLite database"):
        StateTable(tmp_path / "x.db", "t", {"a": int})
    StateTable(tmp_path / "y.db", "t", {"a": int})
    with pytest.raises(DataError, match="other columns: a, id"):
        StateTable(tmp_path / "y.db", "t", {"b": int})
    with pytest.raises(RecipeError) as caught:
        StateTable("::://user:hunter2@", "t", {"a": int})
    assert "hunter2" not in str(caught.value)
    table = StateTable(tmp_path / "z.db", "t", {"a": int}, timeout=0.05)
    other = sqlite3.connect(tmp_path / "z.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Exception, match="locked"):
        table.add({"a": 1})
    other.execute("COMMIT")
    other.close()
    assert table.add({"a": 1})
