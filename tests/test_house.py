"""The house as it is drawn in docs/explanation/house.md: floors, doors, names, and what start-up may load."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from recipeline import registry

PROJECT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"pandas", "numpy", "sklearn", "mlflow", "optuna", "torch", "matplotlib", "fastapi", "pyarrow", "sqlalchemy", "skops"}
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def families() -> list[str]:
    return sorted(folder.name for folder in (PROJECT / "plugins").iterdir() if (folder / "__init__.py").is_file())


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": f"{folder / 'src'}:{folder / 'plugins'}", "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources and the contracts, without anything else, to plant violations in."""
    for name in ("src", "plugins"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_module_imports_from_lower_floors_only() -> None:
    """The import contracts of pyproject.toml hold."""
    result = lint(PROJECT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "chain"),
    [
        ("src/recipeline/recipe/__init__.py", "import recipeline.cli", "recipeline.recipe -> recipeline.cli"),
        ("src/recipeline/registry.py", "import recipeline.recipe", "recipeline.registry -> recipeline.recipe"),
        ("src/recipeline/errors.py", "import recipeline.stores.files", "recipeline.errors -> recipeline.stores.files"),
        ("src/recipeline/train.py", "import optuna", "recipeline.train -> optuna"),
    ],
)
def test_a_planted_violation_is_reported_with_its_chain(copy: Path, module: str, line: str, chain: str) -> None:
    """An import from a higher floor, or past a library's one door, breaks a contract, and the report names who imports whom."""
    with (copy / module).open("a") as source:
        source.write(f"\n{line}\n")
    result = lint(copy)
    assert result.returncode == 1
    assert chain in result.stdout, result.stdout


@pytest.mark.parametrize(
    ("importer", "line", "chain"),
    [
        ("plugins/recipeline_alpha/__init__.py", "import recipeline_beta", "recipeline_alpha -> recipeline_beta"),
        ("plugins/recipeline_alpha/__init__.py", "import recipeline.train", "recipeline_alpha -> recipeline.train"),
        ("src/recipeline/train.py", "import recipeline_alpha", "recipeline.train -> recipeline_alpha"),
    ],
)
def test_plugins_know_neither_each_other_nor_the_engine(copy: Path, importer: str, line: str, chain: str) -> None:
    """Two families planted into the wing: an import between them, into the engine, or from it, fails with its chain."""
    for name in ("recipeline_alpha", "recipeline_beta"):
        (copy / "plugins" / name).mkdir()
        (copy / "plugins" / name / "__init__.py").write_text('"""A family."""\n\nimport recipeline.contracts\n')
    text = (copy / "pyproject.toml").read_text()
    (copy / "pyproject.toml").write_text(text.replace("# families go here", '"recipeline_alpha", "recipeline_beta", # families go here'))
    assert lint(copy).returncode == 0, lint(copy).stdout
    with (copy / importer).open("a") as source:
        source.write(f"\n{line}\n")
    result = lint(copy)
    assert result.returncode == 1
    assert chain in result.stdout, result.stdout


def test_every_family_is_in_the_import_contracts_and_has_an_extra() -> None:
    """A new folder in plugins/ comes with its line in the contracts and its optional dependencies."""
    contracts = str(PYPROJECT["tool"]["importlinter"])
    extras = PYPROJECT["project"]["optional-dependencies"]
    for family in families():
        assert family in contracts
        assert family.removeprefix("recipeline_") in extras


def test_every_extra_is_in_all() -> None:
    """`pip install recipeline[all]` forgets none."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    listed = set(re.search(r"\[(.*)\]", extras["all"][0]).group(1).split(","))  # type: ignore[union-attr]
    assert listed == set(extras) - {"all", "dev"}


def test_every_built_in_entry_point_resolves() -> None:
    """No name in the table leads nowhere."""
    groups = PYPROJECT["project"]["entry-points"]
    ours = {entry.name: entry for entry in registry.entries() if entry.distribution == "recipeline"}
    for group, names in groups.items():
        assert group.startswith("recipeline.")
        for name, target in names.items():
            assert ours[name].load() is not None, target


def test_importing_recipeline_loads_no_heavy_library() -> None:
    """`import recipeline`, `--help` and `validate --fast` stay light."""
    probes = {
        "import": "import recipeline",
        "help": "from recipeline.cli import main\nimport contextlib\nwith contextlib.suppress(SystemExit): main(['--help'])",
        "validate": "from recipeline.cli import main\nmain(['validate', '--fast', '--recipe-file', 'recipes/quickstart/quickstart.yaml'])",
    }
    for name, probe in probes.items():
        code = f"{probe}\nimport sys\nprint('LOADED', sorted({HEAVY!r} & set(sys.modules)))"
        result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == "LOADED []", name


def test_the_constraints_of_uv_are_those_of_pip() -> None:
    """`uv sync` and `make install` get the same versions."""
    pinned = [line for line in (PROJECT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert sorted(PYPROJECT["tool"]["uv"]["constraint-dependencies"]) == sorted(pinned)


def test_every_installed_library_of_the_tests_is_pinned() -> None:
    """What our own metadata asks for has a version in constraints.txt."""
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in (PROJECT / "constraints.txt").read_text().splitlines()}
    for requirement in importlib.metadata.requires("recipeline") or []:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement).group().lower().replace("_", "-")  # type: ignore[union-attr]
        assert name == "recipeline" or name in pinned, name
