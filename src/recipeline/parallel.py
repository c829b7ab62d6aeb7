"""Where the parts of scikit-learn find their workers while they are fitted: `execution.joblib`, as joblib's own context.

Only fitting is inside of it. A prediction takes the same road in training, batch and server, and some estimators (forests)
add the answers of their workers in the order in which they come, which changes the last digit.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from recipeline.errors import MissingLibrary, Unavailable

if TYPE_CHECKING:
    from recipeline.settings import Joblib


@contextmanager
def fitting(wanted: Joblib) -> Iterator[None]:
    """Parts fitted inside that do not say `n_jobs` themselves get that of the configuration, and its backend.

    Raises MissingLibrary for a backend whose library is not installed, Unavailable where its scheduler does not answer.
    """
    if wanted.backend is None and wanted.n_jobs == 1:
        yield
        return
    import joblib

    options: dict[str, Any] = {"n_jobs": wanted.n_jobs}
    if wanted.backend is not None:
        options["backend"] = wanted.backend
    if wanted.backend == "dask":
        if importlib.util.find_spec("distributed") is None:
            raise MissingLibrary("distributed", "dask")
        options["scheduler_host"] = wanted.address
    try:
        context = joblib.parallel_config(**options)
    except (OSError, TimeoutError) as error:
        hint = "start it, or see execution.joblib.address"
        raise Unavailable(f"the scheduler {wanted.address} does not answer", hint=hint, slug="scheduler") from error
    with context:
        yield
