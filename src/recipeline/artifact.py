"""The saved folder: write, verify, read.

    recipe.yaml          the recipe as resolved
    parts/<role>/        each part in its own plain format, with part.json that says which
    input_schema.json    the input contract
    metrics.json  hpo.json  tables/  report.html  log.txt  sql/
    MLmodel …            what MLflow wants to find
    manifest.json        SHA-256 of every file, versions, git commit, seed, fingerprint of the data

`read` verifies the manifest before any byte is deserialised and names the first file that differs.
A manifest proves that nothing changed, not who wrote it: it is signed with a key of the project that never leaves it, and
pickled parts are read only where that signature holds, or where the configuration says `security.allow_pickle`.
A folder is written beside its place and renamed: it is there whole or not at all (`stores.files.atomic_folder`).
"""

from __future__ import annotations

import hmac
import importlib.metadata
import json
import logging
import platform
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recipeline import boosters
from recipeline.contracts import Kept
from recipeline.errors import Damaged, RecipelineError, Refused, TrainingFailed
from recipeline.pipeline import Pipeline, words
from recipeline.schema import InputSchema
from recipeline.stores import files

log = logging.getLogger("recipeline")

MANIFEST = "manifest.json"
FORMAT = 1
EXEMPT = frozenset({MANIFEST, "registered_model_meta"})
"""Files that the manifest does not list: itself, and the one that MLflow writes into a folder it loads by `models:/`."""

PLAIN = frozenset({"sklearn", "numpy", "scipy", "xgboost", "lightgbm", "catboost", "causalml", "builtins", "recipeline", "pandas"})
"""Packages whose estimators skops can keep; a part that holds an object of another one and cannot keep itself is pickled."""

TRUSTED = boosters.TRUSTED + tuple(
    """
    numpy.dtype numpy.mean
    scipy._lib.array_api_compat.numpy._aliases.asarray scipy.interpolate._bsplines.BSpline
    sklearn._loss._loss.CyHalfBinomialLoss sklearn._loss._loss.CyHalfGammaLoss sklearn._loss._loss.CyHalfMultinomialLoss
    sklearn._loss._loss.CyHalfPoissonLoss sklearn._loss._loss.CyHalfSquaredError sklearn._loss._loss.CyHalfTweedieLossIdentity
    sklearn._loss.link.IdentityLink sklearn._loss.link.Interval sklearn._loss.link.LogLink sklearn._loss.link.LogitLink
    sklearn._loss.link.MultinomialLogit sklearn._loss.loss.HalfBinomialLoss sklearn._loss.loss.HalfGammaLoss
    sklearn._loss.loss.HalfMultinomialLoss sklearn._loss.loss.HalfPoissonLoss sklearn._loss.loss.HalfSquaredError
    sklearn._loss.loss.HalfTweedieLoss sklearn._loss.loss.HalfTweedieLossIdentity
    sklearn.calibration._CalibratedClassifier sklearn.calibration._SigmoidCalibration sklearn.calibration._TemperatureScaling
    sklearn.cluster._bisect_k_means._BisectingTree sklearn.cluster._kmeans._kmeans_single_elkan sklearn.cluster._kmeans._kmeans_single_lloyd
    sklearn.ensemble._hist_gradient_boosting.binning._BinMapper sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor
    sklearn.feature_selection._univariate_selection.chi2 sklearn.feature_selection._univariate_selection.f_classif
    sklearn.feature_selection._univariate_selection.f_regression
    sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace
    sklearn.gaussian_process.kernels.ConstantKernel sklearn.gaussian_process.kernels.DotProduct sklearn.gaussian_process.kernels.Matern
    sklearn.gaussian_process.kernels.Product sklearn.gaussian_process.kernels.RBF sklearn.gaussian_process.kernels.RationalQuadratic
    sklearn.gaussian_process.kernels.Sum sklearn.gaussian_process.kernels.WhiteKernel
    sklearn.metrics._classification.balanced_accuracy_score sklearn.metrics._dist_metrics.EuclideanDistance64
    sklearn.metrics._dist_metrics.ManhattanDistance64 sklearn.metrics._dist_metrics.MinkowskiDistance64
    sklearn.metrics._scorer._CurveScorer sklearn.metrics._scorer._Scorer
    sklearn.multiclass._ConstantPredictor sklearn.neighbors._ball_tree.BallTree sklearn.neighbors._kd_tree.KDTree
    sklearn.neural_network._stochastic_optimizers.AdamOptimizer sklearn.neural_network._stochastic_optimizers.SGDOptimizer
    sklearn.tree._tree.Tree sklearn.utils._bunch.Bunch
    sklearn.utils._metadata_requests.MetadataRequest sklearn.utils._metadata_requests.MethodMetadataRequest
    recipeline.components.preprocessing.DefaultPreprocessor
    recipeline.components.metalearners.ConstantEffect recipeline.components.metalearners.SLearner
    recipeline.components.metalearners.TLearner
    causalml.inference.meta.drlearner.BaseDRClassifier causalml.inference.meta.drlearner.BaseDRRegressor
    causalml.inference.meta.drlearner.XGBDRRegressor causalml.inference.meta.rlearner.BaseRClassifier
    causalml.inference.meta.rlearner.BaseRRegressor causalml.inference.meta.rlearner.XGBRClassifier
    causalml.inference.meta.rlearner.XGBRRegressor causalml.inference.meta.slearner.BaseSClassifier
    causalml.inference.meta.slearner.BaseSRegressor causalml.inference.meta.tlearner.BaseTClassifier
    causalml.inference.meta.tlearner.BaseTRegressor causalml.inference.meta.tlearner.MLPTRegressor
    causalml.inference.meta.tlearner.XGBTClassifier causalml.inference.meta.tlearner.XGBTRegressor
    causalml.inference.meta.xlearner.BaseXClassifier causalml.inference.meta.xlearner.BaseXRegressor
    causalml.propensity.ElasticNetPropensityModel sklearn.model_selection._split.KFold
    sklearn.model_selection._split.StratifiedKFold xgboost.sklearn.XGBClassifier xgboost.sklearn.XGBRegressor
    recipeline.components.forecasters.LaggedRegression recipeline.components.forecasters.SeasonalNaive
    recipeline.timeseries.frames.Layout
    """.split()  # noqa: SIM905  # a table is read more easily than sixty quoted lines
)
"""What skops meets in honest estimators and does not trust by itself. A fixed table: never what a file asks for."""

HOLDING = frozenset({"causalml.inference.meta.slearner.LRSRegressor"})
"""Classes of these packages that hold objects of another one once they are fitted (statsmodels)."""

PICKLING = frozenset({"causalml"})
"""Packages whose own `save` and `load` are pickles, which would go past the signature: their parts go through skops."""

FILES = {"skops": "part.skops", "cloudpickle": "part.pkl"}
SHORTEST_SECRET = 8
VERSIONED = ("recipeline", "numpy", "pandas", "scikit-learn", "skops", "optuna", "mlflow", "pyarrow")


# --- parts -----------------------------------------------------------------------------------------------------------


def keep(part: Any, folder: Path, role: str, binding: str) -> None:
    """Write one part into `folder`, in its own format where it has one, else by skops, else by cloudpickle.

    binding  what ties the parts of one pipeline together; a part of another run is refused at reading
    """
    kind = type(part)
    about: dict[str, Any] = {"role": role, "class": f"{kind.__module__}.{kind.__qualname__}", "binding": binding}
    libraries = sorted({boosters.library(type(one)) or "" for one in boosters.inside(part)})
    if libraries:
        about["versions"] = {name: importlib.metadata.version(name) for name in libraries}
    folder.mkdir(parents=True)
    if _keeps_itself(kind):
        part.save(folder)
        about["format"] = "own"
    else:
        data, about["format"] = _dumped(part, role)
        files.write_bytes(folder / FILES[about["format"]], data)
    files.write_json(folder / "part.json", about)


def _dumped(part: Any, role: str) -> tuple[bytes, str]:
    """The bytes of a part, and whether skops or cloudpickle wrote them."""
    import skops.io
    from skops.io.exceptions import UnsupportedTypeException

    unknown = _foreign(part)
    if not unknown:
        try:
            return skops.io.dumps(part), "skops"
        except UnsupportedTypeException:
            unknown = f"{type(part).__module__}.{type(part).__qualname__}"
    import cloudpickle

    log.info("%s is kept by pickle: %s has no save and load of its own, and skops does not know it", role, unknown)
    return cloudpickle.dumps(part), "cloudpickle"


def take_up(folder: Path, role: str, binding: str, find: Callable[[str], type], *, pickles: bool = False) -> Any:
    """Read one part; the manifest was verified before.

    find     turns the class that part.json names into a class, or refuses it
    pickles  the artifact may be unpickled: it is this project's own, or the configuration trusts it

    Raises Refused (exit 4) for a pickle that may not be read.
    """
    about = json.loads((folder / "part.json").read_text(encoding="utf-8"))
    if about["binding"] != binding or about["role"] != role:
        raise Damaged(f"parts/{role} belongs to another run", hint="restore the artifact; parts of two runs do not mix")
    written = about.get("versions", {})
    _compare_versions(written, {name: found for name in written if (found := _installed(name))})
    part = _read(folder, role, about, find, pickles=pickles)
    kind = type(part)
    if about["class"] != f"{kind.__module__}.{kind.__qualname__}":
        raise Damaged(
            f"parts/{role} holds a {kind.__qualname__}, not the {about['class']} that part.json names", hint="restore the artifact"
        )
    return part


def _read(folder: Path, role: str, about: Mapping[str, str], find: Callable[[str], type], *, pickles: bool) -> Any:
    if about["format"] == "own":
        kept: Any = find(about["class"])
        if not _keeps_itself(kept):
            raise Damaged(f"parts/{role} holds a {kept.__qualname__}, which does not keep itself", hint="restore the artifact")
        return kept.load(folder)
    if about["format"] == "cloudpickle":
        if not pickles:
            raise Refused(
                f"parts/{role} is a pickle, and this project did not write it",
                hint="a pickle can run any program; where you trust its origin, set security.allow_pickle: true",
                slug="foreign-pickle",
            )
        import pickle

        find(about["class"])
        return pickle.loads((folder / FILES["cloudpickle"]).read_bytes())  # noqa: S301  # signed by this project, or trusted by its configuration
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return skops.io.loads((folder / FILES["skops"]).read_bytes(), trusted=list(TRUSTED))
    except UntrustedTypesFoundException as error:
        raise TrainingFailed(f"parts/{role} cannot be kept safely: {words(error)}", slug="untrusted-type") from error


def _keeps_itself(kind: type) -> bool:
    """Whether a part has a `save` and `load` that may be used."""
    return issubclass(kind, Kept) and str(kind.load.__module__).partition(".")[0] not in PICKLING


def _foreign(part: Any) -> str:
    """The first class inside a part, by its parameters, that skops does not know; empty if there is none."""
    seen: set[int] = set()
    todo = [part]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (list, tuple, set)):
            todo.extend(value)
            continue
        if isinstance(value, dict):
            todo.extend(value.values())
            continue
        kind = value if isinstance(value, type) else type(value)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if kind.__module__.partition(".")[0] not in PLAIN or name in HOLDING:
            return name
        if callable(getattr(value, "get_params", None)) and not isinstance(value, type):
            todo.extend(boosters.held(value))
    return ""


def save_parts(pipeline: Pipeline, folder: Path, binding: str) -> None:
    """`parts/` and `input_schema.json` of a fitted pipeline."""
    files.write_json(folder / "input_schema.json", pipeline.schema.to_json())
    for role in ("preprocessor", "model"):
        part = getattr(pipeline, role)
        if part is not None:
            keep(part, folder / "parts" / role, role, binding)


def refuse_secrets(folder: Path, secrets: Mapping[str, str]) -> None:
    """Raise TrainingFailed where a saved part holds a secret that the configuration gave it; `secrets` by their keys.

    Artifacts are copied, tracked and handed on. Secrets of fewer than eight characters are not looked for: any file may hold them.
    """
    looked_for = {
        key: {value.encode(), json.dumps(value)[1:-1].encode()} for key, value in secrets.items() if len(value) >= SHORTEST_SECRET
    }
    for name in _walk(folder) if looked_for else ():
        data = _unpacked(folder / name)
        for key, forms in looked_for.items():
            if any(form in data for form in forms):
                hint = "keep it out of what the part saves: a variable of the environment can be read where it is used"
                raise TrainingFailed(f"{name} would hold the secret {key}", hint=hint, slug="secret-in-artifact")


def _unpacked(path: Path) -> bytes:
    """The bytes of a file, members of an archive included."""
    import zipfile

    data = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            data += b"".join(archive.read(member) for member in archive.namelist())
    return data


# --- manifest --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Manifest:
    """What was written and where it came from."""

    binding: str
    files: Mapping[str, str]
    about: Mapping[str, Any]
    signature: str = ""


def versions() -> dict[str, str]:
    known = {name: version for name in VERSIONED if (version := _installed(name))}
    return {"python": platform.python_version(), **known}


def _installed(name: str) -> str | None:
    """The version of a distribution; None where it was never installed, as for a folder that is run from."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit(folder: Path) -> str | None:
    """The commit the project stands at, with `+` where files differ from it; None outside a repository."""
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],  # noqa: S607  # git from the PATH
            cwd=folder, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() or None if head.returncode == 0 else None


def seal(folder: Path, *, binding: str, about: Mapping[str, Any], key: bytes = b"") -> Manifest:
    """Write manifest.json over everything that stands in the folder; the last file to be written.

    key  of the project (`project_key`); without one the manifest is not signed
    """
    hashes = {name: files.sha256(folder / name) for name in _walk(folder)}
    facts = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions(), **about}
    signature = _signature(key, binding, hashes) if key else ""
    files.write_json(folder / MANIFEST, {"format": FORMAT, "binding": binding, "signature": signature, **facts, "files": hashes})
    return Manifest(binding, hashes, facts, signature)


def project_key(project: Path) -> bytes:
    """The key that signs this project's artifacts: 32 random bytes in `.recipeline/key`, made on first use, readable by its owner."""
    path = project / ".recipeline" / "key"
    with files.Lock(path.with_name("key.lock"), wait=10.0):
        if not path.is_file():
            with files.atomic_path(path) as unfinished:
                unfinished.touch(mode=0o600)
                unfinished.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()


def signed_here(manifest: Manifest, project: Path) -> bool:
    """Whether this project wrote the artifact."""
    path = project / ".recipeline" / "key"
    return path.is_file() and hmac.compare_digest(manifest.signature, _signature(path.read_bytes(), manifest.binding, manifest.files))


def _signature(key: bytes, binding: str, hashes: Mapping[str, str]) -> str:
    return hmac.new(key, json.dumps([binding, hashes], sort_keys=True).encode(), "sha256").hexdigest()


def verify(folder: Path) -> Manifest:
    """The manifest of a folder in which every file is what was written.

    Raises Damaged with the first file that is missing, differs, or was never written by us.
    """
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed, binding, signature = dict(data.pop("files")), str(data.pop("binding")), str(data.pop("signature", ""))
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged(f"no {MANIFEST}", hint="this is not a complete artifact", where=folder.name) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} cannot be read", hint="restore the artifact", where=folder.name) from error
    if data.get("format") != FORMAT:
        raise Damaged(f"{MANIFEST} has format {data.get('format')}, this version reads {FORMAT}", where=folder.name)
    found = set(_walk(folder))
    for name in sorted(found | set(listed)):
        if name not in found:
            raise Damaged(f"{name} is missing", hint="restore the artifact", where=folder.name)
        if name not in listed:
            raise Damaged(f"{name} was not written with this artifact", hint="remove it or restore the artifact", where=folder.name)
        if files.sha256(folder / name) != listed[name]:
            raise Damaged(f"{name} differs from what was written", hint="restore the artifact", where=folder.name)
    then, now = data.get("versions", {}), versions()
    _compare_versions(then, {name: now[name] for name in ("scikit-learn", "numpy", "python") if name in now})
    return Manifest(binding, listed, data, signature)


def _compare_versions(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Another minor version reads what was written, and may predict otherwise: said with both."""
    for name in now:
        if name in then and then[name].split(".")[:2] != now[name].split(".")[:2]:
            log.warning("the artifact was written with %s %s, this is %s", name, then[name], now[name])


def _walk(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise Damaged(f"{path.relative_to(folder)} is a link", hint="restore the artifact", where=folder.name)
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in EXEMPT:
            yield name


# --- the folder ------------------------------------------------------------------------------------------------------


def read(
    folder: Path, *, task: Any, augmenter: Any, find: Callable[[str], type], manifest: Manifest | None = None, pickles: bool = False
) -> Pipeline:
    """The pipeline in a folder, verified first; `pickles` as in `take_up`."""
    manifest = manifest or verify(folder)
    try:
        schema = InputSchema.from_json(read_json(folder / "input_schema.json"))
        folders = {role: folder / "parts" / role for role in ("preprocessor", "model")}
        parts = {
            role: take_up(place, role, manifest.binding, find, pickles=pickles) if place.is_dir() else None
            for role, place in folders.items()
        }
    except RecipelineError:
        raise
    except Exception as error:  # a reader may raise anything on bytes that hash right but belong to another version
        raise Damaged(f"cannot be read here: {words(error)}", hint="see `versions` in its manifest.json", where=folder.name) from error
    facts = {key: manifest.about[key] for key in ("run_id", "name", "seed") if key in manifest.about}
    for name in ("metrics", "hpo"):
        if (folder / f"{name}.json").is_file():
            facts[name] = read_json(folder / f"{name}.json")
    return Pipeline(
        task=task, schema=schema, augmenter=augmenter, preprocessor=parts["preprocessor"], model=parts["model"],
        facts={**facts, "folder": str(folder)},
    )  # fmt: skip


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
