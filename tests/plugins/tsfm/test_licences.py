"""Licences: deny by default, the stricter of two opinions, and the shipped list."""

from __future__ import annotations

import filecmp
from pathlib import Path

import pytest

from recipeline.errors import RecipeError, Refused
from recipeline_tsfm.licences import SHIPPED, SLUG, ModelLicences, forbidden_options, tag_of
from recipeline_tsfm.seams import Licences

PROJECT = Path(__file__).parents[3]
FILE = PROJECT / "config" / "tsfm_models.yaml"
LIST = """
models:
  open: {model_name: open-1b, license_tag: commercial_ok, spdx: Apache-2.0, commit_sha: 0123abc}
  closed: {model_name: closed-1b, license_tag: research_only}
  dark: {model_name: dark-1b, license_tag: unknown}
environments:
  prod: {allowed_models: [open]}
  dev: {allowed_models: [open, closed]}
"""


def written(folder: Path, text: str = LIST) -> Path:
    path = folder / "tsfm_models.yaml"
    path.write_text(text)
    return path


# --- the shipped list ------------------------------------------------------------------------------------------------------


def test_the_list_of_the_project_is_the_one_that_is_packaged():
    """An installed wheel allows what the repository allows."""
    assert filecmp.cmp(FILE, SHIPPED, shallow=False)


@pytest.mark.parametrize("alias", ModelLicences.read(FILE, "prod").listed)
@pytest.mark.parametrize("tag", ["research_only", "unknown"])
def test_no_shipped_model_of_prod_may_lose_its_commercial_licence_unnoticed(tmp_path, alias, tag):
    """One tag turned in the shipped list: the file is refused, at the line of prod's list."""
    lines = FILE.read_text().splitlines()
    at = lines.index(f"  {alias}:")
    place = next(number for number in range(at, len(lines)) if "license_tag:" in lines[number])
    lines[place] = f"    license_tag: {tag}"
    assert ModelLicences.read(FILE, "prod").usable()
    with pytest.raises(RecipeError) as refused:
        ModelLicences.read(written(tmp_path, "\n".join(lines)), "local")
    (problem,) = refused.value.problems
    assert problem.slug == SLUG
    assert lines[problem.line - 1].strip().startswith("allowed_models")
    assert tag in problem.message


# --- deny by default -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "usable"),
    [("prod", ["open"]), ("dev", ["closed", "open"]), ("staging", ["open"]), ("local", ["open"]), ("", ["open"]), ("PROD", ["open"])],
)
def test_an_environment_allows_what_is_listed_for_it_and_an_unknown_one_counts_as_prod(tmp_path, environment, usable):
    licences = ModelLicences.read(written(tmp_path), environment)
    assert isinstance(licences, Licences)
    assert licences.usable() == usable
    for alias in ("open", "closed", "dark", "nobody", "closed-1b", "dark-1b"):
        if alias.removesuffix("-1b") in usable:
            licences.check(alias)
            continue
        with pytest.raises(Refused) as refused:
            licences.check(alias)
        assert refused.value.slug == SLUG
        assert refused.value.code == 4
        assert licences.problem(alias).exit_code == 4


def test_a_name_of_the_server_is_its_alias_and_no_way_around(tmp_path):
    """`open-1b` is `open`; a name of another spelling is not listed."""
    licences = ModelLicences.read(written(tmp_path), "prod")
    licences.check("open-1b")
    for name in ("OPEN", "open ", "open-1b:latest", ""):
        with pytest.raises(Refused):
            licences.check(name)


def test_the_older_place_of_prods_list_is_read(tmp_path):
    """`prod.allowed_models` at the top level."""
    text = LIST.partition("environments:")[0] + "prod: {allowed_models: [open]}\n"
    for environment in ("prod", "dev"):
        assert ModelLicences.read(written(tmp_path, text), environment).usable() == ["open"]
    spoilt = text.replace("[open]", "[open, dark]")
    with pytest.raises(RecipeError, match="'dark' is unknown; prod allows commercial_ok only"):
        ModelLicences.read(written(tmp_path, spoilt), "dev")


# --- the server's own word ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("licence", "tag"),
    [
        ("apache-2.0", "commercial_ok"), ("Apache-2.0", "commercial_ok"), ("mit", "commercial_ok"), ("bsd-3-clause", "commercial_ok"),
        ("cc-by-4.0", "commercial_ok"), ("cc-by-nc-4.0", "research_only"), ("CC-BY-NC-SA-4.0", "research_only"),
        ("salesforce research", "research_only"), ("non-commercial", "research_only"), ("other", "unknown"), ("", "unknown"),
        (None, "unknown"), ("cc-by-sa-4.0", "unknown"), ("not apache", "unknown"),
    ],
)  # fmt: skip
def test_what_a_licence_allows(licence, tag):
    assert tag_of(licence) == tag


def test_the_stricter_of_both_holds_from_then_on(tmp_path, caplog):
    """A server that calls our commercial model non-commercial is believed; one that is more generous is not; silence says nothing."""
    licences = ModelLicences.read(written(tmp_path), "prod")
    licences.reconcile("open", None)
    licences.reconcile("open", "apache-2.0")
    licences.check("open")
    licences.reconcile("open-1b", "cc-by-nc-4.0")
    assert "the stricter holds" in caplog.text
    with pytest.raises(Refused, match=r"open' is research_only, as the server's licence 'cc-by-nc-4\.0' says; prod allows"):
        licences.check("open")
    assert licences.usable() == []
    licences.reconcile("open", "proprietary-1.0")
    with pytest.raises(Refused, match="is unknown"):
        licences.check("open")
    licences.reconcile("closed", "apache-2.0")
    with pytest.raises(Refused):
        licences.check("closed")
    licences.reconcile("nobody", "cc-by-nc-4.0")
    development = ModelLicences.read(written(tmp_path), "dev")
    development.reconcile("open", "cc-by-nc-4.0")
    development.check("open")  # dev lists it, whatever its licence


# --- a file that is wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "slug", "line"),
    [
        (LIST.replace("license_tag: unknown", "license_tag: fine"), "bad-value", 5),
        (LIST.replace("license_tag: unknown", "licence_tag: unknown"), "unknown-key", 5),
        (LIST.replace("model_name: open-1b, ", ""), "missing-key", 3),
        (LIST.replace("[open, closed]", "[open, clsed]"), "unknown-model", 8),
        (LIST + "  dev: {allowed_models: []}\n", "duplicate-key", 9),
        ("- models", "bad-value", 1),
    ],
)
def test_every_mistake_of_the_file_has_its_line(tmp_path, text, slug, line):
    with pytest.raises(RecipeError) as refused:
        ModelLicences.read(written(tmp_path, text), "prod")
    problem = next(problem for problem in refused.value.problems if problem.slug == slug)
    assert problem.line == line
    assert str(tmp_path) not in str(refused.value)


def test_a_file_that_is_not_there_is_an_error_and_a_changed_one_is_read_anew(tmp_path):
    with pytest.raises(RecipeError, match="No such file"):
        ModelLicences.read(tmp_path / "none.yaml", "prod")
    path = written(tmp_path)
    assert ModelLicences.read(path, "prod").usable() == ["open"]
    path.write_text(LIST.replace("prod: {allowed_models: [open]}", "prod: {allowed_models: []}"))
    import os

    os.utime(path, (1, 1))
    assert ModelLicences.read(path, "prod").usable() == []


def test_options_cannot_name_another_model_file_or_address():
    assert forbidden_options({"temperature": 0.0, "x": {"y": [1, {"z": 2}]}}) == []
    assert forbidden_options({"Model": "m", "deep": [{"modelfile": "f"}, {"a": {"DATA_URL": "u"}}], "base_url": "b"}) == [
        "DATA_URL", "Model", "base_url", "modelfile",
    ]  # fmt: skip
