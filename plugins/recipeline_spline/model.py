"""The forecaster: windows in, calibrated quantiles of the next steps out. Torch is loaded when it fits or predicts, not before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.contracts import Events, FitContext, Progress, Selected, Silent
from recipeline.errors import Damaged, DataError, Problem
from recipeline.operations import InMemory, OpsHarness
from recipeline.stores import files
from recipeline.timeseries.baselines import fit_nlinear
from recipeline.timeseries.fills import forward
from recipeline.timeseries.frames import SERIES, TIME, forecasts, stamps_of
from recipeline.timeseries.transforms import Scale, scale_of
from recipeline.timeseries.windows import windows
from recipeline_spline import calibration
from recipeline_spline.arguments import Decoder, Encoder, Loss, Skip, harness_of, problems_of
from recipeline_spline.cleaning import SplinePreprocessor
from recipeline_spline.observations import some
from recipeline_spline.prepared import Inputs, Prepared

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from recipeline_spline.batches import Batch, Source
    from recipeline_spline.networks import Forecaster, Shape

log = logging.getLogger("recipeline")

Floats = NDArray[np.float64]
WEIGHTS, MODEL, PREPROCESSOR = "weights.safetensors", "model.json", "preprocessor"
RESIDENT = 1 << 30
"""Bytes of windows that are gathered once and lie on the device; more are gathered batch by batch."""
LOW_COVERAGE = 0.5
SAMPLE = 2_000
"""Held-back windows that a search hears about; of more an even selection."""
BLEND_WINDOWS = 60_000
"""Windows that NLinear is solved on; of more an even selection."""


@dataclass(frozen=True)
class Lesson:
    """What there is to learn: windows to train on, later ones to stop by and to calibrate on, and their shape.

    sample  some of the held-back windows as they come from a panel; None of arrays
    """

    train: Source
    held: Source
    shape: Shape
    sample: Callable[[], Inputs] | None = None


class SplineLSTM:
    """Quantiles of the next `horizon` steps from the last `lookback` ones, by one network for all series.

    encoder        seglstm, lstm, gru, attention_lstm, bilstm or linear (`networks`)
    quantiles      levels, ascending; the point forecast is the median, or what `loss` makes of it: the mean for mse
    segment        steps per segment of seglstm; None: a quarter of the lookback, 24 at most
    decoder        direct: one linear layer to all steps ahead; segments: of seglstm, one more step of its LSTM per segment ahead
    skip           where the linear skip from past to future begins: mean (of the past), nlinear (the ridge solution on the training
                   windows); none: there is no skip
    max_epochs, patience, batch_size, learning_rate, weight_decay, dropout, clip, epoch_windows, average: see `Plan`
    calibration    share of the windows, the last in time, that is held back for early stopping and for the calibration of the
                   quantiles, where no validation is given
    calibrate      False: quantiles as the network gives them
    cleaning       arguments of `SplinePreprocessor`, for frames, where nobody brings a preprocessor
    ensemble       networks of different seeds, whose quantiles are averaged
    blend          share of NLinear (ridge) in the point forecast: "auto" chooses it per step on the held-back windows
    device         auto: a GPU where there is one        threads  of the CPU; small networks lose by more than one
    operations     {rules: {…}, rollback: {…}, every, keep} of `recipeline.operations`: watch the training and go back when it
                   goes wrong; None: a loss that is not finite ends it
    """

    notes = ("low_coverage",)

    def __init__(
        self,
        horizon: int = 24,
        lookback: int = 96,
        *,
        encoder: Encoder = "seglstm",
        hidden_size: int = 64,
        layers: int = 1,
        segment: int | None = None,
        decoder: Decoder = "direct",
        skip: Skip = "mean",
        quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        loss: Loss = "pinball",
        max_epochs: int = 50,
        patience: int = 8,
        batch_size: int = 128,
        epoch_windows: int | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        dropout: float = 0.0,
        clip: float = 1.0,
        average: float = 0.0,
        calibration: float = 0.15,
        calibrate: bool = True,
        cleaning: Mapping[str, Any] | None = None,
        ensemble: int = 1,
        blend: float | Literal["auto"] = 0.0,
        device: str = "auto",
        threads: int = 1,
        operations: Mapping[str, Any] | None = None,
        random_state: int | None = None,
    ) -> None:
        self.horizon, self.lookback, self.encoder = horizon, lookback, encoder
        self.hidden_size, self.layers, self.segment, self.quantiles, self.loss = hidden_size, layers, segment, tuple(quantiles), loss
        self.decoder, self.skip = decoder, skip
        self.max_epochs, self.patience, self.batch_size, self.epoch_windows = max_epochs, patience, batch_size, epoch_windows
        self.learning_rate, self.weight_decay, self.dropout, self.clip, self.average = learning_rate, weight_decay, dropout, clip, average
        self.calibration, self.calibrate, self.cleaning = calibration, calibrate, cleaning
        self.ensemble, self.blend, self.device, self.threads = ensemble, blend, device, threads
        self.operations, self.random_state = operations, random_state

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003 - a seam
        return problems_of(params)

    @classmethod
    def example(cls) -> dict[str, Any]:
        """For the contract suite: constructor arguments."""
        return {"horizon": 3, "lookback": 12, "hidden_size": 8, "max_epochs": 2, "calibration": 0.3}

    @classmethod
    def example_data(cls) -> Selected:
        """For the contract suite: two series of 60 days, three of them not observed."""
        return SplinePreprocessor.example_data()

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels that networks learn: those asked for, and the median."""
        return tuple(sorted({*map(float, self.quantiles), 0.5}))

    # --- learning ---

    def fit(
        self, X: Any, y: Any = None, *, validation: Any = None, context: FitContext | None = None, folder: str | Path | None = None
    ) -> Self:
        """Learn from a long frame (`timeseries.frames`), a prepared panel, or an array (T,) or (T, C).

        An array holds C targets on one regular grid, oldest first, NaN where not observed. A frame is cleaned by the preprocessor
        of the context, or by one of `cleaning`, which then is part of this model.

        validation  the rows right after those of X, held back for early stopping and calibration; inputs of their windows
                    reach back into X. None: the last `calibration` of the windows
        folder      where checkpoints are kept, and found again by the same call after a crash (`context` brings its own)

        Raises DataError where the data are too short or cannot be used, TrainingFailed when the loss runs away.
        """
        problems = problems_of(self.arguments())
        if problems:
            what = "; ".join(f"{problem.key[0]}: {problem.message}" for problem in problems)
            raise DataError(what, where="spline_lstm", slug="bad-value")
        if context is not None and validation is None and context.validation is not None:
            validation = context.validation.X
        with _threads(self.threads):
            if isinstance(X, Prepared):
                lesson = self._of_panel(X, None)
            elif hasattr(X, "columns"):
                lesson = self._of_frames(X, validation, None if context is None else context.preprocessor)
            else:
                lesson = self._of_arrays(X, validation)
            self._learn(lesson, context, None if folder is None else Path(folder))
        return self

    def expect(self, schema: Any) -> None:
        """The input contract of the task: what the columns of a frame are."""
        self._schema = schema

    def _of_frames(self, X: pd.DataFrame, validation: pd.DataFrame | None, preprocessor: Any) -> Lesson:
        import pandas as pd

        cleaner = SplinePreprocessor(**(self.cleaning or {})) if preprocessor is None else preprocessor
        self.preprocessor_ = cleaner  # an online one learns here and is the model's to use: it goes where the weights go
        if hasattr(self, "_schema"):
            cleaner.expect(self._schema)
        cleaner.introduce(self.lookback, self.horizon).fit(X)
        if validation is None:
            return self._of_panel(cleaner.history(X), None)
        whole = pd.concat([X, validation], ignore_index=True).sort_values([SERIES, TIME], kind="stable", ignore_index=True)
        return self._of_panel(cleaner.history(whole), stamps_of(validation[TIME]).min())

    def _of_panel(self, panel: Prepared, border: Any) -> Lesson:
        """Windows whose labels end before the border, and windows whose labels begin there or later."""
        from recipeline_spline.networks import Shape

        origins = panel.origins(self.lookback, self.horizon, future=True)
        stamps = panel.stamps(origins)
        if border is None:
            border = panel.stamps(origins + 1)[np.argsort(stamps, kind="stable")[int((1 - self.calibration) * (len(origins) - 1))]]
        learn, held = _apart(
            panel.stamps(origins + self.horizon) < border, panel.stamps(origins + 1) >= border, self.lookback, self.horizon
        )
        names = panel.channels
        shape = Shape(
            self.lookback, self.horizon, len(names.targets), len(names.past), len(names.future), len(names.static),
            tuple(size - 1 for size in names.sizes), self.levels,
        )  # fmt: skip
        known = origins[held]
        sampled = known[:: max(1, -(-len(known) // SAMPLE))]
        return Lesson(
            self._gathered(panel, origins[learn]), self._gathered(panel, known), shape,
            lambda: panel.gather(sampled, self.lookback, self.horizon),
        )  # fmt: skip

    def _gathered(self, panel: Prepared, origins: NDArray[np.int64]) -> Source:
        from recipeline_spline.batches import Gathered, Held, of_inputs

        device = self._device()
        every = Gathered(panel, origins, self.lookback, self.horizon, device)
        width = len(panel.channels.past) * self.lookback + (len(panel.channels.future) + 2 * len(panel.channels.targets)) * self.horizon
        if 4 * width * len(origins) > RESIDENT:
            return every
        return Held(of_inputs(panel.gather(origins, self.lookback, self.horizon)).to(device))

    def _of_arrays(self, X: ArrayLike, validation: ArrayLike | None) -> Lesson:
        import torch

        from recipeline_spline.batches import Views
        from recipeline_spline.networks import Shape

        raw = _matrix(X)
        border = len(raw)
        if validation is not None:
            raw = np.concatenate([raw, _matrix(validation, raw.shape[1])])
        found = windows(raw, lookback=self.lookback, horizon=self.horizon)
        if validation is None:
            border = int(np.quantile(found.origins, 1 - self.calibration, method="higher")) + 1
        learn, held = _apart(found.label_ends < border, found.origins >= border - 1, self.lookback, self.horizon)
        self.scale_, self.preprocessor_ = scale_of(raw[:border], "standard"), None
        scaled = self.scale_.forward(raw)
        device = self._device()
        inputs = torch.from_numpy(_known(scaled).astype(np.float32)).to(device)
        labels = torch.from_numpy(scaled.astype(np.float32)).to(device)
        mask = ~labels.isnan()

        def side(some: NDArray[np.intp]) -> Views:
            return Views(inputs, labels, mask, torch.from_numpy(found.origins[some].astype(np.int64)), self.lookback, self.horizon)

        channels = raw.shape[1]
        return Lesson(side(learn), side(held), Shape(self.lookback, self.horizon, channels, channels, levels=self.levels))

    def _learn(self, lesson: Lesson, context: FitContext | None, folder: Path | None) -> None:
        import torch

        from recipeline_spline.checkpoints import Plan
        from recipeline_spline.committee import Committee
        from recipeline_spline.losses import Objective
        from recipeline_spline.searching import while_training
        from recipeline_spline.training import seeded, train

        seed = self.random_state if self.random_state is not None else 0 if context is None else context.seed
        folder = folder or (None if context is None else context.folder)
        progress: Progress = Silent() if context is None else context.progress
        events: Events = Silent() if context is None else context.events
        device, objective = self._device(), Objective(self.loss, self.levels)
        tell = None
        if context is not None and context.metric is not None and lesson.sample is not None:
            tell = while_training(context.metric, lesson.sample(), self.levels, self.quantiles)
        members, self.history_ = [], []
        begin = self._nlinear(lesson) if self.skip == "nlinear" else None
        for number in range(self.ensemble):
            plan = Plan(
                self.max_epochs, self.patience, self.batch_size, self.epoch_windows, self.learning_rate,
                weight_decay=self.weight_decay, clip=self.clip, average=self.average, seed=seed + number,
            )  # fmt: skip
            with seeded(plan.seed, -1, torch.device("cpu")):
                network = self._network(lesson.shape)
            if begin is not None:
                network.start(*begin)
            if context is not None and context.previous is not None:
                network.load_state_dict(context.previous.committee_.members[number].state_dict())
            place = None if folder is None else folder / f"network{number}"
            state = train(
                network.to(device), objective, lesson.train, lesson.held, plan, folder=place, progress=progress, events=events,
                harness=self._harness(place, events), before=number * self.max_epochs, tell=tell,
            )  # fmt: skip
            self.history_ += [{"network": number, **row} for row in state.history]
            members.append(network)
            if state.pruned:
                break
        self.committee_ = Committee(members, blend=self.blend != 0).to(device).eval()
        if self.blend != 0:
            self._mix(lesson)
        if self.calibrate and len(self.levels) > 1:
            self._calibrate(lesson)

    def _network(self, shape: Shape) -> Forecaster:
        from recipeline_spline.networks import Forecaster

        segment = self.segment or max(1, min(24, self.lookback // 4))
        return Forecaster(
            shape, encoder=self.encoder, hidden_size=self.hidden_size, layers=self.layers, segment=segment, dropout=self.dropout,
            decoder=self.decoder, skip=self.skip != "none",
        )  # fmt: skip

    def _mix(self, lesson: Lesson) -> None:
        """Solve NLinear on the training windows, and choose its share on the held-back ones."""
        import torch

        from recipeline_spline.training import forecast

        committee = self.committee_
        weights, intercept = self._nlinear(lesson)
        committee.weights.copy_(weights)
        committee.intercept.copy_(intercept)
        if self.blend != "auto":
            committee.share.fill_(1 - float(self.blend))
            return
        actual = _labels(lesson.held)
        said = forecast(committee, lesson.held).double().numpy()[..., committee.middle]
        committee.share.zero_()
        straight = forecast(committee, lesson.held).double().numpy()[..., committee.middle]
        committee.share.copy_(torch.from_numpy(_share(actual, said, straight, squared=self.loss == "mse")))

    def _nlinear(self, lesson: Lesson) -> tuple[torch.Tensor, torch.Tensor]:
        """NLinear by ridge on the training windows: weights (L, H) and intercept (H,), of all targets together."""
        import torch

        targets = lesson.shape.targets
        rows = np.linspace(0, len(lesson.train) - 1, min(len(lesson.train), BLEND_WINDOWS // targets)).astype(np.int64)
        batch = lesson.train.batch(torch.from_numpy(np.unique(rows)))
        found = fit_nlinear(_by_target(batch.past, targets), _by_target(_nan_where_hidden(batch), targets))
        return torch.from_numpy(found.weights), torch.from_numpy(found.intercept)

    def _calibrate(self, lesson: Lesson) -> None:
        import torch

        from recipeline_spline.training import chunks, forecast

        fan = forecast(self.committee_, lesson.held).double().numpy()
        units = torch.cat([self.committee_.unit(lesson.held.batch(rows).past).cpu() for rows in chunks(len(lesson.held))])
        unit = units.double().numpy()[:, None]  # (N, 1, n)
        moved = calibration.offsets(_labels(lesson.held) / unit, fan / unit[..., None], self.levels)
        self.committee_.offsets.copy_(torch.from_numpy(moved))

    def _harness(self, place: Path | None, events: Events) -> OpsHarness | None:
        if self.operations is None:
            return None
        from recipeline_spline.checkpoints import OnDisk

        return harness_of(self.operations, InMemory() if place is None else OnDisk(place / "operations"), events)

    # --- forecasting ---

    def predict(self, X: Any) -> pd.DataFrame:
        """`series_id, timestamp, step, prediction, q…, low_coverage` for the `horizon` steps after the last row of every series.

        X  a long frame, where this model brings its own preprocessor, or what the preprocessor made of one. Series that were
           not in training are answered. `low_coverage`: less than half of the window was observed

        Raises DataError for a series that is shorter than the lookback, and for a future covariate that is missing.
        """
        if not isinstance(X, Prepared):
            cleaner = getattr(self, "preprocessor_", None)
            if cleaner is None or not hasattr(X, "columns"):
                raise DataError("predict takes a long frame, of a model fitted on one", hint="for arrays there is predict_windows",
                                slug="not-fitted")  # fmt: skip
            X = cleaner.transform(X)
        for column, values in X.findings.unknown.items():
            log.warning("%s: %s unknown from training, taken as the unknown category", column, some(values))
        inputs = X.gather(X.last, self.lookback, self.horizon)
        fan = inputs.restore(self._forecast(inputs))[:, :, 0]  # (S, H, Q')
        kept = [self.levels.index(float(level)) for level in self.quantiles]
        rows = X.last[:, None] + np.arange(1, self.horizon + 1)
        return forecasts(
            X.names, fan[..., self.levels.index(0.5)], fan[..., kept], self.quantiles, stamps=X.stamps(rows.ravel()),
            flags={"low_coverage": np.repeat(inputs.coverage < LOW_COVERAGE, self.horizon)},
        )  # fmt: skip

    def predict_origins(self, panel: Prepared, origins: ArrayLike) -> Floats:
        """Quantiles (N, H, n, Q) in original units, Q in the order of `quantiles`, at rows of a panel that are origins."""
        inputs = panel.gather(origins, self.lookback, self.horizon)
        return inputs.restore(self._forecast(inputs))[..., [self.levels.index(float(level)) for level in self.quantiles]]

    def predict_windows(self, past: ArrayLike) -> Floats:
        """Quantiles (N, H, C, Q) in original units, Q in the order of `quantiles`, of pasts (N, L, C) or (N, L).

        NaN in a past is carried over from before, or 0 after scaling where nothing was before.
        """
        import torch

        from recipeline_spline.batches import Batch

        scale = self._arrays()
        raw = np.asarray(past, dtype=np.float64)
        raw = raw[:, :, None] if raw.ndim == 2 else raw
        if raw.ndim != 3 or raw.shape[1:] != (self.lookback, len(scale.shift)):
            raise DataError(f"past is (N, {self.lookback}, {len(scale.shift)}); got {np.shape(past)}", slug="bad-shape")
        if np.isinf(raw).any():
            raise DataError("past holds an infinite value", slug="not-finite")
        scaled = scale.forward(raw)
        fan = self._ask(Batch(torch.from_numpy(_known(scaled).astype(np.float32))))  # (N, H, C, Q)
        said = fan * scale.scale[:, None] + scale.shift[:, None]
        return said[..., [self.levels.index(float(level)) for level in self.quantiles]]

    def _forecast(self, inputs: Inputs) -> Floats:
        from recipeline_spline.batches import of_inputs

        return self._ask(of_inputs(inputs))

    def _ask(self, batch: Batch) -> Floats:
        """(N, H, n, Q') scaled, of all levels."""
        from recipeline_spline.batches import Held
        from recipeline_spline.training import CHUNK, answer, forecast

        if not hasattr(self, "committee_"):
            raise DataError("not fitted yet", hint="call fit first", slug="not-fitted")
        device = self.committee_.offsets.device
        batch = batch if device.type == "cpu" else batch.to(device)
        with _threads(self.threads):
            said = answer(self.committee_, batch) if len(batch.past) <= CHUNK else forecast(self.committee_, Held(batch))
        return said.double().numpy()

    def _arrays(self) -> Scale:
        scale: Scale | None = getattr(self, "scale_", None)
        if scale is None:
            raise DataError("not fitted on arrays", hint="call fit with an array first", slug="not-fitted")
        return scale

    def history(self) -> pd.DataFrame:
        """A row per network and epoch: train_loss, val_loss, grad_norm, learning_rate."""
        import pandas as pd

        return pd.DataFrame(self.history_)

    # --- kept ---

    def arguments(self) -> dict[str, Any]:
        """The constructor's."""
        return {name: getattr(self, name) for name in ARGUMENTS}

    def save(self, folder: Path) -> None:
        """weights.safetensors, preprocessor/ and model.json, which knows the hashes of both."""
        from safetensors.torch import save_file

        from recipeline_spline.checkpoints import flat

        with files.atomic_path(folder / WEIGHTS) as target:
            save_file(flat(self.committee_.state_dict()), target)
        scale, cleaner = getattr(self, "scale_", None), getattr(self, "preprocessor_", None)
        said = {
            "arguments": self.arguments(),
            "shape": self.committee_.shape.to_json(),
            "networks": len(self.committee_.members),
            "history": self.history_,
            "bound": {"weights": files.sha256(folder / WEIGHTS), "preprocessor": None if cleaner is None else cleaner.digest},
            "scale": None if scale is None else {"shift": scale.shift, "scale": scale.scale},
        }
        if cleaner is not None:
            cleaner.save(folder / PREPROCESSOR)
        files.write_json(folder / MODEL, said)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises Damaged where weights or preprocessor are not those that were saved with the model."""
        from safetensors.torch import load_file

        from recipeline_spline.committee import Committee
        from recipeline_spline.networks import Shape

        said = files.read_json(folder / MODEL)
        bound = said["bound"]
        if files.sha256(folder / WEIGHTS) != bound["weights"]:
            raise Damaged(f"{WEIGHTS} is not the file that was saved with this model", hint="restore the model", slug="swapped")
        cleaner = None if bound["preprocessor"] is None else SplinePreprocessor.load(folder / PREPROCESSOR)
        if cleaner is not None and cleaner.digest != bound["preprocessor"]:
            raise Damaged("the preprocessor is not the one that this model was trained with", hint="restore the model", slug="swapped")
        model = cls(**said["arguments"])
        shape = Shape.from_json(said["shape"])
        members = [model._network(shape) for _ in range(said["networks"])]
        model.committee_ = Committee(members, blend=model.blend != 0)
        model.committee_.load_state_dict(load_file(folder / WEIGHTS))
        model.committee_.to(model._device()).eval()
        model.history_ = said["history"]
        if said["scale"] is not None:
            model.scale_ = Scale(np.asarray(said["scale"]["shift"]), np.asarray(said["scale"]["scale"]))
        model.preprocessor_ = cleaner
        return model

    def _device(self) -> torch.device:
        import torch

        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


ARGUMENTS = (
    "horizon", "lookback", "encoder", "hidden_size", "layers", "segment", "decoder", "skip", "quantiles", "loss", "max_epochs",
    "patience", "batch_size", "epoch_windows", "learning_rate", "weight_decay", "dropout", "clip", "average", "calibration",
    "calibrate", "cleaning", "ensemble", "blend", "device", "threads", "operations", "random_state",
)  # fmt: skip


def _threads(count: int) -> Any:
    from recipeline_spline.training import threads

    return threads(count)


def _matrix(values: ArrayLike, channels: int | None = None) -> Floats:
    matrix = np.asarray(values, dtype=np.float64)
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if matrix.ndim != 2 or (channels is not None and matrix.shape[1] != channels):
        wanted = "(T,) or (T, C)" if channels is None else f"(T, {channels})"
        raise DataError(f"an array {wanted} is expected; got {np.shape(values)}", slug="bad-shape")
    if np.isinf(matrix).any():
        row, column = (int(at) for at in np.argwhere(np.isinf(matrix))[0])
        raise DataError(f"row {row}, column {column} is infinite", hint="NaN where nothing was observed", slug="not-finite")
    return matrix


def _known(scaled: Floats) -> Floats:
    """Gaps of (…, T, C) carried forward; 0, the mean, before the first observation."""
    if not np.isnan(scaled).any():
        return scaled
    if scaled.ndim == 3:
        return np.stack([_known(one) for one in scaled])
    return np.nan_to_num(forward(scaled), nan=0.0)


def _apart(learn: NDArray[np.bool_], held: NDArray[np.bool_], lookback: int, horizon: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    sides = np.flatnonzero(learn), np.flatnonzero(held)
    for side, name in zip(sides, ("to train on", "to stop by and to calibrate on"), strict=True):
        if not len(side):
            hint = f"give longer series, or shorten lookback ({lookback}) or horizon ({horizon})"
            raise DataError(f"no window is left {name}", hint=hint, slug="too-short", where="spline_lstm")
    return sides


def _labels(source: Source) -> Floats:
    """(N, H, n), NaN where not observed."""
    from recipeline_spline.training import chunks

    return np.concatenate([_nan_where_hidden(source.batch(rows)).double().cpu().numpy() for rows in chunks(len(source))])


def _nan_where_hidden(batch: Any) -> torch.Tensor:
    labels: torch.Tensor = batch.labels
    return labels if batch.mask is None else labels.masked_fill(~batch.mask, float("nan"))


def _by_target(values: torch.Tensor, targets: int) -> Floats:
    """(B, L, C) -> (B n, L) of the targets."""
    whole: Floats = values[:, :, :targets].transpose(1, 2).reshape(-1, values.shape[1]).double().cpu().numpy()
    return whole


def _share(actual: Floats, said: Floats, straight: Floats, *, squared: bool) -> Floats:
    """(H,) the weight of the network against NLinear, of 0, 0.05 … 1, that was best on held-back windows; one per bucket of steps."""
    place = calibration.buckets_of(actual.shape[1])
    weights = np.linspace(0, 1, 21)
    best = np.zeros(place[-1] + 1)
    for bucket in range(len(best)):
        steps = place == bucket
        errors = [actual[:, steps] - (w * said[:, steps] + (1 - w) * straight[:, steps]) for w in weights]
        best[bucket] = weights[int(np.argmin([np.nanmean(e**2 if squared else np.abs(e)) for e in errors]))]
    return best[place]
