"""A skip that nobody allowed fails continuous integration; run on a small suite of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import skips

SUITE = {
    "conftest.py": "import sys\nfrom pathlib import Path\nsys.path.insert(0, {tests!r})\nimport skips\n"
    "def pytest_configure(config):\n    skips.watch(config, Path(__file__).with_name('skips.txt'))\n",
    "skips.txt": "# a comment\n\ntest_some.py::test_*allowed | no disk of \\d+ GB | such a disk is nowhere\n",
    "test_some.py": "import pytest\ndef test_runs(): pass\n"
    "def test_is_allowed(): pytest.skip('no disk of 10 GB')\n"
    "@pytest.mark.xfail(reason='known')\ndef test_fails_as_known(): assert 0\n",
}
UNLISTED = {
    "test_reason.py": "import pytest\ndef test_is_allowed(): pytest.skip('no disk of ten GB')\n",
    "test_other.py": "import pytest\ndef test_is_allowed(): pytest.skip('no disk of 10 GB')\n",
    "test_mark.py": "import pytest\n@pytest.mark.skip(reason='later')\ndef test_marked(): pass\n",
    "test_file.py": "import pytest\npytest.importorskip('a_library_that_nobody_has')\ndef test_never(): pass\n",
}
SAID = (
    "test_reason.py::test_is_allowed: no disk of ten GB",
    "test_other.py::test_is_allowed: no disk of 10 GB",
    "test_mark.py::test_marked: later",
    "test_file.py: could not import 'a_library_that_nobody_has'",
)


def run(folder: Path, *arguments: str, ci: str = "true", **files: str) -> tuple[int, str]:
    """Exit code and output of pytest on the suite, with further files."""
    for name, text in {**SUITE, **files}.items():
        (folder / name).write_text(text.replace("{tests!r}", repr(str(Path(skips.__file__).parent))))
    environ = {**os.environ, "CI": ci, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "."],
        cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "two-workers"])


@WORKERS
def test_a_listed_skip_passes(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """So does a failure that is expected: it ran."""
    code, out = run(tmp_path, *workers)
    assert code == 0, out
    assert "1 skipped" in out
    assert "not in tests/skips.txt" not in out


@WORKERS
def test_any_other_skip_fails_the_session(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Another reason, another test, a mark, a whole file: each is named with its reason."""
    code, out = run(tmp_path, *workers, **UNLISTED)
    assert code == 1, out
    listed = out.partition("not in tests/skips.txt")[2].partition("Run them here")[0]
    assert [line for line in SAID if line not in listed] == []
    assert "test_some.py" not in listed


def test_elsewhere_a_skip_is_only_told(tmp_path: Path) -> None:
    """On a developer's machine, where something may be missing."""
    code, out = run(tmp_path, ci="", **UNLISTED)
    assert code == 0, out
    assert "not in tests/skips.txt" not in out


def test_a_failure_stays_a_failure(tmp_path: Path) -> None:
    """The session's own exit code is kept where it is worse."""
    code, _ = run(tmp_path, **{"test_more.py": "def test_broken(:\n"})
    assert code == pytest.ExitCode.INTERRUPTED


def test_a_line_without_its_why_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "skips.txt"
    path.write_text("test_x.py::* | no reason why\n")
    with pytest.raises(ValueError, match=r"skips.txt:1"):
        skips.read(path)


def test_every_listed_pattern_names_a_file_that_is_there() -> None:
    """What is listed for a test that is gone is removed from the list."""
    listed = skips.read()
    assert listed
    project = Path(__file__).parents[1]
    assert [one.pattern for one in listed if not (project / one.pattern.partition("::")[0]).is_file()] == []
