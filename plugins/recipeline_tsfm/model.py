"""The recipe's side of the family: a forecaster that learns nothing but how far the model's intervals have to move.

`fit` asks the server for forecasts from origins inside the training span and calibrates them; `predict` asks for the series it
is given. Both go through `service.ForecastService`, with the deadlines of batches. Raw forecasts are kept for the whole run, so
a search over the calibration asks for each of them once.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from recipeline.contracts import FitContext, Route, Selected
from recipeline.errors import DataError, Problem, RecipelineError, Unavailable
from recipeline.stores import files
from recipeline.stores.places import Places
from recipeline.timeseries.frames import SERIES, TARGET, TIME, Layout, forecasts, stamps_of
from recipeline_tsfm import arguments as settings
from recipeline_tsfm.calibration import FALLBACKS_MOST, ConformalCalibration, Windows, calibrate, centre_of
from recipeline_tsfm.client import ADDRESS, TollamaClient
from recipeline_tsfm.guards import BOUNDS
from recipeline_tsfm.histories import Histories, fixed
from recipeline_tsfm.kept import Kept, Raw
from recipeline_tsfm.licences import ModelLicences
from recipeline_tsfm.questions import key_of
from recipeline_tsfm.routes import TSFMRoutes
from recipeline_tsfm.schemas import Defaults
from recipeline_tsfm.seams import ForecastRequest
from recipeline_tsfm.service import ForecastService

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FORCED = ("too_few_points", "baseline_only_liquidity_bucket", "max_gap_exceeded")
"""Why the baseline answers by rule: no word about the model or its server."""
ASKED_AT_ONCE = 512
"""Questions between two bars of progress, and between two files of kept forecasts."""
REASON = "fallback_reason"
FILE, CALIBRATION = "forecaster.json", "calibration.json"

log = logging.getLogger("recipeline")


class TSFMForecaster:
    """Forecasts by a time-series foundation model behind a tollama server, guarded and calibrated.

    horizon     steps forecast
    model       an alias of the licence list (`config/tsfm_models.yaml`), or the name at the server
    quantiles   levels, ascending                       lookback   latest points that are sent
    transform   {space: logit | identity | log1p, eps}  width      {least, most}, of the outermost interval in logit
    conformal   {method: cqr | tracking | scale | none, coverage, window, step, group_by, rate}
    fallback    {method: ewma, alpha, min_points, baseline_only_liquidity, max_gap_minutes}
    options     given to the model as they are

    Of the place, so only in the configuration under parts.model.tsfm: base_url, token, timeouts, pool, breaker, cache, batch,
    warm_up (models to load when a server starts), licences (the list of models; by default the project's config/tsfm_models.yaml).

    The static or past covariates category, liquidity_bucket and tte_bucket are the segment of a market; other covariates are
    sent to the model where they are numbers. Answers of the baseline are marked in the column `fallback_reason`.
    """

    needs_fit = False
    notes = (REASON,)
    placed: ClassVar[tuple[str, ...]] = ("base_url", "token", "timeouts", "pool", "breaker", "cache", "batch", "warm_up", "licences")

    def __init__(
        self,
        horizon: int = 12,
        *,
        model: str = "chronos",
        quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        lookback: int = 288,
        transform: Mapping[str, Any] | None = None,
        width: Mapping[str, Any] | None = None,
        conformal: Mapping[str, Any] | None = None,
        fallback: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        base_url: str | None = None,
        token: str | None = None,
        timeouts: Mapping[str, Any] | None = None,
        pool: Mapping[str, Any] | None = None,
        breaker: Mapping[str, Any] | None = None,
        cache: Mapping[str, Any] | None = None,
        batch: Mapping[str, Any] | None = None,
        warm_up: Sequence[str] | None = None,
        licences: str | None = None,
        places: Places | None = None,
    ) -> None:
        self.horizon, self.model, self.quantiles, self.lookback = horizon, model, tuple(quantiles), lookback
        self.transform, self.width, self.conformal, self.fallback, self.options = transform, width, conformal, fallback, options
        self.layout: Layout | None = None
        self.calibration_: ConformalCalibration | None = None
        self._shared: Path | None = None
        self._lock, self._asking = threading.Lock(), 0
        self.settle(
            base_url=base_url, token=token, timeouts=timeouts, pool=pool, breaker=breaker, cache=cache, batch=batch, warm_up=warm_up,
            licences=licences, places=places,
        )  # fmt: skip

    def settle(
        self,
        *,
        base_url: str | None = None,
        token: str | None = None,
        timeouts: Mapping[str, Any] | None = None,
        pool: Mapping[str, Any] | None = None,
        breaker: Mapping[str, Any] | None = None,
        cache: Mapping[str, Any] | None = None,
        batch: Mapping[str, Any] | None = None,
        warm_up: Sequence[str] | None = None,
        licences: str | None = None,
        places: Places | None = None,
    ) -> None:
        """What the configuration says of this place; `contracts.Placed`."""
        self._base_url, self._token = base_url or ADDRESS, token
        self._timeouts, self._pool, self._breaker, self._cache, self._batch = timeouts, pool, breaker, cache, batch
        self._warm_up, self._licences, self._places = warm_up, licences, places
        self._batches: ForecastService | None = None

    def __repr__(self) -> str:
        return f"TSFMForecaster(model={self.model!r}, horizon={self.horizon})"

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a forecaster holds a token and connections; it keeps itself by save and load")

    @property
    def enough(self) -> int:
        """Points with which the model is asked, and not the baseline."""
        return min(self.lookback, settings.read(settings.Fallback, self.fallback).min_points)

    # --- what is checked before any data are read ---

    @classmethod
    def check(
        cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str, *, places: Places | None = None
    ) -> list[Problem]:
        """Values out of range, a model that may not be used in this environment, an address that is none."""
        found = settings.problems(params)
        base_url, token = params.get("base_url"), params.get("token")
        try:
            TollamaClient(base_url or ADDRESS, token=token)
        except RecipelineError as error:
            found.append(Problem("bad-value", ("base_url" if "address" in error.message else "token",), error.message, error.hint, "value"))
        try:
            listed = settings.licences(params.get("licences"), places or Places(Path(), Path(), environment=environment))
        except RecipelineError as error:
            return [*found, *getattr(error, "problems", (Problem(error.slug, ("licences",), error.message, error.hint),))]
        model = params.get("model") or "chronos"
        if isinstance(model, str) and (problem := listed.problem(model)) is not None:
            found.append(problem)
        for index, name in enumerate(params.get("warm_up") or ()):
            if (problem := listed.problem(str(name))) is not None:
                found.append(replace(problem, key=("warm_up", index)))
        freq = interface.get("freq")
        if isinstance(freq, int | float) and not isinstance(freq, bool):
            found.append(Problem("bad-value", ("model",), "series on numbers instead of times cannot be sent to a server of models"))
        return found

    # --- fitting ---

    def expect(self, schema: Any) -> None:
        self.layout = Layout.of(schema)

    def fit(self, X: pd.DataFrame, y: Any = None, *, context: FitContext | None = None) -> Self:
        """Calibrate on rolling origins inside the rows; with method none, do nothing.

        The last outcome that calibrates lies `horizon` steps before the end of X (of the rows held back, where there are some).

        Raises Unavailable (exit 6) where the server did not answer more than a fifth of the origins, DataError where the series
        are too short for the coverage, Refused where the model may not be used here.
        """
        self.layout = self.layout or Layout.of(X)
        self.listed.check(self.model)
        self._shared = None if context is None or context.shared is None else context.shared / "tsfm"
        conformal = settings.read(settings.Conformal, self.conformal)
        self.calibration_ = None
        if conformal.method == "none":
            return self
        held = None if context is None else context.validation
        whole, begin = X, None
        if held is not None:
            import pandas as pd

            whole, begin = pd.concat([X, held.X], ignore_index=True), stamps_of(held.X[TIME]).min()
        sight = Histories.of(whole, self.layout)
        places = self._origins(sight, conformal, begin)
        requests = [self._question(sight, series, origin) for series, origin in places]
        raws = self._ask(requests, context)
        forced = np.array([raw.reason.partition(":")[0] in FORCED for raw in raws])
        answered = np.array([not raw.reason for raw in raws])
        self._refuse_failures([raw for raw, rule in zip(raws, forced, strict=True) if not rule])
        kept = np.flatnonzero(~forced)
        if not len(kept):
            what = "every calibration origin was answered by rule, none by the model"
            raise DataError(what, hint="look at fallback: min_points, baseline_only_liquidity", slug="too-short")
        windows = Windows(
            self.quantiles,
            np.stack([raw.path for raw in raws]),
            np.stack([sight.actual(series, origin, self.horizon) for series, origin in places]),
            np.array([sight.number(series, origin) for series, origin in places], dtype=np.int64),
            np.array([str(sight.line.names[series]) for series, _ in places]),
            tuple(request.segment for request in requests),
            answered,
        ).take(kept)
        self.calibration_ = calibrate(
            windows, method=conformal.method, coverage=conformal.coverage, window=conformal.window, group_by=conformal.group_by,
            rate=conformal.rate, residuals=not any(raw.point_only for raw in raws),
        )  # fmt: skip
        self.calibration_.counts |= {"by_rule": int(forced.sum())}
        if context is not None:
            context.events.emit("calibrated", method=conformal.method, key=self.calibration_.key, **self.calibration_.counts)
        return self

    def _refuse_failures(self, raws: Sequence[Raw]) -> None:
        """More than a fifth without an answer of the model: it was not measured, and the server has to be looked at."""
        failed = Counter(raw.reason for raw in raws if raw.reason)
        if not raws or failed.total() <= FALLBACKS_MOST * len(raws):
            return
        why = ", ".join(f"{reason} {count}" for reason, count in failed.most_common(3))
        raise Unavailable(
            f"the tollama server at {self._base_url} did not answer {failed.total()} of {len(raws)} calibration origins ({why})",
            hint="start it, or set TOLLAMA_BASE_URL; the same command again asks only for what is missing",
            slug="tollama-unavailable",
        )

    def _origins(self, sight: Histories, conformal: settings.Conformal, begin: Any) -> list[tuple[int, int]]:
        """(series, position of the origin in it), latest moments first: as many moments as fill the window of every group.

        begin  the first stamp of the rows held back: origins before it do not calibrate
        """
        least = settings.read(settings.Fallback, self.fallback).min_points
        first = 0 if begin is None else sight.moment(begin) - 1
        last = sight.end - 2 * self.horizon
        groups = max(1, len({sight.group(series, conformal.group_by) for series in range(len(sight.line.names))}))
        wanted = int(np.ceil(conformal.window * groups / max(1, len(sight.line.names))))
        begins = max(first, int(sight.offsets.min()) + least - 1)
        span = last - begins
        if span < 0:
            what = f"the series are too short to calibrate: no origin has {least} points before it and {2 * self.horizon} after it"
            raise DataError(what, hint="give longer series, a shorter horizon, or conformal: {method: none}", slug="too-short")
        step = conformal.step or max(1, min(self.horizon, span // max(1, wanted - 1)))
        found: list[tuple[int, int]] = []
        most = conformal.window * groups
        for moment in range(last, begins - 1, -step):
            for series in range(len(sight.line.names)):
                at = moment - int(sight.offsets[series])
                if sight.usable(series, at, least, self.lookback, self.horizon):
                    found.append((series, at))
            if len(found) >= most:
                break
        return found[::-1]

    # --- forecasting ---

    def predict(self, X: pd.DataFrame) -> pd.DataFrame:
        """series_id, step, prediction, q… and `fallback_reason` for the steps after the last row of every series.

        Answers of the baseline are not calibrated, and say so.
        """
        self.listed.check(self.model)
        sight = Histories.of(X, self.layout or Layout.of(X))
        ahead = self.horizon if sight.layout.future else 0
        requests = []
        for series in range(len(sight.line.names)):
            at = int(sight.line.lengths[series]) - 1 - ahead
            if not sight.known(series, at, self.lookback):
                what = f"series {sight.line.names[series]!r} has no observed value among its last {self.lookback} grid points"
                raise DataError(what, hint="give more history, or a larger lookback", slug="no-history")
            requests.append(self._question(sight, series, at))
        raws = self._ask(requests)
        low, high = BOUNDS[settings.read(settings.Transform, self.transform).space]
        fan = np.stack([self._calibrated(raw, request.segment, low, high) for raw, request in zip(raws, requests, strict=True)])
        frame = forecasts(sight.line.names, centre_of(self.quantiles, fan), fan, self.quantiles)
        frame[REASON] = np.repeat(np.array([raw.reason for raw in raws], dtype=object), self.horizon)
        told = Counter(raw.reason.partition(":")[0] for raw in raws if raw.reason)
        if told:
            why = ", ".join(f"{reason} {count}" for reason, count in told.most_common())
            log.warning("%d of %d series were forecast by the baseline, not by %s: %s", told.total(), len(raws), self.model, why)
        return frame

    def _calibrated(self, raw: Raw, segment: Mapping[str, str], low: float, high: float) -> Floats:
        if self.calibration_ is None or raw.reason:
            return raw.path
        return np.clip(self.calibration_.apply(self.quantiles, raw.path, segment), low, high)

    def _question(self, sight: Histories, series: int, at: int) -> ForecastRequest:
        """What is asked for one series after the grid point `at` of it."""
        transform, fallback = settings.read(settings.Transform, self.transform), settings.read(settings.Fallback, self.fallback)
        rows = sight.line.of(series)[max(0, at + 1 - self.lookback) : at + 1]
        self._refuse_outside(sight, series, rows[:, 0], transform.space)
        names = sight.columns
        past = {name: rows[:, 1 + column] for column, name in enumerate(names)}
        ahead = sight.line.of(series)[at + 1 : at + 1 + self.horizon]
        future = (
            {name: ahead[:, 1 + names.index(name)] for name in sight.layout.future if name in names} if len(ahead) == self.horizon else {}
        )
        return ForecastRequest(
            series_id=str(sight.line.names[series]), as_of=sight.stamp(series, at), freq=sight.freq, horizon=self.horizon,
            quantiles=self.quantiles, target=rows[:, 0], model=self.model, past_covariates=past, future_covariates=future,
            options=dict(self.options or {}), space=transform.space, eps=transform.eps, segment=sight.segment(series, at),
            max_gap_minutes=fallback.max_gap_minutes,
        )  # fmt: skip

    @staticmethod
    def _refuse_outside(sight: Histories, series: int, target: Floats, space: str) -> None:
        bad = (target < 0) | (target > 1) if space == "logit" else target <= -1 if space == "log1p" else np.isinf(target)
        if bad.any():
            what = f"series {sight.line.names[series]!r} holds {target[np.argmax(bad)]:g}, which has no place in transform.space {space}"
            raise DataError(what, hint="write transform: {space: identity}, or look at the data", slug="out-of-space")

    def _ask(self, requests: Sequence[ForecastRequest], context: FitContext | None = None) -> list[Raw]:
        """Raw forecasts: those that this run has asked for before, and the others from the server."""
        kept = Kept(self._shared)
        identity = json.dumps([self._base_url, self.width, self.fallback, self.lookback], sort_keys=True, default=str)
        keys = [key_of(request, self.model, self.lookback, identity).hex() for request in requests]
        found = {key: kept.found[key] for key in keys if key in kept.found}
        missing = list(dict.fromkeys(key for key in keys if key not in found))
        place = {key: number for number, key in reversed(list(enumerate(keys)))}
        for begin in range(0, len(missing), ASKED_AT_ONCE):
            part = missing[begin : begin + ASKED_AT_ONCE]
            with self._service() as service:
                answers = service.forecast_all([requests[place[key]] for key in part])
            new = {key: Raw.of(answer) for key, answer in zip(part, answers, strict=True)}
            found |= new
            kept.add({key: raw for key, raw in new.items() if not raw.reason})
            if context is not None:
                context.progress.advance(len(found), len(set(keys)), "calibration")
        return [found[key] for key in keys]

    # --- the place ---

    @property
    def listed(self) -> ModelLicences:
        """The licence list of this place."""
        return settings.licences(self._licences, self._places)

    @contextmanager
    def _service(self) -> Iterator[ForecastService]:
        """For training and batches: no calibration, patient deadlines. Its breaker lives on; its thread and its connections end
        when nobody asks any longer, for models come and go by the trial."""
        with self._lock:
            if self._batches is None:
                self._batches = self._made(None, batch=True)
            service = self._batches
            self._asking += 1
        try:
            yield service
        finally:
            with self._lock:
                self._asking -= 1
                if not self._asking:
                    service.close()

    def _made(self, calibration: ConformalCalibration | None, *, batch: bool) -> ForecastService:
        listed = self.listed
        pool = settings.read(settings.Pool, self._pool)
        client = TollamaClient(self._base_url, token=self._token, connections=pool.connections, keepalive=pool.keepalive)
        names = ("timeouts", "breaker", "cache", "batch", "warm_up")
        given = {name: getattr(self, f"_{name}") for name in names} | {
            name: getattr(self, name) for name in ("width", "fallback", "lookback", "model")
        }
        config = settings.config(given, listed.environment, listed.aliases, batch=batch)
        return ForecastService(client, config, licences=listed, calibration=calibration)

    def routes(self) -> tuple[Route, ...]:
        """POST /tsfm/forecast and /tsfm/forecast/batch, GET /tsfm/health; what requests leave out is as this recipe says."""
        transform, fallback = settings.read(settings.Transform, self.transform), settings.read(settings.Fallback, self.fallback)
        defaults = Defaults(
            model=self.model, horizon=self.horizon, quantiles=self.quantiles, freq=None if self.layout is None else fixed(self.layout.freq),
            space=transform.space, eps=transform.eps, options=tuple((self.options or {}).items()), max_gap_minutes=fallback.max_gap_minutes,
        )  # fmt: skip
        calibration = self.calibration_
        return TSFMRoutes(lambda: self._made(calibration, batch=False), defaults, self.listed, calibration).routes()

    # --- kept as JSON ---

    def save(self, folder: Path) -> None:
        """The hyperparameters, what the columns are, and the calibration; nothing of the place."""
        names = ("horizon", "model", "quantiles", "lookback", "transform", "width", "conformal", "fallback", "options")
        layout = None if self.layout is None else self.layout.to_json()
        kept = {"arguments": {name: getattr(self, name) for name in names}, "layout": layout}
        files.write_json(folder / FILE, kept)
        if self.calibration_ is not None:
            files.write_json(folder / CALIBRATION, self.calibration_.to_json())

    @classmethod
    def load(cls, folder: Path) -> Self:
        kept = files.read_json(folder / FILE)
        made = cls(**kept["arguments"])
        made.layout = None if kept["layout"] is None else Layout.from_json(kept["layout"])
        if (folder / CALIBRATION).is_file():
            made.calibration_ = ConformalCalibration.from_json(files.read_json(folder / CALIBRATION))
        return made

    # --- for the contract suite ---

    @classmethod
    def example(cls) -> dict[str, Any]:
        """With no server to be had every answer is the baseline's, and there is nothing to calibrate."""
        return {"horizon": 3, "conformal": {"method": "none"}, "base_url": "http://127.0.0.1:1"}

    @classmethod
    def example_data(cls) -> Selected:
        """Two markets of 60 steps; three prices were not observed."""
        import pandas as pd

        step = np.arange(60)
        pieces = []
        for number, name in enumerate(("a", "b")):
            price = 0.5 + 0.2 * np.sin(step / (5 + number))
            stamps = pd.date_range("2024-01-01", periods=60, freq="5min", tz="UTC")
            pieces.append(pd.DataFrame({SERIES: name, TIME: stamps, TARGET: price}))
        frame = pd.concat(pieces, ignore_index=True)
        frame.loc[[20, 33, 90], TARGET] = np.nan
        return Selected(X=frame, y=frame[TARGET].to_numpy())
