"""Checkpoints of recipeline_ppo on disk: whole or not there, found again, refused where they are damaged or another's."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from recipeline.errors import Conflict, Damaged, DataError, Exhausted
from recipeline.operations import OpsHarness, Rollback, Rotation
from recipeline_ppo.checkpoints import CheckpointFolder, read_checkpoint, write_checkpoint


class Heard:
    def __init__(self):
        self.events = []

    def emit(self, name, **fields):
        self.events.append((name, fields))

    def named(self, name):
        return [fields for event, fields in self.events if event == name]


def state(step=0.0):
    rng = np.random.default_rng(int(step))
    return {
        "state": {
            "arrays": {
                "w": rng.normal(size=(3, 4)).astype(np.float32),
                "scalar": np.array(2.5),
                "none": np.zeros((0, 2)),
                "on": np.array([True]),
            },
            "info": {"random": {"state": 2**127 + 1}, "words": ["a", None, True], "window": [0.1, 1e-300, -0.0], "step": step},
        },
        "operations": {"rules": {}},
    }


def info(step, status="candidate", **rest):
    return {"step": step, "status": status, "clean": 0, "score": None, "pinned": False, **rest}


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return repr(one) == repr(other)


def test_what_is_written_is_read_to_the_bit(tmp_path):
    """Shapes, types, huge integers, minus zero; from memory, and by another process's eyes from the disk."""
    folder = CheckpointFolder(tmp_path, share=1)
    folder.write("checkpoint_000000005", state(5), info(5))
    assert same(folder.read("checkpoint_000000005"), state(5))
    again = CheckpointFolder(tmp_path)
    assert same(again.read("checkpoint_000000005"), state(5))
    assert again.infos() == {"checkpoint_000000005": info(5)}
    assert sorted(p.name for p in (tmp_path / "checkpoint_000000005").iterdir()) == [
        "hashes.json", "state.json", "state.safetensors", "status.json",
    ]  # fmt: skip


def test_what_is_read_is_a_copy(tmp_path):
    """Who goes back and trains on does not change the checkpoint, in memory or on the disk."""
    folder = CheckpointFolder(tmp_path, share=1e-9)
    for step in (0, 1):  # the first goes to the disk at once
        folder.write(f"checkpoint_{step:09d}", state(step), info(step))
        got = folder.read(f"checkpoint_{step:09d}")
        got["state"]["arrays"]["w"][:] = 8
        got["state"]["info"]["window"].clear()
        assert same(folder.read(f"checkpoint_{step:09d}"), state(step))


def test_quick_checkpoints_go_to_the_disk_together_without_those_that_left(tmp_path):
    """A tenth of the time may go into writing, one second for one checkpoint here: what comes sooner waits until there is room
    for all that wait; then the retained ones are written, with what became of them."""
    now = [0.0]

    def clock():  # a look at it takes a second
        now[0] += 1.0
        return now[0]

    folder = CheckpointFolder(tmp_path, share=0.1, clock=clock)
    for step in range(5):
        folder.write(f"checkpoint_{step:09d}", state(step), info(step))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_000000000"]
    folder.delete("checkpoint_000000000")
    folder.delete("checkpoint_000000002")
    folder.mark("checkpoint_000000003", info(3, "good", clean=10))
    now[0] += 30  # room for three, not for the four that wait and the one that was written
    folder.write("checkpoint_000000005", state(5), info(5))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_000000000"]
    now[0] += 20
    folder.delete("checkpoint_000000004")
    folder.write("checkpoint_000000006", state(6), info(6))
    again = CheckpointFolder(tmp_path)
    assert {int(n[-9:]): i["status"] for n, i in again.infos().items()} == {1: "candidate", 3: "good", 5: "candidate", 6: "candidate"}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(again.infos())


def test_a_checkpoint_of_the_same_step_takes_the_place_of_the_old_one(tmp_path):
    """After a rollback the same step comes again."""
    folder = CheckpointFolder(tmp_path, share=1)
    for value in (1, 2):
        folder.write("checkpoint_000000009", state(value), info(9))
    assert same(CheckpointFolder(tmp_path).read("checkpoint_000000009"), state(2))


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "hashes.json", "status.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "empty"])
def test_any_damage_is_named_and_an_older_one_is_used(tmp_path, name, harm):
    """One flipped bit, a file cut short, emptied or removed: Damaged names checkpoint and file; the one before is taken."""
    folder = CheckpointFolder(tmp_path, share=1)
    for step in (1, 2):
        folder.write(f"checkpoint_{step:09d}", {"state": {"w": np.arange(9.0)}, "operations": {}}, info(step, "good"))
    path = tmp_path / "checkpoint_000000002" / name
    data = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[: len(data) // 2]), "empty": b""}[harm])
    heard = Heard()
    again = CheckpointFolder(tmp_path, events=heard)
    if name == "status.json" and harm == "flip" and "checkpoint_000000002" in again.infos():
        pytest.skip("the flipped bit stands in the score, which is no part of the state")
    harness = OpsHarness(rotation=Rotation(again, events=heard), events=heard)
    assert harness._readable()[0] == "checkpoint_000000001"
    told = heard.named("checkpoint_damaged")
    assert [f["checkpoint"] for f in told] == ["checkpoint_000000002"]
    assert "damaged-checkpoint" in told[0]["reason"] or "foreign-checkpoint" in told[0]["reason"]
    with pytest.raises((Damaged, DataError), match="checkpoint_000000002"):
        read_checkpoint(tmp_path / "checkpoint_000000002")


def test_checkpoints_of_another_training_are_named_and_left_alone(tmp_path):
    """Another number of environments: not listed, not touched, and refused in words where there are no others."""
    CheckpointFolder(tmp_path, identity={"n_envs": 8, "action": {"kind": "discrete"}}, share=1).write(
        "checkpoint_000000003", state(3), info(3)
    )
    heard = Heard()
    other = CheckpointFolder(tmp_path, identity={"n_envs": 4, "action": {"kind": "discrete"}}, events=heard)
    assert other.infos() == {}
    assert heard.named("checkpoint_foreign") == [{"checkpoint": "checkpoint_000000003", "reason": "n_envs was 8, and is 4 now"}]
    with pytest.raises(Conflict, match="n_envs was 8, and is 4 now"):
        other.refuse_foreign()
    assert (tmp_path / "checkpoint_000000003").is_dir()
    (tmp_path / "checkpoint_of_mine").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert set(CheckpointFolder(tmp_path, identity={}).damaged) == {"checkpoint_of_mine"}


def test_what_a_killed_writer_left_is_swept(tmp_path):
    """Unfinished folders of dead writers go; those of a living one stay."""
    dead = tmp_path / ".tmp-0123456789ab-checkpoint_000000001"
    dead.mkdir()
    (dead / "state.json").write_text("{")
    CheckpointFolder(tmp_path)
    assert not dead.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is a small tmpfs, which only root mounts")
def test_a_full_disk_keeps_the_old_one_whole_and_training_going(tmp_path):
    """4 MiB of tmpfs: told as an event, rollback works from memory, the disk's newest is whole; `strict` raises; room again: written."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(tmp_path)], check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        heard = Heard()
        rotation = Rotation(CheckpointFolder(tmp_path / "c", share=1), every=1, keep=3, events=heard)
        assert rotation.save(1, {"state": {"w": np.zeros(300_000, np.float32)}})
        filler = tmp_path / "filler"
        filler.write_bytes(bytes(2_000_000))
        big = {"state": {"w": np.ones(300_000, np.float32)}}
        assert rotation.save(2, big) is None
        assert "out of space" in heard.named("checkpoint_failed")[0]["reason"] or "full" in heard.named("checkpoint_failed")[0]["reason"]
        assert rotation.writer.read("checkpoint_000000002")["state"]["w"][0] == 1
        again = CheckpointFolder(tmp_path / "c")
        assert list(again.infos()) == ["checkpoint_000000001"]
        assert not again.read("checkpoint_000000001")["state"]["w"].any()
        strict = Rotation(CheckpointFolder(tmp_path / "c", share=1), every=1, strict=True)
        with pytest.raises(Exhausted):
            strict.save(3, big)
        filler.unlink()
        rotation.writer.flush()
        assert sorted(CheckpointFolder(tmp_path / "c").infos()) == ["checkpoint_000000001", "checkpoint_000000002"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_arrays_of_no_known_kind_are_refused(tmp_path):
    """Objects would need pickle."""
    with pytest.raises(DataError, match="cannot be kept"):
        write_checkpoint(tmp_path / "checkpoint_000000001", {"w": np.array([object()])}, info=info(1))
    assert not list(tmp_path.iterdir())


def test_a_rollback_from_disk_is_one_from_memory(tmp_path):
    """The same run of a harness over both writers: outcomes, weights, statuses."""

    def run(rotation):
        ops = OpsHarness(hparams={"learning_rate": 0.1}, rotation=rotation, rollback=Rollback())
        held = {"w": np.zeros(3)}
        trace = []

        def set_state(new, advance):
            held.update(new)

        ops.start(0, lambda: {"w": held["w"].copy()}, lambda n, v: None)
        for step in range(10, 1200, 10):
            held["w"] = held["w"] + 1.0
            loss = float("nan") if step in (500, 900) else 1.0
            outcome = ops.update(step, {"value_loss": loss}, lambda: {"w": held["w"].copy()}, set_state, lambda n, v: None)
            trace.append((outcome.saved, outcome.restored, held["w"].tolist()))
        return trace, ops.rotation.writer.infos()

    assert run(Rotation(every=50)) == run(Rotation(CheckpointFolder(tmp_path, share=1), every=50))


SAVER = """
import sys
import numpy as np
from recipeline.operations import Rotation
from recipeline_ppo.checkpoints import CheckpointFolder
rotation = Rotation(CheckpointFolder(sys.argv[1], share=float(sys.argv[2])), every=1, keep=3, probation=1)
rotation._rotate()  # as resuming does
newest = rotation.newest()
step = 0 if newest is None else int(newest[-9:])
print("ready", flush=True)
while True:
    step += 1
    rotation.save(step, {"state": {"arrays": {"w": np.full(50_000, step, np.float32)}, "info": {"step": step}}, "operations": {}})
    rotation.clean()
    print(step, flush=True)
"""


def kill_while_saving(folder: Path, times: int, share: float) -> int:
    """kill -9 at random moments; after each the newest is there, whole, and no older than what was last said to be saved."""
    rng, reached = random.Random(7), 0
    for _ in range(times):
        process = subprocess.Popen([sys.executable, "-c", SAVER, str(folder), str(share)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        said = int(process.stdout.readline())
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        said = max([said, *(int(line) for line in process.stdout.read().split("\n")[:-1] if line)])
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        rotation = Rotation(CheckpointFolder(folder))
        name = rotation.newest()
        kept = rotation.writer.read(name)
        step = int(name[-9:])
        assert (kept["state"]["arrays"]["w"] == step).all()
        assert kept["state"]["info"]["step"] == step
        assert not rotation.writer.damaged
        if share == 1:
            assert step >= said
        assert step > reached
        reached = step
        assert len(list(folder.iterdir())) <= (8 if share == 1 else 16)  # of two sets, where the kill came between writing and removing
    return reached


def test_killed_while_saving_leaves_a_newest_that_loads(tmp_path):
    """Three times here; fifty in the slow test."""
    assert kill_while_saving(tmp_path / "c", 3, 1.0) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.2])
def test_killed_fifty_times_while_saving(tmp_path, share):
    """Always a loadable newest, at once and where checkpoints go to the disk together."""
    assert kill_while_saving(tmp_path / "c", 50, share) >= 50


def test_the_document_is_json_that_a_person_can_read(tmp_path):
    """Steps, random streams and identity stand in state.json; hashes beside it."""
    write_checkpoint(tmp_path / "c", state(4), identity={"n_envs": 2}, info=info(4))
    document = json.loads((tmp_path / "c" / "state.json").read_text())
    assert document["identity"] == {"n_envs": 2}
    assert document["state"]["state"]["info"]["random"]["state"] == 2**127 + 1
    assert document["state"]["state"]["arrays"]["w"] == {"$array": "state.arrays.w"}
    assert json.loads((tmp_path / "c" / "hashes.json").read_text()).keys() == {"state.safetensors", "state.json"}
