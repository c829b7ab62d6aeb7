"""The command line: every command is a function of its arguments that returns what `--json` prints.

Answers go to stdout, progress and logs to stderr; an error is one line with a slug, and the exit code of `errors.py`.
"""

from __future__ import annotations

import argparse
import errno
import inspect
import json
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from recipeline.errors import DataError, MissingLibrary, RecipelineError, UsageError, did_you_mean, nearest

if TYPE_CHECKING:
    from recipeline.settings import Settings

log = logging.getLogger("recipeline")


class _Parser(argparse.ArgumentParser):
    """argparse, with the one error form of the project, and without its guessing of abbreviated options."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **given})
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        hint = f"see `{self.prog} --help`"
        if wrong := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            message = f"{message[: wrong.start()]}there is no {wrong[1]}"
            hint = "; ".join((did_you_mean(wrong[1], re.findall(r"[\w-]+", wrong[2])), hint))
        elif message.startswith(("unrecognized arguments", "the following arguments are required")):
            message, hint = self._of_command()._explained(message)
        raise UsageError(message, hint=hint)

    def _of_command(self) -> _Parser:
        """The parser of the command that was given; an argument that nobody took is reported by the one above it."""
        tables = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return next((table[word] for table in tables for word in self._given if word in table), self)

    def _explained(self, message: str) -> tuple[str, str]:
        """An option that does not exist with the nearest that does, or a value without its option; else as it came."""
        hint = f"see `{self.prog} --help`"
        known = self._option_string_actions
        for word in self._given:
            option = word.partition("=")[0]
            if option.startswith("--") and option not in known:
                near = nearest(option, known)
                return f"there is no option {option}", f"did you mean {near}?; {hint}" if near else hint
        stray = message.partition("unrecognized arguments: ")[2]
        if stray:
            return f"nothing takes {stray}", hint
        missing = re.fullmatch(r".*: (--[\w-]+)", message)
        values = [word for word in self._given if not word.startswith("-")]
        if missing and len(values) == len(self._given) == 1:
            return message, f"did you mean {missing[1]} {values[0]}?; {hint}"
        return message, hint


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that `finally` and `with` clean up."""


class _Signals:
    """SIGINT and SIGTERM as exceptions, while a command runs in the main thread.

    Python drops an exception that a signal raises inside of a destructor or of a callback from C. `goes_on` is asked at every
    step of the work, and raises it again.
    """

    def __init__(self) -> None:
        self.came: type[BaseException] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                    self._before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: FrameType | None) -> NoReturn:  # called by Python, with the frame
        self.came = KeyboardInterrupt if number == signal.SIGINT else _Terminated
        raise self.came

    def goes_on(self) -> None:
        if self.came is not None:
            raise self.came


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    wants_json, debug = "--json" in given, "--debug" in given or os.environ.get("LOG_LEVEL", "").upper() == "DEBUG"
    try:
        with _Signals() as signals:
            return _run(given, signals, wants_json=wants_json, debug=debug)
    except (KeyboardInterrupt, _Terminated) as error:  # it came between the end of the command and the old handlers
        return _stopped(error, given, wants_json=wants_json, debug=debug)


def _run(given: list[str], signals: _Signals, *, wants_json: bool, debug: bool) -> int:
    try:
        options = _parser(given).parse_args(given, argparse.Namespace(goes_on=signals.goes_on))
        answer = options.command(options)
        code = int(answer.pop("exit_code", 0))
        if wants_json:
            sys.stdout.write(json.dumps(answer, default=str) + "\n")
            sys.stdout.flush()
        return code
    except RecipelineError as error:
        return _failed(error, error.code, error.as_dict(), wants_json=wants_json, debug=debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our answers has seen enough
        return 0
    except (KeyboardInterrupt, _Terminated) as error:
        return _stopped(error, given, wants_json=wants_json, debug=debug)
    except MemoryError as error:
        return _failed(
            error, 7, {"slug": "memory", "message": "out of memory; use fewer rows or columns"}, wants_json=wants_json, debug=debug
        )
    except ModuleNotFoundError as error:
        from recipeline.registry import EXTRAS

        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            return _bug(error, wants_json=wants_json, debug=debug)
        missing = MissingLibrary(library, EXTRAS[library])
        return _failed(missing, missing.code, missing.as_dict(), wants_json=wants_json, debug=debug)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            return _bug(error, wants_json=wants_json, debug=debug)
        return _failed(error, 7, {"slug": "disk", "message": f"cannot write: {error.strerror}"}, wants_json=wants_json, debug=debug)
    except Exception as error:  # noqa: BLE001  # the last line of defence: a bug of ours gets its own exit code and no traceback
        if signals.came is not None:  # what a signal left half done, as an import, may break anything after it
            return _stopped(signals.came(), given, wants_json=wants_json, debug=debug)
        return _bug(error, wants_json=wants_json, debug=debug)


def _stopped(error: BaseException, given: Sequence[str], *, wants_json: bool, debug: bool) -> int:
    code, slug = (143, "terminated") if isinstance(error, _Terminated) else (130, "interrupted")
    message = f"{slug}; the same command again goes on where it stopped" if "train" in given[:1] else slug
    return _failed(error, code, {"slug": slug, "message": message}, wants_json=wants_json, debug=debug)


def _bug(error: Exception, *, wants_json: bool, debug: bool) -> int:
    message = f"{type(error).__name__} in recipeline itself; run it with --debug and report what it prints"
    return _failed(error, 70, {"slug": "bug", "message": message}, wants_json=wants_json, debug=debug)


def _failed(error: BaseException, code: int, about: Mapping[str, Any], *, wants_json: bool, debug: bool) -> int:
    from recipeline import logs

    if debug:
        import traceback

        sys.stderr.write(logs.mask("".join(traceback.format_exception(error))))
    line = str(error) if isinstance(error, RecipelineError) else f"error[{about['slug']}]: {about['message']}"
    sys.stderr.write(logs.mask(line) + "\n")
    if wants_json:
        sys.stdout.write(logs.mask(json.dumps({"error": dict(about)}, default=str)) + "\n")
    return code


# --- arguments -------------------------------------------------------------------------------------------------------


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="recipeline", description="From a YAML recipe to a tuned, tracked, served model.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object as the last line of stdout")
    common.add_argument("--debug", action="store_true", help="show tracebacks on stderr")
    common.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides", help="override the configuration"
    )

    def command(name: str, function: Callable[[argparse.Namespace], dict[str, Any]], summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary, parents=[common])
        added.set_defaults(command=function)
        return added

    train = command("train", _train, "train what a recipe says")
    train.add_argument("--recipe-file", required=True, type=Path, metavar="FILE")
    train.add_argument("--context-params", default="{}", metavar="JSON", help="values for the templates of the source")
    train.add_argument("--resume", nargs="?", const="latest", metavar="RUN", help="go on with an unfinished run (default: the latest)")

    batch = command("batch-inference", _batch, "predict for every row of a source")
    batch.add_argument("--run-id", required=True, metavar="RUN", help="run id, unique prefix, latest, or models:/name@alias")
    batch.add_argument("--name", metavar="RECIPE", help="with `latest`: of this recipe")
    batch.add_argument("--context-params", default="{}", metavar="JSON")
    batch.add_argument("--input", metavar="URI", help="another input with the same contract")
    batch.add_argument("--output", metavar="URI", help="a file, or a folder of parts where it ends in /")
    batch.add_argument("--overwrite", action="store_true", help="replace an output of another run or input")
    batch.add_argument("--evaluate", action="store_true", help="score the rows that have a target")

    serve = command("serve-api", _serve, "answer predictions over HTTP")
    one = serve.add_mutually_exclusive_group(required=True)
    one.add_argument("--run-id", metavar="RUN")
    one.add_argument("--recipe-file", type=Path, metavar="FILE", help="a recipe whose model needs no fit")
    serve.add_argument("--name", metavar="RECIPE", help="with `latest`: of this recipe")
    serve.add_argument("--host")
    serve.add_argument("--port", type=_port)
    serve.add_argument("--workers", type=int)
    serve.add_argument("--insecure-no-auth", action="store_true", help="listen beyond loopback without keys (never in prod)")

    validate = command("validate", _validate, "say all the mistakes of a recipe; reads no data")
    validate.add_argument("--recipe-file", required=True, type=Path, metavar="FILE")
    validate.add_argument("--fast", action="store_true", help="import nothing that the recipe names")
    validate.add_argument("--context-params", metavar="JSON", help="values for the templates of the source: check the query made of them")

    listing = command("list", _list, "list parts, tasks, metrics or runs")
    listing.add_argument("what", choices=["parts", "tasks", "metrics", "runs"])

    show = command("show", _show, "show a run, or a recipe as resolved")
    show.add_argument("what", metavar="RUN|FILE")
    show.add_argument("--resolved", action="store_true", help="of a recipe: every value in force, and where it comes from")

    compare = command("compare", _compare, "two runs: recipe, data, sealed rows, metrics with an interval of the difference")
    compare.add_argument("a", metavar="A", help="run id, unique prefix, latest, or models:/name@alias")
    compare.add_argument("b", metavar="B", help="the other run; differences are B - A")
    compare.add_argument("--resamples", type=_count, default=2000, metavar="N", help="of the bootstrap of the difference")

    init = command("init", _init, "write a new project that trains at once")
    init.add_argument("folder", type=Path, metavar="FOLDER", help="new, or empty")

    schema = command("schema", _schema, "JSON Schema of recipes or of the configuration, for editors")
    schema.add_argument("what", choices=["recipe", "config"])
    schema.add_argument("--output", type=Path, metavar="FILE", help="write it there instead of stdout")

    doctor = command("doctor", _doctor, "is everything there that the configuration names, and what to do where not")
    doctor.add_argument("--timeout", type=_seconds, default=5.0, metavar="SECONDS", help="for each service")

    command("sync", _sync, "give the tracking server the runs that were spooled while it was away")

    export = command("export", _export, "write a run in another format; plugins bring the formats")
    export.add_argument("--run-id", required=True, metavar="RUN")
    export.add_argument("--name", metavar="RECIPE", help="with `latest`: of this recipe")
    export.add_argument("--format", required=True, metavar="NAME")
    export.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    export.add_argument("--option", action="append", default=[], metavar="KEY=VALUE")

    _add_plugin_commands(commands, common, given)
    return parser


def _add_plugin_commands(commands: Any, common: argparse.ArgumentParser, given: Sequence[str]) -> None:
    """Commands of plugins are listed by name; a plugin is imported only when its command is the one that was given."""
    from recipeline import registry

    for entry in registry.entries("command"):
        added = commands.add_parser(entry.name, help=f"from {entry.distribution}", parents=[common])
        if entry.name in given:
            plugin = entry.load()
            plugin.arguments(added)
            added.set_defaults(command=plugin.run)


def _version() -> str:
    import importlib.metadata

    return f"recipeline {importlib.metadata.version('recipeline')}"


def _settings(options: argparse.Namespace, recipe: Path | None = None) -> Settings:
    from recipeline import logs, settings

    found = settings.load(project=recipe, overrides=options.overrides)
    if options.debug:
        logs.configure("DEBUG", found.logging.format, found.secrets(), environ={})
    else:
        logs.configure(found.logging.level, found.logging.format, found.secrets())
    return found


def _json(text: str, option: str) -> dict[str, Any]:
    """The mapping in a JSON argument; no NaN, no key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise UsageError(f"{option}: {key!r} is given twice")
            found[key] = value
        return found

    def no_constant(name: str) -> NoReturn:
        raise UsageError(f"{option}: {name} is not JSON")

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=no_constant)
    except RecursionError:
        raise UsageError(f"{option} is nested too deep") from None
    except ValueError as error:
        raise UsageError(f"{option} is not JSON: {error}", hint='write it as \'{"name": "value"}\'') from error
    if not isinstance(value, dict):
        raise UsageError(f"{option} must be a JSON object", hint='write it as \'{"name": "value"}\'')
    return value


def _count(text: str) -> int:
    """A whole number above 0."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _port(text: str) -> int:
    """A port; 0 lets the system choose one."""
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a number from 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    """A finite number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, at most 3600")
    return value


def _say(text: str, options: argparse.Namespace) -> None:
    if not options.json:
        sys.stdout.write(text + "\n")


# --- commands --------------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline.console import Bars
    from recipeline.train import train

    params = _json(options.context_params, "--context-params")
    settings = _settings(options, options.recipe_file)
    with Bars(goes_on=options.goes_on) as bars:
        run = train(options.recipe_file, params=params, settings=settings, progress=bars, resume=options.resume)
    scores = "  ".join(f"{name} {value:.4g}" for name, value in run.metrics.items())
    report = run.artifact / "report.html"
    _say(f"run {run.id[:8]}  {scores}  " + (f"report {_near(report)}" if report.is_file() else f"artifact {_near(run.artifact)}"), options)
    return run.as_dict()


def _batch(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline import runs
    from recipeline.console import Bars

    params = _json(options.context_params, "--context-params")
    settings = _settings(options)
    opened = runs.open_run(options.run_id, settings, name=options.name)
    with Bars(goes_on=options.goes_on) as bars:
        result = runs.predict_batch(
            opened, settings, params=params, source=options.input, output=options.output, overwrite=options.overwrite,
            evaluate=options.evaluate, progress=bars,
        )  # fmt: skip
    done = "already done" if result.already_done else f"{result.rows} rows"
    scores = "".join(f"  {name} {value:.4g}" for name, value in (result.metrics or {}).items())
    _say(f"{done}  {result.output}{scores}", options)
    return {"run_id": opened.pipeline.run_id, **result.as_dict()}


def _serve(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline import runs, serve

    settings = _settings(options, options.recipe_file)
    serve.permitted(settings, host=options.host, insecure_no_auth=options.insecure_no_auth)
    if options.recipe_file is not None:
        pipeline = runs.from_recipe(options.recipe_file, settings)
    else:
        pipeline = runs.open_run(options.run_id, settings, name=options.name).pipeline
    serve.serve(
        pipeline, settings, host=options.host, port=options.port, workers=options.workers, insecure_no_auth=options.insecure_no_auth
    )
    return {"served": pipeline.version}


def _validate(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline import recipe
    from recipeline.assemble import examine

    params = None if options.context_params is None else _json(options.context_params, "--context-params")
    if options.fast and params is not None:
        raise UsageError("--fast looks at no query", hint="leave out one of --fast and --context-params")
    settings = _settings(options, options.recipe_file)
    found = examine(recipe.draft(options.recipe_file), settings, fast=options.fast, params=params)
    problems = sorted(found.problems, key=lambda p: (p.line, p.column))
    if problems:
        sys.stderr.write("\n".join(map(str, problems)) + "\n")
    else:
        _say(f"{options.recipe_file}: ok", options)
    needed = [name for name, must in found.parameters.items() if must]
    optional = [name for name, must in found.parameters.items() if not must]
    if params is None and (needed or optional):
        told = "; ".join(f"{word} {', '.join(names)}" for word, names in (("needs", needed), ("may have", optional)) if names)
        _say(f"--context-params {told}", options)
    answer: dict[str, Any] = {"ok": not problems, "errors": [problem.as_dict() for problem in problems]}
    if found.parameters:
        answer["parameters"] = {"needed": needed, "optional": optional}
    return answer | ({"exit_code": max(problem.exit_code for problem in problems)} if problems else {})


def _list(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline import catalogue

    settings = _settings(options)
    rows, columns = catalogue.listing(options.what, settings)
    from recipeline.console import table

    _say(table(rows, columns) if rows else f"no {options.what}", options)
    return {options.what: rows}


def _show(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline import document, runs

    path = Path(options.what)
    if options.resolved:
        return _show_resolved(path, options)
    if path.suffix in {".yaml", ".yml"}:
        from recipeline import recipe

        _settings(options, path)
        resolved = recipe.load(path).resolved({})
        _say(document.dump(resolved).rstrip(), options)
        return {"recipe": resolved}
    opened = runs.open_run(options.what, _settings(options))
    facts = opened.about()
    _say(document.dump(facts).rstrip(), options)
    return facts


def _show_resolved(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    if path.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"--resolved explains a recipe file, and {path} is none", hint="give the .yaml file of a recipe")
    from recipeline import origins, recipe

    values = origins.explain(recipe.load(path), _settings(options, path))
    _say(origins.as_text(values), options)
    return {"values": [value.as_dict() for value in values]}


def _compare(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline import comparing
    from recipeline.console import Bars

    settings = _settings(options)
    with Bars() as bars:
        answer = comparing.compare(options.a, options.b, settings, resamples=options.resamples, progress=bars)
    _say(comparing.as_text(answer), options)
    return answer


def _init(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline import projects

    written = projects.create(options.folder)
    place = _near(options.folder.absolute())
    enter = "" if place == "." else f"cd {shlex.quote(place if place[0] != '-' else f'./{place}')}\n"
    _say(f"{place}: {len(written)} files\n{enter}recipeline train --recipe-file {projects.FIRST}", options)
    return {"folder": str(options.folder.absolute()), "files": written, "recipe": projects.FIRST}


def _schema(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline import editors
    from recipeline.stores import files

    schema = editors.recipe_schema() if options.what == "recipe" else editors.config_schema()
    if options.output is not None:
        files.write_json(options.output, schema)
        _say(f"written to {_near(options.output.absolute())}", options)
        return {"output": str(options.output)}
    _say(json.dumps(schema, indent=2), options)
    return schema


def _doctor(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline import health

    findings = health.examine(_settings(options), timeout=options.timeout)
    _say("\n".join(map(str, findings)), options)
    return {
        "ok": not any(finding.status == "fail" for finding in findings),
        "checks": [finding.as_dict() for finding in findings],
        "exit_code": health.exit_code(findings),
    }


def _sync(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline import tracking

    given = tracking.sync(_settings(options))
    _say("\n".join(f"run {local} is now run {there}" for local, there in given.items()) or "nothing is spooled", options)
    return {"synced": given}


def _export(options: argparse.Namespace) -> dict[str, Any]:
    from recipeline import registry, runs
    from recipeline.assemble import allow_list
    from recipeline.console import table

    settings = _settings(options)
    extra: dict[str, Any] = {}
    for pair in options.option:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--option {pair}: write KEY=VALUE")
        extra[key] = value
    names = [entry.name for entry in registry.entries("exporter")]
    if options.format not in names:
        raise UsageError(
            f"no format {options.format!r}", hint=did_you_mean(options.format, names) if names else "install a plugin that brings one"
        )
    exporter = registry.find("exporter", options.format, allow_list(settings))()
    opened = runs.open_run(options.run_id, settings, name=options.name)
    if options.output.exists():
        raise DataError(f"{options.output} exists", hint="name a folder that does not")
    from recipeline.stores import files

    if "loader" in inspect.signature(exporter.export).parameters:
        if "loader" in extra:
            raise UsageError("--option loader: the run's own loader is used", hint="leave it out")
        extra["loader"] = opened.components.loader
    with files.atomic_folder(options.output) as partial:
        written: dict[str, Any] = exporter.export(opened.pipeline, partial, **extra)
    if rows := written.get("benchmark"):
        _say(table(rows, list(rows[0])), options)
    _say(f"exported to {options.output}", options)
    return {"output": str(options.output), **written}


def _near(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
