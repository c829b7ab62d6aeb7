"""Batch inference in a process that may be killed: `spawn` starts one that has everything imported already."""

from __future__ import annotations

import multiprocessing
import pickle
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


def predict(folder: Path, output: str, words: dict[str, Any]) -> None:
    """Run the pipeline in `folder` over the rows in `folder` into `output`."""
    from recipeline.batch import run_batch
    from recipeline.components.loaders import DefaultLoader
    from recipeline.stores.places import Places

    pipeline = pickle.loads((folder / "pipeline.pkl").read_bytes())
    loader = DefaultLoader("input.parquet", places=Places(project=folder, folder=folder))
    result = run_batch(pipeline, loader, run_id="r1", output=output, **words)
    (folder / "answer").write_text(f"{result.rows} {result.already_done}")


def context() -> ForkServerContext:
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["recipeline.batch", "recipeline.pipeline", "recipeline.components.classification", "sklearn.linear_model",
                                 "sklearn.pipeline", "pyarrow.parquet", "pyarrow.csv", "attempts"])  # fmt: skip
    return made


def spawn(folder: Path, output: str, **words: Any) -> BaseProcess:
    process = context().Process(target=predict, args=(folder, output, words))
    process.start()
    return process
