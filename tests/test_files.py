"""Files: whole or not at all, locks that die with their holder, frames that do not depend on how they are cut."""

# ruff: noqa: PT012 - that something raises in the middle of a block is what these tests are about

from __future__ import annotations

import datetime as dt
import decimal
import enum
import errno
import gzip
import hashlib
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipeline.errors import Conflict, DataError, Exhausted, MissingLibrary, Refused, UsageError
from recipeline.stores import atomic, delimited, files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- writing ---------------------------------------------------------------------------------------


def test_a_written_file_holds_what_was_given(tmp_path: Path) -> None:
    """Bytes and text arrive as they are, in folders made on the way, and nothing else lies there."""
    files.write_bytes(tmp_path / "a" / "b" / "x.bin", b"\0\xff")
    files.write_text(tmp_path / "a" / "b" / "y.txt", "größe\r\n")
    assert (tmp_path / "a" / "b" / "x.bin").read_bytes() == b"\0\xff"
    assert (tmp_path / "a" / "b" / "y.txt").read_bytes() == "größe\r\n".encode()
    assert names(tmp_path / "a" / "b") == ["x.bin", "y.txt"]


def test_a_failed_block_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    files.write_text(target, "old")
    with pytest.raises(ZeroDivisionError), files.atomic_path(target) as temporary:
        temporary.write_text("half of the new")
        _ = 1 / 0
    assert target.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_the_temporary_name_keeps_the_suffix_and_fits(tmp_path: Path) -> None:
    """Libraries look at the suffix; file names end at 255 bytes."""
    with files.atomic_path(tmp_path / "x.npy") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npy"
        np.save(temporary, np.arange(3))
    assert np.load(tmp_path / "x.npy").tolist() == [0, 1, 2]
    longest = "ü" * 125 + ".json"
    files.write_text(tmp_path / longest, "{}")
    assert names(tmp_path) == ["x.npy", longest]


def test_a_replaced_file_keeps_its_mode_and_a_new_one_obeys_the_umask(tmp_path: Path) -> None:
    files.write_text(tmp_path / "old", "1")
    (tmp_path / "old").chmod(0o640)
    files.write_text(tmp_path / "old", "2")
    files.write_text(tmp_path / "new", "1")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "there" / "real.txt")
    files.write_text(tmp_path / "link.txt", "1")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "there" / "real.txt").read_text() == "1"


def test_an_exclusive_target_that_is_there_is_a_conflict(tmp_path: Path) -> None:
    """Also one that appeared while the block ran."""
    files.write_text(tmp_path / "x", "first")
    with pytest.raises(Conflict) as caught, files.atomic_path(tmp_path / "x", exclusive=True) as temporary:
        temporary.write_text("second")
    assert caught.value.code == 8
    with pytest.raises(Conflict), files.atomic_path(tmp_path / "y", exclusive=True) as temporary:
        temporary.write_text("mine")
        files.write_text(tmp_path / "y", "theirs")
    assert (tmp_path / "x").read_text() == "first"
    assert (tmp_path / "y").read_text() == "theirs"
    assert names(tmp_path) == ["x", "y"]


def test_the_order_is_file_synced_then_replaced_then_folder_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut asks for, seen from the system calls."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def replaced(self: Path, target: Any) -> Path:
        calls.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    files.write_text(tmp_path / "x", "1")
    assert calls == ["file", "replace", "folder"]


def test_the_leavings_of_a_dead_writer_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    with files.atomic_path(tmp_path / "x") as living:
        dead = tmp_path / ".tmp-0123456789ab-x"
        dead.write_text("half")
        other = tmp_path / ".tmp-0123456789ab-another-x"
        other.write_text("half of another target")
        files.write_text(tmp_path / "x", "whole")
        assert not dead.exists()
        assert other.exists()
        assert living.exists()
        living.write_text("later")
    assert (tmp_path / "x").read_text() == "later"


def test_a_target_that_is_a_folder_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "kept").write_text("1")
    with pytest.raises(Exhausted, match="directory"):
        files.write_text(tmp_path / "x", "1")
    assert names(tmp_path) == ["x"]
    with pytest.raises(UsageError):
        files.write_text("", "1")


KILLED = """
import sys
from recipeline.stores import atomic
print("ready", flush=True)
round = 0
while True:
    round += 1
    atomic.write_bytes(sys.argv[1], str(round % 10).encode() * 3_000_000)
"""


def kills(tmp_path: Path, times: int) -> None:
    target, rng, seed = tmp_path / "x.bin", random.Random(20), 20
    atomic.write_bytes(target, b"0" * 3_000_000)
    for attempt in range(times):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            child.kill()
        data = target.read_bytes()
        assert len(data) == 3_000_000, (seed, attempt)
        assert len(set(data)) == 1, (seed, attempt)
    atomic.write_bytes(target, b"end")
    assert names(tmp_path) == ["x.bin"]


def test_kill_9_while_writing_leaves_a_whole_file(tmp_path: Path) -> None:
    """And the next writer removes what was left."""
    kills(tmp_path, 8)


@pytest.mark.slow
def test_kill_9_while_writing_leaves_a_whole_file_200_times(tmp_path: Path) -> None:
    kills(tmp_path, 200)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine mounts no tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_exhausted_and_the_old_file_is_intact(small_disk: Path) -> None:
    """Bytes, frames in both formats, arrays of libraries that lose the error number, whole folders: exit 7 each time."""
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(100_000, 10)))
    frame.columns = [f"c{column}" for column in frame.columns]
    attempts: dict[str, Any] = {
        "x.bin": lambda path: files.write_bytes(path, bytes(8 << 20)),
        "x.parquet": lambda path: files.write_frame(path, frame),
        "x.csv": lambda path: files.write_frame(path, frame),
    }
    for name, write in attempts.items():
        files.write_bytes(small_disk / name, b"old")
        with pytest.raises(Exhausted) as caught:
            write(small_disk / name)
        assert caught.value.code == 7, name
        assert caught.value.slug == "disk-full", name
        assert (small_disk / name).read_bytes() == b"old"
    with pytest.raises(Exhausted) as caught, files.atomic_path(small_disk / "x.npy") as temporary:
        np.save(temporary, np.zeros(1 << 20))
    assert caught.value.slug == "disk-full"
    with pytest.raises(Exhausted), files.atomic_folder(small_disk / "folder") as folder:
        (folder / "big").write_bytes(bytes(8 << 20))
    assert names(small_disk) == sorted(attempts)
    files.write_bytes(small_disk / "x.bin", b"new")  # the next good one succeeds
    assert (small_disk / "x.bin").read_bytes() == b"new"


def test_a_read_only_disk_is_exhausted(small_disk: Path) -> None:
    files.write_bytes(small_disk / "x", b"old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        for write in (
            lambda: files.write_bytes(small_disk / "x", b"new"),
            lambda: files.write_bytes(small_disk / "a" / "y", b"new"),
            lambda: files.Lock(small_disk / "lock").acquire(),
            lambda: files.atomic_folder(small_disk / "folder").__enter__(),
        ):
            with pytest.raises(Exhausted) as caught:
                write()
            assert caught.value.code == 7
            assert caught.value.slug == "read-only"
        assert (small_disk / "x").read_bytes() == b"old"
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def test_an_error_about_another_file_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "x"):
        (tmp_path / "missing").read_text()
    with pytest.raises(PermissionError), files.atomic_path(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "another")


def test_disk_quotas_and_limits_are_exhausted(tmp_path: Path) -> None:
    for number in (errno.EDQUOT, errno.EFBIG, errno.ENOSPC):
        with pytest.raises(Exhausted), files.atomic_path(tmp_path / "x"):
            raise OSError(number, "no")


# --- JSON ------------------------------------------------------------------------------------------


class Colour(enum.StrEnum):
    RED = "red"


def test_json_is_strict_and_knows_what_numbers_are(tmp_path: Path) -> None:
    value = {
        "i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "a": np.arange(2), "t": (1, 2), "s": {"b", "a"}, "p": Path("x/y"),
        "d": dt.date(2024, 1, 2), "e": Colour.RED, 3: None, "ö": "é",
    }  # fmt: skip
    files.write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {
        "i": 3, "f": 0.5, "b": True, "a": [0, 1], "t": [1, 2], "s": ["a", "b"], "p": "x/y", "d": "2024-01-02", "e": "red",
        "3": None, "ö": "é",
    }  # fmt: skip
    assert "ö" in text
    assert text.endswith("}\n")
    assert files.read_json(tmp_path / "x.json")["i"] == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64("-inf"), np.array([1.0, np.nan])])
def test_json_has_no_nan_unless_the_document_says_null(bad: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.roc_auc") as caught:
        files.write_json(tmp_path / "x.json", {"metrics": {"roc_auc": bad}})
    assert caught.value.slug == "not-finite"
    assert not (tmp_path / "x.json").exists()
    text = files.to_json({"x": bad}, null_for_nan=True)
    assert "null" in text
    json.loads(text, parse_constant=pytest.fail)


def test_json_refuses_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="object"):
        files.to_json({"x": object()})


def test_torn_json_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'{"a": ')
    (tmp_path / "y.json").write_bytes(b"\xff")
    for name in ("x.json", "y.json", "missing.json"):
        with pytest.raises(DataError):
            files.read_json(tmp_path / name)


# --- folders ---------------------------------------------------------------------------------------


def test_a_folder_appears_with_everything_in_it(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "run") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not (tmp_path / "run").exists()
        files.write_json(folder / "parts" / "x.json", {})
        (folder / "y.bin").write_bytes(b"1")
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["parts", "y.bin"]
    assert (tmp_path / "run").stat().st_mode & 0o700 == 0o700


def test_a_failed_folder_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.atomic_folder(tmp_path / "run") as folder:
        (folder / "x").write_text("1")
        _ = 1 / 0
    assert names(tmp_path) == []


def test_an_existing_folder_is_a_conflict_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(Conflict), files.atomic_folder(tmp_path / "run"):
        pytest.fail("the block ran")
    with pytest.raises(Conflict, match="meanwhile"), files.atomic_folder(tmp_path / "other"):
        (tmp_path / "other").mkdir()
    assert names(tmp_path) == ["other", "run"]


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_replaced_folder_is_the_new_one_whole(in_one_step: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system cannot exchange two names, in two steps."""
    if not in_one_step:
        monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_, **__: object())
    with files.atomic_folder(tmp_path / "run") as folder:
        (folder / "old").write_text("1")
    with files.atomic_folder(tmp_path / "run", replace=True) as folder:
        (folder / "new").write_text("1")
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["new"]


def test_every_file_of_a_folder_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written into the unfinished folder are synced once, at the end, not each on its own."""
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with files.atomic_folder(tmp_path / "run") as folder:
        files.write_text(folder / "parts" / "a", "1")
        files.write_text(folder / "b", "1")
        assert synced == []
    assert sorted(synced[:3]) == ["a", "b", "parts"]
    assert synced[3].startswith(".tmp-")  # the folder itself, under its old name
    assert synced[4] == tmp_path.name


# --- locks -----------------------------------------------------------------------------------------


def test_a_lock_has_one_holder_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "work" / "lock"
    with files.Lock(path) as lock:
        assert lock.held
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(Conflict, match=str(os.getpid())) as caught:
            files.Lock(path).acquire()
        assert caught.value.code == 8
        with pytest.raises(RuntimeError):
            lock.acquire()
    assert not path.exists()
    lock.release()
    with files.Lock(path):
        pass


def test_a_waiting_lock_gives_up_at_its_time(tmp_path: Path) -> None:
    now = iter([0.0, 0.5, 1.5])
    with files.Lock(tmp_path / "lock"), pytest.raises(Conflict):
        files.Lock(tmp_path / "lock", wait=1.0, clock=lambda: next(now)).acquire()
    assert next(now, None) is None


HOLDER = """
import sys, time
from recipeline.stores import atomic
atomic.Lock(sys.argv[1]).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    """Held by a living process it is a conflict; kill -9 frees it, though the file stays."""
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(Conflict, match=str(child.pid)):
            files.Lock(path).acquire()
        os.kill(child.pid, signal.SIGKILL)
    assert path.exists()
    with files.Lock(path):
        assert path.read_text() == f"{os.getpid()}\n"


ADDER = """
import sys
from pathlib import Path
from recipeline.stores import atomic
table = Path(sys.argv[1])
for step in range(int(sys.argv[2])):
    with atomic.Lock(table.with_suffix(".lock"), wait=60):
        rows = table.read_text() if table.exists() else ""
        atomic.write_text(table, rows + f"{sys.argv[3]} {step}\\n")
"""


def test_eight_processes_on_one_lock_lose_no_row(tmp_path: Path) -> None:
    """Each reads the file, adds a row and writes it whole: the union comes out."""
    table = tmp_path / "table.txt"
    children = [subprocess.Popen([sys.executable, "-c", ADDER, str(table), "10", str(number)]) for number in range(8)]
    assert [child.wait(60) for child in children] == [0] * 8
    expected = {f"{number} {step}" for number in range(8) for step in range(10)}
    rows = table.read_text().splitlines()
    assert len(rows) == 80
    assert set(rows) == expected
    assert names(tmp_path) == ["table.txt"]


# --- reading ---------------------------------------------------------------------------------------


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [1, 2, 3],
            "x": [0.1, np.nan, 1e300],
            "text": ["a,b", None, 'quote " and\nline'],
            "when": pd.to_datetime(["2024-01-01 00:00:00", "2024-01-02 03:04:05", "1999-12-31 00:00:00"]),
            "yes": [True, False, True],
        }
    )


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_a_frame_survives_a_file(suffix: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    files.write_frame(path, frame)
    back = files.read_frame(path)
    pd.testing.assert_frame_equal(back, frame, check_dtype=False)
    assert [column.dtype.kind for _, column in back.items()][::2] == ["i", back["text"].dtype.kind, "b"]
    assert list(files.read_frame(path, ["yes", "id"]).columns) == ["yes", "id"]
    back.loc[0, "x"] = 7.0  # the frame owns its memory
    assert names(tmp_path) == [f"x{suffix}"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_batches_are_cut_from_row_0_whatever_the_file_looks_like(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of 7 rows and blocks of 64 bytes give the same batches as one piece, and the same rows as the whole."""
    rows = pd.DataFrame({"i": range(50), "x": np.random.default_rng(0).normal(size=50), "s": [f"s{i}" for i in range(50)]})
    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pandas(rows), path, row_group_size=7)
    else:
        files.write_frame(path, rows)
        monkeypatch.setattr(delimited, "BLOCK", 64)
    whole = files.read_frame(path)
    pd.testing.assert_frame_equal(whole, rows)
    for size in (1, 6, 7, 8, 49, 50, 51):
        found = list(files.batches(path, size))
        assert [batch.num_rows for batch in found[:-1]] == [size] * (len(found) - 1)
        assert 0 < found[-1].num_rows <= size
        assert len({batch.schema for batch in found}) == 1
        pd.testing.assert_frame_equal(files.to_frame(pa.Table.from_batches(found)), rows)
    assert next(files.batches(path, 10, ["s", "i"])).schema.names == ["s", "i"]
    with pytest.raises(UsageError):
        next(files.batches(path, 0))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_without_rows_still_has_columns(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    files.write_frame(path, pd.DataFrame({"a": pd.Series([], dtype="float64"), "b": pd.Series([], dtype="float64")}))
    assert files.read_frame(path).shape == (0, 2)
    (batch,) = files.batches(path, 10)
    assert batch.num_rows == 0
    assert batch.schema.names == ["a", "b"]


def test_the_type_of_a_csv_column_holds_for_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after the first block counts as much as what is in it; whole and in batches alike."""
    n = 400
    columns = {
        "null": [""] * n, "late": [*[""] * (n - 1), "7"], "int": ["1"] * n, "float": [*["1"] * (n - 1), "2.5"],
        "text": [*["1"] * (n - 1), "x"], "bool": ["true"] * n, "mixed": [*["true"] * (n - 1), "1"], "day": ["2024-01-02"] * n,
        "time": [*["2024-01-02"] * (n - 1), "2024-01-02 10:00:00"], "clock": ["10:30"] * n, "huge": [*["1"] * (n - 1), "9" * 20],
    }  # fmt: skip
    expected = {"null": "f", "late": "f", "int": "i", "float": "f", "bool": "b", "day": "M", "time": "M", "huge": "f"}
    text = pd.DataFrame(columns).to_csv(index=False)
    (tmp_path / "x.csv").write_text(text)
    for block in (1 << 20, 2048):
        monkeypatch.setattr(delimited, "BLOCK", block)
        whole = files.read_frame(tmp_path / "x.csv")
        kinds = {name: column.dtype.kind for name, column in whole.items()}
        assert {name: kinds[name] for name in expected} == expected
        for name in ("text", "mixed", "clock"):
            assert pd.api.types.infer_dtype(whole[name]) == "string", name
        parts = [files.to_frame(batch) for batch in files.batches(tmp_path / "x.csv", 37)]
        pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)


def test_csv_agrees_with_pandas(tmp_path: Path) -> None:
    """The other road: pandas' own reader, with Python's rounding, on numbers, words for nothing, quotes and odd headers."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"": range(60), "x": rng.normal(size=60) * 10.0 ** rng.integers(-300, 300, 60)})
    frame["i"] = rng.integers(-(2**62), 2**62, 60)
    frame["word"] = rng.choice(["NA", "null", "None", "", "n/a", "one", 'q"q', "a,b", " blank "], 60)
    frame["some"] = [None if i % 3 else i for i in range(60)]
    text = "\ufeff" + frame.to_csv(index=False).replace("\n", "\r\n")
    (tmp_path / "x.csv").write_text(text, newline="")
    ours, theirs = files.read_frame(tmp_path / "x.csv"), pd.read_csv(tmp_path / "x.csv", dtype={"x": str})
    theirs["x"] = theirs["x"].map(float)  # Python's own, correctly rounded
    assert list(ours.columns) == list(theirs.columns) == ["Unnamed: 0", "x", "i", "word", "some"]
    pd.testing.assert_frame_equal(ours, theirs.where(theirs.notna(), None).astype(theirs.dtypes), check_exact=True)


def test_row_numbers_that_pandas_kept_are_not_a_column(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1, 2]}, index=[5, 7]).to_parquet(tmp_path / "x.parquet")
    assert list(files.read_frame(tmp_path / "x.parquet").columns) == ["a"]
    assert next(files.batches(tmp_path / "x.parquet", 2)).schema.names == ["a"]


def test_other_types_of_parquet_become_what_models_take(tmp_path: Path) -> None:
    table = pa.table(
        {
            "decimal": pa.array([decimal.Decimal("1.5"), None]),
            "null": pa.nulls(2),
            "day": pa.array([dt.date(2024, 1, 2), None]),
            "some": pa.array([1, None]),
            "word": pa.array(["a", "b"]).dictionary_encode(),
            "single": pa.array([0.5, 1.5], type=pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    kinds = {name: str(dtype) for name, dtype in files.read_frame(tmp_path / "x.parquet").dtypes.items()}
    assert kinds["decimal"] == kinds["null"] == kinds["some"] == "float64"
    assert kinds["day"].startswith("datetime64")
    assert kinds["word"] == "category"
    assert kinds["single"] == "float32"


BAD_CSV = {
    "empty": (b"", "", "empty-file"),
    "only line ends": (b"\n\n", "", "empty-file"),
    "longer row": (b"a,b\n1,2\n1,2,3\n", ":3", "bad-csv"),
    "shorter row": (b"a,b\n1,2\n1\n3,4\n", ":3", "bad-csv"),
    "long after a quoted line end": (b'a,b\n1,"x\ny"\n1,2,3\n', ":4", "bad-csv"),
    "NUL": (b"a,b\n1,2\n3,\x00\n", ":3", "bad-csv"),
    "NUL in the header": (b"a,\x00\n1,2\n", ":1", "bad-csv"),
    "latin-1": ("a,b\n1,ü\n".encode("latin-1"), ":2", "bad-csv"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), ":1", "bad-csv"),
    "open quote": (b'a,b\n1,"x\n2,y\n', ":2", "bad-csv"),
    "two of one name": (b"a,b,a\n1,2,3\n", "", "duplicate-column"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_csv_file_that_is_no_table_is_a_data_error_with_its_line(case: str, tmp_path: Path) -> None:
    data, line, slug = BAD_CSV[case]
    (tmp_path / "x.csv").write_bytes(data)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(data))
    for name in ("x.csv", "x.csv.gz"):
        for read in (files.read_frame, lambda path: list(files.batches(path, 10))):
            with pytest.raises(DataError) as caught:
                read(tmp_path / name)
            assert caught.value.code == 5
            assert caught.value.slug == slug
            assert caught.value.where.endswith(name + line)


def test_a_mistake_far_into_a_csv_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK", 1 << 12)
    lines = ["a,b", *(f"{i},{i}" for i in range(5000))]
    lines[4321] = "secret-value"
    (tmp_path / "x.csv").write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        files.read_frame(tmp_path / "x.csv")
    assert caught.value.where.endswith("x.csv:4322")
    assert "secret" not in str(caught.value)


def test_a_torn_gzip_file_is_a_data_error(tmp_path: Path) -> None:
    data = gzip.compress(b"a,b\n" + b"1,2\n" * 100_000)
    for name, torn in (("x.csv.gz", data[:-30]), ("y.csv.gz", data[:100]), ("z.csv.gz", b"a,b\n1,2\n")):
        (tmp_path / name).write_bytes(torn)
        with pytest.raises(DataError):
            files.read_frame(tmp_path / name)


@pytest.mark.parametrize("size", [0, 3, 4, 11, 12, 200, -1, -4, -8, -9, -40])
def test_a_torn_parquet_file_is_a_data_error(size: int, frame: pd.DataFrame, tmp_path: Path) -> None:
    files.write_frame(tmp_path / "x.parquet", frame)
    data = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(data[:size])
    for read in (files.read_frame, lambda path: list(files.batches(path, 2)), files.count_rows):
        with pytest.raises(DataError) as caught:
            read(tmp_path / "x.parquet")
        assert caught.value.slug == "damaged-file"


def test_a_flipped_byte_of_parquet_is_seen_or_harmless(frame: pd.DataFrame, tmp_path: Path) -> None:
    """Every byte of a file, flipped: a DataError, or the very same rows. Never other numbers, never another exception."""
    path = tmp_path / "x.parquet"
    files.write_frame(path, frame[["id", "x"]])
    data, whole = path.read_bytes(), files.read_frame(path)
    refused = 0
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            back = files.read_frame(path)
        except DataError:
            refused += 1
            continue
        if list(back.columns) == list(whole.columns):  # a byte of a name is a byte of a name
            assert len(back) == len(whole), position
            pd.testing.assert_frame_equal(back, whole)
    assert refused > len(data) / 2


def test_missing_and_forbidden_files_are_data_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "x.xlsx").write_text("x")
    nowhere = "no-such-file"
    for name, slug in (("no.csv", nowhere), ("no.parquet", nowhere), ("folder.csv", nowhere), ("x.xlsx", "unknown-format")):
        with pytest.raises(DataError) as caught:
            files.read_frame(tmp_path / name)
        assert caught.value.slug == slug
        assert str(tmp_path) not in str(caught.value)

    def forbidden(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "x.csv").write_text("a\n1\n")
    monkeypatch.setattr(Path, "open", forbidden)  # root may read everything
    with pytest.raises(DataError) as caught:
        files.read_frame(tmp_path / "x.csv")
    assert caught.value.slug == "forbidden-file"


def test_a_missing_column_is_named_with_the_nearest(frame: pd.DataFrame, tmp_path: Path) -> None:
    for suffix in (".csv", ".parquet"):
        files.write_frame(tmp_path / f"x{suffix}", frame)
        for read in (lambda path: files.read_frame(path, ["txt"]), lambda path: list(files.batches(path, 2, ["txt"]))):
            with pytest.raises(DataError, match="did you mean text"):
                read(tmp_path / f"x{suffix}")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    assert files.sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_footers_keep_what_was_said(frame: pd.DataFrame, tmp_path: Path) -> None:
    files.write_frame(tmp_path / "x.parquet", frame, metadata={"recipeline": '{"key": "ü"}'})
    assert files.footer(tmp_path / "x.parquet")["recipeline"] == '{"key": "ü"}'
    assert files.count_rows(tmp_path / "x.parquet") == 3
    files.write_frame(tmp_path / "x.csv", frame)
    assert files.count_rows(tmp_path / "x.csv") is None


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_streamed_file_is_the_same_bytes_every_time(suffix: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    for name in ("a", "b"):
        with files.FrameWriter(tmp_path / f"{name}{suffix}") as out:
            out.write(frame)
            out.write(frame)
            assert out.rows == 6
        time.sleep(0.001)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    twice = pd.concat([frame, frame], ignore_index=True)
    pd.testing.assert_frame_equal(files.read_frame(tmp_path / f"a{suffix}"), twice, check_dtype=False)


def test_rows_of_another_type_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column a") as caught, files.FrameWriter(tmp_path / "x.parquet") as out:
        out.write(pd.DataFrame({"a": [1, 2]}))
        out.write(pd.DataFrame({"a": ["x"]}))
    assert caught.value.slug == "mixed-types"
    with pytest.raises(DataError), files.FrameWriter(tmp_path / "x.parquet"):
        pass
    assert names(tmp_path) == []


# --- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "path"),
    [("x.csv", "x.csv"), ("a/b.csv", "a/b.csv"), ("file://a/b.csv", "a/b.csv"), ("file:///a/b.csv", "/a/b.csv"), ("FILE:///a", "/a")],
)
def test_local_addresses_are_paths(uri: str, path: str) -> None:
    assert files.local_path(uri) == Path(path)


def test_chains_are_refused_and_other_schemes_are_not_local() -> None:
    assert files.local_path("s3://bucket/x") is None
    for uri in ("zip://x.csv::s3://bucket/a.zip", "simplecache::s3://b/x", "a::b"):
        with pytest.raises(Refused) as caught:
            files.local_path(uri)
        assert caught.value.code == 4


ROOTS = ("s3://bucket/data", "memory://here/")


@pytest.mark.parametrize("uri", ["s3://bucket/data/x.csv", "s3://bucket/data/a/b.csv", "S3://bucket/data/x", "memory://here/x.csv"])
def test_addresses_below_a_root_are_admitted(uri: str) -> None:
    assert files.admit(uri, ROOTS) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/other/x.csv", "s3://bucket/database/x.csv", "s3://bucket2/data/x.csv", "s3://bucket/data/../other/x.csv", "gs://bucket/data/x",
        "http://169.254.169.254/latest", "s3://bucket/data/%2e%2e/x", "s3://evil@bucket/data/x", "memory://elsewhere/x.csv",
        "simplecache::s3://bucket/data/x", "s3://bucket/data\\..\\x",
    ],
)  # fmt: skip
def test_addresses_outside_the_roots_are_refused(uri: str) -> None:
    with pytest.raises(Refused) as caught:
        files.admit(uri, ROOTS)
    assert caught.value.code == 4
    with pytest.raises(Refused):
        files.admit("s3://bucket/data/x.csv", ())


def test_credentials_are_not_shown() -> None:
    assert files.without_credentials("s3://key:secret@bucket/x?token=abc") == "s3://bucket/x?…"
    with pytest.raises(Refused) as caught:
        files.admit("s3://key:secret@bucket/x?token=abc", ())
    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_other_file_systems_are_read_through_fsspec(frame: pd.DataFrame, tmp_path: Path) -> None:
    """`memory://` stands for any of them: a real file system of fsspec's."""
    store = fsspec.filesystem("memory")
    adapter = files.StorageAdapter(roots=["memory://here"])
    for suffix in (".csv", ".parquet", ".csv.gz"):
        files.write_frame(tmp_path / f"x{suffix}", frame)
        with store.open(f"memory://here/x{suffix}", "wb") as out:
            out.write((tmp_path / f"x{suffix}").read_bytes())
        pd.testing.assert_frame_equal(adapter.read(f"memory://here/x{suffix}"), files.read_frame(tmp_path / f"x{suffix}"))
        assert [batch.num_rows for batch in adapter.batches(f"memory://here/x{suffix}", 2)] == [2, 1]
    with pytest.raises(DataError, match="no such file"):
        adapter.read("memory://here/missing.csv")
    with pytest.raises(Refused):
        adapter.read("memory://elsewhere/x.csv")
    store.rm("memory://here", recursive=True)


def test_a_scheme_whose_library_is_missing_names_the_extra() -> None:
    if importlib.util.find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(MissingLibrary, match=r"recipeline\[s3\]"):
        files.open_source("s3://bucket/x.csv")
    with pytest.raises(DataError) as caught:
        files.open_source("nonsense://bucket/x.csv")
    assert caught.value.slug == "unknown-scheme"


def test_the_storage_adapter_writes_whole_files_with_their_key(frame: pd.DataFrame, tmp_path: Path) -> None:
    adapter = files.StorageAdapter(project=tmp_path)
    adapter.write(frame, "out/x.parquet", key="k1")
    assert files.footer(tmp_path / "out" / "x.parquet")["recipeline.key"] == "k1"
    assert len(adapter.read("out/x.parquet")) == 3
    with pytest.raises(UsageError):
        adapter.write(frame, "s3://bucket/x.parquet", key="k")
    with pytest.raises(UsageError):
        adapter.read("out/x.parquet", {"a": 1})
