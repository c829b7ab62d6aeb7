"""ONNX: the file alone answers as the library does, what was exported is bound by hashes, and variants cost what the table says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recipeline
from recipeline import settings
from recipeline.errors import Damaged, DataError, TrainingFailed
from recipeline.stores import files
from recipeline.timeseries.frames import SERIES, TARGET, TIME

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from recipeline_spline import export, onnx_layers
from recipeline_spline.model import SplineLSTM
from recipeline_spline.onnx_runtime import OnnxForecaster  # after the question whether it is there

PROJECT = Path(__file__).parents[3]


def long_frame(rows: pd.DataFrame, series: str | None, time: str, target: str, **columns: str) -> pd.DataFrame:
    names = {time: TIME, target: TARGET, **({series: SERIES} if series else {})}
    found = rows.rename(columns=names)
    return found if series else found.assign(**{SERIES: target})


@pytest.fixture(scope="module")
def exported(
    spline_home: Path, trained: Callable[[str], recipeline.Run], run_command: Callable[..., Any]
) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """The folder of an exported run, and what the command answered."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}

    def written(name: str) -> tuple[Path, dict[str, Any]]:
        if name not in found:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(spline_home)
                source = {"co2_forecast": "co2.csv", "stations_covariates": "stations.csv"}[name]
                ended = run_command(
                    "export", "--run-id", trained(name).id, "--format", "onnx", "--output", f"onnx-{name}", "--json",
                    "--option", "variants=fp32,fp16,int8", "--option", f"data=recipes/data/{source}", "--option", "repeats=20",
                )  # fmt: skip
            assert ended.code == 0, ended
            found[name] = (spline_home / f"onnx-{name}", ended.json)
        return found[name]

    return written


def test_the_file_alone_gives_what_the_library_gives(home: Path, trained: Any, exported: Any) -> None:
    """onnxruntime and numpy, 96 measured values in ppm: the quantiles of the pipeline, scale and inverse included."""
    import onnxruntime

    folder, answer = exported("co2_forecast")
    rows = pd.read_csv("recipes/data/co2.csv", parse_dates=["date"])
    past = rows["co2"].to_numpy()[-96:]
    assert not np.isnan(past).any()
    session = onnxruntime.InferenceSession(folder / "forecaster.onnx", providers=["CPUExecutionProvider"])
    shapes = {one.name: one.shape for one in session.get_inputs()}
    assert set(shapes) == {"past", "known"}  # one series: its scale is inside
    assert isinstance(shapes["past"][0], str)  # any number of windows
    assert json.loads((folder / "manifest.json").read_text())["channels"]["known"] == ["target:mask", "target:age"]
    seen = np.stack([np.ones(96), np.zeros(96)], axis=1)[None].astype(np.float32)  # all observed, none of them ago
    (fan,) = session.run(None, {"past": past[None, :, None], "known": seen})
    expected = recipeline.load(trained("co2_forecast").id, settings=settings.load(project=home, environ={})).predict(rows)
    np.testing.assert_allclose(fan[0, :, 0], expected[["q0.1", "q0.5", "q0.9"]], rtol=1e-7)
    assert answer["parity"]["largest"] <= 1e-5


@pytest.mark.slow
def test_an_exported_folder_forecasts_panels_with_covariates(home: Path, trained: Any, exported: Any) -> None:
    """Categories, holidays to come, log1p and a scale for each series, gaps and a series never seen; without the pipeline."""
    folder, _ = exported("stations_covariates")
    rows = pd.read_csv("recipes/data/stations_next.csv", parse_dates=["day"])
    expected = recipeline.load(trained("stations_covariates").id, settings=settings.load(project=home, environ={})).predict(rows)
    said = OnnxForecaster.open(folder).predict(long_frame(rows, "station", "day", "rides"))
    assert said[SERIES].tolist() == expected["station"].tolist()
    assert said[TIME].tolist() == expected["day"].tolist()
    columns = ["prediction", "q0.1", "q0.5", "q0.9"]
    np.testing.assert_allclose(said[columns], expected[columns], rtol=1e-4)  # log1p: 1e-5 of the scale is a share of the value


@pytest.mark.slow
def test_every_variant_is_measured_beside_eager_torch(home: Path, exported: Any) -> None:
    """Half the weights are half the bytes; what int8 and fp16 cost in accuracy is known and small."""
    folder, answer = exported("co2_forecast")
    lines = {line["variant"]: line for line in answer["benchmark"]}
    assert list(lines) == ["eager", "fp32", "fp16", "int8"]
    for line in lines.values():
        assert 0 < line["p50_ms"] <= line["p95_ms"]
        assert line["memory_mib"] > 1
    assert lines["fp32"]["mae"] == pytest.approx(lines["eager"]["mae"], rel=1e-5)
    assert lines["fp16"]["mae"] == pytest.approx(lines["eager"]["mae"], rel=0.01)
    assert lines["int8"]["mae"] == pytest.approx(lines["eager"]["mae"], rel=0.05)
    assert lines["fp16"]["bytes"] < 0.7 * lines["fp32"]["bytes"]
    assert lines["int8"]["mae"] != lines["fp32"]["mae"]  # it is another file, and it was run
    assert json.loads((folder / "benchmark.json").read_text())["lines"] == answer["benchmark"]


def test_no_path_of_this_machine_is_in_what_is_exported(exported: Any) -> None:
    """Exporters write stack traces into the graph."""
    folder, _ = exported("co2_forecast")
    for path in folder.rglob("*.onnx"):
        assert str(PROJECT).encode() not in path.read_bytes()
        assert b".py" not in path.read_bytes()


def test_a_swapped_file_or_preprocessor_is_refused(trained: Any, exported: Any, tmp_path: Path) -> None:
    """By their hashes, before anything is opened; a preprocessor with a manifest made for it by what the network remembers."""
    folder, _ = exported("co2_forecast")
    other = trained("stations_panel").artifact / "parts" / "preprocessor" / "preprocessor.json"
    for file, source in (("forecaster.onnx", folder / "forecaster.fp16.onnx"), ("preprocessor/preprocessor.json", other)):
        copy = tmp_path / file.replace("/", "-")
        shutil.copytree(folder, copy)
        shutil.copy(source, copy / file)
        with pytest.raises(Damaged, match="differs from what was exported") as refused:
            OnnxForecaster.open(copy)
        assert refused.value.code == 9
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["preprocessor/preprocessor.json"] = files.sha256(copy / "preprocessor/preprocessor.json")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="not the one that the network was trained with"):
        OnnxForecaster.open(copy)
    (copy / "forecaster.onnx").unlink()
    with pytest.raises(Damaged, match="is missing"):
        OnnxForecaster.open(copy)
    with pytest.raises(DataError, match="no variant 'int4'"):
        OnnxForecaster.open(folder, variant="int4")


def test_what_cannot_be_exported_is_said(home: Path, trained: Any, run_command: Callable[..., Any]) -> None:
    """Unknown options and variants are a usage error; nothing half written."""
    run = trained("co2_forecast")
    for option, words in (("variants=int4", "int4"), ("opset=3", "opset"), ("repeats=no", "repeats")):
        ended = run_command("export", "--run-id", run.id, "--format", "onnx", "--output", "refused", "--option", option, "--json")
        assert ended.code == 2, ended
        assert words in ended.json["error"]["message"]
        assert not Path("refused").exists()


def test_a_file_that_differs_from_torch_is_refused(home: Path, trained: Any, exported: Any) -> None:
    """By a ten-thousandth of the scale, in one window of 64."""
    folder, _ = exported("co2_forecast")
    pipeline = recipeline.load(trained("co2_forecast").id, settings=settings.load(project=home, environ={}))
    model, cleaner = export._trained(pipeline)
    questions, graph = export._questions(pipeline, model, cleaner, "recipes/data/co2.csv"), export.Graph.of(model, cleaner)
    eager = graph.eager()
    assert export._parity(folder / "forecaster.onnx", graph, eager, questions)["largest"] <= export.PARITY

    def off(inputs: Any) -> Any:
        said = eager(inputs)
        said[-1, 0] += 1e-4 * inputs.spread[-1] * (len(said) == 64)
        return said

    with pytest.raises(TrainingFailed, match="ONNX Runtime and torch differ") as refused:
        export._parity(folder / "forecaster.onnx", graph, off, questions)
    assert refused.value.slug == "export-differs"


@pytest.mark.slow
def test_gates_in_the_wrong_order_are_seen(
    home: Path, trained: Any, run_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parity check of a whole export; nothing is left of it."""
    monkeypatch.setattr(onnx_layers, "LSTM_GATES", (0, 1, 2, 3))
    ended = run_command("export", "--run-id", trained("co2_forecast").id, "--format", "onnx", "--output", "wrong", "--json")
    assert (ended.code, ended.json["error"]["slug"]) == (10, "export-differs"), ended
    assert not Path("wrong").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "layers", "smooth", "decoder"),
    [
        *product(("seglstm", "lstm", "gru", "bilstm", "attention_lstm", "linear"), (1, 2), ("none",), ("direct",)),
        ("gru", 2, "spline_window", "direct"),
        *product(("seglstm",), (1, 2), ("none",), ("segments",)),
    ],
)
def test_every_encoder_has_an_onnx_form(tmp_path: Path, encoder: Any, layers: int, smooth: str, decoder: Any) -> None:
    """Ensembles, NLinear's share, calibration and smoothed channels are in the graph; a recurrent layer is one node of it."""
    import onnx

    at = np.arange(400)
    noise = np.random.default_rng(0).normal(size=400)
    frame = pd.DataFrame(
        {"timestamp": pd.date_range("2024-01-01", periods=400, freq="h"), "target": at / 50 + np.sin(at / 4) + 0.1 * noise}
    )
    frame.loc[100:104, "target"] = np.nan
    model = SplineLSTM(
        6,
        24,
        encoder=encoder,
        decoder=decoder,
        skip="mean" if decoder == "direct" else "nlinear",
        layers=layers,
        hidden_size=8,
        max_epochs=2,
        ensemble=2,
        blend="auto",
        cleaning={"smooth": smooth},
        random_state=0,
    ).fit(frame)
    graph = export.Graph.of(model, model.preprocessor_)
    graph.write(tmp_path / "forecaster.onnx")
    panel = model.preprocessor_.history(frame)
    questions = export.Questions(panel.gather(panel.origins(24, 6, future=True)[60:124], 24, 6), model.levels)
    assert (questions.inputs.coverage < 1).any()
    assert export._parity(tmp_path / "forecaster.onnx", graph, graph.eager(), questions)["largest"] <= 1e-5
    nodes = [node.op_type for node in onnx.load(tmp_path / "forecaster.onnx").graph.node]
    assert nodes.count("LSTM") + nodes.count("GRU") == (0 if encoder == "linear" else 2 * layers * (1 + (decoder == "segments")))
