"""Tracking: MLflow remembers the runs (the only package that imports mlflow, and late: it costs seconds).

    start      a run is opened, or an unfinished one opened again
    Tracked    parameters, metrics, files and the finished artifact of a run
    describe   makes an artifact a pyfunc model that MLflow loads and serves
    find_run   from what a person types (`latest`, a prefix, `models:/name@alias`) to a run and its artifact
    sync       what was spooled while the tracking server was away reaches it

A local store is a SQLite file with `mlruns/` beside it; finding a run in it needs no MLflow. Of a remote store, and of a
spooled run, the artifact also stands under `<project>/.recipeline/runs/<run>/`; what a server that does not answer has to
be told waits under `<project>/.recipeline/spool/<run>/`.
"""

from recipeline.tracking.client import prepare
from recipeline.tracking.finding import FoundRun, find_run
from recipeline.tracking.pyfunc import PyfuncWrapper, _load_pyfunc, describe
from recipeline.tracking.run import Status, Tracked, start
from recipeline.tracking.search import RunInfo, list_runs, unfinished
from recipeline.tracking.spool import spooled, sync
from recipeline.tracking.words import LONGEST, MODEL, RECIPE_TAG

__all__ = [
    "start",
    "Tracked",
    "Status",
    "unfinished",
    "prepare",
    "sync",
    "spooled",
    "find_run",
    "FoundRun",
    "list_runs",
    "RunInfo",
    "describe",
    "PyfuncWrapper",
    "MODEL",
    "RECIPE_TAG",
    "LONGEST",
    "_load_pyfunc",  # by which MLflow finds the model: the MLmodel of every artifact names this package
]
