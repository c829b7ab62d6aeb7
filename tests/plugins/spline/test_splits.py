"""Windows divided by time: no label of an earlier side lies in a later one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recipeline.errors import Damaged, DataError
from recipeline_spline.cleaning import SplinePreprocessor
from recipeline_spline.splits import read_split, split


def ready(lengths=(80, 60)):
    pieces = []
    for number, length in enumerate(lengths):
        stamps = pd.date_range("2024-01-01", periods=length, freq="D") + pd.Timedelta(days=10 * number)
        pieces.append(pd.DataFrame({"series_id": number, "timestamp": stamps, "target": np.arange(length) + 100.0 * number}))
    frame = pd.concat(pieces, ignore_index=True)
    made = SplinePreprocessor(scale="none").introduce(7, 3).fit(frame)
    return made, made.history(frame)


def test_labels_end_before_the_border_and_inputs_may_reach_back():
    _, prepared = ready()
    found = split(prepared, 7, 3, validation="2024-02-10", test=pd.Timestamp("2024-03-01", tz="UTC"))
    one, other = np.datetime64("2024-02-10"), np.datetime64("2024-03-01")
    assert prepared.stamps(found.train + 3).max() == one - np.timedelta64(1, "D")
    assert prepared.stamps(found.validation + 1).min() == one
    assert prepared.stamps(found.validation + 3).max() == other - np.timedelta64(1, "D")
    assert prepared.stamps(found.test + 1).min() == other
    assert (prepared.stamps(found.validation - 6) < one).any()
    every = prepared.origins(7, 3, future=True)
    lost = set(every.tolist()) - {row for side in found for row in side.tolist()}
    assert len(lost) == 2 * 2 * 2  # horizon - 1 windows over each of two borders, in each of two series


def test_shares_are_of_windows_in_time_order():
    _, prepared = ready()
    found = split(prepared, 7, 3, validation=0.2, test=0.1)
    total = len(prepared.origins(7, 3, future=True))
    assert len(found.test) == pytest.approx(0.1 * total, abs=2)
    assert len(found.validation) == pytest.approx(0.2 * total, abs=8)


def test_a_side_without_a_window_is_an_error():
    _, prepared = ready()
    with pytest.raises(DataError, match="no window is left for test"):
        split(prepared, 7, 3, test="2030-01-01")
    with pytest.raises(DataError, match="no window is left for train"):
        split(prepared, 7, 3, validation="2023-01-01")


def test_origins_are_kept_with_the_hash_of_their_data(tmp_path):
    made, prepared = ready()
    found = split(prepared, 7, 3, test=0.2)
    found.save(tmp_path, made.fingerprint_)
    read = read_split(tmp_path, made.fingerprint_)
    for one, other in zip(found, read, strict=True):
        np.testing.assert_array_equal(one, other)
    other, _ = ready((80, 61))
    assert other.fingerprint_ != made.fingerprint_
    with pytest.raises(Damaged, match="other data"):
        read_split(tmp_path, other.fingerprint_)
