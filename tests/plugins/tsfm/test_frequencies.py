"""frequencies: what people write, what pandas reads, and how long it is."""

from __future__ import annotations

import numpy as np
import pytest

from recipeline.errors import DataError
from recipeline_tsfm import frequencies


@pytest.mark.parametrize(
    ("written", "canonical", "seconds"),
    [("5m", "5min", 300), ("5min", "5min", 300), ("30s", "30s", 30), ("1h", "1h", 3600), ("1d", "1D", 86_400), ("2W", "2W", 1_209_600)],
)
def test_m_means_minutes_and_pandas_agrees_on_the_length(written, canonical, seconds):
    """The canonical word has the same length in pandas, which reads 5m as five months."""
    pd = pytest.importorskip("pandas")
    assert frequencies.canonical(written) == canonical
    assert frequencies.canonical(canonical) == canonical
    assert frequencies.seconds(written) == seconds
    start = pd.Timestamp("2026-02-22")  # a Sunday, where pandas' weeks end
    two = pd.date_range(start, periods=2, freq=canonical)
    assert (two[1] - two[0]).total_seconds() == seconds
    assert frequencies.step(written) == np.timedelta64(seconds, "s")


@pytest.mark.parametrize("written", ["", "m", "0m", "-5m", "5M", "5 min", "1.5h", "5mo", "\u0665m", "999999999W", "5min\n"])
def test_anything_else_is_refused(written):
    """Months, fractions, signs, other digits, and lengths beyond ten years."""
    with pytest.raises(DataError, match="no sampling interval"):
        frequencies.canonical(written)
