"""Guards, baseline and micro-batches, each alone."""

from __future__ import annotations

import asyncio
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipeline_tsfm import fallback, guards
from recipeline_tsfm.batching import MicroBatcher

LEVELS = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=7, unique=True).map(sorted).map(tuple)
UNIT = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, 1e-300, 1 - 1e-16]))


@st.composite
def paths(draw):
    levels = draw(LEVELS)
    rows = draw(st.lists(st.lists(UNIT, min_size=len(levels), max_size=len(levels)).map(sorted), min_size=1, max_size=4))
    return levels, np.array(rows)


@settings(max_examples=200, deadline=None)
@given(paths(), st.sampled_from([(0.02, 0.6), (0.0, 1.0), (0.3, 0.3), (0.0, 0.0)]))
def test_widths_keep_order_bounds_and_the_median(given_path, limits):
    """Whatever the interval: as wide as allowed, in order, in [0, 1], the median where it was."""
    levels, path = given_path
    before = path.copy()
    widths = guards.Widths(*limits)
    out, narrow, wide = guards.widened(path, levels, widths)
    np.testing.assert_array_equal(path, before)
    assert ((out >= 0) & (out <= 1)).all()
    assert (np.diff(out, axis=1) >= 0).all()
    if len(levels) < 2 or not levels[0] < 0.5 < levels[-1]:
        assert (narrow, wide) == (0, 0)
        np.testing.assert_array_equal(out, path)
        return
    width = out[:, -1] - out[:, 0]
    assert (width >= limits[0] - 1e-12).all()
    assert (width <= limits[1] + 1e-12).all()
    fine = (path[:, -1] - path[:, 0] >= limits[0]) & (path[:, -1] - path[:, 0] <= limits[1])
    np.testing.assert_array_equal(out[fine], path[fine])
    assert narrow + wide == (~fine).sum()
    if 0.5 in levels:
        middle = levels.index(0.5)
        np.testing.assert_allclose(out[:, middle], path[:, middle], atol=1e-12)


def test_widths_keep_the_skew_and_shift_at_the_edges():
    """Stretched around the median by one factor; at 0 and 1 the interval moves in, the median stays; no width gets the normal's shape."""
    levels, widths = (0.1, 0.5, 0.9), guards.Widths()
    path = np.array([[0.500, 0.502, 0.510], [0.0, 0.001, 0.004], [0.999, 1.0, 1.0], [0.1, 0.6, 0.9], [0.3, 0.3, 0.3], [0.0, 0.0, 0.0]])
    out, narrow, wide = guards.widened(path, levels, widths)
    assert (narrow, wide) == (5, 1)
    np.testing.assert_allclose(out[0], [0.498, 0.502, 0.518])
    np.testing.assert_allclose(out[1], [0.0, 0.001, 0.02])
    np.testing.assert_allclose(out[2], [0.98, 1.0, 1.0])
    np.testing.assert_allclose(out[3], [0.6 - 0.5 * 0.75, 0.6, 0.6 + 0.3 * 0.75])
    np.testing.assert_allclose(out[4], [0.29, 0.3, 0.31])
    np.testing.assert_allclose(out[5], [0.0, 0.0, 0.02])


def test_crossed_quantiles_are_sorted_step_by_step_and_counted():
    """A step in order is left alone."""
    path = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    out, crossed = guards.ordered(path)
    assert crossed == 1
    np.testing.assert_array_equal(out, [[1, 2, 3], [1, 2, 3]])
    assert guards.ordered(np.array([[1.0]]))[1] == 0


def test_the_baseline_is_its_definition():
    """Level and one-step errors by the textbook recursion; at the last step the spread is sigma * sqrt(horizon)."""
    y = np.random.default_rng(7).normal(size=50)
    level, errors = y[0], []
    for value in y[1:]:
        errors.append(value - level)
        level = 0.2 * value + 0.8 * level
    sigma = np.sqrt(np.mean(np.square(errors)))
    path = fallback.ewma(y, 12, (0.1, 0.5, 0.975))
    np.testing.assert_allclose(path[:, 1], level)
    for k in (1, 5, 12):
        for place, q in ((0, 0.1), (2, 0.975)):
            np.testing.assert_allclose(path[k - 1, place], level + NormalDist().inv_cdf(q) * sigma * np.sqrt(k))
    np.testing.assert_array_equal(fallback.ewma(np.array([0.3]), 2, (0.1, 0.9)), np.full((2, 2), 0.3))


# --- micro-batches ---


class Server:
    """Answers a batch when told to."""

    def __init__(self, **options):
        self.batches, self.gates = [], []
        self.batcher = MicroBatcher(self.call, **options)

    async def call(self, kind, seats):
        gate = asyncio.Event()
        self.batches.append([seat.job for seat in seats])
        self.gates.append(gate)
        await gate.wait()
        for seat in seats:
            seat.settle(seat.job * 10)

    def submit(self, *jobs, kind="k", size=None):
        return [asyncio.create_task(self.batcher.submit(kind, job, size=size)) for job in jobs]


async def turns(count=10):
    for _ in range(count):
        await asyncio.sleep(0)


def test_those_submitted_together_leave_together_at_once_when_idle():
    """One batch, results to whom they belong, nothing left behind."""

    async def test():
        server = Server(wait=60.0)
        tasks = server.submit(1, 2, 3)
        await turns()
        assert server.batches == [[1, 2, 3]]
        server.gates[0].set()
        assert await asyncio.gather(*tasks) == [10, 20, 30]
        await turns()
        assert len(server.batcher) == 0

    asyncio.run(test())


def test_while_a_call_is_under_way_others_gather_until_they_are_full():
    """Full: they leave. As many calls as allowed under way: even then they stay until one ends."""

    async def test():
        server = Server(size=3, wait=60.0, calls=2)
        tasks = server.submit(1)
        await turns()
        tasks += server.submit(2, 3)
        await turns()
        assert server.batches == [[1]]
        tasks += server.submit(4)
        await turns()
        assert server.batches == [[1], [2, 3, 4]]
        tasks += server.submit(5, 6, 7)
        await turns()
        assert len(server.batches) == 2
        server.gates[0].set()
        await turns()
        assert server.batches[2] == [5, 6, 7]
        server.gates[1].set()
        server.gates[2].set()
        assert await asyncio.gather(*tasks) == [10, 20, 30, 40, 50, 60, 70]

    asyncio.run(test())


def test_waiting_for_company_ends_after_the_wait_and_when_the_server_falls_idle():
    """`wait` seconds behind a running call; at once when that call ends."""

    async def test():
        server = Server(wait=0.02)
        server.submit(1)
        await turns()
        server.submit(2)
        await asyncio.sleep(0.06)
        assert server.batches == [[1], [2]]
        patient = Server(wait=60.0)
        patient.submit(1)
        await turns()
        patient.submit(2)
        await turns()
        assert patient.batches == [[1]]
        patient.gates[0].set()
        await turns()
        assert patient.batches == [[1], [2]]
        await server.batcher.aclose(KeyError())
        await patient.batcher.aclose(KeyError())

    asyncio.run(test())


def test_closing_fails_what_waits_and_what_is_under_way_with_the_error_given():
    """Nobody hangs, nobody is cancelled."""

    async def test():
        server = Server(wait=60.0)
        tasks = server.submit(1)
        await turns()
        tasks += server.submit(2)
        await turns()
        await server.batcher.aclose(KeyError("closed"))
        assert [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)] == [KeyError, KeyError]

    asyncio.run(test())


def test_kinds_do_not_mix_and_those_who_left_are_not_taken_along():
    """Each kind its own line; a cancelled job is dropped; a batch of leavers is no call."""

    async def test():
        server = Server(wait=60.0)
        first = server.submit(1) + server.submit(2, kind="other")
        await turns()
        assert sorted(server.batches) == [[1], [2]]
        left, stays = server.submit(3, 4)
        await turns()
        left.cancel()
        await turns()
        server.gates[server.batches.index([1])].set()
        await turns()
        assert server.batches[2] == [4]
        [gate.set() for gate in server.gates]
        assert await asyncio.gather(*first, stays) == [10, 20, 40]
        await turns()
        assert len(server.batcher) == 0

    asyncio.run(test())


def test_a_call_that_raises_or_forgets_a_job_fails_it_and_nobody_hangs():
    """The error reaches every waiter; a job without a result is a bug that shows."""

    async def broken(kind, seats):
        seats[0].settle("done")
        if kind == "raises":
            raise KeyError("x")

    async def test():
        batcher = MicroBatcher(broken)
        for kind, error in (("raises", KeyError), ("forgets", RuntimeError)):
            results = await asyncio.gather(*(batcher.submit(kind, k) for k in range(2)), return_exceptions=True)
            assert results[0] == "done"
            assert isinstance(results[1], error)
        assert len(batcher) == 0

    asyncio.run(test())


def test_sizes_are_respected_whatever_comes():
    """A kind may hold less than the batcher; ten jobs at three a batch need four."""

    async def test():
        server = Server(size=8, wait=0.0, calls=100)
        tasks = server.submit(*range(10), size=3)
        for _ in range(20):
            await asyncio.sleep(0.002)
            [gate.set() for gate in server.gates]
        assert [len(batch) for batch in server.batches] == [3, 3, 3, 1]
        assert await asyncio.gather(*tasks) == [job * 10 for job in range(10)]
        with pytest.raises(ValueError, match="at least 1"):
            MicroBatcher(server.call, size=0)

    asyncio.run(test())
