"""transforms: scales from observed values, there and back in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recipeline.errors import DataError
from recipeline.timeseries.transforms import KINDS, Scaler, back, into, scale_of


def panel(kind):
    rng = np.random.default_rng(0)
    make = {"logit": lambda n: rng.uniform(0.01, 0.99, (n, 2)), "log1p": lambda n: rng.lognormal(3, 1, (n, 2))}
    draw = make.get(kind, lambda n: rng.normal([1e4, -5], [200, 0.1], (n, 2)))
    return {name: draw(n) for name, n in (("a", 60), ("b", 45))}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", ["series", "global", "window"])
def test_back_is_the_inverse_also_through_json(kind, level):
    """To 1e-12 of the size of the values, at every level; the state is plain JSON."""
    data = panel(kind)
    scaler = Scaler(kind, level).fit(data)
    scaler = Scaler.from_json(json.loads(json.dumps(scaler.to_json())))
    for name, rows in data.items():
        x = rows[:40].reshape(2, 20, 2)
        scale = scaler.of_windows(x) if level == "window" else scaler.of(name)
        z = scale.forward(x)
        assert np.isfinite(z).all()
        np.testing.assert_allclose(scale.backward(z), x, rtol=1e-12)
        np.testing.assert_allclose(scale.column(1).backward(z[..., 1:]), x[..., 1:], rtol=1e-12)
        assert scale.backward(z.astype(np.float32)).dtype == np.float64


def test_statistics_are_those_of_observed_values_only():
    """Against numpy on each column's observed values; per series, over all, per window."""
    rng = np.random.default_rng(1)
    x = rng.normal(5, 3, (100, 3))
    x[rng.random(x.shape) < 0.3] = np.nan
    mask = rng.random(x.shape) < 0.8
    for c in range(3):
        seen = x[mask[:, c] & ~np.isnan(x[:, c]), c]
        for kind, shift, spread in (
            ("standard", seen.mean(), seen.std()),
            ("robust", np.median(seen), np.subtract(*np.quantile(seen, [0.75, 0.25]))),
            ("minmax", seen.min(), np.ptp(seen)),
        ):
            scale = scale_of(x, kind, mask=mask)
            np.testing.assert_allclose([scale.shift[c], scale.scale[c]], [shift, spread])
            window = scale_of(np.stack([x, x + 1]), kind, mask=np.stack([mask, mask]), axis=1)
            assert window.shift.shape == (2, 1, 3)
            np.testing.assert_allclose(window.shift[:, 0, c], [shift, shift + 1])
            np.testing.assert_allclose(window.scale[:, 0, c], [spread, spread])


@pytest.mark.parametrize("kind", KINDS)
def test_constant_and_unobserved_columns_stay_finite(kind):
    """A constant becomes 0 (or stays), nothing observed changes nothing; no warning of numpy."""
    x = np.column_stack([np.full(10, 0.1), np.full(10, np.nan)])
    scale = scale_of(x, kind)
    assert np.isfinite(scale.shift).all()
    assert (scale.scale == 1.0).all()
    np.testing.assert_allclose(scale.backward(scale.forward(x)), x)


def test_spaces_are_their_formulas_and_never_overflow():
    """logit is the logistic's inverse, kept eps away from the ends; the way back is safe for any input."""
    p = np.array([0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(into(p, "logit", 1e-3), [np.log(1e-3 / 0.999), np.log(1 / 3), 0, np.log(0.999 / 1e-3)])
    np.testing.assert_allclose(back([-1e4, 0, 1e4], "logit"), [0, 0.5, 1])
    np.testing.assert_allclose(into([0.0, np.e - 1], "log1p"), [0, 1])
    np.testing.assert_allclose(back(into([-5.0, 3.0], "asinh"), "asinh"), [-5, 3])


def test_values_without_a_place_in_the_space_are_an_error_with_their_position():
    """A negative count with log1p, a probability above 1."""
    with pytest.raises(DataError, match=r"log1p needs values above -1; got -3 at \(1, 0\)"):
        Scaler("log1p").fit({"a": np.array([[1.0], [-3.0]])})
    with pytest.raises(DataError, match=r"values in \[0, 1\]; got 1.2"):
        into([0.5, 1.2], "logit")


def test_a_series_never_seen_asks_for_its_history():
    """Level series is added to, level global answers for all, level window has no series."""
    scaler = Scaler("standard", "series").fit(panel("standard"))
    with pytest.raises(DataError, match="series 'new' has no scale yet"):
        scaler.of("new")
    scaler.add("new", np.array([[1.0], [3.0]]))
    assert scaler.of("new").shift == [2.0]
    assert Scaler("standard", "global").fit(panel("standard")).of("new").shift.shape == (2,)
    with pytest.raises(ValueError, match="belongs to a window"):
        Scaler("standard", "window").of("a")
    with pytest.raises(DataError, match="no scale 'z' at level 'series'"):
        Scaler("z")
