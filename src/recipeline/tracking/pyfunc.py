"""The artifact as a pyfunc model, which MLflow loads and serves."""

from __future__ import annotations

import json
import re
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipeline.errors import UsageError
from recipeline.stores import files
from recipeline.tracking.words import MODEL, version_of

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.schema import InputSchema

_TYPES = {"int64": "long", "float64": "double", "bool": "boolean", "string": "string", "datetime": "datetime"}
"""MLflow's enforcement has no type for times with a zone, nor for keys that may be anything: those are `any`."""

_REQUIRED = ("recipeline", "mlflow", "numpy", "pandas", "scikit-learn", "skops", "pyarrow")

_BOOSTERS = ("xgboost", "lightgbm", "catboost", "causalml")


def describe(
    folder: Path, *, schema: InputSchema, example: pd.DataFrame | None = None, run_id: str = "", requirements: Iterable[str] = ()
) -> None:
    """Write what MLflow wants to find into an artifact folder, before its manifest is sealed.

    MLmodel, requirements.txt, conda.yaml, python_env.yaml, and with `example` (some rows) the two input examples. Written
    here and not by `mlflow.pyfunc.save_model`, which gives the same and costs the import of MLflow's model flavours.

    requirements  names of further distributions that loading needs, or lines such as `torch>=2`
    """
    import yaml

    names = [*_REQUIRED, *(name for name in _BOOSTERS if name in sys.modules)]
    lines = [f"{name}=={known}" for name in names if (known := version_of(name))]
    lines += [line if re.search(r"[=<>~!@ ]", line) else f"{line}=={version_of(line)}" for line in requirements]
    python = ".".join(str(part) for part in sys.version_info[:3])
    signature = [
        {"type": "any" if column.role == "key" else _TYPES.get(column.dtype, "any"), "name": column.name, "required": not column.optional}
        for column in schema.columns
    ]
    model: dict[str, Any] = {
        **({"run_id": run_id, "artifact_path": MODEL} if run_id else {}),
        "flavors": {
            "python_function": {
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": "recipeline.tracking",
                "python_version": python,
            }
        },
        "mlflow_version": version_of("mlflow"),
        "model_uuid": uuid.uuid4().hex,
        "signature": {"inputs": json.dumps(signature, ensure_ascii=False), "outputs": None, "params": None},
        "utc_time_created": time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime()),
    }
    if example is not None:
        model["saved_input_example_info"] = {
            "artifact_path": "input_example.json",
            "pandas_orient": "split",
            "serving_input_path": "serving_input_example.json",
            "type": "dataframe",
        }
        split = json.loads(example.to_json(orient="split", index=False, date_format="iso"))
        files.write_json(folder / "input_example.json", split)
        files.write_json(folder / "serving_input_example.json", {"dataframe_split": split})
    conda = {"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": [f"python={python}", "pip", {"pip": lines}]}
    files.write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in lines))
    files.write_text(folder / "conda.yaml", yaml.safe_dump(conda, sort_keys=False))
    virtual = {"python": python, "dependencies": ["-r requirements.txt"]}
    files.write_text(folder / "python_env.yaml", yaml.safe_dump(virtual, sort_keys=False))
    files.write_text(folder / "MLmodel", yaml.safe_dump(model, sort_keys=False, allow_unicode=True))


class PyfuncWrapper:
    """What MLflow calls: `mlflow.pyfunc.load_model("runs:/<id>/model").predict(frame)`.

    hyperparameter_optimization  the content of hpo.json
    python_model                 itself, so that `unwrap_python_model()` gives it
    """

    def __init__(self, pipeline: Any, hyperparameter_optimization: dict[str, Any]) -> None:
        self.pipeline, self.hyperparameter_optimization = pipeline, hyperparameter_optimization

    @property
    def python_model(self) -> PyfuncWrapper:
        return self

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The output frame of the pipeline; a mapping, or rows as mappings, are taken as well.

        Raises UsageError for `params`: a recipeline model takes none at prediction.
        """
        import pandas as pd

        if params:
            raise UsageError("this model takes no params at prediction", hint="leave them out")
        frame = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame(model_input)
        result: pd.DataFrame = self.pipeline.predict(frame)
        return result


def _load_pyfunc(path: str) -> PyfuncWrapper:
    """MLflow's `loader_module` protocol: the model in an artifact folder."""
    import importlib

    folder = Path(path)
    pipeline = importlib.import_module("recipeline").load(folder)
    hpo = folder / "hpo.json"
    return PyfuncWrapper(pipeline, files.read_json(hpo) if hpo.is_file() else {"enabled": False})
