"""Ledgers: lines of JSON that a kill leaves whole."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time

import pytest

from recipeline.errors import Damaged, Exhausted
from recipeline.stores.atomic import append_lines
from recipeline.stores.ledgers import Ledger


def test_lines_come_back_in_order_whether_flushed_or_not(tmp_path):
    """Two flushes and a line in memory; another reader sees what was flushed. NaN becomes null."""
    ledger = Ledger(tmp_path / "deep" / "events.jsonl")
    for number in range(3):
        ledger.add({"n": number, "x": math.nan if number == 1 else 0.5})
        if number < 2:
            ledger.flush()
    assert [line["n"] for line in ledger.read()] == [0, 1, 2]
    assert Ledger(tmp_path / "deep" / "events.jsonl").read() == [{"n": 0, "x": 0.5}, {"n": 1, "x": None}]


@pytest.mark.parametrize("torn", [b'{"n": 9', b"\x00" * 9000, '{"ü'.encode()[:-1]])
def test_a_torn_end_is_cut_off(tmp_path, torn):
    """Whatever a killed writer left after the last line end is not read, and the next writer begins a line of its own."""
    path = tmp_path / "x.jsonl"
    append_lines(path, ['{"n":1}', '{"n":2}'])
    with path.open("ab") as stream:
        stream.write(torn)
    assert Ledger(path).read() == [{"n": 1}, {"n": 2}]
    ledger = Ledger(path)
    ledger.add({"n": 3})
    ledger.flush()
    assert path.read_text() == '{"n":1}\n{"n":2}\n{"n":3}\n'


@pytest.mark.parametrize("harmed", [b'{"n":1', b"[1]", b"\x00\x00", b""])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, harmed):
    """Not skipped: a history with a hole would pass for a whole one."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n":0}\n' + harmed + b'\n{"n":2}\n')
    with pytest.raises(Damaged, match="line 2 is not what was written") as told:
        Ledger(path).read()
    assert told.value.where == "x.jsonl"


def test_what_ends_a_line_elsewhere_does_not_end_one_here(tmp_path):
    """A text may hold U+2028, U+0085 and line ends."""
    ledger = Ledger(tmp_path / "x.jsonl")
    ledger.add({"reason": "one\u2028two\x85three\nfour\x1efive"})
    ledger.flush()
    assert Ledger(tmp_path / "x.jsonl").read() == [{"reason": "one\u2028two\x85three\nfour\x1efive"}]


def test_only_a_torn_line_is_an_empty_ledger(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"n":1')
    append_lines(path, ['{"n":2}'])
    assert path.read_text() == '{"n":2}\n'


def test_cut_keeps_what_it_is_told(tmp_path):
    """Lines in memory as well; untouched where everything stays."""
    ledger = Ledger(tmp_path / "x.jsonl")
    for number in range(5):
        ledger.add({"n": number})
        if number == 2:
            ledger.flush()
    assert ledger.cut(lambda line: line["n"] % 2 == 0) == [{"n": 0}, {"n": 2}, {"n": 4}]
    assert (tmp_path / "x.jsonl").read_text() == '{"n":0}\n{"n":2}\n{"n":4}\n'
    assert ledger.cut(lambda line: True) == ledger.read()


def test_a_place_that_cannot_be_written_keeps_the_lines(tmp_path):
    """Exhausted, and the next flush has them all."""
    (tmp_path / "folder").write_text("a file")
    ledger = Ledger(tmp_path / "folder" / "x.jsonl")
    ledger.add({"n": 1})
    with pytest.raises(Exhausted):
        ledger.flush()
    (tmp_path / "folder").unlink()
    ledger.flush()
    assert ledger.read() == [{"n": 1}]


WRITER = """
import sys
from recipeline.stores.ledgers import Ledger
ledger, n = Ledger(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
while True:
    for _ in range(50):
        n += 1
        ledger.add({"n": n, "text": "x" * 200})
    ledger.flush()
    print(n, flush=True)
"""


def test_killed_in_mid_flush_it_holds_all_that_was_flushed(tmp_path):
    """kill -9 four times: lines are whole, none is missing, none comes twice in a row of its own."""
    path, rng, last = tmp_path / "x.jsonl", random.Random(1), 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(last)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        said = max([last, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
        process.stdout.close()
        process.wait()
        numbers = [line["n"] for line in Ledger(path).read()]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= said
        last = len(numbers)
    assert json.loads(path.read_text().splitlines()[0])["n"] == 1
