"""Batch inference: rows of a source through a saved pipeline into a file or a folder of parts.

Rows stream, so memory does not grow with the input; borders of batches are counted from row 0, so a rerun is
bit-equal. The output is complete or absent. What it is, is a key: SHA-256 of run, input and parameters. The same key
again is "already done"; another content in the same place is a Conflict, unless it may be replaced.

    predictions.parquet     one file; the key stands in its footer, under `recipeline`
    predictions.csv         one file; the key stands in predictions.csv.commit.json
    predictions/            part-00000.parquet …, and _commit.json with the rows and SHA-256 of each
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from recipeline.contracts import Evaluator, Events, Loader, Part, Progress, Selected, Silent
from recipeline.errors import Conflict, DataError, RecipelineError, UsageError
from recipeline.stores import files

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    _Answered: TypeAlias = tuple[int, int, Any, pd.DataFrame]  # begin, end, rows to be scored, answer

ROWS = 65_536  # rows of a batch, where nothing else is said
PART_ROWS = 1_048_576  # rows of one part of a folder, rounded down to whole batches
COMMIT = "_commit.json"
_FOOTER = "recipeline"
_PART = re.compile(r"part-\d{5,}\.parquet")


@dataclass(frozen=True)
class BatchResult:
    """rows: of the output. metrics: of the rows that had a target, where an evaluator was given."""

    rows: int
    output: str
    already_done: bool
    metrics: Mapping[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "output": self.output,
            "already_done": self.already_done,
            **({} if self.metrics is None else {"metrics": dict(self.metrics)}),
        }


def run_batch(
    pipeline: Any,
    loader: Loader,
    *,
    run_id: str,
    output: str,
    params: Mapping[str, Any] | None = None,
    rows: int = ROWS,
    workers: int = 1,
    fingerprint: str | None = None,
    overwrite: bool = False,
    evaluate: Evaluator | None = None,
    metrics: Sequence[str] = (),
    progress: Progress | None = None,
    events: Events | None = None,
) -> BatchResult:
    """Predict every row that `loader` gives and write the answers to `output`.

    pipeline     `predict(frame) -> frame`, `task`, `schema`; a task that streams "rows" gets `rows` of them at a time
                 and answers each, in order; one that does not may not be cut and gets them all
    workers      threads that predict, a batch each, while the next ones are read and the last ones written; the output is
                 the same to the byte. Memory grows by a batch for each.
    output       a path or file:// URI; one ending in "/" is a folder of parts
    fingerprint  of the input; None asks the loader's source (SHA-256 of a file), else the rows are hashed as they are read
    evaluate     scores the rows that have a target, by `metrics`; what it needs of them is held in memory

    Raises Conflict (8) where `output` holds something else and `overwrite` is not set, DataError (5) for rows that
    break the contract, with their number, Exhausted (7) for a full disk; then the place is as it was before.
    """
    if rows < 1:
        raise UsageError(f"a batch needs at least one row, got {rows}", slug="bad-value", where="execution.batch.rows")
    told, heard = progress or Silent(), events or Silent()
    place = _place(output)
    source = loader.source() if hasattr(loader, "source") else None
    place.check_apart(source)
    if fingerprint is None and source is not None:
        fingerprint = source.fingerprint()
    identity = _Identity(run_id, params or {}, fingerprint)
    if overwrite:
        place.check_replaceable()
    done = None if overwrite else place.find(identity)
    if done is not None:
        place.tidy()
    score = None if evaluate is None else _Score(pipeline, evaluate, metrics)
    heard.emit("batch_started", run_id=run_id, output=output, already_done=done is not None)
    if done is not None and score is None:
        return BatchResult(done, output, already_done=True)
    hashed = _RowsHash() if fingerprint is None else None
    total = source.count() if source is not None else None
    stream = _Stream(pipeline, loader, rows, workers=workers, progress=told, total=total, score=score, hashed=hashed)
    if done is not None:  # the rows are written, only their scores are missing
        for _ in stream:
            pass
        return BatchResult(done, output, already_done=True, metrics=score.metrics() if score else None)
    with place.writing(overwrite=overwrite) as attempt:
        for answer in stream:
            attempt.write(answer, stream.types(answer))
            del answer  # the next batch needs its room
        attempt.finish(identity if hashed is None else replace(identity, input=hashed.hexdigest()))
    heard.emit("batch_finished", run_id=run_id, output=output, rows=attempt.rows, already_done=attempt.already)
    return BatchResult(attempt.rows, output, attempt.already, None if score is None else score.metrics())


@dataclass(frozen=True)
class _Identity:
    """What an output is of. `input` is None until the rows are read."""

    run_id: str
    params: Mapping[str, Any]
    input: str | None

    @property
    def key(self) -> str | None:
        if self.input is None:
            return None
        words = [self.run_id, self.input, json.dumps(self.params, sort_keys=True, ensure_ascii=False, default=str)]
        return hashlib.sha256(json.dumps(words, ensure_ascii=False).encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """What is written beside the rows; the values of parameters are not: they may be anybody's."""
        return {"key": self.key, "run_id": self.run_id, "input": self.input}


# --- rows --------------------------------------------------------------------------------------------


class _Stream:
    """The answers to the rows of a loader, batch after batch, in order."""

    def __init__(
        self,
        pipeline: Any,
        loader: Any,
        rows: int,
        *,
        workers: int,
        progress: Progress,
        total: int | None,
        score: _Score | None,
        hashed: _RowsHash | None,
    ) -> None:
        self._pipeline, self._loader, self._rows, self._workers = pipeline, loader, rows, workers
        self._progress, self._total, self._score, self._hashed = progress, total, score, hashed
        self._given: pa.Schema | None = None
        self._types: pa.Schema | None = None

    def __iter__(self) -> Iterator[pd.DataFrame]:
        import pyarrow as pa

        by_row = self._pipeline.task.streams == "rows"
        # The names are let go as soon as they have served: a batch is the unit of memory here.
        for begin, end, ready, answer in self._side_by_side() if by_row and self._workers > 1 else self._in_turn(by_row=by_row):
            if by_row and len(answer) != end - begin:
                what = f"{end - begin} rows went in and {len(answer)} came out"
                raise DataError(what, slug="row-count", where=f"rows {begin} to {end - 1}")
            if self._score is not None and end > begin:
                self._score.add(ready, answer)
            del ready
            yield answer
            del answer
            pa.default_memory_pool().release_unused()  # or the pool keeps what several batches needed
            self._progress.advance(end, self._total, "rows")

    def _in_turn(self, *, by_row: bool) -> Iterator[_Answered]:
        begin = 0
        for frame in self._batches() if by_row else self._whole():
            end = begin + len(frame)
            answered = (begin, end, *self._answer(frame, f"rows {begin} to {end - 1}"))
            del frame
            yield answered
            del answered
            begin = end

    def _side_by_side(self) -> Iterator[_Answered]:
        """Batches predicted by threads, handed on in their order; as many are under way as there are threads."""
        from concurrent.futures import Future, ThreadPoolExecutor

        waiting: deque[tuple[int, int, Future[Any]]] = deque()
        begin = 0
        with ThreadPoolExecutor(self._workers, thread_name_prefix="batch") as pool:
            try:
                for frame in self._batches():
                    end = begin + len(frame)
                    waiting.append((begin, end, pool.submit(self._answer, frame, f"rows {begin} to {end - 1}")))
                    del frame
                    begin = end
                    if len(waiting) == self._workers:
                        first, last, answer = waiting.popleft()
                        yield first, last, *answer.result()
                        del answer
                while waiting:
                    first, last, answer = waiting.popleft()
                    yield first, last, *answer.result()
            finally:
                for _, _, one in waiting:
                    one.cancel()

    def types(self, answer: pd.DataFrame) -> pa.Schema:
        """The types of the output, from its first rows: a key has the type it came with, whatever nulls it has here."""
        import pyarrow as pa

        if self._types is None:
            assert self._given is not None
            fields = []
            for field in pa.Schema.from_pandas(answer, preserve_index=False):
                known = self._given.field(field.name).type if field.name in self._given.names else None
                if known is None or pa.types.is_decimal(known) or not _fits(answer[field.name], known):
                    known = field.type
                fields.append(pa.field(field.name, pa.float64() if pa.types.is_null(known) else known))
            self._types = pa.schema(fields)
        return self._types

    def _batches(self) -> Iterator[pd.DataFrame]:
        """Frames of exactly the rows asked for, whatever a foreign loader gives."""
        import pyarrow as pa

        if hasattr(self._loader, "batches"):
            pieces = iter(self._loader.batches(self._rows))
            first = next(pieces, None)
            if first is None:
                raise DataError("the loader gave nothing, not even columns", slug="no-rows")
            self._given = first.schema
            pieces = itertools.chain([first], pieces)
            del first
        else:
            table = pa.Table.from_pandas(self._loaded(), preserve_index=False)
            self._given = table.schema
            pieces = iter(table.to_batches())
        for batch in files.rechunk(pieces, self._rows, self._given):
            if self._hashed is not None:
                self._hashed.update(batch)
            frame = files.to_frame(batch)
            del batch
            yield frame
            del frame

    def _loaded(self) -> pd.DataFrame:
        """The rows of a loader that does not stream; UsageError for one that brings something else, as an environment."""
        frame: pd.DataFrame = self._loader.load()
        if not hasattr(frame, "columns"):
            what = f"{type(self._loader).__name__} brings no rows to predict"
            raise UsageError(what, hint="give a file of them: --input FILE", slug="no-rows", where="batch-inference")
        return frame

    def _whole(self) -> Iterator[pd.DataFrame]:
        import pyarrow as pa

        frame = self._loaded()
        table = pa.Table.from_pandas(frame, preserve_index=False)
        self._given = table.schema
        if self._hashed is not None:
            for batch in table.to_batches():
                self._hashed.update(batch)
        yield frame

    def _answer(self, frame: pd.DataFrame, where: str) -> tuple[Any, pd.DataFrame]:
        """The rows as they are scored, where they are, and the answer to them."""
        if len(frame) == 0:
            return None, self._no_answer(frame)
        try:
            if self._score is None:
                return None, self._pipeline.predict(frame)
            ready = frame if self._pipeline.augmenter is None else self._pipeline.augmenter.augment(frame, online=True)
            return ready, self._pipeline.predict(ready, augmented=True)
        except DataError as error:
            where = ", ".join(filter(None, (where, error.where)))
            raise DataError(error.message, hint=error.hint, slug=error.slug, where=where) from error

    def _no_answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The columns of the output for a table without rows: those of the answer to the contract's own example."""
        import pandas as pd

        schema = self._pipeline.schema
        records = schema.extras.get("example") or [{column.name: column.example for column in schema.columns if column.role == "feature"}]
        example = pd.DataFrame(records)
        for column in schema.columns:
            if column.role == "feature" and column.dtype.startswith("datetime"):
                example[column.name] = pd.to_datetime(example[column.name])
        values: pd.DataFrame = self._pipeline.predict(example, augmented=True).head(0)
        keys = [name for name in self._pipeline.task.output(schema).keys if name in frame.columns]
        return pd.concat([frame[keys], values[[name for name in values.columns if name not in keys]]], axis=1)


def _fits(values: pd.Series[Any], kind: pa.DataType) -> bool:
    import pyarrow as pa

    try:
        pa.Array.from_pandas(values, type=kind)
    except pa.ArrowException:
        return False
    return True


class _RowsHash:
    """A digest of rows that does not depend on how they are cut into batches: each column is hashed on its own."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._columns: list[tuple[Any, Any, Any]] = []
        self._rows = 0

    def update(self, batch: pa.RecordBatch) -> None:
        if not self._columns:
            self._names = [f"{field.name}\0{field.type}" for field in batch.schema]
            self._columns = [(hashlib.sha256(), hashlib.sha256(), hashlib.sha256()) for _ in self._names]
        self._rows += batch.num_rows
        for hashes, column in zip(self._columns, batch.columns, strict=True):
            for digest, content in zip(hashes, _content(column), strict=True):
                digest.update(content)

    def hexdigest(self) -> str:
        words = [self._names, self._rows, [[part.hexdigest() for part in column] for column in self._columns]]
        return "rows:" + hashlib.sha256(json.dumps(words, ensure_ascii=False).encode()).hexdigest()


def _content(column: pa.Array) -> tuple[Any, Any, Any]:
    """Which values are there, the length of each where it varies, and their bytes."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    there = column.is_valid().cast(pa.uint8()).to_numpy(zero_copy_only=False)
    known = column.drop_null()
    if pa.types.is_boolean(column.type):
        known = known.cast(pa.uint8())
    if pa.types.is_primitive(known.type):
        return there, b"", np.ascontiguousarray(known.to_numpy(zero_copy_only=False)).view(np.uint8)
    if pa.types.is_binary(known.type) or pa.types.is_large_binary(known.type):
        known = known.cast(pa.large_binary())
    elif pa.types.is_nested(known.type):
        known = pa.array([json.dumps(value, default=str).encode() for value in known.to_pylist()], type=pa.large_binary())
    else:  # text, dictionaries of it, decimals
        known = known.cast(pa.large_string()).cast(pa.large_binary())
    sizes = pc.binary_length(known).to_numpy(zero_copy_only=False)
    begin, end = (known.offset, known.offset + len(known))
    offsets = np.frombuffer(known.buffers()[1], dtype=np.int64)
    content = known.buffers()[2]
    return there, sizes, memoryview(content)[offsets[begin] : offsets[end]] if content is not None and len(known) else b""


class _Score:
    """What an evaluator needs of the rows that have a target: their targets and their answers."""

    def __init__(self, pipeline: Any, evaluator: Evaluator, metrics: Sequence[str]) -> None:
        self._pipeline, self._evaluator, self._metrics = pipeline, evaluator, tuple(metrics)
        self._rows: list[pd.DataFrame] = []
        self._selected: list[Selected] = []
        self._answers: list[pd.DataFrame] = []
        self._history: pd.DataFrame | None = None

    def add(self, ready: pd.DataFrame, answer: pd.DataFrame) -> None:
        """Augmented rows and their answers; the features are not kept, except of histories, whose end is what is judged."""
        import numpy as np

        pipeline = self._pipeline
        if getattr(self._evaluator, "judges_histories", False):
            self._history = ready
            return
        names = list(pipeline.schema.target.get("names", ()))
        if not names or not set(names) <= set(ready.columns) or len(answer) != len(ready):
            return
        known = np.flatnonzero(ready[names].notna().all(axis=1).to_numpy())
        if len(known) == 0:
            return
        part = ready.iloc[known]
        chosen = pipeline.task.select(part, pipeline.schema, targets=True)
        features = list(pipeline.schema.features)
        self._selected.append(replace(chosen, X=None, keys=None))
        self._rows.append(part.drop(columns=[name for name in features if name in part.columns]))
        self._answers.append(answer.iloc[known])

    def metrics(self) -> dict[str, float]:
        import pandas as pd

        if self._history is not None:
            selected = self._pipeline.task.select(self._history, self._pipeline.schema, targets=True)
            part = Part(rows=self._history, selected=selected, metrics=self._metrics, detail=False)
            return {name: float(value) for name, value in self._evaluator.judge(self._pipeline, part).metrics.items()}
        if not self._rows:
            names = ", ".join(self._pipeline.schema.target.get("names", ()))
            raise DataError("no row has a target to be scored by", hint="leave out --evaluate", slug="no-target", where=names)
        rows = pd.concat(self._rows, ignore_index=True)
        answers = pd.concat(self._answers, ignore_index=True)
        selected = _joined(self._selected, rows)
        part = Part(rows=rows, selected=selected, metrics=self._metrics, detail=False)
        return {name: float(value) for name, value in self._evaluator.judge(_Replay(self._pipeline, answers), part).metrics.items()}


class _Replay:
    """A pipeline that answered already: an evaluator asks it for the rows it judges."""

    def __init__(self, pipeline: Any, answers: pd.DataFrame) -> None:
        self.task, self.schema, self.model = pipeline.task, pipeline.schema, pipeline.model
        self._answers = answers

    def predict(self, rows: Any, *, augmented: bool = False) -> pd.DataFrame:
        return self._answered(len(rows))

    def predict_selected(self, selected: Selected) -> pd.DataFrame:
        return self._answered(len(selected.X))

    def _answered(self, rows: int) -> pd.DataFrame:
        if rows != len(self._answers):
            raise RecipelineError(f"an evaluator asked for {rows} rows where {len(self._answers)} are judged")
        return self._answers.copy()


def _joined(parts: Sequence[Selected], rows: pd.DataFrame) -> Selected:
    """The pieces one below the other; their features stayed behind, `rows` stands for them."""
    import numpy as np

    def column(pieces: list[Any]) -> Any:
        return None if pieces[0] is None else np.concatenate([np.asarray(piece) for piece in pieces])

    return Selected(
        X=rows,
        y=column([part.y for part in parts]),
        weight=column([part.weight for part in parts]),
        groups=column([part.groups for part in parts]),
        times=column([part.times for part in parts]),
        extras={name: column([part.extras[name] for part in parts]) for name in parts[0].extras},
    )


# --- places ------------------------------------------------------------------------------------------


def _place(output: str) -> _File | _Folder:
    path = files.local_path(output)
    if path is None:
        raise UsageError("output goes to local files and folders", where=files.without_credentials(output))
    if output.endswith("/"):
        return _Folder(path)
    if not path.name:
        raise UsageError("--output names no file", hint="write name.parquet, name.csv, or a folder with / at its end")
    if not path.name.lower().endswith(files.SUFFIXES):
        hint = f"end it in one of {', '.join(files.SUFFIXES)}, or in / for a folder of parts"
        raise UsageError("--output is of no known format", hint=hint, where=output)
    return _File(path)


class _Leave(Exception):
    pass


class _Place(ABC):
    """Somewhere that an output goes to, whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def record(self) -> dict[str, Any] | None:
        """What is known of the output that is there; None when nothing is there.

        Conflict for anything that is not, or no longer, what a run of this module wrote.
        """

    def check_replaceable(self) -> None:  # noqa: B027  most places refuse nothing
        """Conflict for what not even `overwrite` may remove."""

    def check_apart(self, source: Any) -> None:
        """UsageError where the output would replace the input."""
        given = getattr(source, "place", None)
        if isinstance(given, Path) and given.exists() and self.path.exists() and given.samefile(self.path):
            raise UsageError("--output is the input itself", hint="choose another name", where=files.shown(self.path))

    def find(self, identity: _Identity) -> int | None:
        """Rows of the output when it is there already; Conflict when something else is.

        While the input is not known (a query), an output of the same run may be the same: that is seen at the end.
        """
        record = self.record()
        if record is None or (identity.key is None and record.get("run_id") == identity.run_id):
            return None
        if record.get("key") != identity.key:
            raise self.conflict("holds the output of another run, input or parameters")
        return int(record["rows"])

    @property
    def lock(self) -> Path:
        """Held by the one process that puts something in this place."""
        return self.path.with_name(f".{self.path.name}.lock")

    def tidy(self) -> None:
        """Remove what a process left beside the output that died right after it had put it there."""
        files.remove_dead(self.path)
        if self.lock.exists():
            with contextlib.suppress(Conflict), files.Lock(self.lock):
                pass  # released, it is gone

    def conflict(self, what: str) -> Conflict:
        hint = "choose another --output, or replace it with --overwrite"
        return Conflict(what, hint=hint, slug="other-output", where=files.shown(self.path))

    @abstractmethod
    def writing(self, *, overwrite: bool) -> contextlib.AbstractContextManager[_Attempt]:
        """Where rows are written to, then `finish`ed; they are in their place when the block ends."""


class _File(_Place):
    """One file; what it is stands in the footer of Parquet, and beside delimited text in `<name>.commit.json`."""

    @property
    def _beside(self) -> Path:
        return self.path.with_name(f"{self.path.name}.commit.json")

    @property
    def _parquet(self) -> bool:
        return files.format_of(self.path.name, self.path.name) == "parquet"

    def record(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        if self.path.is_dir():
            raise self.conflict("is a folder")
        try:
            if self._parquet:
                found: dict[str, Any] = json.loads(files.footer(self.path).get(_FOOTER, "{}"))
            else:
                found = files.read_json(self._beside) if self._beside.exists() else {}
                if found and found.get("sha256") != files.sha256(self.path):
                    found = {}
        except DataError:
            found = {}
        if "key" not in found:
            raise self.conflict("was not written by a batch, or was changed since")
        return found

    @contextlib.contextmanager
    def writing(self, *, overwrite: bool) -> Iterator[_Attempt]:
        with (
            contextlib.suppress(_Leave),
            contextlib.ExitStack() as last,
            files.atomic_path(self.path, exclusive=not overwrite) as temporary,
            files.FrameSink(temporary, like=self.path.name) as sink,
        ):
            yield _FileAttempt(self, last, overwrite=overwrite, sink=sink)

    def write_beside(self, facts: Mapping[str, Any], temporary: Path) -> None:
        if not self._parquet:
            files.write_json(self._beside, {**facts, "sha256": files.sha256(temporary)})


class _Folder(_Place):
    """A folder of Parquet parts, with `_commit.json`: it appears with all of them in one step."""

    def record(self) -> dict[str, Any] | None:
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        try:
            found: dict[str, Any] = files.read_json(self.path / COMMIT)
            there = {path.name for path in self.path.iterdir()}
            parts = {part["name"]: part["sha256"] for part in found["parts"]}
            whole = there == {COMMIT, *parts} and all(files.sha256(self.path / name) == digest for name, digest in parts.items())
        except (DataError, KeyError, TypeError):
            whole = False
        if not whole:
            raise self.conflict("was not written by a batch, or was changed since")
        return found

    def check_replaceable(self) -> None:
        """Only a folder that a batch wrote is ever removed: nobody's other files go with it."""
        if not self.path.exists():
            return
        strange = not self.path.is_dir() or any(path.name != COMMIT and not _PART.fullmatch(path.name) for path in self.path.iterdir())
        if strange or (any(self.path.iterdir()) and not (self.path / COMMIT).is_file()):
            hint = "choose another --output; only a folder of nothing but parts and _commit.json is replaced"
            raise Conflict("holds other files than the parts of a batch", hint=hint, slug="other-output", where=files.shown(self.path))

    @contextlib.contextmanager
    def writing(self, *, overwrite: bool) -> Iterator[_Attempt]:
        with contextlib.suppress(OSError):
            self.path.rmdir()  # an empty folder may be there for the output to go to
        with (
            contextlib.suppress(_Leave),
            contextlib.ExitStack() as last,
            files.atomic_folder(self.path, replace=overwrite or self.path.exists()) as temporary,
            contextlib.closing(_FolderAttempt(self, last, overwrite=overwrite, folder=temporary)) as attempt,
        ):
            yield attempt


class _Attempt(ABC):
    """Rows on their way to a place."""

    def __init__(self, place: _Place, last: contextlib.ExitStack, *, overwrite: bool) -> None:
        self._place, self._last, self._overwrite = place, last, overwrite
        self.rows = 0
        self.already = False

    @abstractmethod
    def write(self, answer: pd.DataFrame, schema: pa.Schema) -> None:
        """Some more rows."""

    @abstractmethod
    def finish(self, identity: _Identity) -> None:
        """Everything was written; leaves the block of `writing` when the same output came to be there meanwhile."""

    def _alone(self, identity: _Identity) -> None:
        """From here to the end of the block this process is the only one that puts something in this place."""
        self._last.enter_context(files.Lock(self._place.lock, wait=60.0))
        if not self._overwrite and self._place.find(identity) is not None:
            self.already = True
            raise _Leave


class _FileAttempt(_Attempt):
    def __init__(self, place: _Place, last: contextlib.ExitStack, *, overwrite: bool, sink: files.FrameSink) -> None:
        super().__init__(place, last, overwrite=overwrite)
        self.sink = sink

    def write(self, answer: pd.DataFrame, schema: pa.Schema) -> None:
        self.sink.schema = schema
        self.sink.write(answer)
        self.rows = self.sink.rows

    def finish(self, identity: _Identity) -> None:
        assert isinstance(self._place, _File)
        facts = {**identity.facts(), "rows": self.rows}
        self.sink.metadata[_FOOTER] = json.dumps(facts)
        self.sink.close()
        self._alone(identity)
        self._place.write_beside(facts, self.sink.path)


class _FolderAttempt(_Attempt):
    def __init__(self, place: _Place, last: contextlib.ExitStack, *, overwrite: bool, folder: Path) -> None:
        super().__init__(place, last, overwrite=overwrite)
        self._folder = folder
        self._sink: files.FrameSink | None = None
        self._parts: list[dict[str, Any]] = []

    def write(self, answer: pd.DataFrame, schema: pa.Schema) -> None:
        if self._sink is not None and self._sink.rows + len(answer) > PART_ROWS:
            self._end_part()
        if self._sink is None:
            self._sink = files.FrameSink(self._folder / f"part-{len(self._parts):05d}.parquet", schema=schema)
        self._sink.write(answer)
        self.rows += len(answer)

    def finish(self, identity: _Identity) -> None:
        self._end_part()
        files.write_json(self._folder / COMMIT, {**identity.facts(), "rows": self.rows, "parts": self._parts})
        self._alone(identity)

    def close(self) -> None:
        if self._sink is not None:
            self._sink.abandon()

    def _end_part(self) -> None:
        if self._sink is not None:
            self._sink.close()
            path = self._sink.path
            self._parts.append({"name": path.name, "rows": self._sink.rows, "sha256": files.sha256(path)})
            self._sink = None
