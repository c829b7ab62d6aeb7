"""The loop, and the forecaster on arrays: bits, checkpoints, early ends, what it learns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from recipeline.contracts import FitContext, Silent  # noqa: E402  # torch is asked for first
from recipeline.errors import Damaged, DataError, TrainingFailed  # noqa: E402
from recipeline.timeseries import metrics  # noqa: E402
from recipeline.timeseries.baselines import fit_nlinear  # noqa: E402
from recipeline_spline.calibration import offsets  # noqa: E402
from recipeline_spline.checkpoints import Plan  # noqa: E402
from recipeline_spline.losses import Objective  # noqa: E402
from recipeline_spline.model import SplineLSTM  # noqa: E402
from recipeline_spline.networks import ENCODERS  # noqa: E402
from recipeline_spline.training import seeded, train  # noqa: E402

SMALL = {"horizon": 6, "lookback": 24, "hidden_size": 16, "max_epochs": 4, "batch_size": 64, "learning_rate": 5e-3, "random_state": 3}


def wave(rows=600, noise=0.05, channels=1, seed=0):
    time = np.arange(rows)[:, None]
    phases = np.arange(channels)
    return np.sin(2 * np.pi * time / 12 + phases) * 5 + 100 + noise * np.random.default_rng(seed).normal(size=(rows, channels))


def pasts(values, lookback, horizon, step=1):
    origins = np.arange(lookback - 1, len(values) - horizon, step)
    return (np.stack([values[o - lookback + 1 : o + 1] for o in origins]), np.stack([values[o + 1 : o + 1 + horizon] for o in origins]))


def weights(model):
    return {name: value.numpy().tobytes() for name, value in model.committee_.state_dict().items()}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_each_encoder_learns_a_sine_far_better_than_naive(encoder):
    values = wave()
    model = SplineLSTM(**SMALL, encoder=encoder).fit(values)
    past, future = pasts(wave(200, seed=1), 24, 6)
    said = model.predict_windows(past)
    assert said.shape == (len(past), 6, 1, 3)
    error = np.abs(said[..., 1] - future).mean()
    assert error < 0.25 * np.abs(past[:, -1:] - future).mean()


@pytest.mark.parametrize("skip", ["mean", "nlinear", "none"])
def test_a_decoder_of_segments_learns_too_and_is_kept_whole(skip, tmp_path):
    model = SplineLSTM(**SMALL, decoder="segments", skip=skip, segment=4, blend="auto").fit(wave(channels=2))
    past, future = pasts(wave(200, seed=1, channels=2), 24, 6)
    said = model.predict_windows(past)
    assert np.abs(said[..., 1] - future).mean() < 0.25 * np.abs(past[:, -1:] - future).mean()
    model.save(tmp_path)
    assert SplineLSTM.load(tmp_path).predict_windows(past).tobytes() == said.tobytes()


def test_a_skip_that_begins_at_nlinear_is_nlinear_before_it_learns():
    values = wave(channels=2)
    model = SplineLSTM(**{**SMALL, "learning_rate": 1e-12, "weight_decay": 0.0}, skip="nlinear", calibrate=False).fit(
        values[:500], validation=values[500:]
    )
    scaled = (values - values[:500].mean(axis=0)) / values[:500].std(axis=0)
    past, future = (part.transpose(0, 2, 1).reshape(-1, part.shape[1]) for part in pasts(scaled[:500], 24, 6))
    learned = fit_nlinear(past, future)
    asked, _ = pasts(values[500:], 24, 6)
    said = (model.predict_windows(asked)[..., 1] - values[:500].mean(axis=0)) / values[:500].std(axis=0)
    straight = learned.predict(((asked - values[:500].mean(axis=0)) / values[:500].std(axis=0)).transpose(0, 2, 1).reshape(-1, 24))
    assert np.allclose(said.transpose(0, 2, 1).reshape(-1, 6), straight, atol=1e-4)  # float32


def test_same_seed_same_bits_and_another_seed_others():
    one, two = (SplineLSTM(**SMALL, dropout=0.2, ensemble=2).fit(wave()) for _ in range(2))
    assert weights(one) == weights(two)
    assert one.history_ == two.history_
    other = SplineLSTM(**{**SMALL, "random_state": 4}, dropout=0.2, ensemble=2).fit(wave())
    assert weights(one) != weights(other)


def test_training_leaves_the_worlds_random_numbers_and_threads_alone():
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    SplineLSTM(**SMALL, dropout=0.2).fit(wave(200))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_saving_and_loading_change_no_bit(tmp_path):
    model = SplineLSTM(**SMALL, ensemble=2, blend="auto", quantiles=[0.05, 0.5, 0.6, 0.95]).fit(wave(channels=2))
    past, _ = pasts(wave(100, channels=2), 24, 6)
    model.save(tmp_path / "model")
    again = SplineLSTM.load(tmp_path / "model")
    assert weights(model) == weights(again)
    assert again.arguments() == model.arguments()
    assert again.predict_windows(past).tobytes() == model.predict_windows(past).tobytes()
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "weights.safetensors"]


def test_quantiles_come_in_the_order_asked_for_and_never_cross():
    model = SplineLSTM(**SMALL, quantiles=[0.1, 0.3, 0.9]).fit(wave(noise=2.0))
    past, _ = pasts(wave(300, noise=2.0, seed=2) + np.random.default_rng(3).normal(size=(300, 1)) * 30, 24, 6)
    said = model.predict_windows(past)
    assert said.shape[-1] == 3
    assert (np.diff(said, axis=-1) >= 0).all()


def test_labels_that_were_not_observed_do_not_matter_and_nan_does_no_harm():
    """A window whose labels are all hidden adds nothing; scattered NaN leave a forecast that is finite and good."""
    rng = np.random.default_rng(0)
    values = wave()
    values[rng.random(len(values)) < 0.2] = np.nan
    model = SplineLSTM(**SMALL).fit(values)
    past, future = pasts(wave(200, seed=1), 24, 6)
    said = model.predict_windows(past)
    assert np.isfinite(said).all()
    assert np.abs(said[..., 1] - future).mean() < 0.4 * np.abs(past[:, -1:] - future).mean()
    past[:, 3:9] = np.nan
    assert np.isfinite(model.predict_windows(past)).all()


def test_intervals_hold_on_data_of_the_same_kind():
    model = SplineLSTM(**SMALL, quantiles=[0.1, 0.5, 0.9]).fit(wave(2000, noise=1.0))
    past, future = pasts(wave(1000, noise=1.0, seed=9), 24, 6)
    said = model.predict_windows(past)
    inside = ((future >= said[..., 0]) & (future <= said[..., 2])).mean()
    assert 0.75 < inside < 0.86  # 6,000 forecasts, about 400 calibration windows


def test_offsets_are_the_conformal_ones_and_a_bound_without_partner_holds_alone():
    rng = np.random.default_rng(0)
    actual = rng.normal(size=(4000, 16, 2)) * [1.0, 3.0]
    fan = np.zeros((*actual.shape, 4)) + np.array([-0.1, -0.05, 0.0, 0.1])
    moved = offsets(actual, fan, (0.1, 0.2, 0.5, 0.9))
    new = rng.normal(size=actual.shape) * [1.0, 3.0]
    ends = fan + moved
    assert (moved[..., 2] == 0).all()
    inside = ((new >= ends[..., 0]) & (new <= ends[..., 3])).mean(axis=(0, 1))
    below = (new < ends[..., 1]).mean(axis=(0, 1))
    assert np.abs(inside - 0.8).max() < 0.01
    assert np.abs(below - 0.2).max() < 0.01


def test_the_blend_is_between_its_two_parts_and_no_worse_than_either_where_it_was_chosen():
    values = np.cumsum(np.random.default_rng(0).normal(size=900))
    cut = 700
    alone = SplineLSTM(**SMALL, calibrate=False).fit(values[:cut], validation=values[cut:])
    mixed = SplineLSTM(**SMALL, calibrate=False, blend="auto").fit(values[:cut], validation=values[cut:])
    train_past, train_future = pasts(values[:cut, None], 24, 6)
    line = fit_nlinear(train_past[..., 0], train_future[..., 0])
    past, future = pasts(values[cut - 24 :, None], 24, 6)
    errors = [np.abs(p - future[..., 0]).mean(axis=0) for p in (
        alone.predict_windows(past)[:, :, 0, 1], line.predict(past[..., 0]), mixed.predict_windows(past)[:, :, 0, 1])]  # fmt: skip
    assert (errors[2] <= np.minimum(errors[0], errors[1]) + 1e-4).all()  # solved on scaled float32 inputs


# --- checkpoints ----------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


class Interrupted(Silent):
    def __init__(self, epoch):
        self.epoch = epoch

    def advance(self, done, total=None, label=""):
        if done == self.epoch:
            raise Stop


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    arguments = {**SMALL, "dropout": 0.2, "average": 0.9, "ensemble": 2}
    whole = SplineLSTM(**arguments).fit(wave())
    for stop in (1, 3, 6):
        with pytest.raises(Stop):
            SplineLSTM(**arguments).fit(wave(), context=FitContext(0, tmp_path / "work", progress=Interrupted(stop)))
    again = SplineLSTM(**arguments).fit(wave(), context=FitContext(0, tmp_path / "work"))
    assert weights(again) == weights(whole)
    assert again.history_ == whole.history_


KILLED = """
import sys
import numpy as np
import pandas as pd
from recipeline_spline.model import SplineLSTM
values = np.load(sys.argv[1])
model = SplineLSTM(**{arguments!r}).fit(values, folder=sys.argv[2])
model.save(__import__("pathlib").Path(sys.argv[3]))
"""


def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path):
    arguments = {**SMALL, "dropout": 0.2, "max_epochs": 25, "patience": 25}
    np.save(tmp_path / "values.npy", wave())
    whole = SplineLSTM(**arguments).fit(wave())
    script = tmp_path / "fit.py"
    script.write_text(KILLED.format(arguments=arguments))
    command = [sys.executable, str(script), *(str(tmp_path / name) for name in ("values.npy", "work", "model"))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    state = tmp_path / "work" / "network0" / "last" / "state.json"
    deadline = time.monotonic() + 120
    while not (state.exists() and json.loads(state.read_text())["state"]["epoch"] >= 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    epoch = json.loads(state.read_text())["state"]["epoch"]
    assert 3 <= epoch < 25
    again = SplineLSTM(**arguments).fit(wave(), folder=tmp_path / "work")
    assert weights(again) == weights(whole)
    assert again.history_ == whole.history_


def test_the_best_epoch_is_kept_and_patience_ends_training(tmp_path):
    values = np.random.default_rng(0).normal(size=300)  # nothing to learn: it gets worse soon
    arguments = {**SMALL, "max_epochs": 60, "patience": 2, "learning_rate": 0.02, "calibrate": False}
    model = SplineLSTM(**arguments).fit(values, folder=tmp_path)
    losses = [row["val_loss"] for row in model.history_]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 60
    from safetensors.numpy import load_file

    kept = load_file(tmp_path / "network0" / "best" / "tensors.safetensors")
    mine = model.committee_.members[0].state_dict()
    assert all(np.array_equal(kept[f"network/{name}"], value.numpy()) for name, value in mine.items())


def test_a_pruned_trial_stops_at_once():
    class Pruner(Silent):
        reports = ()

        def report(self, step, value):
            self.reports = (*self.reports, (step, value))
            return step == 1

    pruner = Pruner()
    arguments = {**SMALL, "ensemble": 3}
    model = SplineLSTM(**arguments).fit(wave(), context=FitContext(0, None, progress=pruner))
    assert [step for step, _ in pruner.reports] == [0, 1]
    assert len(model.history_) == 2


@pytest.mark.parametrize("metric", ["mae", "crps"])
def test_a_search_hears_the_tuned_metric_in_original_units(metric):
    """Whatever the loss and the scale: what is told after the last epoch is the metric of the forecasts of the held-back windows."""
    heard = Heard()
    frame = pd.DataFrame(
        {"series_id": "a", "timestamp": pd.date_range("2024-01-01", periods=400, freq="h"), "target": 10 * wave(400)[:, 0]}
    )
    frame.loc[350:352, "target"] = np.nan
    arguments = {**SMALL, "max_epochs": 2, "patience": 2, "loss": "mse", "calibrate": False, "cleaning": {"scale": "log1p"}}
    model = SplineLSTM(**arguments).fit(frame[:300], validation=frame[300:], context=FitContext(0, None, progress=heard, metric=metric))
    panel = model.preprocessor_.history(frame)
    origins = np.arange(299, 400 - model.horizon)
    steps = origins[:, None] + np.arange(1, model.horizon + 1)
    actual, fan = frame["target"].to_numpy()[steps], model.predict_origins(panel, origins)[:, :, 0]
    wanted = metrics.mae(actual, fan[..., model.quantiles.index(0.5)], mask=~np.isnan(actual))
    if metric == "crps":
        wanted = metrics.crps(actual, fan, model.quantiles, mask=~np.isnan(actual))
    best = int(np.argmin([row["val_loss"] for row in model.history_]))
    assert heard.reports[best][1] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("metric", ["skill", "coverage", "mape", "wape", "mine"])
def test_a_metric_that_training_cannot_know_is_not_reported(metric):
    """The validation loss in its place would prune the best trials of a metric that is maximised."""
    heard = Heard()
    frame = pd.DataFrame({"series_id": "a", "timestamp": pd.date_range("2024-01-01", periods=400, freq="h"), "target": wave(400)[:, 0]})
    SplineLSTM(**{**SMALL, "max_epochs": 2}).fit(frame, context=FitContext(0, None, progress=heard, metric=metric))
    assert heard.reports == []


class Heard(Silent):
    """Keeps what it is told, and prunes nothing."""

    def __init__(self):
        self.reports = []

    def report(self, step, value):
        self.reports.append((step, value))
        return False


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path):
    SplineLSTM(**SMALL).fit(wave(), folder=tmp_path)
    with pytest.raises(Damaged, match="learning_rate"):
        SplineLSTM(**{**SMALL, "learning_rate": 1e-4}).fit(wave(), folder=tmp_path)
    with pytest.raises(Damaged, match="another network"):
        SplineLSTM(**{**SMALL, "hidden_size": 8}).fit(wave(), folder=tmp_path)
    with pytest.raises(Damaged, match="other data"):
        SplineLSTM(**SMALL).fit(wave(seed=1), folder=tmp_path)
    tensors = tmp_path / "network0" / "last" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-50])
    with pytest.raises(Damaged, match="cut short"):
        SplineLSTM(**SMALL).fit(wave(), folder=tmp_path)


# --- what goes wrong ---------------------------------------------------------------------------------------------------------


class Diverging:
    """An objective that turns into NaN for the `bad` epochs."""

    def __init__(self, bad):
        self.bad, self.epoch, self.inner = bad, 0, Objective("pinball", (0.1, 0.5, 0.9))

    def __call__(self, forecast, labels, mask):
        loss = self.inner(forecast, labels, mask)
        if not forecast.requires_grad:
            self.epoch += 1  # judged at the end of an epoch
            return loss
        return loss * float("nan") if self.epoch in self.bad else loss


def lesson():
    model = SplineLSTM(**SMALL, operations={"every": 1, "probation": 1})
    made = model._of_arrays(wave(), None)
    with seeded(0, 0, torch.device("cpu")):
        return model, made, model._network(made.shape)


def test_a_loss_that_is_not_finite_ends_training():
    _, made, network = lesson()
    with pytest.raises(TrainingFailed, match="epoch 2 is not finite"):
        train(network, Diverging({2}), made.train, made.held, Plan(max_epochs=6))


def test_with_operations_it_goes_back_and_on_and_resumes_to_the_same_bits(tmp_path):
    class Told(Silent):
        names = ()

        def emit(self, name, /, **fields):
            self.names = (*self.names, name)

    runs = []
    for place in (tmp_path / "whole", tmp_path / "cut"):
        told, (model, made, network) = Told(), lesson()
        arguments = (Diverging({3}), made.train, made.held, Plan(max_epochs=8, seed=3))
        if place.name == "cut":
            with pytest.raises(Stop):
                train(network, *arguments, folder=place, harness=model._harness(place, told), progress=Interrupted(6))
            network = lesson()[2]
        state = train(network, *arguments, folder=place, harness=model._harness(place, told), events=told)
        assert told.names.count("rollback") == 1
        assert [row["epoch"] for row in state.history] == [0, 1, 2, 4, 5, 6, 7]
        assert state.history[-1]["learning_rate"] < 1e-4  # halved, on its way back, at the end of the cosine
        runs.append(({name: value.numpy().tobytes() for name, value in network.state_dict().items()}, state.history))
    assert runs[0] == runs[1]


def test_bad_arguments_are_told_all_at_once():
    problems = SplineLSTM.check({"horizon": 0, "quantiles": [0.9, 0.1], "encoder": "lsmt", "blend": 2, "loss": "l1"}, {}, "local")
    assert [problem.key[0] for problem in problems] == ["horizon", "blend", "encoder", "loss", "quantiles"]
    problems = SplineLSTM.check({"encoder": "gru", "decoder": "segments", "skip": "no"}, {}, "local")
    assert [problem.key[0] for problem in problems] == ["skip", "decoder"]
    for wrong in ({"rule": {}}, {"rules": {"loss_spyke": {}}}, {"rollback": {"back": 1}}, {"rules": {"loss_spike": {"warm": 1}}}):
        assert [problem.key[0] for problem in SplineLSTM.check({"operations": wrong}, {}, "local")] == ["operations"]
    assert SplineLSTM.check(SplineLSTM(operations={"rules": {"nonfinite": False}}).arguments(), {}, "local") == []
    with pytest.raises(DataError, match="encoder"):
        SplineLSTM(encoder="lsmt").fit(wave())


def test_bad_arrays_are_named():
    with pytest.raises(DataError, match="needs"):
        SplineLSTM(**SMALL).fit(wave(20))
    values = wave()
    values[7] = np.inf
    with pytest.raises(DataError, match="row 7"):
        SplineLSTM(**SMALL).fit(values)
    model = SplineLSTM(**SMALL).fit(wave())
    with pytest.raises(DataError, match=r"past is \(N, 24, 1\)"):
        model.predict_windows(np.zeros((3, 23)))
    with pytest.raises(DataError, match="call fit"):
        SplineLSTM(**SMALL).predict_windows(np.zeros((3, 24)))


def test_intervals_follow_a_series_that_becomes_calmer_or_wilder():
    rng = np.random.default_rng(0)

    def walk(rows, size):
        return np.cumsum(rng.normal(size=rows)) * size

    model = SplineLSTM(**SMALL, quantiles=[0.1, 0.5, 0.9]).fit(np.concatenate([walk(1200, 1.0), walk(1200, 2.0)]))
    widths = []
    for size in (0.5, 4.0):
        past, _ = pasts(walk(3000, size)[:, None], 24, 6, step=3)
        said = model.predict_windows(past)
        widths.append((said[..., 2] - said[..., 0]).mean() / size)
    assert 0.4 < widths[1] / widths[0] < 1.2  # an eighth would be fixed widths, one those in proportion
