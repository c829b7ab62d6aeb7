"""The report: everything escaped, nothing fetched, the same bytes for the same content."""

from __future__ import annotations

import html.parser
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recipeline import report, tune
from recipeline.contracts import Figure
from recipeline.recipe import Pruning, Range, Tuning
from recipeline.report import ReportContent
from recipeline.report.page import number
from recipeline.schema import InputSchema

EVIL = "<script>alert('x')</script> & \"$price$\""


class Page(html.parser.HTMLParser):
    """Tags that are open at the end, attributes, and all text outside of <style>."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes what it did not open"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def line(axes):
    axes.plot([0, 1, 2], [0, 1, 4], label=EVIL)
    axes.plot([0, 2], [0, 4], "k--")
    axes.set_title(EVIL)
    axes.legend()


def bars(axes):
    axes.barh([EVIL, "b"], [1, 2])


def frame_of(n=60):
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            EVIL: rng.normal(size=n),
            "age": rng.integers(18, 90, size=n),
            "city": rng.choice(["Seoul", "서울", "Köln"], size=n),
            "flag": rng.random(n) > 0.5,
            "when": pd.date_range("2026-01-01", periods=n),
            "empty": [None] * n,
            "y": rng.choice(["no", "yes"], size=n),
        }
    )


@pytest.fixture(scope="module")
def hpo(tmp_path_factory):
    space = (
        Range("float", ("rate",), "rate", 1e-4, 1.0, log=True),
        Range("categorical", ("kind",), "kind", choices=("a", EVIL)),
        Range("int", ("n",), "n", 1, 9),
    )

    def evaluate(values, tell):
        if values.get("n") == 9:
            raise ValueError(EVIL)
        rate = 0.5 if values["rate"] == "auto" else values["rate"]
        for step in range(3):
            if tell(step, rate):
                raise tune.Pruned
        return rate

    tuning = Tuning(enabled=True, n_trials=40, pruning=Pruning())
    folder = tmp_path_factory.mktemp("hpo")
    return tune.tune(
        space, evaluate, tuning, direction="minimize", folder=folder, seed=1, defaults={"rate": "auto", "n": 3, "kind": "a"}
    ).as_dict()


@pytest.fixture(scope="module")
def content(hpo):
    frame = frame_of()
    schema = InputSchema.of(frame, [EVIL, "age", "city", "flag", "when", "empty"], target={"names": ["y"], "classes": ["no", "yes"]})
    return ReportContent(
        title=f"a recipe {EVIL}",
        run_id="7f3c9a52b1d0",
        recipe=f"name: {EVIL}\nmodel: {{class_path: a.B}}\n",
        metrics={"sealed test rows": {"accuracy": 0.91234, "log_loss": 0.25, "r2": -0.5, EVIL: 3.0}, "training rows": {"accuracy": 1.0}},
        directions={"accuracy": "maximize", "log_loss": "minimize", "r2": "maximize"},
        baselines={"dummy": {"accuracy": 0.6, "log_loss": 0.2, "r2": 0.0}, EVIL: {"accuracy": 0.5}},
        audit={
            "method": "group_split",
            "groups_shared": 0,
            "checked": True,
            "folds": [{"fold": "0", "fitted": 48, "note": EVIL, "classes": {"no": {"train": 0.25}}}],
            EVIL: {"deep": [1, 2]},
        },
        schema=schema.to_json(),
        data=report.summarise(frame),
        hpo=hpo,
        figures={"roc": Figure("ROC curve", line, EVIL), EVIL: Figure(EVIL, bars)},
        more_figures={"mine": Figure("Of a plugin", line)},
        tables={"errors": pd.DataFrame({"row": range(500), "words": [EVIL] * 500}), "wide": pd.DataFrame(np.zeros((2, 40)))},
        versions={"recipeline": "0.1.0", EVIL: "1"},
        seed=42,
        seconds=75.0,
        task="classification",
        finished="2026-11-21 02:31 UTC",
        warnings=[f"column {EVIL} is constant"],
        about={"data_fingerprint": "ab" * 32, "git_commit": None},
    )


@pytest.fixture(scope="module")
def text(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write(path, content)
    return path.read_text(encoding="utf-8")


def test_what_users_write_is_escaped_everywhere(text):
    """Column, metric, figure, recipe, table, trial and warning hold a script: it is text, whole, and never a tag."""
    page = Page(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert page.open == []
    assert page.text.count("<script>alert('x')</script>") > 20
    for section in ("recipe", "origin", "data", "split", "tables", "search", "results"):
        part = text[text.index(f'<section id="{section}"') :]
        assert "alert(" in part[: part.index("</section>")], section


def test_the_page_needs_no_network_and_no_script(text):
    """No address is fetched, no handler is bound, and the policy in the head forbids both."""
    page = Page(text)
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        if name in {"src", "href", "xlink:href"}:
            assert value.startswith(("#", "data:")), value
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert "link" not in page.tags
    assert "default-src 'none'" in text


def test_the_same_content_gives_the_same_bytes(content, text, tmp_path):
    report.write(tmp_path / "again.html", content)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_no_identifier_stands_twice_for_different_things(text):
    """Clip paths and markers of several figures share one document."""
    for tag in ("clipPath", "path"):
        found = re.findall(rf'<{tag} id="(\w+)"(.*?)>(.*?)</', text, flags=re.DOTALL)
        meanings: dict[str, set[str]] = {}
        for name, attributes, inner in found:
            meanings.setdefault(name, set()).add(attributes + inner)
        assert found, tag
        assert all(len(what) == 1 for what in meanings.values()), tag
    sections = re.findall(r'<section id="(\w+)"', text)
    assert len(sections) == len(set(sections))
    assert {value[1:] for name, value in Page(text).attributes if name == "href" and value.startswith("#")} >= set(sections)


def test_figures_are_drawn_as_svg_whose_text_is_text(text):
    """Three figures and the search; each is well-formed, and its words can be found and read aloud."""
    drawings = re.findall(r'<svg xmlns:xlink.*?role="img".*?</svg>', text, flags=re.DOTALL)
    assert len(drawings) == 6
    for drawing in drawings:
        root = ET.fromstring(drawing)
        assert root.get("aria-label")
        assert root.get("viewBox")
        assert root.get("width") is None
        assert any(element.tag == "text" for element in root.iter())
    assert "<image" not in text


def test_colours_follow_the_theme_of_the_reader(text):
    """What figures take from the style is a variable; a black line is ink; each variable has a value for light and dark."""
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    assert {"--ink", "--grid", "--c0", "--c1"} <= used
    light, dark = text.split("prefers-color-scheme: dark", maxsplit=1)
    assert used <= set(re.findall(r"(--[\w-]+):", light))
    assert used <= set(re.findall(r"(--[\w-]+):", dark))
    drawn = "".join(re.findall(r"<svg xmlns:xlink.*?</svg>", text, flags=re.DOTALL))
    assert not re.search(r"stroke: ?#000000", drawn)
    assert "#0a0b0" not in drawn


@pytest.mark.parametrize(("low", "high", "words"), [(1e-5, 0.5, ["0.0001", "0.001", "0.01", "0.1"]), (2.0, 7.0, ["2", "3", "4", "6"])])
def test_a_logarithmic_axis_has_numbers_and_no_formulas(content, tmp_path, low, high, words):
    """Also within one power of ten, where only small ticks can be labelled."""

    def draw(axes):
        axes.plot([1, 2], [low, high])
        axes.set_yscale("log")

    report.write(tmp_path / "r.html", replace(content, figures={"log": Figure("Logarithmic", draw, "")}, hpo=None))
    text = (tmp_path / "r.html").read_text()
    assert "mathdefault" not in text
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", text)
    assert set(words) <= set(labels)


def test_seeds_are_names_and_no_amounts(content, tmp_path):
    """In the audit and in tables; an amount beside them keeps its separators."""
    table = pd.DataFrame({"seed": [1664526938], "steps": [20000]})
    report.write(tmp_path / "r.html", replace(content, audit={"seeds": [1664526938, 7], "rows": [12000]}, tables={"episodes": table}))
    text = (tmp_path / "r.html").read_text()
    assert "1664526938, 7" in text
    assert text.count("1664526938") == 2
    assert "12,000" in text
    assert "20,000" in text


def test_without_rows_nothing_is_said_of_them(content, tmp_path):
    """The columns of an environment have no nulls and no values in training."""
    report.write(tmp_path / "r.html", replace(content, data={}))
    text = (tmp_path / "r.html").read_text()
    assert "values in training" not in text
    assert "columns that a prediction needs" in text


def test_no_grid_is_drawn_over_an_image(content, tmp_path):
    """A confusion matrix is an image with numbers; lines through them would strike them out."""

    def matrix(axes):
        axes.imshow([[1, 2], [3, 4]], cmap="Blues")

    drawn = {}
    for name, draw in (("image", matrix), ("lines", line)):
        report.write(tmp_path / "r.html", replace(content, hpo=None, figures={"f": Figure("F", draw)}, more_figures={}))
        drawn[name] = "stroke: var(--grid)" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert drawn == {"image": False, "lines": True}


def test_the_metrics_stand_beside_their_baselines(text):
    words = Page(text).text
    assert "accuracy 0.9123 this model 0.9123 dummy 0.6000" in words
    assert words.count("not better than every baseline") == 2  # log_loss and r2
    assert "higher is better" in words
    assert "lower is better" in words
    assert "training rows metric value accuracy 1.000" in words


def test_the_audit_of_the_split_is_told_to_its_depth(text):
    words = Page(text).text
    assert "groups shared 0" in words
    assert "checked yes" in words
    assert "classes train no 0.25" in words


def test_class_shares_are_shown_in_full(content, tmp_path):
    """Twelve classes with long names on two borders: a table of their own, numbered by fold, with nothing cut off."""
    shares = {f"a class with a rather long name {number}": {"train": number / 100, "test": number / 50} for number in range(1, 13)}
    borders = [{"train": 80, "test": 20, "classes": shares}, {"train": 81, "test": 19, "classes": shares}]
    report.write(tmp_path / "r.html", replace(content, audit={"borders": borders}, hpo=None, figures={}, more_figures={}, tables={}))
    words = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "fold train test 0 80 20 1 81 19 fold classes train test 0 a class with a rather long name 1 0.01 0.02" in words
    assert "1 a class with a rather long name 12 0.12 0.24" in words
    assert "…" not in words.split("Split", 1)[1].split("Recipe", 1)[0]


def test_cards_know_intervals_champions_and_targets(content, tmp_path):
    """The interval of a single opening; as good as the champion is not worse; `rmse_Waist` is better when lower, as rmse is."""
    table = pd.DataFrame({"metric": ["rmse", "mae"], "low": [0.8, np.nan], "high": [1.2, np.nan], "level": 0.95})
    told = replace(
        content,
        metrics={"sealed": {"rmse": 1.0, "mae": 0.5, "rmse_Waist": 3.0}},
        directions={"rmse": "minimize", "mae": "minimize"},
        baselines={"dummy": {"rmse": 1.5, "mae": 0.5, "rmse_Waist": 2.0}, "champion": {"rmse": 1.0, "mae": 0.6, "rmse_Waist": 3.0}},
        schema={"columns": [], "target": {"names": ["Waist", "Pulse"]}},
        tables={"intervals": table, "long": pd.DataFrame({"a": range(50)})}, hpo=None, figures={}, more_figures={},
    )  # fmt: skip
    report.write(tmp_path / "r.html", told)
    words = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    rmse, rest = words.split("Results sealed", 1)[1].split(" mae ", 1)
    assert "95 %: 0.8000 to 1.200" in rmse
    assert "not better" not in rmse
    mae, waist = rest.split(" rmse_Waist ", 1)
    assert "95 %" not in mae
    assert "lower is better · not better than every baseline" in mae
    assert "lower is better · not better than every baseline" in waist
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.index("<details open>\n<summary>intervals") < page.index("<details>\n<summary>long")
    folds = [{"fold": "0", "rmse": 0.9}, {"fold": "1", "rmse": 1.1}]
    report.write(tmp_path / "f.html", replace(told, folds=folds))
    words = Page((tmp_path / "f.html").read_text(encoding="utf-8")).text
    assert "95 %:" not in words
    assert "Pictures and tables are of the last fold, 1." in words


def test_folds_have_their_mean_and_standard_deviation(content, tmp_path):
    """Against NumPy; the headline shows the spread beside the mean."""
    scores = [0.5, 0.7, 0.9, 0.6]
    folds = [{"fold": str(number), "r2": score, "rmse": 1.0} for number, score in enumerate(scores)]
    mean, sd = float(np.mean(scores)), float(np.std(scores, ddof=1))
    metrics = {"mean over the sealed folds": {"r2": mean, "r2_sd": sd, "rmse": 1.0, "rmse_sd": 0.0}}
    report.write(tmp_path / "r.html", replace(content, metrics=metrics, folds=folds, hpo=None, figures={}, more_figures={}))
    words = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert f"mean {mean:#.4g}" in words
    assert f"sd {sd:#.4g}" in words
    assert f"± {sd:#.4g}" in words
    assert "r2_sd" not in words


def test_the_search_is_told(text, hpo):
    words = Page(text).text
    assert f"{hpo['total_trials']} trials in" in words
    assert f"{hpo['pruned_trials']} pruned" in words
    assert f"{hpo['failed_trials']} failed" in words
    assert "Score of every trial" in words
    assert "What mattered" in words
    assert "Trials through their parameters" in words
    assert "the defaults scored 0.5000" in words


def test_the_data_are_summed_up_without_a_row_of_them(text):
    """Types, nulls, ranges, the commonest categories: against pandas."""
    frame = frame_of()
    facts = report.summarise(frame)["columns"]
    assert facts["age"]["low"] == frame["age"].min()
    assert facts["age"]["mean"] == pytest.approx(frame["age"].mean(), rel=1e-12)
    assert sum(facts["age"]["bins"]) == 60
    assert facts["empty"] == {"nulls": 60, "distinct": None}
    assert dict(facts["city"]["top"]) == frame["city"].value_counts().to_dict()
    assert facts["when"] == {
        "nulls": 0,
        "distinct": None,
        "low": "2026-01-01T00:00:00",
        "high": "2026-02-29T00:00:00".replace("02-29", "03-01"),
    }
    words = Page(text).text
    assert "서울" in words
    assert "60 rows, 6 columns" in words


def test_tables_are_bounded(text):
    """500 rows of a table and 40 columns of another do not make a page nobody can open."""
    assert "500 \N{MULTIPLICATION SIGN} 2, the first rows and columns" in Page(text).text
    assert text.count("<tr>") < 400
    assert len(text) < 600_000


def test_the_smallest_content_is_a_page(tmp_path):
    """A run without metrics, figures, search or data, as a task of a plugin may leave it."""
    report.write(tmp_path / "r.html", ReportContent(title="t", run_id="r", recipe="name: t\n", metrics={}))
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert "svg" not in page.tags


def test_numbers_that_do_not_exist_are_shown_as_such(content, tmp_path):
    """NaN and infinity in metrics and tables, a baseline that lacks a metric, columns of nothing."""
    table = pd.DataFrame({"a": [np.nan, np.inf, 1.0], "b": [None, pd.NaT, "x"]})
    metrics = {"rows": {"auc": float("nan"), "loss": float("inf")}}
    report.write(tmp_path / "r.html", replace(content, metrics=metrics, tables={"t": table}, baselines={"dummy": {"auc": 0.5}}))
    words = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "auc nan" in words
    assert "loss inf" in words


def test_a_figure_that_cannot_be_drawn_is_flagged_and_costs_only_itself(content, tmp_path, caplog):
    def broken(axes):
        raise ZeroDivisionError(EVIL)

    report.write(
        tmp_path / "r.html", replace(content, hpo=None, figures={"broken": Figure("B", broken), "roc": Figure("R", line)}, more_figures={})
    )
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "could not be drawn: ZeroDivisionError: <script>" in page.text
    assert "svg" in page.tags
    assert "figure broken could not be drawn" in caplog.text


def test_a_search_over_conditional_parameters_is_drawn(tmp_path, content):
    """A parameter that is not active in a trial is a gap; one that is null has a place."""
    history = []
    for i in range(12):
        values = {"kind": "f", "depth": None if i % 4 else 3 + i} if i % 2 else {"kind": "l", "C": 10.0**-i}
        history.append({"number": i, "value": float(i), "params": values, "state": "complete", "seconds": 0.1})
    hpo = {
        "enabled": True,
        "engine": "optuna",
        "direction": "maximize",
        "best_params": history[-1]["params"],
        "best_score": 11.0,
        "total_trials": 12,
        "pruned_trials": 0,
        "optimization_time": 3.0,
        "optimization_history": history,
    }
    report.write(tmp_path / "r.html", replace(content, hpo=hpo, figures={}, more_figures={}))
    words = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "could not be drawn" not in words
    assert "Trials through their parameters" in words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.98246, "0.9825"),
        (55.474, "55.47"),
        (12345.6, "12,346"),
        (1e-9, "1.000e-09"),
        (3e9, "3.000e+09"),
        (0.0, "0"),
        (1234567, "1,234,567"),
        (True, "yes"),
    ],
)
def test_numbers_are_short(value, shown):
    assert number(value) == shown


def test_pyplot_is_never_loaded_and_matplotlib_only_when_something_is_drawn(tmp_path):
    code = f"""
import sys
from recipeline import report
from recipeline.contracts import Figure
assert "matplotlib" not in sys.modules
content = report.ReportContent(title="t", run_id="r", recipe="", metrics={{}})
report.write({str(tmp_path / "a.html")!r}, content)
assert "matplotlib" not in sys.modules
figures = {{"a": Figure("A", lambda axes: axes.plot([1, 2]))}}
report.write({str(tmp_path / "b.html")!r}, report.ReportContent("t", "r", "", {{}}, figures=figures))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
