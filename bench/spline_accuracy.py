"""How good the forecasts of `spline_lstm` are, on data that everybody uses (A1 to A3, A5, A7 to A9).

Every choice below was made on validation data (`--tried` prints such a table again). The test part is sealed: it is opened once
per case and seed, by a finished model, and the count is printed. Five seeds, mean and standard deviation: A7 trains once per fold
and seed, A8 once per mask and seed (and once per seed with nothing taken away; the spread that is told is that over masks), and
A9 looks at the intervals of A1, of A5 and of the last fold of A7.

The data are not part of the project: RECIPELINE_BENCH_DATA names a folder with ETTh1.csv (zhouhaoyi/ETDataset), m4/Hourly-*.csv
(Mcompetitions/M4-methods) and pollution.csv (UCI Beijing PM2.5). ETTh1 is cut 8640/2880/2880 and z-scored on its training rows,
test windows with stride 1. CPU seconds are of one thread.

    python -m bench.spline_accuracy [--cases A1 A2 …] [--seeds 5] [--encoders | --tried]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recipeline.timeseries import baselines, metrics
from recipeline_spline.cleaning import SplinePreprocessor
from recipeline_spline.model import SplineLSTM

LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)
TRAIN, HELD, TEST = 8640, 11520, 14400
FOLDS, FOLD = 5, 60 * 24  # pollution: five test parts of sixty days
MASKS = 5
ENCODERS = ("seglstm", "lstm", "gru", "attention_lstm", "bilstm", "linear")

# Chosen on the validation parts.
A1 = {"horizon": 24, "lookback": 336, "loss": "mse", "max_epochs": 12, "patience": 4, "blend": "auto"}
A2 = {"horizon": 96, "lookback": 336, "loss": "mse", "max_epochs": 10, "patience": 3, "blend": "auto"}
A3_24 = {
    "horizon": 24, "lookback": 336, "segment": 24, "decoder": "segments", "skip": "nlinear", "hidden_size": 128, "dropout": 0.2,
    "loss": "mae", "max_epochs": 5, "patience": 5, "batch_size": 16, "epoch_windows": 4000, "average": 0.99, "weight_decay": 0.0,
    "learning_rate": 2e-3, "ensemble": 2,
}  # fmt: skip
A3_96 = {**A3_24, "horizon": 96, "ensemble": 1}
A5 = {
    "horizon": 48, "lookback": 336, "max_epochs": 16, "patience": 5, "epoch_windows": 12_000, "learning_rate": 3e-3, "average": 0.98,
    "blend": "auto", "ensemble": 2, "cleaning": {"level": "window", "scale": "asinh"},
}  # fmt: skip
A7 = {"horizon": 24, "lookback": 96, "max_epochs": 6, "patience": 3, "epoch_windows": 6000, "learning_rate": 3e-3, "average": 0.98}
A7_CLEANING = {"calendar": ["hour", "yearday"], "scale": "log1p"}
A8 = {"horizon": 24, "lookback": 168, "loss": "mse", "max_epochs": 10, "patience": 3}


@dataclass
class Sealed:
    """Rows that no choice may look at; who opens them is counted."""

    inside: Any
    opened: int = 0

    def open(self) -> Any:
        self.opened += 1
        return self.inside


@dataclass
class Data:
    place: Path
    seals: dict[str, Sealed] = field(default_factory=dict)

    def etth1(self, columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray, Sealed]:
        """(8640, C), (2880, C) and the sealed (2880, C), z-scored on the first."""
        frame = pd.read_csv(self.place / "ETTh1.csv")
        values = frame[list(columns)].to_numpy(float)[:TEST]
        train = values[:TRAIN]
        scaled = (values - train.mean(axis=0)) / train.std(axis=0)
        seal = self.seals.setdefault("ETTh1 " + "+".join(columns), Sealed(scaled[HELD:]))
        return scaled[:TRAIN], scaled[TRAIN:HELD], seal

    def m4(self) -> tuple[pd.DataFrame, Sealed]:
        """A long frame of 414 series that end together, and their sealed next 48 values (414, 48), in the order of the names."""
        wide = pd.read_csv(self.place / "m4" / "Hourly-train.csv.gz").set_index("V1").sort_index()
        ahead = pd.read_csv(self.place / "m4" / "Hourly-test.csv").set_index("V1").sort_index()
        pieces = []
        for name, row in zip(wide.index, wide.to_numpy(float), strict=True):
            values = row[~np.isnan(row)]
            pieces.append(
                pd.DataFrame(
                    {"series_id": name, "timestamp": pd.date_range(end="2020-01-01", periods=len(values), freq="h"), "target": values}
                )
            )
        return pd.concat(pieces, ignore_index=True), self.seals.setdefault("M4 Hourly", Sealed(ahead.to_numpy(float)))

    def pollution(self) -> pd.DataFrame:
        raw = pd.read_csv(self.place / "pollution.csv")
        stamps = pd.to_datetime(raw[["year", "month", "day", "hour"]])
        names = {"DEWP": "dew_point", "TEMP": "temperature", "PRES": "pressure", "Iws": "wind_speed", "cbwd": "wind"}
        return pd.DataFrame(
            {"series_id": "beijing", "timestamp": stamps, "target": raw["pm2.5"], **{new: raw[old] for old, new in names.items()}}
        )


Rows = list[dict[str, Any]]


def coverage(actual: np.ndarray, fan: np.ndarray) -> dict[str, float]:
    """Of the 80 and 95 % intervals, of what was observed."""
    seen = ~np.isnan(actual)
    inside = {
        name: ((actual >= fan[..., low]) & (actual <= fan[..., high]))[seen].mean() for name, low, high in (("c80", 1, 3), ("c95", 0, 4))
    }
    return {name: round(100 * float(value), 2) for name, value in inside.items()}


def windows(values: np.ndarray, first: int, lookback: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Every window whose labels lie in the rows from `first` on: (N, L, C), (N, H, C)."""
    origins = np.arange(first - 1, len(values) - horizon)
    return values[origins[:, None] + np.arange(1 - lookback, 1)], values[origins[:, None] + np.arange(1, horizon + 1)]


def first_seed(arguments: Mapping[str, Any], seed: int) -> int:
    """Members of an ensemble have neighbouring seeds: those of two trainings shall have none in common."""
    return seed * int(arguments.get("ensemble", 1))


def size_of(model: SplineLSTM) -> int:
    """Numbers that are kept."""
    return sum(weight.numel() for weight in model.committee_.state_dict().values())


def etth1(data: Data, columns: Sequence[str], arguments: Mapping[str, Any], seed: int, *, sealed: bool = True) -> dict[str, Any]:
    """One training on ETTh1, judged on the sealed part, or (`sealed=False`) on the validation part it was stopped by."""
    train, held, seal = data.etth1(columns)
    start = time.process_time()
    model = SplineLSTM(**{"quantiles": LEVELS, **arguments}, random_state=first_seed(arguments, seed)).fit(train, validation=held)
    seconds = time.process_time() - start
    values = np.concatenate([train, held, seal.open()] if sealed else [train, held])
    past, future = windows(values, HELD if sealed else TRAIN, model.lookback, model.horizon)
    fan = np.concatenate([model.predict_windows(part) for part in np.array_split(past, 8)])
    error = fan[..., 2] - future
    return {
        "mse": float((error**2).mean()), "mae": float(np.abs(error).mean()), **coverage(future, fan), "cpu_s": round(seconds, 1),
        "epochs": len(model.history_), "weights": size_of(model),
    }  # fmt: skip


def linear(data: Data, columns: Sequence[str], lookback: int, horizon: int) -> dict[str, float]:
    """The peers on the same windows: the last value, and NLinear by ridge. The seal is not counted: they choose nothing."""
    train, held, seal = data.etth1(columns)
    values = np.concatenate([train, held, seal.inside])
    flat = [part.transpose(0, 2, 1).reshape(-1, part.shape[1]) for part in windows(values[:TRAIN], lookback, lookback, horizon)]
    past, future = (part.transpose(0, 2, 1).reshape(-1, part.shape[1]) for part in windows(values, HELD, lookback, horizon))
    found = {}
    for name, said in (("naive", baselines.naive(past, horizon)), ("nlinear", baselines.fit_nlinear(*flat).predict(past))):
        found |= {f"{name}_mse": float(((said - future) ** 2).mean()), f"{name}_mae": float(np.abs(said - future).mean())}
    return found


def m4(data: Data, arguments: Mapping[str, Any], seed: int, *, sealed: bool = True) -> dict[str, Any]:
    """One training on M4 Hourly; unsealed, the last 48 training values are forecast by what was trained on those before."""
    frame, seal = data.m4()
    horizon = int(arguments["horizon"])
    border = frame["timestamp"].max() - pd.Timedelta(hours=horizon - 1)
    train, last = frame[frame["timestamp"] < border], frame[frame["timestamp"] >= border]
    if not sealed:
        before = border - pd.Timedelta(hours=horizon)
        train, held = train[train["timestamp"] < before], train[train["timestamp"] >= before]
        truth, history = last["target"].to_numpy().reshape(-1, horizon), pd.concat([train, held])
    else:
        held, truth, history = last, seal.open(), frame
    start = time.process_time()
    model = SplineLSTM(**{"quantiles": LEVELS, **arguments}, random_state=first_seed(arguments, seed)).fit(train, validation=held)
    seconds = time.process_time() - start
    said = model.predict(history)
    fan = np.stack([said[f"q{level:g}"].to_numpy().reshape(-1, horizon) for level in LEVELS], axis=-1)
    scales = [metrics.seasonal_error(part.to_numpy(), 24) for _, part in history.groupby("series_id", sort=True)["target"]]
    smape = float(metrics.smape(truth, fan[..., 2]))
    mase = float(np.mean(np.abs(truth - fan[..., 2]).mean(axis=1) / np.asarray(scales)))
    return {"smape": smape, "mase": mase, **coverage(truth, fan), "cpu_s": round(seconds, 1), "epochs": len(model.history_),
            "weights": size_of(model)}  # fmt: skip


def pollution(data: Data, arguments: Mapping[str, Any], fold: int, seed: int, *, sealed: bool = True) -> dict[str, Any]:
    """One fold: trained on all before a test part of sixty days (unsealed: before the part that stops training, which is judged)."""
    frame = data.pollution()
    end = len(frame) - (FOLDS - 1 - fold) * FOLD
    judged = slice(end - FOLD, end) if sealed else slice(end - 3 * FOLD, end - FOLD)
    seal = data.seals.setdefault(f"pollution fold {fold}", Sealed(frame["target"].to_numpy()[end - FOLD : end]))
    if sealed:
        seal.open()
    train, held = frame[: end - 3 * FOLD], frame[end - 3 * FOLD : end - FOLD]
    cleaner = SplinePreprocessor(**A7_CLEANING)
    start = time.process_time()
    from recipeline.contracts import FitContext, Selected

    context = FitContext(seed, None, preprocessor=cleaner, validation=Selected(X=held))  # type: ignore[arg-type]  # nothing is kept
    model = SplineLSTM(**{"quantiles": LEVELS, **arguments}, random_state=first_seed(arguments, seed)).fit(train, context=context)
    seconds = time.process_time() - start
    panel = cleaner.history(frame[:end])
    origins = np.arange(judged.start - 1, judged.stop - model.horizon)
    fan = model.predict_origins(panel, origins)[:, :, 0]
    values = frame["target"].to_numpy()
    steps = origins[:, None] + np.arange(1, model.horizon + 1)
    future = values[steps]
    seen = ~np.isnan(future)
    season = values.copy()
    for row in np.flatnonzero(np.isnan(season)):  # what a day before was known
        season[row] = season[row - 24] if row >= 24 else np.nan
    naive = season[steps - 24]
    both = seen & ~np.isnan(naive)
    mae, peer = np.abs(fan[..., 2] - future)[both].mean(), np.abs(naive - future)[both].mean()
    return {"mae": float(mae), "seasonal_mae": float(peer), "better_percent": float(100 * (1 - mae / peer)), **coverage(future, fan),
            "cpu_s": round(seconds, 1), "epochs": len(model.history_)}  # fmt: skip


def damage(length: int, seed: int, share: float = 0.21, block: int = 24) -> np.ndarray:
    """(length,) True where an input is taken away: half of them one by one, half in blocks of 6 to `block` steps."""
    rng = np.random.default_rng(seed)
    gone = rng.random(length) < share / 2
    while gone.mean() < share:
        start = rng.integers(0, length - block)
        gone[start : start + rng.integers(6, block + 1)] = True
    return gone


def damaged(data: Data, arguments: Mapping[str, Any], mask: int | None, seed: int, *, sealed: bool = True) -> dict[str, Any]:
    """ETTh1 OT with 21 % of all values taken away from training and from inputs; what is judged are the true labels."""
    train, held, seal = data.etth1(["OT"])
    values = np.concatenate([train, held, seal.open()] if sealed else [train, held])[:, 0]
    holed = values.copy()
    if mask is not None:
        holed[damage(len(values), mask)] = np.nan
    stamps = pd.date_range("2016-07-01", periods=len(values), freq="h")
    frame = pd.DataFrame({"series_id": "OT", "timestamp": stamps, "target": holed})
    start = time.process_time()
    model = SplineLSTM(**arguments, random_state=seed).fit(frame[:TRAIN], validation=frame[TRAIN:HELD])
    seconds = time.process_time() - start
    panel = model.preprocessor_.history(frame)
    _, future = windows(values[:, None], HELD if sealed else TRAIN, model.lookback, model.horizon)
    origins = np.arange((HELD if sealed else TRAIN) - 1, len(values) - model.horizon)
    error = model.predict_origins(panel, origins)[:, :, 0, 1] - future[..., 0]
    return {"mse": float((error**2).mean()), "mae": float(np.abs(error).mean()), "cpu_s": round(seconds, 1)}


# --- cases --------------------------------------------------------------------------------------------------------------------

OT = ["OT"]
ALL = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
Goals = Mapping[str, tuple[float, float]]  # figure -> (must, aim), smaller is better


@dataclass(frozen=True)
class Case:
    what: str
    run: Callable[[Data, int], dict[str, Any]]
    goals: Goals


CASES: dict[str, Case] = {
    "A1": Case("ETTh1 OT, 24 ahead", lambda d, s: etth1(d, OT, A1, s), {"mse": (0.0275, 0.0265), "mae": (0.125, 0.1225)}),
    "A2": Case("ETTh1 OT, 96 ahead", lambda d, s: etth1(d, OT, A2, s), {"mse": (0.056, 0.053), "mae": (0.183, 0.177)}),
    "A3-24": Case("ETTh1 of 7, 24 ahead", lambda d, s: etth1(d, ALL, A3_24, s), {"mse": (0.297, 0.290), "mae": (0.342, 0.335)}),
    "A3-96": Case("ETTh1 of 7, 96 ahead", lambda d, s: etth1(d, ALL, A3_96, s), {"mse": (0.375, 0.365), "mae": (0.392, 0.388)}),
    "A5": Case("M4 Hourly, 48 ahead", lambda d, s: m4(d, A5, s), {"smape": (11.0, 9.3), "mase": (0.95, 0.87)}),
}


def summary(rows: Rows) -> dict[str, tuple[float, float]]:
    return {
        key: (float(np.mean([row[key] for row in rows])), float(np.std([row[key] for row in rows], ddof=len(rows) > 1))) for key in rows[0]
    }


def told(name: str, what: str, found: Mapping[str, tuple[float, float]]) -> None:
    print(f"{name:<15}{what:<24}" + "  ".join(f"{key} {mean:.4g} ± {sd:.2g}" for key, (mean, sd) in found.items()), flush=True)


def over_folds(rows: Rows) -> dict[str, Any]:
    """One figure of all folds: errors and coverages are means, the gain over the seasonal naive is that of the sums."""
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return {**mean, "better_percent": 100 * (1 - mean["mae"] / mean["seasonal_mae"])}


def standard(data: Data, names: Sequence[str], seeds: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, case in CASES.items():
        if name not in names:
            continue
        rows = []
        for seed in range(seeds):
            rows.append(case.run(data, seed))
            print(f"{name} seed {seed}: {rows[-1]}", file=sys.stderr, flush=True)
        found = summary(rows)
        told(name, case.what, found)
        must = {key: found[key][0] <= limits[0] for key, limits in case.goals.items()}
        aim = {key: found[key][0] <= limits[1] for key, limits in case.goals.items()}
        results[name] = {"found": found, "must": must, "aim": aim, "seeds": seeds}
        if name.startswith(("A1", "A2", "A3")):
            arguments = {"A1": A1, "A2": A2, "A3-24": A3_24, "A3-96": A3_96}[name]
            peers = linear(data, ALL if name.startswith("A3") else OT, arguments["lookback"], arguments["horizon"])
            told("", "on the same windows", {key: (value, 0.0) for key, value in peers.items()})
            results[name]["peers"] = peers
    if "A7" in names:
        table = [[pollution(data, A7, fold, seed) for fold in range(FOLDS)] for seed in range(seeds)]
        found = summary([over_folds(rows) for rows in table])
        told("A7", "pollution, five folds", found)
        good = {"mae": found["better_percent"][0] >= 15, "c80": abs(found["c80"][0] - 80) <= 4}
        results["A7"] = {"found": found, "folds": table, "must": good, "seeds": seeds}
        last = summary([rows[-1] for rows in table])
        told("A9-pollution", "its last fold", last)
        results["A9-pollution"] = {"found": last, "seeds": seeds}
    if "A8" in names:
        whole = [damaged(data, A8, None, seed) for seed in range(seeds)]
        holed = [[damaged(data, A8, mask, seed) for mask in range(MASKS)] for seed in range(seeds)]
        ratio = np.array([[row["mse"] / sound["mse"] for row in rows] for rows, sound in zip(holed, whole, strict=True)])  # (seeds, masks)
        of_mask = ratio.mean(axis=0)
        error = float(of_mask.std(ddof=1) / np.sqrt(MASKS))
        worse = {"worse_percent": (100 * (ratio.mean() - 1), 100 * float(of_mask.std(ddof=1)))}
        told("A8", "21 % taken away", {**summary([row for rows in holed for row in rows]), **worse})
        told("", "nothing taken away", summary(whole))
        fits = {"worse": ratio.mean() <= 1.15, "no_leak": ratio.mean() >= 1 - 2 * error}
        results["A8"] = {
            "whole": summary(whole),
            "ratios": ratio.tolist(),
            "must": {key: bool(value) for key, value in fits.items()},
            "aim": {"worse": bool(ratio.mean() <= 1.10)},
            "seeds": seeds,
        }
    sets = [name for name in ("A1", "A5", "A9-pollution") if name in results]
    for level, within in (("c80", 4), ("c95", 2)):
        for name in sets:
            results[name].setdefault("A9", {})[level] = bool(abs(results[name]["found"][level][0] - float(level[1:])) <= within)
    return results


def encoders(data: Data, names: Sequence[str], seeds: int) -> dict[str, Any]:
    """Every encoder on a lookback and a budget that all of them can afford, alone, on validation data."""
    results: dict[str, Any] = {}
    # Of 414 unlike series there is more to learn than of one: too short a training tells nothing of its encoder.
    cheap = {"lookback": 96, "max_epochs": 4, "patience": 4, "blend": 0.0, "learning_rate": 3e-3, "epoch_windows": 3000, "ensemble": 1}
    for encoder in ENCODERS:
        for name, arguments in (("A1", A1), ("A2", A2), ("A5", A5)):
            if name not in names:
                continue
            more = {"lookback": 168, "max_epochs": 8, "patience": 8, "epoch_windows": 6000} if name == "A5" else {}
            asked = {**arguments, **cheap, **more, "encoder": encoder}
            rows = [m4(data, asked, s, sealed=False) if name == "A5" else etth1(data, OT, asked, s, sealed=False) for s in range(seeds)]
            results[f"{encoder} {name}"] = summary(rows)
            told(encoder, name, results[f"{encoder} {name}"])
    return results


TRIED: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    **dict.fromkeys(("A1", "A2"), ({}, [
        {}, {"lookback": 96}, {"lookback": 168}, {"lookback": 720}, {"segment": 12}, {"segment": 48}, {"loss": "pinball"},
        {"loss": "huber"},
        {"blend": 0.0}, {"blend": 1.0}, {"ensemble": 3}, {"average": 0.99}, {"dropout": 0.3}, {"hidden_size": 128}, {"learning_rate": 3e-4},
    ])),
    "A3-24": ({"ensemble": 1, "hidden_size": 64, "max_epochs": 2}, [  # cheap: 8,000 windows
        {}, {"decoder": "direct"}, {"skip": "mean"}, {"skip": "none"}, {"lookback": 96}, {"lookback": 720, "segment": 48}, {"segment": 12},
        {"hidden_size": 128}, {"dropout": 0.5}, {"loss": "mse"}, {"loss": "pinball"}, {"blend": "auto"}, {"ensemble": 2},
    ]),
}  # fmt: skip


def tried(data: Data, names: Sequence[str]) -> dict[str, Any]:
    """What was tried for A1, A2 and A3, on validation data alone: one seed each."""
    results: dict[str, Any] = {}
    for name, arguments, columns in (("A1", A1, OT), ("A2", A2, OT), ("A3-24", A3_24, ALL)):
        if name not in names:
            continue
        base, options = TRIED[name]
        for option in options:
            found = etth1(data, columns, {**arguments, **base, **option}, 0, sealed=False)
            results[f"{name} {option}"] = found
            print(f"{name} {option!s:<28} validation mse {found['mse']:.4f} mae {found['mae']:.4f}  {found['cpu_s']} s", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=[*CASES, "A7", "A8"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--encoders", action="store_true")
    parser.add_argument("--tried", action="store_true")
    options = parser.parse_args()
    place = os.environ.get("RECIPELINE_BENCH_DATA")
    if not place:
        print(json.dumps({"bench": "spline_accuracy", "skipped": "RECIPELINE_BENCH_DATA is not set"}))
        return
    data = Data(Path(place))
    if options.encoders:
        results = encoders(data, options.cases, options.seeds)
    elif options.tried:
        results = tried(data, options.cases)
    else:
        results = standard(data, options.cases, options.seeds)
    opened = {name: seal.opened for name, seal in data.seals.items()}
    print("sealed parts opened:", ", ".join(f"{name} {times}" for name, times in opened.items()))
    print(json.dumps({"bench": "spline_accuracy", "results": results, "opened": opened}))


if __name__ == "__main__":
    main()
