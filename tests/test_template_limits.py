"""Templates that would never end or never fit: refused, soon and with little memory; and the largest honest ones still work.

Each hostile template is compiled in a process of its own with limits on its CPU seconds and its address space, so that a
template that slips through ends with a signal or a MemoryError and not with this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recipeline.errors import Refused
from recipeline.stores.templates import budget, compile_template, rendering

GROWING = "{% set ns = namespace(x=START) %}{% for i in range(9999) %}{% set ns.x = STEP %}{% endfor %}SELECT 1"


def growing(start: str, step: str) -> str:
    return GROWING.replace("START", start).replace("STEP", step)


HOSTILE = {
    "a text repeated": "SELECT '{{ 'a' * 10**9 }}' FROM t",
    "a text repeated a million times, often": growing("[]", "[ns.x, 'a' * (1000000 - i)]"),
    "a text doubled by ~": growing("'aaaaaaaaaa'", "ns.x ~ ns.x"),
    "a text doubled by +": growing("'aaaaaaaaaa'", "ns.x + ns.x"),
    "a list doubled": growing("['a']", "ns.x + ns.x"),
    "a list inside itself twice": growing("['a']", "[ns.x, ns.x]"),
    "a mapping inside itself twice": growing("{'a': 1}", "{'a': ns.x, 'b': ns.x}"),
    "such a list as text": growing("['a']", "[ns.x, ns.x]").replace("SELECT 1", "SELECT '{{ ns.x | string }}'"),
    "a tuple inside itself": growing("(1, 2)", "(ns.x, ns.x)"),
    "a number squared": growing("2 ** 62", "ns.x * ns.x"),
    "a number doubled": growing("1", "ns.x + ns.x"),
    "powers of powers": "SELECT {{ 9 ** 9 ** 9 }} FROM t",
    "a copy of a text at every step": growing("['a' * 900000]", "[ns.x[0][0:899999], ns.x]"),
    "upper case at every step": growing("'a' * 900000", "(ns.x ~ i) | upper"),
    "a range of a billion": "SELECT {% for i in range(10**9) %}1{% endfor %} FROM t",
    "loops inside loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}SELECT 1",
    "loops that print": "SELECT {% for i in range(99999) %}{% for j in range(99999) %}1,{% endfor %}{% endfor %}1 FROM t",
    "loops that print values": "SELECT {% for i in range(99999) %}{% for j in range(99999) %}{{ i }},{% endfor %}{% endfor %}1 FROM t",
    "loops that compare": "{% for i in range(99999) %}{% for j in range(9999) %}{% if i == j %}{% endif %}{% endfor %}{% endfor %}SELECT 1",
    "loops that search": "{% set s = 'a' * 900000 %}{% for i in range(99999) %}{% if s ~ 'b' in s %}{% endif %}{% endfor %}SELECT 1",
    "loops that find": "{% set s = 'a' * 900000 %}{% for i in range(99999) %}{% set y = s.find('b') %}{% endfor %}SELECT 1",
    "loops that test": "{% set s = 'a' * 900000 %}{% for i in range(99999) %}{% if s is lower %}{% endif %}{% endfor %}SELECT 1",
    "a loop that calls itself": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}SELECT 1",
    "a loop that calls itself twice": "{% for a in [1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    "a macro that calls itself": "{% macro m(n) %}{{ m(n) }}{% endmacro %}SELECT {{ m(1) }} FROM t",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a template that includes itself": "{% include 'hostile.sql.j2' %}SELECT 1",
    "a long template": "SELECT 1 -- " + "x" * 1_000_000,
    "a long query": "SELECT {% for i in range(9999) %}" + "1," * 200 + "{% endfor %}1 FROM t",
    "deep parentheses": "SELECT {{ " + "(" * 20_000 + "x" + ")" * 20_000 + " }} FROM t",
    "deep conditions": "{% if x %}" * 3000 + "SELECT 1" + "{% endif %}" * 3000,
    "deep queries": "SELECT * FROM " + "(SELECT * FROM " * 3000 + "t" + ")" * 3000,
    "a list filled up": "SELECT {{ [1] | batch(10**9, 'x') | list | length }} FROM t",
    "a list filled up at once": "SELECT {{ [1] | batch(1000000000, 'x') | list | length }} FROM t",
    "a list cut into a billion": "SELECT {{ [1] | slice(10**9) | list | length }} FROM t",
    "a long separator": "SELECT '{{ range(99999) | join('a' * 1000000) }}' FROM t",
    "a long separator between generated texts": "SELECT '{{ range(99999) | map('string') | join('a' * 1000000) }}' FROM t",
    "a replacement that is longer": "SELECT '{{ ('a' * 100000) | replace('a', 'b' * 100000) }}' FROM t",
    "a replacement by the method": "SELECT '{{ ('a' * 100000).replace('a', 'b' * 100000) }}' FROM t",
    "a sum of lists": "SELECT {{ range(999) | map('default', []) | map('list') | sum(start=[1]) | length }} FROM t",
    "a number rounded to a billion digits": "SELECT {{ 1.5 | round(999999999, 'ceil') }} FROM t",
    "padding": "SELECT '{{ 'a' | center(10**9) }}' FROM t",
    "indentation": "SELECT '{{ 'a' | indent(10**9) }}' FROM t",
    "a format": "SELECT '{{ '%1000000000d' % 1 }}' FROM t",
    "a format by the filter": "SELECT '{{ '%1000000000d' | format(1) }}' FROM t",
    "a format by the method": "SELECT '{{ '{:>1000000000}'.format(1) }}' FROM t",
    "padding by the method": "SELECT '{{ 'a'.ljust(10**9) }}' FROM t",
    "padding by map": "SELECT {{ ['a'] | map('center', 10**9) | list | length }} FROM t",
    "lorem ipsum": "SELECT '{{ lipsum(100000) }}' FROM t",
    "a cycler": "SELECT '{{ cycler.__init__.__globals__ }}' FROM t",
    "a joiner": "SELECT '{{ joiner(',') }}' FROM t",
}  # fmt: skip

COMPILE = """
import json, resource, sys
from pathlib import Path
from recipeline.errors import RecipelineError
from recipeline.stores.templates import compile_template
folder, results = Path(sys.argv[1]), {}
(folder / "first.sql.j2").write_text("SELECT a FROM t WHERE a = {{ x }}")
compile_template(folder / "first.sql.j2", {"x": 1}, dialect="sqlite")
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
def used(): return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
print_ = lambda *values: print(json.dumps(values), flush=True)
for path in sorted(folder.glob("*/hostile.sql.j2")):
    resource.setrlimit(resource.RLIMIT_CPU, (int(used()) + 15, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    before = peak()
    try:
        compile_template(path, {"x": 1}, dialect="sqlite")
        outcome = "compiled"
    except RecipelineError as error:
        outcome = [error.code, error.slug]
    print_(path.parent.name, outcome, peak() - before)
"""


def test_hostile_templates_are_refused_soon_and_with_little_memory(tmp_path: Path) -> None:
    """Every one ends in exit 4 or 3: within its seconds (they take a fraction of one) and far below the memory it might have."""
    names = {str(number): name for number, name in enumerate(HOSTILE)}
    for number, name in names.items():
        (tmp_path / number).mkdir()
        (tmp_path / number / "hostile.sql.j2").write_text(HOSTILE[name])
    done = subprocess.run([sys.executable, "-c", COMPILE, tmp_path], capture_output=True, text=True, check=False)
    results = {names[number]: rest for number, *rest in map(json.loads, done.stdout.splitlines())}
    assert set(results) == set(HOSTILE), (done.returncode, done.stderr[-2000:], sorted(set(HOSTILE) - set(results)))
    for name, (outcome, megabytes) in results.items():
        assert outcome != "compiled", name
        assert outcome[0] in {3, 4}, (name, outcome)
        assert megabytes < 400, (name, megabytes)


def test_without_the_budget_they_would_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: with a larger budget the same template goes on until that one is used up."""
    path = tmp_path / "a.sql.j2"
    turns = []
    monkeypatch.setattr(budget.Budget, "turns", lambda self, value: turns.append(len(value)) or _turns(self, value))
    path.write_text("{% for i in range(300) %}{% for j in range(9999) %}{% endfor %}{% endfor %}SELECT 1 FROM t")
    with pytest.raises(Refused) as caught:
        compile_template(path, {}, dialect="sqlite")
    assert caught.value.slug == "sql-work"
    assert len(turns) < 110
    monkeypatch.setattr(budget, "MOST", 10**12)
    turns.clear()
    assert compile_template(path, {}, dialect="sqlite").text == "SELECT 1 FROM t"
    assert len(turns) == 301


_turns = budget.Budget.turns


@pytest.mark.parametrize(
    ("text", "params"),
    [
        (
            "SELECT a FROM t WHERE a IN ({% for x in xs %}'{{ x }}'{{ ',' if not loop.last }}{% endfor %})",
            {"xs": [f"user{i}" for i in range(30_000)]},
        ),
        ("SELECT a FROM t WHERE a IN {{ xs }}", {"xs": [f"user{i}" for i in range(100_000)]}),
        ("SELECT a FROM t WHERE a = '{{ x }}'", {"x": "a" * 1_000_000}),
        ("SELECT a FROM t WHERE a = '{{ x | upper | trim | replace('A', 'b') }}'", {"x": "a" * 1_000_000}),
        ("{% for i in range(500) %}{% for j in range(500) %}{% endfor %}{% endfor %}SELECT a FROM t", {}),
        ("SELECT {{ xs | unique | sort | map('lower') | list | length }} FROM t", {"xs": [f"User{i}" for i in range(50_000)]}),
        ("{% set total = xs | sum %}SELECT a FROM t WHERE b > {{ total // 2 + 1 }}", {"xs": list(range(10_000))}),
        ("SELECT a FROM t WHERE a = {{ ['x', 'y'] | join('-') ~ '!' }}", {}),
        ("SELECT a FROM t LIMIT {{ 10 ** 6 }}", {}),
        ("SELECT a FROM t WHERE a = '{{ x * 1000 }}'", {"x": "-"}),
    ],
)  # fmt: skip
def test_large_and_honest_templates_work(tmp_path: Path, text: str, params: dict[str, object]) -> None:
    """What a hundred thousand values, a million characters or a quarter of a million turns need is far below the budget."""
    (tmp_path / "a.sql.j2").write_text(text)
    assert compile_template(tmp_path / "a.sql.j2", params, dialect="sqlite").text.startswith("SELECT")


def test_the_same_template_is_refused_on_every_machine(tmp_path: Path) -> None:
    """The limit counts work and no seconds: the largest loop that passes, and one turn more that does not."""
    most = budget.MOST // budget.STEP

    def loops(turns: int) -> str:
        inner = most // 100
        return (
            "".join(f"{{% for i in range({inner}) %}}{{% endfor %}}" for _ in range(turns // inner))
            + f"{{% for i in range({turns % inner}) %}}{{% endfor %}}SELECT 1 FROM t"
        )

    calls = (100 + 1) * (budget.CALL + 200)  # `range` itself is a call that is paid for, with what it makes
    path = tmp_path / "a.sql.j2"
    path.write_text(loops(most // 2 - calls))
    assert compile_template(path, {}, dialect="sqlite").text == "SELECT 1 FROM t"
    path.write_text(loops(most + 1))
    with pytest.raises(Refused, match="too much work"):
        compile_template(path, {}, dialect="sqlite")


@pytest.mark.parametrize("letter", ["a", "é", "한"])
def test_the_length_of_a_template_is_counted_in_characters(tmp_path: Path, letter: str) -> None:
    path = tmp_path / "a.sql.j2"
    text = "SELECT 1 FROM t -- "
    path.write_text(text + letter * (rendering.MAX_TEMPLATE - len(text)))
    assert compile_template(path, {}, dialect="sqlite").text.strip() == "SELECT 1 FROM t"
    path.write_text(text + letter * (rendering.MAX_TEMPLATE - len(text) + 1))
    with pytest.raises(Refused, match="longer than"):
        compile_template(path, {}, dialect="sqlite")
