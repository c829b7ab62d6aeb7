"""The moments learned row by row are those of all rows at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipeline.errors import Damaged
from recipeline_ppo.normalizer import ObservationNormalizer


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=20), st.floats(-1e3, 1e3), st.floats(1e-2, 1e3), st.integers(0, 2**32 - 1))
def test_moments_are_those_of_all_rows(sizes: list[int], middle: float, scale: float, seed: int) -> None:
    rng, normalizer = np.random.default_rng(seed), ObservationNormalizer()
    pieces = [middle + scale * rng.standard_normal((size, 3)) for size in sizes]
    for piece in pieces:
        normalizer.update(piece)
    rows = np.concatenate(pieces)
    assert normalizer.count == len(rows)
    np.testing.assert_allclose(normalizer.mean, rows.mean(axis=0), rtol=1e-9, atol=1e-9)
    assert normalizer.square is not None
    np.testing.assert_allclose(normalizer.square / len(rows), rows.var(axis=0), rtol=1e-6, atol=1e-9 * (middle**2 + scale**2))


def test_rows_come_out_with_mean_0_and_sd_1_and_within_the_clip() -> None:
    rows = np.random.default_rng(0).normal(50, 7, size=(2000, 4)).astype(np.float32)
    normalizer = ObservationNormalizer(clip=3.0).fit(rows)
    seen = normalizer.transform(rows)
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(seen.std(axis=0), 1, atol=0.01)
    assert normalizer.transform(np.full((1, 4), 1e6)).tolist() == [[3.0] * 4]
    assert ObservationNormalizer(clip=3.0).transform([[1.0, -9.0]]).tolist() == [[1.0, -3.0]]
    assert normalizer.fit(rows[:5]).count == 5


def test_it_is_kept_to_the_bit(tmp_path: Path) -> None:
    normalizer = ObservationNormalizer(clip=4.0).fit(np.random.default_rng(0).standard_normal((31, 3)) / 3)
    normalizer.save(tmp_path)
    again = ObservationNormalizer.load(tmp_path)
    rows = np.random.default_rng(1).standard_normal((9, 3)) * 9
    np.testing.assert_array_equal(again.transform(rows), normalizer.transform(rows))
    for each in (normalizer, again):
        each.update(rows)
    np.testing.assert_array_equal(again.square, normalizer.square)
    (tmp_path / "observation_normalizer.json").write_text('{"clip": 1.0}')
    with pytest.raises(Damaged, match="not what was written"):
        ObservationNormalizer.load(tmp_path)


def test_one_that_saw_nothing_is_kept_too(tmp_path: Path) -> None:
    ObservationNormalizer().save(tmp_path)
    assert ObservationNormalizer.load(tmp_path).transform([[20.0]]).tolist() == [[10.0]]
