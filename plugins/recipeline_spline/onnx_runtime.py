"""Forecasts from an exported folder, by ONNX Runtime and without torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from recipeline.errors import Damaged, DataError, RecipeError
from recipeline.stores import files
from recipeline.timeseries import transforms
from recipeline.timeseries.frames import forecasts

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from recipeline_spline.cleaning import SplinePreprocessor
    from recipeline_spline.prepared import Inputs

BASE, MANIFEST, PREPROCESSOR = "forecaster", "manifest.json", "preprocessor"
FORMAT = 1


class OnnxForecaster:
    """A folder that `recipeline export --format onnx` wrote, ready to forecast; `variant` is fp32, fp16 or int8.

    Answers are those of the library up to the parity in the manifest, for fp16 and int8 up to the accuracy in benchmark.json.
    """

    def __init__(self, opened: Any, cleaner: SplinePreprocessor, manifest: dict[str, Any]) -> None:
        self._session, self.preprocessor, self.manifest = opened, cleaner, manifest
        self.horizon, self.lookback = int(manifest["horizon"]), int(manifest["lookback"])
        self.quantiles = tuple(map(float, manifest["quantiles"]))

    @classmethod
    def open(cls, folder: str | Path, *, variant: str = "fp32") -> Self:
        """Verified first: raises Damaged where a file is not the one that was exported, DataError for a variant that is not there."""
        from recipeline_spline.cleaning import SplinePreprocessor

        place = Path(folder)
        manifest = files.read_json(place / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise Damaged(f"{MANIFEST} has format {manifest.get('format')}, this version reads {FORMAT}", where=place.name)
        for name, written in manifest["files"].items():
            if not (place / name).is_file():
                raise Damaged(f"{name} is missing", hint="export again", where=place.name)
            if files.sha256(place / name) != written:
                raise Damaged(f"{name} differs from what was exported", hint="export again", where=place.name)
        cleaner = SplinePreprocessor.load(place / PREPROCESSOR)
        if cleaner.digest != manifest["bound"]["preprocessor"]:
            raise Damaged("the preprocessor is not the one that the network was trained with", hint="export again", where=place.name)
        file = f"{BASE}.onnx" if variant == "fp32" else f"{BASE}.{variant}.onnx"
        if file not in manifest["files"]:
            raise DataError(f"no variant {variant!r} was exported", hint=f"export with --option variants={variant}", slug="no-variant")
        return cls(session(place / file), cleaner, manifest)

    def predict(self, X: pd.DataFrame) -> pd.DataFrame:
        """As `SplineLSTM.predict` on a long frame: `series_id, timestamp, step, prediction, q…`."""
        panel = self.preprocessor.transform(X)
        inputs = panel.gather(panel.last, self.lookback, self.horizon)
        (fan,) = self._session.run(None, feed(inputs, self.manifest["inputs"], int(self.manifest["own"])))
        middle = int(np.argmin(np.abs(np.asarray(self.quantiles) - 0.5)))
        stamps = panel.stamps((panel.last[:, None] + np.arange(1, self.horizon + 1)).ravel())
        return forecasts(panel.names, fan[:, :, 0, middle], fan[:, :, 0], self.quantiles, stamps=stamps)


def feed(inputs: Inputs, names: Sequence[str], own: int) -> dict[str, NDArray[Any]]:
    """Prepared windows as the inputs of the graph: what has the units of the targets goes back to them, in float64."""
    times = own // inputs.centre.shape[1]
    scaled = inputs.past[:, :, :own].astype(np.float64)
    if times == 2:  # the smoothed curve itself, which the network is given as a difference
        scaled[:, :, own // 2 :] += scaled[:, :, : own // 2]
    centre, spread = (np.tile(values, times)[:, None] for values in (inputs.centre, inputs.spread))
    every = {
        "past": transforms.back(scaled * spread + centre, inputs.space), "known": inputs.past[:, :, own:], "future": inputs.future,
        "static": inputs.static, "codes": inputs.codes, "centre": inputs.centre, "spread": inputs.spread,
    }  # fmt: skip
    return {name: np.ascontiguousarray(every[name]) for name in names}


def session(path: Path) -> Any:
    """An open ONNX Runtime session on one thread of the CPU.

    Raises RecipeError where onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise RecipeError("onnxruntime is not installed", hint="pip install 'recipeline[onnx]'")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
