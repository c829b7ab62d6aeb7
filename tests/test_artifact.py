"""The saved folder: whole or not at all, verified before anything is read, safe to read."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import recipeline
from recipeline import artifact, runs, settings
from recipeline.errors import Damaged, Refused

QUICKSTART = "recipes/quickstart/quickstart.yaml"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, recipe_data: Path) -> Path:
    """One trained quickstart, to copy and damage."""
    folder = tmp_path_factory.mktemp("artifact")
    text = Path(__file__).parents[1].joinpath(QUICKSTART).read_text().replace("../data/", f"{recipe_data}/")
    (folder / "quickstart.yaml").write_text(text)
    run = recipeline.train(folder / "quickstart.yaml", settings=settings.load(project=folder, environ={}))
    return run.artifact


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_the_folder_explains_itself(saved: Path) -> None:
    """Everything that engine.md names is there, and can be opened by hand."""
    names = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert {
        "recipe.yaml", "parts/model/part.skops", "parts/preprocessor/part.skops", "input_schema.json", "metrics.json", "hpo.json",
        "report.html", "log.txt", "manifest.json", "MLmodel", "tables/predictions.parquet",
    } <= names  # fmt: skip
    manifest = json.loads((saved / "manifest.json").read_text())
    assert set(manifest["files"]) == names - {"manifest.json"}
    assert manifest["versions"]["scikit-learn"]
    assert manifest["data_fingerprint"]


def test_one_flipped_bit_anywhere_is_named_and_nothing_is_deserialised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every file of the artifact: the file that differs is named, before skops sees a byte."""
    import skops.io

    def loads(*arguments: Any, **more: Any) -> None:
        raise AssertionError("deserialised before it was verified")

    monkeypatch.setattr(skops.io, "loads", loads)
    rng = random.Random(3)
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name == artifact.MANIFEST:
            continue
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(bad))
        with pytest.raises(Damaged, match="differs from what was written") as caught:
            recipeline.load(folder)
        assert path.relative_to(folder).as_posix() in str(caught.value)
        assert caught.value.code == 9
        path.write_bytes(good)


def test_a_missing_and_an_added_file_are_named(folder: Path) -> None:
    """Neither fewer nor more than was written; what MLflow adds by itself is allowed."""
    (folder / "registered_model_meta").write_text("model_name: x\n")
    recipeline.load(folder)
    (folder / "parts" / "model" / "extra.pkl").write_bytes(b"x")
    with pytest.raises(Damaged, match=r"parts/model/extra\.pkl was not written"):
        recipeline.load(folder)
    (folder / "parts" / "model" / "extra.pkl").unlink()
    (folder / "input_schema.json").unlink()
    with pytest.raises(Damaged, match=r"input_schema\.json is missing"):
        recipeline.load(folder)


def test_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    """A link could lead out of the folder after it was verified."""
    outside = tmp_path / "outside.json"
    shutil.copy(folder / "metrics.json", outside)
    (folder / "metrics.json").unlink()
    (folder / "metrics.json").symlink_to(outside)
    with pytest.raises(Damaged, match="is a link"):
        recipeline.load(folder)


def test_parts_of_two_runs_do_not_mix(folder: Path, project: Path) -> None:
    """A model of another run, with a manifest made to fit, is refused: its part says where it belongs."""
    other = recipeline.train(QUICKSTART)
    shutil.rmtree(folder / "parts" / "model")
    shutil.copytree(other.artifact / "parts" / "model", folder / "parts" / "model")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    facts = {name: manifest[name] for name in ("run_id", "name", "seed")}
    artifact.seal(folder, binding=manifest["binding"], about=facts)
    with pytest.raises(Damaged, match="parts/model belongs to another run"):
        recipeline.load(folder)


def test_another_minor_version_is_a_warning_with_both(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An artifact of another scikit-learn is read, and what differs is said."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["versions"]["scikit-learn"] = "1.2.3"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    recipeline.load(folder)
    assert "written with scikit-learn 1.2.3, this is" in caplog.text


def test_a_class_that_skops_does_not_know_is_kept_by_pickle(tmp_path: Path) -> None:
    """No silent choice: part.json says cloudpickle, reading needs leave, and the class it names is looked up again."""
    asked: list[str] = []

    def find(path: str) -> type:
        asked.append(path)
        return _Doubler

    artifact.keep(_Doubler(), tmp_path / "part", "model", "b")
    assert json.loads((tmp_path / "part" / "part.json").read_text())["format"] == "cloudpickle"
    with pytest.raises(Refused, match="this project did not write it"):
        artifact.take_up(tmp_path / "part", "model", "b", find)
    assert artifact.take_up(tmp_path / "part", "model", "b", find, pickles=True).predict(4) == 8
    assert asked == [f"{_Doubler.__module__}._Doubler"]


def test_a_forged_artifact_runs_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle smuggled in with a manifest made to fit is refused (exit 4): it lacks the project's signature."""
    import cloudpickle

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "pwned",))

    about = json.loads((folder / "parts/model/part.json").read_text())
    (folder / "parts/model/part.skops").unlink()
    (folder / "parts/model/part.pkl").write_bytes(cloudpickle.dumps(Payload()))
    (folder / "parts/model/part.json").write_text(json.dumps({**about, "format": "cloudpickle"}))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    artifact.seal(folder, binding=manifest["binding"], about={"run_id": "x", "name": "x"}, key=b"not the project's")
    with pytest.raises(Refused) as caught:
        recipeline.load(folder)
    assert caught.value.code == 4
    assert caught.value.slug == "foreign-pickle"
    assert not (tmp_path / "pwned").exists()
    # The positive control: read without the guard, the payload does fire.
    import pickle

    pickle.loads((folder / "parts/model/part.pkl").read_bytes())
    assert (tmp_path / "pwned").exists()


def test_a_pickled_part_of_our_own_is_read_and_that_of_another_project_is_not(project: Path, tmp_path: Path) -> None:
    """The signature is the project's: moved elsewhere the same folder is refused, until the configuration trusts it."""
    (project / "mine.py").write_text(
        "from sklearn.base import BaseEstimator, ClassifierMixin\nfrom sklearn.dummy import DummyClassifier\n"
        "class Mine(ClassifierMixin, BaseEstimator):\n"
        "    def fit(self, X, y):\n        self.inner_ = DummyClassifier().fit(X, y)\n"
        "        self.classes_ = self.inner_.classes_\n        return self\n"
        "    def predict(self, X):\n        return self.inner_.predict(X)\n"
        "    def predict_proba(self, X):\n        return self.inner_.predict_proba(X)\n"
    )
    text = (
        (project / QUICKSTART).read_text().replace("sklearn.linear_model.LogisticRegression", "mine.Mine").replace("{max_iter: 1000}", "{}")
    )
    (project / "recipes/quickstart/mine.yaml").write_text(text)
    trusting = ["security.allowed_namespaces=[sklearn, mine]"]
    sys.path.insert(0, str(project))
    try:
        run = recipeline.train("recipes/quickstart/mine.yaml", settings=settings.load(project=project, overrides=trusting))
        assert json.loads((run.artifact / "parts/model/part.json").read_text())["format"] == "cloudpickle"
        assert runs.open_run(run.id, settings.load(project=project, overrides=trusting)).pipeline.model.inner_
        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(project / "config", elsewhere / "config")
        with pytest.raises(Refused, match="foreign-pickle"):
            runs.open_run(run.artifact, settings.load(project=elsewhere, overrides=trusting))
        allowed = settings.load(project=elsewhere, overrides=[*trusting, "security.allow_pickle=true"])
        assert runs.open_run(run.artifact, allowed).pipeline.model.inner_
    finally:
        sys.path.remove(str(project))
        sys.modules.pop("mine", None)


def test_importing_a_module_does_not_shadow_the_function_of_its_name() -> None:
    """`recipeline.train` is the function, whatever was imported before."""
    probe = (
        "import recipeline; recipeline.Run; import recipeline.train; from recipeline.train import Run; print(callable(recipeline.train))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


class _Doubler:
    def fit(self, X: Any, y: Any = None) -> _Doubler:
        return self

    def predict(self, X: Any) -> Any:
        return X * 2
