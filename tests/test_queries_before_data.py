"""What `validate` says of the query behind a recipe, without a database; and whose query a batch reads again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recipeline import registry, settings
from recipeline.assemble import assemble
from recipeline.errors import RecipeError
from recipeline.recipe import load
from recipeline.stores.places import Places
from recipeline.stores.templates import parameters

Command = Callable[..., Any]

SPINE = """\
SELECT patient_id, diagnosis, mean_radius,
  '{{ target_date }}' AS day
FROM breast_cancer
WHERE mean_radius > {{ smallest | default(0) }} AND mean_texture < {{ largest }}
{% if patients is defined and limit is defined %} AND patient_id IN ({{ patients }}) {% endif %}
{% if by_area %} AND worst_area > {{ area }} {% endif %}
{% include "tail.sql.j2" %}
"""
RECIPE = """\
model:
  class_path: sklearn.linear_model.LogisticRegression
  loader: {name: default_loader, source_uri: SOURCE}
  preprocessor: {name: default_preprocessor, params: {exclude_cols: [day]}}
  data_interface: {task_type: classification, target_col: diagnosis, entity_cols: [patient_id]}
evaluation: {metrics: [accuracy]}
"""


@pytest.fixture
def recipe(project: Path) -> Callable[..., Path]:
    """A recipe on a source; texts are written to `recipes/sql/<name>` first."""

    def write(source: str, **texts: str) -> Path:
        for name, text in texts.items():
            (project / "recipes" / "sql" / f"{name}.sql.j2").write_text(text)
        path = project / "recipes" / "asked.yaml"
        path.write_text(RECIPE.replace("SOURCE", source))
        return path

    return write


def unreachable(project: Path) -> None:
    """No database is there: whoever opened it would fail."""
    (project / "recipes" / "data" / "samples.sqlite").unlink()


# --- which parameters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "needed", "optional"),
    [
        ("{{ a }} {{ b | default(1) }} {{ c | d(a) }}", "a", "bc"),
        ("{% if a is defined %}{{ a }}{% endif %}{% if b is not defined %}x{% else %}{{ b }}{% endif %}", "", "ab"),
        ("{% if a %}{{ b }}{% elif c %}{{ d }}{% endif %}", "a", "bcd"),
        ("{% for x in xs %}{{ x }}{{ y }}{% endfor %}{{ ys | default([]) | length }}", ["xs"], ["y", "ys"]),
        ("{{ a if b else c }}{{ d or e }}{{ f | default(g) }}", "bdg", "acef"),
        ("{% set a = b %}{{ a }}{% with c = d %}{{ c }}{% endwith %}", "bd", ""),
        ("{% macro m(a) %}{{ a }}{{ b }}{% endmacro %}{{ m(c) }}", "c", "b"),
        ("{{ a[b].c }}{{ range(n) | list | length }}", "abn", ""),
        ("no parameters", "", ""),
    ],
)
def test_the_text_of_a_template_shows_what_it_needs(text: str, needed: str, optional: str, tmp_path: Path) -> None:
    """Needed is what is read in every rendering without a default or a question whether it is there."""
    (tmp_path / "x.sql.j2").write_text(text)
    found = parameters(tmp_path / "x.sql.j2", name="x.sql.j2")
    assert {name for name, must in found.items() if must} == set(needed)
    assert {name for name, must in found.items() if not must} == set(optional)


def test_validate_lists_the_parameters_of_the_source(command: Command, project: Path, recipe: Callable[..., Path]) -> None:
    """Included files too; nothing is connected to."""
    unreachable(project)
    path = recipe("sql/spine.sql.j2", spine=SPINE, tail="LIMIT {{ limit | default(100) }} OFFSET {{ skipped }}")
    answer = command("validate", "--recipe-file", path)
    assert answer.code == 0, answer
    told = "--context-params needs by_area, largest, skipped, target_date; may have area, limit, patients, smallest"
    assert answer.out.splitlines()[-1] == told
    both = command("validate", "--recipe-file", path, "--json").json
    assert both["ok"] is True
    assert both["parameters"]["optional"] == ["area", "limit", "patients", "smallest"]
    plain = command("validate", "--recipe-file", recipe("SELECT * FROM breast_cancer WHERE mean_radius > :r AND diagnosis <> :d"), "--json")
    assert plain.json["parameters"] == {"needed": ["r", "d"], "optional": []}
    assert "parameters" not in command("validate", "--recipe-file", "recipes/quickstart/quickstart.yaml", "--json").json


# --- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "slug", "words"),
    [
        ("SELECT {{ a FROM t", 3, "sql-template-syntax", "recipes/sql/x.sql.j2:1"),
        ("SELECT {{ a | tojson }} FROM t", 4, "sql-template", "recipes/sql/x.sql.j2:1: line 1: the filter tojson"),
        ("SELECT a FROM t\n{% include 'nowhere.sql.j2' %}", 5, "no-such-file", "there is no such template"),
        ("SELECT a FROM t\n{% include '../x.sql' %}", 4, "sql-template", "outside of its folder"),
        ("DROP TABLE {{ t | default('x') }}", 4, "sql-not-select", "DROP"),
        ("SELECT load_extension({{ n | default(1) }})", 4, "sql-function", "load_extension"),
    ],
)
def test_validate_opens_the_template(
    command: Command, project: Path, recipe: Callable[..., Path], text: str, code: int, slug: str, words: str
) -> None:
    """One line, at the recipe or at the template, with the exit code that training would end with."""
    unreachable(project)
    answer = command("validate", "--recipe-file", recipe("sql/x.sql.j2", x=text), "--json")
    assert (answer.code, [one["slug"] for one in answer.json["errors"]]) == (code, [slug]), answer
    assert words in answer.err
    assert answer.err.count("error[") == 1


@pytest.mark.parametrize(
    ("source", "code", "slug"),
    [
        ("sql/nowhere.sql.j2", 5, "no-such-file"),
        ("sql/nowhere.sql", 5, "no-such-file"),
        ("DELETE FROM breast_cancer", 4, "sql-not-select"),
        ("SELECT a FROM sqlite_master", 4, "sql-system-table"),
        ("source://nowhere", 3, "unknown-source"),
    ],
)
def test_other_sources_are_looked_at_as_well(command: Command, recipe: Callable[..., Path], source: str, code: int, slug: str) -> None:
    """The mistake stands at `source_uri`, beside every other mistake of the recipe."""
    path = recipe(source)
    path.write_text(path.read_text().replace("LogisticRegression", "LogisticRegression\n  hyperparameters: {max_itr: 3}"))
    answer = command("validate", "--recipe-file", path, "--json")
    assert answer.code == code, answer
    assert [one["slug"] for one in answer.json["errors"]] == ["unknown-key", slug]
    assert answer.json["errors"][1]["line"] == 4
    assert command("validate", "--recipe-file", path, "--fast").code == 0


@pytest.mark.parametrize(
    ("given", "code", "slug"),
    [
        ({"largest": 30, "by_area": False, "skipped": 0}, 3, "missing-parameter"),
        ({"largest": "x'", "by_area": False, "skipped": 0, "target_date": "2024-01-01"}, 0, None),
        ({"largest": 30, "by_area": True, "skipped": 0, "target_date": "2024-01-01"}, 3, "missing-parameter"),
        ({"largest": None, "by_area": False, "skipped": 0, "target_date": "2024-01-01"}, 4, "sql-value"),
        ({"largest": 30, "by_area": False, "skipped": "all", "target_date": "2024-01-01"}, 4, "sql-limit"),
        ({"largest": 30, "by_area": False, "skipped": 0, "target_date": "2024-01-01", "smalest": 3}, 3, "unknown-parameter"),
        ({"largest": 30, "by_area": False, "skipped": 0, "target_date": "2024-01-01", "colour": "red"}, 0, None),
    ],
)
def test_given_parameters_are_tried(
    command: Command, project: Path, recipe: Callable[..., Path], given: dict[str, Any], code: int, slug: str | None
) -> None:
    """A missing one is an error here, as it would be in training; a value in a place that it does not fit, too."""
    unreachable(project)
    path = recipe("sql/spine.sql.j2", spine=SPINE, tail="LIMIT 5 OFFSET {{ skipped }}")
    answer = command("validate", "--recipe-file", path, "--context-params", json.dumps(given), "--json")
    assert (answer.code, [one["slug"] for one in answer.json["errors"]]) == (code, [slug] if slug else []), answer
    assert ("does not use the parameters colour" in answer.err) == ("colour" in given)
    assert command("validate", "--recipe-file", path, "--context-params", json.dumps(given), "--fast").code == 2


def test_a_database_that_is_not_configured_yet_hides_no_mistake(
    command: Command, project: Path, recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In production the address comes from a variable that a developer need not have; the template is read all the same."""
    for name, value in {"MLFLOW_TRACKING_URI": "http://localhost:5000", "RECIPELINE_API_KEY_SHA256": "0" * 64}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("APP_ENV", "prod")
    path = recipe("sql/spine.sql.j2", spine=SPINE, tail="")
    answer = command("validate", "--recipe-file", path, "--json")
    assert (answer.code, answer.json["parameters"]["needed"]) == (0, ["by_area", "largest", "target_date"]), answer
    wrong = command("validate", "--recipe-file", path, "--context-params", '{"largest": 3}', "--json")
    assert [one["slug"] for one in wrong.json["errors"]] == ["missing-parameter"]
    monkeypatch.setenv("WAREHOUSE_URI", "snowflake://user:canary-password@account/db/schema")
    proved = '{"largest": 3, "by_area": false, "target_date": "2024-01-01"}'
    assert command("validate", "--recipe-file", path, "--context-params", proved, "--json").code == 0
    refused = command("validate", "--recipe-file", recipe("SELECT system$wait(5)"), "--json")
    assert [one["slug"] for one in refused.json["errors"]] == ["sql-function"]
    assert "canary" not in refused.err + refused.out


# --- the query of the run ------------------------------------------------------------------------------------------------


def test_a_batch_reads_the_query_of_its_artifact(command: Command, project: Path) -> None:
    """The project's template has changed since, or is gone: what was validated is what is read."""
    template = project / "recipes" / "sql" / "breast_cancer.sql.j2"
    original = template.read_text()
    template.write_text(
        original.replace("ORDER BY", '{% include "parts/order.sql.j2" %}\n-- ORDER BY').replace("patient_id\n{% if", "\n{% if")
    )
    (template.parent / "parts").mkdir()
    (template.parent / "parts" / "order.sql.j2").write_text("ORDER BY patient_id")
    trained = command("train", "--recipe-file", "recipes/tabular/breast_cancer_sql.yaml", "--context-params", '{"limit": 300}', "--json")
    assert trained.code == 0, trained
    run = ("batch-inference", "--run-id", trained.json["run_id"], "--json", "--output")
    assert command(*run, "before.csv").json["rows"] == 300
    shutil.rmtree(template.parent / "parts")
    for changed in (original.replace("FROM breast_cancer", "FROM nothing"), "{{ no template", None):
        if changed is None:
            template.unlink()
        else:
            template.write_text(changed)
        answer = command(*run, "after.csv", "--overwrite")
        assert answer.code == 0, answer
        assert (project / "after.csv").read_bytes() == (project / "before.csv").read_bytes()
    assert command(*run, "few.csv", "--context-params", '{"limit": 7}').json["rows"] == 7


def test_another_input_of_the_same_name_is_the_projects(command: Command, project: Path) -> None:
    """`--input` names a file of today, whatever the artifact keeps under that name."""
    trained = command("train", "--recipe-file", "recipes/tabular/breast_cancer_sql.yaml", "--json")
    template = project / "recipes" / "sql" / "breast_cancer.sql.j2"
    template.write_text(template.read_text().replace("LIMIT {{ limit }}", "LIMIT 2 * {{ limit }}").replace("2 * {{ limit }}", "9"))
    run = ("batch-inference", "--run-id", trained.json["run_id"], "--json", "--output")
    answer = command(*run, "a.csv", "--input", "recipes/sql/breast_cancer.sql.j2", "--context-params", '{"limit": 3}')
    assert answer.json["rows"] == 9, answer


def test_a_misspelt_parameter_is_an_error_although_the_run_has_the_right_one(command: Command, project: Path) -> None:
    """The stored value would have been used in silence."""
    trained = command("train", "--recipe-file", "recipes/tabular/breast_cancer_sql.yaml", "--context-params", '{"limit": 300}', "--json")
    run = ("batch-inference", "--run-id", trained.json["run_id"], "--json", "--output", "a.csv")
    near = command(*run, "--context-params", '{"limt": 7}')
    assert (near.code, near.json["error"]["slug"]) == (3, "unknown-parameter")
    assert "did you mean limit?" in near.err
    far = command(*run, "--context-params", '{"evaluation_date": "2024-01-07"}')
    assert (far.code, far.json["rows"]) == (0, 300)
    assert far.err.count("does not use the parameters evaluation_date") == 1
    assert command(*run).json["already_done"] is True  # what nothing uses makes no other output


def test_parameters_for_a_file_are_a_warning(command: Command, project: Path) -> None:
    """In training and in a batch; once each."""
    trained = command("train", "--recipe-file", "recipes/quickstart/quickstart.yaml", "--context-params", '{"day": 1}', "--json")
    assert trained.code == 0, trained
    assert trained.err.count("does not use the parameters day") == 1
    run = ("batch-inference", "--run-id", trained.json["run_id"], "--json", "--output", "a.parquet")
    answer = command(*run, "--context-params", '{"night": 2}')
    assert answer.err.count("does not use the parameters night") == 1
    assert "day" not in answer.err


def test_a_loader_that_takes_no_parameters_is_a_warning(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Else `--context-params` would vanish without a word."""

    class Fixed:
        def __init__(self, rows: int = 3) -> None:
            self.rows = rows

        def load(self) -> pd.DataFrame:
            return pd.DataFrame({"x": range(self.rows)})

    path = project / "fixed.yaml"
    path.write_text(RECIPE.replace("{name: default_loader, source_uri: SOURCE}", "{name: fixed_rows}"))
    registry.register("loader", "fixed_rows", Fixed)
    try:
        assemble(load(path), settings.load(project=project, environ={}), params={"day": 1})
    finally:
        registry.unregister("loader", "fixed_rows")
    assert "Fixed takes no --context-params: day is not used" in caplog.text


def test_an_adapter_that_is_not_there_is_said_before_any_data(tmp_path: Path) -> None:
    """The same words as in training."""
    places = Places(project=tmp_path, folder=tmp_path)
    with pytest.raises(RecipeError, match="no adapter named sql is configured"):
        places.parameters("SELECT a FROM t")
