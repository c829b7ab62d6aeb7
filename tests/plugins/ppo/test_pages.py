"""The Python of the page about running and recovering training runs as it stands, and its names are true."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
import yaml

from recipeline.operations import RULES
from recipeline_ppo import monitoring
from recipeline_ppo.training import CHECKPOINT, Operations

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "howto" / "run-and-recover-training.md").read_text(encoding="utf-8")
RULES_PAGE = (DOCS / "explanation" / "anomaly-rules.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python[^\n]*\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_loop_of_the_page_runs(tmp_path, monkeypatch, capsys):
    """2,000 steps; the folder holds what the page draws."""
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[0], "page", "exec"), {})
    assert capsys.readouterr().out == "2000 0 finished\n"
    drawn = re.search(r"```text\n(training/.*?)```", PAGE, re.DOTALL)[1]
    newest = max(Path("training/checkpoints").iterdir())
    for name in [*Path("training").glob("*.jsonl"), *newest.iterdir()]:
        assert name.name in drawn
    events = [json.loads(line)["event"] for line in Path("training/ops_events.jsonl").read_text().splitlines()]
    assert {"checkpoint_saved", "finished"} <= set(events)


def test_the_hand_written_loop_of_the_page_runs(tmp_path, monkeypatch, capsys):
    """Twelve updates, a checkpoint at the fifth and the tenth."""
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[1], "page", "exec"), {})
    assert re.findall(r"checkpoint_(\d+)", capsys.readouterr().out) == ["000000005", "000000010"]


def test_the_ladder_of_the_page_falls_down_to_its_callable(monkeypatch, capsys):
    """Nobody listens at the two endpoints; their addresses are those of sockets that were closed."""
    monkeypatch.setenv("GENERATE_TOKEN", "t")
    text = PYTHON[2]
    for port in ("8001", "8002"):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            assert f"127.0.0.1:{port}" in text
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{closed.getsockname()[1]}")
    exec(compile(text, "page", "exec"), {})
    assert capsys.readouterr().out == "fast {'text': 'a plain answer to a rose'} ['balanced', 'creative']\n"


def test_the_recipe_of_the_page_is_taken():
    """Its operations are built."""
    text = re.search(r"^```yaml[^\n]*\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
    given = yaml.safe_load(text)
    Operations(**given["model"]["hyperparameters"]["operations"]["hyperparameters"])


def test_the_table_of_rules_says_their_defaults():
    """Severity, warm-up, patience and cooldown of every rule, as the classes have them."""
    lines = {
        row[0].strip(" `"): [cell.strip(" `") for cell in row[1:]]
        for row in (line.strip("|").split("|") for line in RULES_PAGE.splitlines() if line.startswith("| `"))
    }
    assert set(lines) == set(RULES)
    for name, kind in RULES.items():
        rule = kind()
        assert lines[name][1:] == [rule.severity, str(rule.warm_up), str(rule.patience), str(rule.cooldown)], name
        if hasattr(rule, "metric"):
            assert lines[name][0] == rule.metric


def test_the_page_names_every_metric_and_every_default():
    """Measures of monitoring.py; defaults of `checkpoint`."""
    for value in vars(monitoring).values():
        if isinstance(value, monitoring.measures.Measure):
            assert f"`{value.name}`" in PAGE, value.name
    for name in CHECKPOINT:
        assert f"`{name}`" in PAGE, name


@pytest.mark.parametrize("name", ["OperationsManager", "PPOTrainer"])
def test_the_page_speaks_of_the_facade(name):
    assert name in PAGE
