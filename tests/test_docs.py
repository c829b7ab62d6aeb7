"""The documents tell the truth: names, links, recipes, commands, outputs. What fails here is mended in the page, or by

python docs/generate.py
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import recipeline
from distributions import install, on_path
from recipeline import assemble, cli, contracts, document, errors, recipe, registry, settings
from recipeline.serve import documentation

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
REFERENCE = DOCS / "reference"
SOURCE = PROJECT / "src" / "recipeline"
PAGES = [PROJECT / "README.md", *sorted(DOCS.rglob("*.md"))]
OURS = {"recipeline", "python -m recipeline", "python main.py"}


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. `words` is its first line: ```yaml recipe file=x.yaml."""

    page: Path
    line: int
    words: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"

    def option(self, name: str) -> str | None:
        return next((word.partition("=")[2] for word in self.words if word.startswith(f"{name}=")), None)


def blocks(page: Path) -> Iterator[Block]:
    for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE):
        yield Block(page, read(page)[: match.start()].count("\n") + 1, tuple(match[1].split()), match[2])


def marked(*words: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.words[: len(words)] == words]


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)


def rows(page: Path, heading: str | None = None) -> dict[str, list[str]]:
    """Lines of the tables of a page, or of one section, by their first cell without backticks."""
    text = read(page)
    if heading is not None:
        text = re.split(r"^## ", text.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    cells = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| "))
    return {cell[0].strip("| `"): cell[1:] for cell in cells}


# --- pages -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    found = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_generated_parts_are_fresh(generate: ModuleType) -> None:
    """Commands, parts, metrics, errors and slugs on the pages are those of the program."""
    stale = [name_of(page) for page in generate.stale()]
    assert not stale, f"run: python docs/generate.py   ({', '.join(stale)})"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_relative_link_is_dead(page: Path) -> None:
    """Every link leads to a file that is there, and to a heading that is on it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{name_of(page)}: {target}"
        if anchor:
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(other)}
            assert anchor in anchors, f"{name_of(page)}: {target}"


def test_every_page_is_in_the_index() -> None:
    """docs/README.md leads to every page, the decisions by their own list."""
    index, decisions = read(DOCS / "README.md"), read(DOCS / "decisions" / "README.md")
    for page in sorted(DOCS.rglob("*.md")):
        inside = page.relative_to(DOCS).as_posix()
        if inside == "README.md" or (inside.startswith("changes/") and page.name != "README.md"):
            continue
        if inside.startswith("decisions/") and page.name != "README.md":
            assert f"({page.name})" in decisions, inside
        else:
            assert f"({inside})" in index, inside


def test_decisions_are_numbered_one_after_the_other() -> None:
    """0001, 0002 …, each with its number in the title."""
    pages = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for number, page in enumerate(pages, 1):
        assert read(page).startswith(f"# {number}. "), page.name


def test_changes_are_named_by_topic_and_kind() -> None:
    """`<topic>.<kind>.md`, as changes/README.md says."""
    for page in (DOCS / "changes").glob("*.md"):
        assert page.name == "README.md" or re.fullmatch(r"[a-z0-9-]+\.(feature|fix|change|removal)\.md", page.name), page.name


def test_the_plan_of_the_house_is_the_house() -> None:
    """docs/explanation/house.md lists every module of src/recipeline, and no other."""
    plan = next(block.text for block in blocks(DOCS / "explanation" / "house.md") if "src/recipeline/" in block.text)
    inside = plan.split("src/recipeline/")[1].split("\nplugins/")[0]
    drawn = re.findall(r"^(?: \d \w+ +| {6,}(?=\w+(?:\.py|/) ))(\w+(?:\.py|/))", inside, re.MULTILINE)
    there = [path.name + "/" if path.is_dir() else path.name for path in SOURCE.iterdir() if path.name not in {"__pycache__", "py.typed"}]
    assert sorted(drawn) == sorted(there)


# --- names -----------------------------------------------------------------------------------------------------------


def test_every_registered_name_has_an_entry() -> None:
    """A part of ours is a heading of reference/parts.md, a metric a line of its table."""
    found = headings(REFERENCE / "parts.md")
    lines = rows(REFERENCE / "parts.md")
    for entry in registry.entries():
        if entry.distribution == "recipeline":
            assert entry.name in found, str(entry)
            for metric in entry.load().metrics if entry.role == "task" else ():
                assert metric.name in lines, metric.name


def test_every_command_has_an_entry(generate: ModuleType) -> None:
    """A command is a heading of reference/cli.md, each of its options a line."""
    page = REFERENCE / "cli.md"
    for name, parser in generate.commands().items():
        assert name in headings(page)
        for action in parser._actions:
            for option in action.option_strings:
                assert option in {"-h", "--help"} or f"`{option}`" in read(page), f"{name} {option}"


def options(model: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, default) of every leaf of a section of the configuration."""
    for name, field in model.model_fields.items():
        where = f"{key}.{name}" if key else name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, settings.Section):
            yield from options(inner, where)
        elif where not in {"environment", "project"}:
            yield where, field.get_default(call_default_factory=True)


def as_written(default: Any) -> str:
    if default is None or default in ({}, ()):
        return "none"
    if isinstance(default, tuple):
        return ", ".join(f"`{value}`" for value in default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_every_configuration_key_has_an_entry_with_its_default() -> None:
    """reference/configuration.md has every key, no other, and the defaults of the program."""
    lines = {
        key: cells for key, cells in rows(REFERENCE / "configuration.md").items() if not key.isupper() and key not in {"key", "variable"}
    }
    known = dict(options(settings.Settings))
    assert {key for key in lines if not key.startswith("RECIPELINE")} == set(known)
    for key, default in known.items():
        assert lines[key][0] == as_written(default), key
        assert lines[key][1], f"{key}: no reason"


def test_every_key_of_a_recipe_has_an_entry() -> None:
    """reference/recipe.md has the grammar, and the defaults of tuning and pruning."""
    page = REFERENCE / "recipe.md"
    for section, keys in {"Top level": recipe.TOP, "model": recipe.MODEL, "evaluation": recipe.EVALUATION}.items():
        named = {word.strip("`") for cell in rows(page, section) for word in cell.split(", ")}
        assert set(keys) <= named | {"name"}, section
    text = read(page)
    for word in (*recipe.NAMES, *recipe.ARGUMENTS, *recipe.BESIDE["loader"], *recipe.BESIDE["augmenter"], *recipe.RANGE_TYPES):
        assert word in text, word
    said = {"enabled": "true where there are ranges", "metric": "the task's first", "direction": "the metric's own", "pruning": "off"}
    lines = rows(page, "hyperparameter_tuning")
    for model in (recipe.Tuning, recipe.Pruning):
        for key, field in model.model_fields.items():
            if key == "extra":
                continue
            assert key in lines, key
            expected = said.get(key) if model is recipe.Tuning else None
            if key != "enabled":  # in both tables
                assert lines[key][0] == (expected or as_written(field.get_default(call_default_factory=True))), key


def test_every_exit_code_has_an_entry() -> None:
    """The codes of the tree of errors, and those that the command line adds; no other."""
    tree = {made.exit_code for made in vars(errors).values() if inspect.isclass(made) and issubclass(made, errors.RecipelineError)}
    assert {int(code) for code in rows(REFERENCE / "errors.md", "Exit codes") if code.isdigit()} == tree | {0, 130, 143}
    assert {made for made in vars(errors) if re.search(rf"\b{made}\b", read(REFERENCE / "errors.md"))} >= {
        name for name, made in vars(errors).items() if inspect.isclass(made) and issubclass(made, errors.RecipelineError)
    }


@pytest.mark.parametrize("name", recipeline.__all__)
def test_every_public_name_has_an_entry_with_its_arguments(name: str) -> None:
    """A heading of reference/library.md: the name with its true arguments and defaults."""
    parameters = inspect.signature(getattr(recipeline, name)).parameters.values()
    plain = inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters])
    assert f"{name}{plain}" in headings(REFERENCE / "library.md")


def test_every_seam_has_an_entry_with_its_signatures() -> None:
    """reference/contracts.md has each Protocol with its methods as they are, each dataclass with its fields."""
    sections = {part.partition("\n")[0]: part for part in re.split(r"^### ", read(REFERENCE / "contracts.md"), flags=re.MULTILINE)[1:]}
    tree = ast.parse(inspect.getsource(contracts))
    made = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert set(sections) == {node.name for node in made}
    for node in made:
        section = re.sub(r"\s", "", sections[node.name])
        protocol = any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
        for line in node.body:
            if isinstance(line, ast.FunctionDef) and protocol:
                line.body = [ast.Expr(ast.Constant(...))]
                line.decorator_list = []
                assert re.sub(r"\s", "", ast.unparse(line)).replace("'", '"') in section, f"{node.name}.{line.name}"
            elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                assert re.search(rf"`{line.target.id}\b|{line.target.id}:", sections[node.name]), f"{node.name}.{line.target.id}"


def test_every_path_of_the_server_has_an_entry() -> None:
    """howto/serve.md names them all."""
    for path in ("/predict", *documentation.OWN):
        assert path in read(DOCS / "howto" / "serve.md")


# --- recipes and configurations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", marked("yaml", "recipe"), ids=str)
def test_every_recipe_in_a_page_is_accepted(block: Block, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`validate` has nothing to say, its file of data is one that we ship, and one shown as a shipped recipe is that recipe."""
    if shipped := block.option("same-as"):
        assert block.text == read(PROJECT / shipped)
    path = project / (block.option("file") or "recipes/pages/page.yaml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(block.text)
    with ExitStack() as stack:
        if guest := block.option("needs"):
            stack.enter_context(on_path(guest_site(guest, tmp_path / "site"), monkeypatch))
            registry.refresh()
        assert assemble.check(recipe.draft(path), settings.load(project=project, environ={})) == []
        loader = recipe.load(path).loader.arguments
        if not guest and "source_uri" in loader and not str(loader["source_uri"]).lower().startswith(("select", "source:")):
            assert any((folder / loader["source_uri"]).is_file() for folder in (path.parent, project)), loader


def guest_site(name: str, site: Path) -> Path:
    """A folder that looks as if the distribution of tests/third_party/ was installed into it."""
    about = tomllib.loads(read(PROJECT / "tests" / "third_party" / name / "pyproject.toml"))["project"]
    points = {group.removeprefix("recipeline."): names for group, names in about["entry-points"].items()}
    modules = {
        ".".join(path.relative_to(path.parents[1]).with_suffix("").parts): read(path)
        for path in (PROJECT / "tests" / "third_party" / name / "src").glob("*/*.py")
    }
    install(site, about["name"], modules, points)
    return site


@pytest.mark.parametrize("block", marked("yaml", "config"), ids=str)
def test_every_configuration_in_a_page_is_accepted(block: Block, project: Path) -> None:
    """Laid over the configuration that we ship, it loads."""
    (project / "config" / "local.local.yaml").write_text(block.text)
    assert settings.load(project=project, environ={"RECIPELINE_API_KEY_SHA256": "0" * 64}).environment == "local"


@pytest.mark.parametrize("block", [block for kind in ("yaml", "json", "toml") for block in marked(kind)], ids=str)
def test_every_example_can_be_parsed(block: Block) -> None:
    """YAML, JSON and TOML in pages are YAML, JSON and TOML."""
    match block.words[0]:
        case "yaml":
            document.parse(block.text)
        case "json":
            json.loads(block.text)
        case _:
            tomllib.loads(block.text)


@pytest.mark.parametrize("block", marked("python"), ids=str)
def test_every_python_example_can_be_compiled(block: Block) -> None:
    """Python in pages is Python; names imported from recipeline exist."""
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recipeline"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), node.module


# --- commands --------------------------------------------------------------------------------------------------------


def commands(block: Block) -> Iterator[str]:
    """The lines of a shell block that are commands: after `$ ` in a console, all of them in a script."""
    for line in block.text.splitlines():
        if block.words[0] == "bash":
            yield line
        elif line.startswith("$ "):
            yield line[2:]


def ours(line: str) -> list[str] | None:
    """The arguments of a command of ours; None for another program."""
    words = shlex.split(line)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    for program in OURS:
        length = len(program.split())
        if " ".join(words[:length]) == program:
            return words[length:]
    return None


SHELL = [(block, line) for kind in ("console", "bash") for block in marked(kind) for line in commands(block)]


@pytest.mark.parametrize(("block", "line"), SHELL, ids=[f"{block}-{line[:40]}" for block, line in SHELL])
def test_every_command_in_a_page_is_understood(block: Block, line: str) -> None:
    """The parser takes it; a target of make and a script exist; other programs are few and known."""
    arguments = ours(line)
    if arguments is not None:
        cli._parser(arguments).parse_args(arguments)
        return
    program, *rest = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)] or [""]
    if program == "make":
        assert all(re.search(rf"^{target}:", read(PROJECT / "Makefile"), re.MULTILINE) for target in rest)
    elif program == "python":
        assert (PROJECT / rest[0]).is_file()
    elif program == "gunicorn":
        assert "recipeline.serve:app()" in rest
    else:
        assert program in {".", "pip", "head", "cat", "curl"} or line.startswith("KEY=$(openssl"), line


def plain(text: str) -> str:
    """Output without what differs from run to run: ids and times."""
    text = re.sub(r"\b[0-9a-f]{32}\b", "<run id>", text)
    text = re.sub(r"\b(run |-)[0-9a-f]{8}\b", r"\1<run>", text)
    text = re.sub(r"^([AB]  )[0-9a-f]{8}\b", r"\1<run>", text, flags=re.MULTILINE)
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", "<time>", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


KNOWN = {"console": {"run"}, "bash": set(), "python": set(), "yaml": {"recipe", "config"}}
GUIDES = [page for page in PAGES if page.parent.name in {"tutorial", "howto"}]


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_block_of_a_guide_is_run_or_says_why_not(page: Path) -> None:
    """Shell, YAML and Python: `run`, `recipe`, `config`, `file=` of a module, or `not-run=WHY`, which is parsed all the same."""
    for block in blocks(page):
        language = block.words[0] if block.words else ""
        assert language, f"{block}: say what the block is, as ```text"
        if language in KNOWN:
            said = " ".join(block.words[1:2])
            allowed = ", ".join(sorted(KNOWN[language] | {"not-run=WHY"}))
            written = language == "python" and block.option("file")  # imported by the test of what the page is about
            assert said in KNOWN[language] or written or block.option("not-run"), f"{block}: after ```{language} say one of {allowed}"


@pytest.fixture
def served_while() -> Iterator[Callable[[Any], Any]]:
    """Enters a context that is left when the test ends."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.mark.parametrize("page", sorted({block.page for block in marked("console", "run")}), ids=name_of)
def test_every_shown_output_is_what_comes_out(
    page: Path, project: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The blocks `console run` of a page, one after the other in a fresh project; recipes with `file=` are written on the way.

    exit=5          the code of its only command; what is shown is the line of error
    output=omitted  not shown and not compared
    in=churn        folder of the project in which it is run
    <!-- run first: COMMAND -->  what the reader has done before
    <!-- run with: tollama -->   a server of models is there, as the page says
    """
    if "<!-- run with: tollama -->" in read(page):
        from tollama_daemon import running

        monkeypatch.setenv("TOLLAMA_BASE_URL", request.getfixturevalue("served_while")(running()).url)
    for line in re.findall(r"^<!-- run first: (.*) -->$", read(page), re.MULTILINE):
        assert command(*(ours(line) or [])).code == 0, line
    for block in blocks(page):
        monkeypatch.chdir(project / (block.option("in") or "."))
        if file := block.option("file"):
            (project / file).parent.mkdir(exist_ok=True)
            (project / file).write_text(block.text)
        elif block.words[:2] == ("console", "run"):
            for line, expected in transcript(block):
                arguments = ours(line)
                if arguments is None:
                    done = subprocess.run(line, shell=True, cwd=project, capture_output=True, text=True, check=True)
                    assert plain(done.stdout) == plain(expected), f"{block}: {line}"
                else:
                    answer = command(*arguments)
                    wanted = int(block.option("exit") or 0)
                    assert answer.code == wanted, f"{block}: {answer}"
                    shown = answer.out if wanted == 0 else "\n".join(re.findall("^error.*", answer.err, re.MULTILINE))
                    if block.option("output") != "omitted":
                        assert plain(shown) == plain(expected), f"{block}: {line}"
        elif block.words[:2] == ("json", "answer"):
            assert plain(json.dumps(served(project))) == plain(json.dumps(json.loads(block.text))), str(block)


def transcript(block: Block) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        line, _, expected = part.partition("\n")
        yield line, expected


def served(project: Path) -> Mapping[str, Any]:
    """What the latest run answers over HTTP to its own example."""
    import httpx

    from recipeline import runs
    from recipeline.serve import app
    from recipeline.serve.rows import example

    configuration = settings.load(project=project, overrides=["api_serving.enabled=true"])
    pipeline = runs.open_run("latest", configuration).pipeline

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app(pipeline, configuration))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/predict", json=example(pipeline.schema))

    answer: Mapping[str, Any] = asyncio.run(ask()).json()
    return answer


def test_the_interpreter_of_the_pages_is_the_one_we_ask_for() -> None:
    """README and tutorial name the oldest Python that pyproject.toml allows."""
    oldest = tomllib.loads(read(PROJECT / "pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    assert sys.version_info >= tuple(int(step) for step in oldest.split("."))
    for page in (PROJECT / "README.md", DOCS / "tutorial" / "first-model.md"):
        assert f"Python {oldest}" in read(page)
