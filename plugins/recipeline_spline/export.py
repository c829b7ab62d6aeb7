"""`recipeline export --format onnx`: the network with its scale and their inverse as one ONNX file, checked and measured.

onnx file        inputs: `past` (B, L, n) float64 in original units, gaps filled; `known` (B, L, c), `future` (B, H, F),
                 `static` (B, K), `codes` (B, G) as far as the model has them, prepared as the preprocessor prepares them;
                 `centre`, `spread` (B, k) float64 where each series has a scale of its own
                 output: `quantiles` (B, H, k, Q) float64 in original units
manifest.json    SHA-256 of every file, and of the weights and the preprocessor that they were made of; what inputs are
preprocessor/    how rows become inputs (`OnnxForecaster` uses it, without torch)
benchmark.json   latency, size, memory and accuracy of every variant beside eager torch
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline.errors import DataError, TrainingFailed, UsageError
from recipeline.stores import files
from recipeline.timeseries import metrics, transforms
from recipeline_spline.model import WEIGHTS
from recipeline_spline.onnx_layers import opaque, translations
from recipeline_spline.onnx_runtime import BASE, FORMAT, MANIFEST, PREPROCESSOR, feed, session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recipeline_spline.cleaning import SplinePreprocessor
    from recipeline_spline.model import SplineLSTM
    from recipeline_spline.prepared import Inputs, Prepared

    Floats = NDArray[np.float64]

log = logging.getLogger("recipeline")

PARITY = 1e-5
"""Largest difference from eager torch, in units of the scale, of the file in full precision."""
VARIANTS = ("fp32", "fp16", "int8")
OPTIONS = ("variants", "data", "repeats")
WINDOWS = 256
"""Windows at the end of the data that accuracy is measured on."""
BATCHES = (1, 2, 7, 64)


class OnnxExporter:
    """Writes a trained `spline_lstm` as ONNX.

    --option variants=fp32,fp16,int8   what is written; fp32 always. fp16 keeps the weights in half precision and reckons in
                                       single; int8 quantises weights and reckons with integers (onnxruntime's dynamic quantisation)
    --option data=FILE                 rows like those of training: accuracy is measured on the last windows of them
    --option repeats=200               calls that latency is measured by

    Raises TrainingFailed (slug export-differs) where ONNX Runtime does not give what torch gives.
    """

    def export(self, pipeline: Any, folder: Path, **options: Any) -> dict[str, Any]:
        variants, repeats = _asked(options)
        model, cleaner = _trained(pipeline)
        questions = _questions(pipeline, model, cleaner, options.get("data"))
        graph = Graph.of(model, cleaner)
        with files.atomic_path(folder / f"{BASE}.onnx") as target:
            graph.write(target)
        cleaner.save(folder / PREPROCESSOR)
        for variant in variants:
            if variant != "fp32":
                with files.atomic_path(folder / f"{BASE}.{variant}.onnx") as target:
                    (_halved if variant == "fp16" else _quantised)(folder / f"{BASE}.onnx", target)
        eager = graph.eager()
        parity = _parity(folder / f"{BASE}.onnx", graph, eager, questions)
        lines = [_measured("eager", eager, questions, repeats, _kept(pipeline))]
        for variant in variants:
            path = folder / (f"{BASE}.onnx" if variant == "fp32" else f"{BASE}.{variant}.onnx")
            lines.append(_measured(variant, runner(path, graph), questions, repeats, path))
        files.write_json(folder / "benchmark.json", {"batch": 1, "repeats": repeats, "windows": len(questions.inputs), "lines": lines})
        manifest = {
            "format": FORMAT,
            "run_id": pipeline.run_id,
            "name": pipeline.facts.get("name", ""),
            "bound": {"weights": files.sha256(_kept(pipeline) / WEIGHTS), "preprocessor": cleaner.digest},
            "files": {path.relative_to(folder).as_posix(): files.sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()},
            **graph.about(),
            "parity": parity,
        }
        files.write_json(folder / MANIFEST, manifest)
        return {"format": "onnx", "variants": list(variants), "parity": parity, "benchmark": lines}


def _asked(options: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise UsageError(f"--option {unknown[0]} is not known", hint=f"there are {', '.join(OPTIONS)}")
    variants = tuple(name.strip() for name in str(options.get("variants", "fp32")).split(",") if name.strip())
    wrong = [name for name in variants if name not in VARIANTS]
    if wrong:
        raise UsageError(f"no variant {wrong[0]!r}", hint=f"there are {', '.join(VARIANTS)}")
    repeats = str(options.get("repeats", "100"))
    if not repeats.isdigit() or int(repeats) < 1:
        raise UsageError(f"--option repeats={repeats}: a number of calls is expected")
    return tuple(name for name in VARIANTS if name == "fp32" or name in variants), int(repeats)


def _trained(pipeline: Any) -> tuple[SplineLSTM, SplinePreprocessor]:
    from recipeline_spline.model import SplineLSTM

    model = pipeline.model
    if not isinstance(model, SplineLSTM) or getattr(model, "preprocessor_", None) is None:
        what = f"a run of {type(model).__name__} has no ONNX form here"
        raise DataError(what, hint="export a run of spline_lstm", slug="not-exportable")
    return model, model.preprocessor_


def _kept(pipeline: Any) -> Path:
    """Where the artifact keeps the model."""
    return Path(pipeline.facts["folder"]) / "parts" / "model"


# --- what is asked of it ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Questions:
    """Windows to compare on, and what came after them, (B, H, k) in original units, where it is known."""

    inputs: Inputs
    levels: tuple[float, ...]
    actual: Floats | None = None

    def scaled(self, fan: Floats) -> Floats:
        """Quantiles (B, H, k, Q) in units of the scale."""
        return transforms.into(fan, self.inputs.space) / self.inputs.spread[:, None, :, None]


def _questions(pipeline: Any, model: SplineLSTM, cleaner: SplinePreprocessor, data: str | None) -> Questions:
    """The last windows of the data, or, without any, the history in the input contract."""
    import pandas as pd

    schema, task, levels = pipeline.schema, pipeline.task, tuple(map(float, model.quantiles))
    rows = pd.DataFrame(schema.extras["example"]) if data is None else files.read_frame(data)
    for column in schema.columns:
        if column.dtype.startswith("datetime") and rows[column.name].dtype == object:  # JSON and CSV have texts
            rows[column.name] = pd.to_datetime(rows[column.name], utc=column.dtype == "datetime_utc")
    selected = task.select(schema.conform(rows), schema, targets=data is not None)
    if data is None:
        panel: Prepared = cleaner.transform(selected.X)
        return Questions(panel.gather(panel.last, model.lookback, model.horizon), levels)
    panel = cleaner.history(selected.X.sort_values(["series_id", "timestamp"], kind="stable", ignore_index=True))
    origins = panel.origins(model.lookback, model.horizon, future=True)
    chosen = origins[np.argsort(panel.stamps(origins), kind="stable")][-WINDOWS:]
    inputs = panel.gather(chosen, model.lookback, model.horizon)
    return Questions(inputs, levels, np.where(inputs.label_mask, inputs.restore(inputs.labels), np.nan))


# --- the graph ---------------------------------------------------------------------------------------------------------------


class Graph:
    """The module that is exported, and what its inputs are.

    own    channels of the past that have the units of the targets (they, and their smoothed curves)
    scale  (centre, spread) where all series have one; None where they are inputs
    """

    def __init__(self, model: SplineLSTM, cleaner: SplinePreprocessor, own: int, scale: tuple[Floats, Floats] | None) -> None:
        self.model, self.cleaner, self.own, self.scale = model, cleaner, own, scale
        shape = model.committee_.shape
        sizes = {"past": own, "known": shape.channels - own, "future": shape.future, "static": shape.static, "codes": len(shape.categories)}
        self.inputs = tuple(name for name, width in sizes.items() if width)
        if scale is None:
            self.inputs += ("centre", "spread")
        self.kept = [model.levels.index(float(level)) for level in model.quantiles]

    @classmethod
    def of(cls, model: SplineLSTM, cleaner: SplinePreprocessor) -> Graph:
        own = len(cleaner.channels.targets) * (1 if cleaner.smooth == "none" else 2)
        return cls(model, cleaner, own, _one_scale(cleaner))

    def about(self) -> dict[str, Any]:
        names, model = self.cleaner.channels, self.model
        scale = None if self.scale is None else {"centre": self.scale[0].tolist(), "spread": self.scale[1].tolist()}
        return {
            "lookback": model.lookback, "horizon": model.horizon, "quantiles": list(map(float, model.quantiles)), "own": self.own,
            "inputs": list(self.inputs), "scale": scale, "space": _space(self.cleaner),
            "channels": {
                "past": list(names.past[: self.own]), "known": list(names.past[self.own :]), "future": list(names.future),
                "static": list(names.static), "codes": list(names.codes),
            },
        }  # fmt: skip

    def eager(self) -> Callable[[Inputs], Floats]:
        """What the library answers: quantiles (B, H, k, Q) in original units."""

        def ask(inputs: Inputs) -> Floats:
            return inputs.restore(self.model._forecast(inputs))[..., self.kept]

        return ask

    def write(self, path: Path) -> None:
        """The ONNX file, of any batch size."""
        import warnings

        import torch

        with _on_cpu(self.model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own making, about torch's own making
            example = tuple(torch.from_numpy(value) for value in self._example().values())
            batch = torch.export.Dim("batch")
            program = torch.export.export(self._module(), example, dynamic_shapes=(tuple({0: batch} for _ in example),), strict=True)
            with _quiet():
                exported = torch.onnx.export(
                    program, dynamo=True, custom_translation_table=translations(), input_names=list(self.inputs),
                    output_names=["quantiles"], verbose=False,
                )  # fmt: skip
        assert exported is not None
        files.write_bytes(path, _bare(exported.model_proto).SerializeToString())

    def _example(self) -> dict[str, NDArray[Any]]:
        shape, random = self.model.committee_.shape, np.random.default_rng(0)
        width = {"past": self.own, "known": shape.channels - self.own, "future": shape.future, "static": shape.static}
        length = {"past": (shape.lookback,), "known": (shape.lookback,), "future": (shape.horizon,), "static": ()}
        made: dict[str, NDArray[Any]] = {}
        for name in self.inputs:
            if name in ("centre", "spread"):
                made[name] = np.ones((3, shape.targets))
            elif name == "codes":
                made[name] = np.zeros((3, len(shape.categories)), np.int64)
            else:
                values = random.uniform(0.1, 0.9, (3, *length[name], width[name]))
                made[name] = values if name == "past" else values.astype(np.float32)
        return made

    def _module(self) -> Any:
        import torch

        graph, committee, space = self, opaque(self.model.committee_), _space(self.cleaner)
        shape = committee.shape

        class Whole(torch.nn.Module):
            centre: torch.Tensor
            spread: torch.Tensor
            kept: torch.Tensor

            def __init__(self) -> None:
                super().__init__()
                self.committee = committee
                if graph.scale is not None:
                    self.register_buffer("centre", torch.from_numpy(graph.scale[0])[None])
                    self.register_buffer("spread", torch.from_numpy(graph.scale[1])[None])
                self.register_buffer("kept", torch.tensor(graph.kept))

            def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
                given = dict(zip(graph.inputs, tensors, strict=True))
                centre = self.centre if graph.scale is not None else given["centre"]
                spread = self.spread if graph.scale is not None else given["spread"]
                times = graph.own // shape.targets
                scaled = (_into(given["past"], space) - centre.repeat(1, times)[:, None]) / spread.repeat(1, times)[:, None]
                if times == 2:
                    raw, smooth = scaled.chunk(2, dim=2)
                    scaled = torch.cat([raw, smooth - raw], dim=2)
                past = scaled.float()
                if "known" in given:
                    past = torch.cat([past, given["known"]], dim=2)
                fan = self.committee(past, given.get("future"), given.get("static"), given.get("codes"))
                said = fan.double() * spread[:, None, :, None] + centre[:, None, :, None]
                whole: torch.Tensor = _back(said, space).index_select(3, self.kept)
                return whole

        return Whole().eval()


def _bare(model: Any) -> Any:
    """Without what exporters write of their making: stack traces with the paths of this machine, shapes in between."""
    graph = model.graph
    for one in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        one.ClearField("metadata_props")
        one.doc_string = ""
    del graph.value_info[:]  # which the quantiser would compare with its own
    return model


def _one_scale(cleaner: SplinePreprocessor) -> tuple[Floats, Floats] | None:
    """(k,) centre and spread, where every question has the same: of a global scale, or of the only series there is."""
    state = cleaner.scaler_.to_json()["scales"]
    if cleaner.level == "window" or (cleaner.level == "series" and len(cleaner.names_) != 1):
        return None
    (only,) = [state[name] for name in state if cleaner.level != "series" or name in map(str, cleaner.names_)][:1]
    return np.asarray(only["shift"], np.float64).ravel(), np.asarray(only["scale"], np.float64).ravel()


def _space(cleaner: SplinePreprocessor) -> transforms.Space:
    return cleaner.scale if cleaner.scale in ("log1p", "asinh") else "identity"


def _into(x: Any, space: transforms.Space) -> Any:
    import torch

    if space == "log1p":
        return torch.log1p(x)
    return torch.asinh(x) if space == "asinh" else x


def _back(x: Any, space: transforms.Space) -> Any:
    import torch

    if space == "log1p":
        return torch.exp(x) - 1
    return torch.sinh(x) if space == "asinh" else x


# --- variants ------------------------------------------------------------------------------------------------------------------


def _halved(source: Path, target: Path) -> None:
    """Weights as float16, cast to float32 where they are used: half the size, and the CPU reckons as before."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(source)
    casts = []
    for weight in list(model.graph.initializer):
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < 16:  # small ones are not worth a node
            continue
        values, name = numpy_helper.to_array(weight), weight.name
        model.graph.initializer.remove(weight)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.single", to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    onnx.checker.check_model(model)
    files.write_bytes(target, model.SerializeToString())


def _quantised(source: Path, target: Path) -> None:
    """Weights of matrices and LSTMs as int8, one scale per channel, activations quantised as they come."""
    import tempfile

    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch, _quiet():
        made = Path(scratch) / "int8.onnx"
        quantize_dynamic(source, made, per_channel=True, weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": 1})
        files.write_bytes(target, made.read_bytes())


# --- checked and measured --------------------------------------------------------------------------------------------------------


def runner(path: Path, graph: Graph) -> Callable[[Inputs], Floats]:
    """What the file answers in ONNX Runtime."""
    opened = session(path)

    def ask(inputs: Inputs) -> Floats:
        (said,) = opened.run(None, feed(inputs, graph.inputs, graph.own))
        return np.asarray(said)

    return ask


def _parity(path: Path, graph: Graph, eager: Callable[[Inputs], Floats], questions: Questions) -> dict[str, Any]:
    """The largest difference from torch in units of the scale, over batches of several sizes.

    Raises TrainingFailed where it is above PARITY.
    """
    ask, worst = runner(path, graph), 0.0
    for size in BATCHES:
        rows = np.arange(size) % len(questions.inputs)
        some = Questions(_rows(questions.inputs, rows), questions.levels)
        worst = max(worst, float(np.abs(some.scaled(ask(some.inputs)) - some.scaled(eager(some.inputs))).max()))
    if not worst <= PARITY:
        what = f"ONNX Runtime and torch differ by {worst:.2g} of the scale, {PARITY:g} is allowed"
        raise TrainingFailed(what, hint="report it, with the versions of torch and onnxruntime", slug="export-differs")
    return {"largest": worst, "allowed": PARITY, "unit": "the scale of the series", "batches": list(BATCHES)}


def _rows(inputs: Inputs, rows: NDArray[np.intp]) -> Inputs:
    arrays = {one.name: getattr(inputs, one.name)[rows] for one in fields(inputs) if isinstance(getattr(inputs, one.name), np.ndarray)}
    return replace(inputs, **arrays)


def _measured(name: str, ask: Callable[[Inputs], Floats], questions: Questions, repeats: int, where: Path) -> dict[str, Any]:
    """Milliseconds of one window, bytes, MiB of a process that holds nothing else, and what the answers are worth.

    where  the ONNX file, or the folder of the model
    """
    one = _rows(questions.inputs, np.arange(1))
    for _ in range(5):
        ask(one)
    seconds = np.empty(repeats)
    for call in range(repeats):
        begun = time.perf_counter()
        ask(one)
        seconds[call] = time.perf_counter() - begun
    parts = [where] if where.is_file() else [path for path in where.rglob("*") if path.is_file()]
    line: dict[str, Any] = {
        "variant": name,
        "p50_ms": float(np.quantile(seconds, 0.5) * 1e3),
        "p95_ms": float(np.quantile(seconds, 0.95) * 1e3),
        "bytes": sum(part.stat().st_size for part in parts),
        "memory_mib": _memory(where),
    }
    fan = ask(questions.inputs)
    if questions.actual is None:
        return line
    point = fan[..., int(np.argmin(np.abs(np.asarray(questions.levels) - 0.5)))]
    seen = ~np.isnan(questions.actual)
    line["mae"] = float(metrics.mae(questions.actual, point, mask=seen))
    line["pinball"] = float(metrics.pinball(questions.actual, fan, questions.levels, mask=seen))
    return line


MOST = """
def most():
    # Linux hands the peak of a parent on to its child in ru_maxrss, so the kernel's own record is read where there is one.
    import pathlib, resource, sys
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
"""
OF_A_FILE = """
import sys, numpy, onnxruntime
opened = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
types = {"tensor(double)": "f8", "tensor(float)": "f4", "tensor(int64)": "i8"}
opened.run(None, {i.name: numpy.ones([1, *i.shape[1:]], types[i.type]) for i in opened.get_inputs()})
print(most())
"""
OF_A_MODEL = """
import sys, pathlib, torch
from recipeline_spline.model import SplineLSTM
model = SplineLSTM.load(pathlib.Path(sys.argv[1]))
s = model.committee_.shape
with torch.inference_mode():
    model.committee_.cpu()(torch.ones(1, s.lookback, s.channels), torch.ones(1, s.horizon, s.future), torch.ones(1, s.static),
                           torch.zeros(1, len(s.categories), dtype=torch.int64))
print(most())
"""


def _memory(where: Path) -> float | None:
    """Most memory of a process of its own that answers one window, MiB; None where it cannot be told."""
    program = MOST + (OF_A_FILE if where.is_file() else OF_A_MODEL)
    done = subprocess.run([sys.executable, "-c", program, str(where)], capture_output=True, text=True, check=False)  # noqa: S603  # our own text
    if done.returncode != 0:
        log.warning("the memory of %s was not measured: %s", where.name, (done.stderr.strip().splitlines() or ["no reason given"])[-1])
        return None
    return float(done.stdout)


@contextmanager
def _quiet() -> Iterator[None]:
    """What exporters say of their progress is not for our log or for standard output."""
    loud = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root", "")]
    before = [one.level for one in loud]
    try:
        for one in loud:
            one.setLevel(logging.ERROR)
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        for one, level in zip(loud, before, strict=True):
            one.setLevel(level)


@contextmanager
def _on_cpu(model: SplineLSTM) -> Iterator[None]:
    """The network is exported from the CPU, wherever it lies."""
    device = next(model.committee_.parameters()).device
    model.committee_.cpu().eval()
    try:
        yield
    finally:
        model.committee_.to(device)
