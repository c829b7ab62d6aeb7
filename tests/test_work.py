"""The work folder: found again after a crash, held by one run at a time, of one identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipeline import work
from recipeline.errors import Conflict, UnknownRun
from recipeline.work import Work

IDENTITY = {"recipe": {"name": "a"}, "data": "f00", "seed": 1}


def test_the_same_identity_finds_the_same_folder(tmp_path: Path) -> None:
    """Whatever the order of its keys; and knows the run that it belongs to."""
    with Work.open(tmp_path, IDENTITY) as first:
        assert not first.resumed
        first.remember("abc123")
    with Work.open(tmp_path, dict(reversed(IDENTITY.items()))) as second:
        assert second.resumed
        assert second.run_id == "abc123"
        assert second.folder == first.folder
    with Work.open(tmp_path, {**IDENTITY, "seed": 2}) as other:
        assert other.folder != first.folder


def test_a_folder_is_held_by_one_living_run(tmp_path: Path) -> None:
    """A second one is a conflict, not a race."""
    with Work.open(tmp_path, IDENTITY), pytest.raises(Conflict) as caught, Work.open(tmp_path, IDENTITY):
        pass
    assert caught.value.code == 8


def test_a_finished_run_leaves_nothing(tmp_path: Path) -> None:
    """The next training of the same recipe starts anew."""
    with Work.open(tmp_path, IDENTITY) as done:
        done.discard()
    assert not any(tmp_path.iterdir())
    with Work.open(tmp_path, IDENTITY) as fresh:
        assert not fresh.resumed


def test_resume_by_id_prefix_or_latest(tmp_path: Path) -> None:
    """An unfinished run is found by what `list runs` shows of it."""
    with Work.open(tmp_path, IDENTITY) as first:
        first.remember("abc123")
    with Work.open(tmp_path, IDENTITY, resume="abc") as again:
        assert again.run_id == "abc123"
    with Work.open(tmp_path, IDENTITY, resume="latest") as again:
        assert again.run_id == "abc123"
    with pytest.raises(UnknownRun, match="unfinished: abc123"):
        work.find(tmp_path, "zzz")


def test_resuming_with_other_data_says_what_differs(tmp_path: Path) -> None:
    """It would be another run under the old name."""
    with Work.open(tmp_path, IDENTITY) as first:
        first.remember("abc123")
    with pytest.raises(Conflict, match="another data"), Work.open(tmp_path, {**IDENTITY, "data": "b0b"}, resume="abc123"):
        pass


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    """`--resume` without an unfinished run is an error, not a new training."""
    with pytest.raises(UnknownRun, match="no unfinished run"):
        work.find(tmp_path, "latest")


def test_only_known_phases_are_announced(tmp_path: Path) -> None:
    """The names of phases are a list, not prose."""
    with Work.open(tmp_path, IDENTITY) as opened, pytest.raises(ValueError, match="resting"):
        opened.phase("resting")
