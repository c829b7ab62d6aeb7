"""Strict YAML with positions."""

from __future__ import annotations

import pickle
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipeline import document
from recipeline.errors import Problem, RecipeError


def refused(text: str | bytes) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        document.parse(text, "a.yaml")
    return list(caught.value.problems)


def test_every_key_and_value_knows_its_line_and_column() -> None:
    """Positions count from 1; a key and its value have their own, in block and in flow style."""
    read = document.parse('name: churn\nmodel:\n  loader: {name: default_loader, "source_uri": x.csv}\n  list:\n    - a\n    - b: 1\n')
    assert read.mark(("name",)) == (1, 1)
    assert read.mark(("name",), "value") == (1, 7)
    assert read.mark(("model", "loader")) == (3, 3)
    assert read.mark(("model", "loader"), "value") == (3, 11)
    assert read.mark(("model", "loader", "source_uri")) == (3, 34)
    assert read.mark(("model", "list", 1)) == (6, 7)
    assert read.mark(("model", "list", 1, "b"), "value") == (6, 10)


def test_a_key_that_is_not_there_is_placed_at_its_nearest_ancestor() -> None:
    """So that a missing key is reported at the section which lacks it."""
    read = document.parse("model:\n  loader:\n    name: x\n")
    assert read.mark(("model", "loader", "source_uri", "deep")) == (2, 3)
    problem = read.locate(Problem("missing-key", ("model", "class_path"), "is missing"))
    assert (problem.file, problem.line, problem.column) == ("<recipe>", 1, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("true", True), ("False", False), ("TRUE", True),
        ("null", None), ("~", None), ("", None), ("Null", None), ("none", "none"), ("1", 1), ("-5", -5), ("+3", 3), ("017", 17),
        ("0o17", 15), ("0x1F", 31), ("1_000", "1_000"), ("1e-3", 1e-3), ("1.0e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-1.5E+2", -150.0),
        (".inf", float("inf")), ("-.Inf", float("-inf")), ("12:30", "12:30"), ("1:30:45", "1:30:45"), ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"), ("0b11", "0b11"), ("'1'", "1"), ('"true"', "true"), ("!!str 1", "1"), ("!!float 1", 1.0), ("! 1", "1"),
        ("=", "="), ("e3", "e3"), ("+", "+"), (".", "."), ("180D", "180D"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    """`no` is text and `1e-3` a number, other than PyYAML reads them."""
    read = document.parse(f"x: {text}\n").data["x"]
    assert read == value
    assert type(read) is type(value)


def test_not_a_number_is_read() -> None:
    read = document.parse("x: .nan\n").data["x"]
    assert read != read


def test_keys_may_be_numbers() -> None:
    """`class_weight: {0: 1, 1: 5}` has integer keys."""
    assert document.parse("class_weight: {0: 1, 1: 5}\n").data == {"class_weight": {0: 1, 1: 5}}


def test_a_key_written_twice_is_an_error_that_names_both_lines() -> None:
    """Every duplicate is found, at every depth; the later one is the mistake."""
    first, second = refused("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n")
    assert (first.slug, first.line, first.key) == ("duplicate-key", 4, ("b", "c"))
    assert "on line 3 and on line 4" in first.message
    assert (second.slug, second.line) == ("duplicate-key", 5)
    assert "on line 1 and on line 5" in second.message


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object:os.system x",
        "a: !!python/object/apply:os.system [ls]",
        "a: !!python/name:os.system",
        "a: !ruby/object:X {}",
        "!!python/tuple [1]: 2",
    ],
)
def test_a_tag_that_builds_an_object_is_refused_for_safety(text: str) -> None:
    """Exit code 4, at its line, and nothing is built."""
    problem = next(one for one in refused(f"x: 1\n{text}\n") if one.slug == "unsafe-tag")
    assert problem.exit_code == 4
    assert problem.line == 2


@pytest.mark.parametrize("text", ["a: !!binary aGk=", "a: !!timestamp 2024-01-01", "a: !!set {x}", "a: !mine 1", "a: !!int abc"])
def test_other_tags_are_errors(text: str) -> None:
    (problem,) = refused(text)
    assert problem.exit_code == 3
    assert problem.line == 1


def test_aliases_are_expanded_and_nothing_is_shared() -> None:
    """Two places never hold the same object, and each knows where its key stands."""
    read = document.parse("a: &x {k: [1]}\nb: *x\n")
    assert read.data == {"a": {"k": [1]}, "b": {"k": [1]}}
    assert read.data["a"]["k"] is not read.data["b"]["k"]
    assert read.mark(("b",)) == (2, 1)
    assert read.mark(("b", "k")) == (1, 8)


def test_a_billion_laughs_are_stopped_at_once() -> None:
    """The expansion is counted, not carried out."""
    text = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 40))
    began = time.process_time()
    (problem,) = refused(text)
    assert problem.slug == "too-large"
    assert time.process_time() - began < 0.5


def test_an_alias_that_contains_itself_is_an_error() -> None:
    (problem,) = refused("a: &a {b: [*a]}\n")
    assert "contains itself" in problem.message


def test_an_alias_without_an_anchor_is_an_error() -> None:
    (problem,) = refused("base: &base 1\nb: *bsae\n")
    assert problem.line == 2
    assert "did you mean base?" in problem.hint


def test_merge_keys_are_refused() -> None:
    """YAML 1.2 has none; taken as a plain key they would be passed on silently."""
    (problem,) = refused("a: &a {x: 1}\nb:\n  <<: *a\n")
    assert (problem.slug, problem.line) == ("merge-key", 3)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_endless_nesting_is_stopped(opening: str) -> None:
    assert any(problem.slug in ("too-deep", "yaml") for problem in refused(f"a:\n  {opening * 5000}"))


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\r\nmodel:\r\n  a: 1\r\n")
    read = document.read(path)
    assert read.data == {"name": "x", "model": {"a": 1}}
    assert read.mark(("model", "a")) == (3, 3)


def test_latin_1_is_refused_with_its_line() -> None:
    (problem,) = refused("name: ok\nmodel: café\n".encode("latin-1"))
    assert (problem.slug, problem.line, problem.column) == ("encoding", 2, 11)


@pytest.mark.parametrize("text", ["a:\n\tb: 1\n", "a: 1\nb: [\n\t1]\n", "a:\n  b: 1\n  \tc: 2\n"])
def test_a_tab_in_the_indentation_is_refused_with_its_line(text: str) -> None:
    """Also inside brackets, where libyaml lets it pass."""
    (problem,) = refused(text)
    assert problem.slug == "tab"
    assert "\t" in text.split("\n")[problem.line - 1]


def test_a_tab_inside_a_text_block_is_text() -> None:
    """SQL may be indented as its author likes."""
    assert document.parse("sql: |\n  SELECT\n  \ta\nb: 1\n").data["sql"] == "SELECT\n\ta\n"


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "null\n", "\ufeff"])
def test_an_empty_file_is_an_error(text: str) -> None:
    (problem,) = refused(text)
    assert (problem.slug, problem.line) == ("empty", 1)


def test_an_empty_configuration_is_an_empty_mapping() -> None:
    assert document.parse("# nothing yet\n", allow_empty=True).data == {}


@pytest.mark.parametrize("text", ["- 1\n", "just text\n", "17\n"])
def test_anything_but_a_mapping_is_refused(text: str) -> None:
    (problem,) = refused(text)
    assert "a mapping" in problem.message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name churn\nmodel: 1\n", 1),
        ("name: a: b\n", 1),
        ("a: 1\nb: [1, 2\nc: 3\n", 3),
        ("a: 1\nb: 'x\n", 3),
        ("a: 1\n b: 2\n", 2),
        ("a: 1\nb: @x\n", 2),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: \x07\n", 1),
        ("a: 1e999\n", 1),
        ("a: 1\nb: " + "9" * 5000 + "\n", 2),
        ("a: 1\n[x]: 2\n", 2),
        ("a: 1\n~: 2\n", 2),
        ("a: 1\nb: x\u2028y\n", 2),
    ],
)
def test_broken_text_is_reported_at_its_line(text: str, line: int) -> None:
    problems = refused(text)
    assert problems[0].line == line
    assert problems[0].exit_code == 3


def test_a_file_that_is_not_there_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "churn.yaml").write_text("a: 1\n")
    with pytest.raises(RecipeError) as caught:
        document.read(tmp_path / "chrun.yaml")
    assert caught.value.code == 3
    assert "churn.yaml" in str(caught.value)
    with pytest.raises(RecipeError):
        document.read(tmp_path)


def test_paths_below_the_working_directory_are_shown_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(RecipeError, match=r"^error\[duplicate-key\] a\.yaml:2:1: a: "):
        document.read(tmp_path / "a.yaml")


def test_a_mapping_from_a_program_has_no_positions() -> None:
    """Tuples become lists; what YAML could not have said is refused."""
    read = document.from_mapping({"a": (1, 2), "b": {"c": Path("x")}})
    assert read.data == {"a": [1, 2], "b": {"c": "x"}}
    assert read.mark(("a",)) == (0, 0)
    with pytest.raises(RecipeError) as caught:
        document.from_mapping({"a": {"b": object()}, "c": b"x"})
    assert [problem.key for problem in caught.value.problems] == [("a", "b"), ("c",)]
    endless: dict[str, object] = {}
    endless["again"] = endless
    with pytest.raises(RecipeError, match="nested"):
        document.from_mapping(endless)


_TRICKY = ["no", "1e-3", "0o17", "0x1f", "1_000", "12:30", "~", "null", "2024-01-01", "-", "", " x", "x: y", "# x", "=", ".5", "5.", "+1"]
_LETTERS = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff\ufffe\uffff")
_NUMBERS = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False)
_scalars = _NUMBERS | st.text(_LETTERS, max_size=8) | st.sampled_from(_TRICKY)
_data = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", min_size=1), inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(st.text("abcdefg_", min_size=1), _data, min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_what_is_dumped_is_read_back_equal(data: dict[str, object]) -> None:
    """Also text that looks like a number to YAML 1.2, or like a truth to YAML 1.1."""
    text = document.dump(data)
    assert document.parse(text).data == data


@given(st.text(st.sampled_from("ab:-[]{},&*!|>'\"#%@` \n\t?0"), max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_text_brings_anything_but_data_or_a_recipe_error(text: str) -> None:
    """Every problem has a place in the file."""
    problems: tuple[Problem, ...] = ()
    try:
        data = document.parse(text, "a.yaml").data
    except RecipeError as error:
        problems, data = error.problems, {}
    assert isinstance(data, dict)
    assert all(problem.file == "a.yaml" and 1 <= problem.line <= text.count("\n") + 2 for problem in problems)


def test_the_python_parser_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libyaml is missing, PyYAML's own parser takes its place with the same data and positions."""
    import yaml

    text = "name: no\nmodel:\n  list: [1e-3, {a: 'x'}]\n  text: |\n    a\n    b\n"
    fast = document.parse(text)
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    slow = document.parse(text)
    assert fast.data == slow.data
    for key, _ in document.walk(fast.data):
        assert fast.mark(key) == slow.mark(key)
    with pytest.raises(RecipeError, match=r"a\.yaml:2:1: a tab"):
        document.parse("a:\n\tb: 1\n", "a.yaml")


def test_a_document_can_be_pickled() -> None:
    read = pickle.loads(pickle.dumps(document.parse("a: [1, {b: 2}]\n")))
    assert read.mark(("a", 1, "b")) == (1, 9)


def test_a_long_recipe_is_read_in_milliseconds() -> None:
    """500 lines; the bound is ten times what it takes."""
    rng = random.Random(3)
    text = "model:\n" + "".join(f"  key_{i}: {{type: float, low: {rng.random()}, high: 2}}\n" for i in range(500))
    began = time.process_time()
    document.parse(text)
    assert time.process_time() - began < 0.5
