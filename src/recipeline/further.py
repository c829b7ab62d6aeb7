"""A finished run that is trained further: the same recipe with more of what its model says can grow.

`train --resume RUN` where RUN is finished. The model names the arguments that may differ (`extends = ("total_steps",)`), gets
what that run fitted as `FitContext.previous`, and the result is a run of its own, which says whose child it is. Values that a
search found are kept; nothing is searched again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from recipeline import runs, work
from recipeline.errors import Conflict, Key, UnknownRun, dotted

if TYPE_CHECKING:
    from recipeline.assemble import Components
    from recipeline.runs import Opened


def base(components: Components, resume: str | None, fingerprint: str) -> Opened | None:
    """The finished run to go on from; None where an unfinished one is meant, or the model cannot go on.

    resume       a run id, a prefix of it, or `latest`: an unfinished run goes before a finished one
    fingerprint  of the data

    Raises Conflict where that run had other data, or differs in more than may grow.
    """
    may_grow = tuple(getattr(type(components.pipeline()[1]), "extends", ()))
    if resume is None or not may_grow:
        return None
    root = components.settings.execution.work_folder
    try:
        parent = work.read_state(work.find(root, resume))["identity"].get("extends")
        if parent is None:
            return None  # an ordinary unfinished run
        opened = runs.open_run(str(parent), components.settings)
    except UnknownRun as unfinished:
        try:
            opened = runs.open_run(resume, components.settings, name=components.recipe.name)
        except UnknownRun:
            raise unfinished from None
    run = opened.pipeline.run_id[:8]
    if opened.manifest.about["data_fingerprint"] != fingerprint:
        raise Conflict(f"run {run} was trained on other data", hint="train anew without --resume")
    values = opened.pipeline.facts["hpo"].get("best_params", {})
    then, now = opened.recipe.resolved(), components.recipe.resolved({name: values[name] for name in _names(components) if name in values})
    argument_key = components.recipe.model.argument_key
    free = {(*argument_key, name) for name in may_grow}
    changed = [dotted(key) for key in _differences(then, now) if key not in free]
    if changed:
        hint = f"only {' and '.join(dotted(key) for key in sorted(free))} may differ; else train anew without --resume"
        raise Conflict(f"run {run} was trained with another {', '.join(changed)}", hint=hint)
    return opened


def _names(components: Components) -> list[str]:
    return [one.name for one in components.recipe.ranges()]


def _differences(one: Any, other: Any, key: Key = ()) -> Iterator[Key]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in (*one, *(name for name in other if name not in one)):
            if name not in one or name not in other:
                yield (*key, name)
            else:
                yield from _differences(one[name], other[name], (*key, name))
    elif one != other:
        yield key
