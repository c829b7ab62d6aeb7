"""The HTTP door: one saved pipeline, answered by FastAPI.

    recipeline serve-api --run-id 7f3c
    RECIPELINE_RUN_ID=7f3c gunicorn 'recipeline.serve:app()' -w 4 -k uvicorn.workers.UvicornWorker

access         who may ask, and where a server may listen
gate           what every request passes: identity, keys, limits, measures, one form of error
rows           bytes -> frame, by a model generated from the input contract
answers        output frame -> bytes
application    the routes
documentation  OpenAPI, /docs, the curl that is printed
pool           the threads that predict
server         sockets, workers, and leaving without losing a request
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from recipeline.errors import UsageError
from recipeline.serve.access import Guard, Keys, Limits, hash_key, permitted
from recipeline.serve.application import build
from recipeline.serve.server import serve

if TYPE_CHECKING:
    from recipeline.pipeline import Pipeline
    from recipeline.serve.gate import Gate
    from recipeline.settings import Settings

__all__ = ["app", "serve", "permitted", "hash_key", "Keys", "Limits"]

RUN = "RECIPELINE_RUN_ID"
INSECURE = "RECIPELINE_INSECURE_NO_AUTH"


def app(pipeline: Pipeline | None = None, settings: Settings | None = None, *, insecure_no_auth: bool | None = None) -> Gate:
    """The ASGI application for one pipeline.

    pipeline          what answers; None opens the run that RECIPELINE_RUN_ID names
    settings          the configuration; None reads it as every command does
    insecure_no_auth  without keys it answers on loopback only, whoever bound the socket, unless this is true;
                      None asks RECIPELINE_INSECURE_NO_AUTH=1

    Raises Refused, RecipeError as `permitted`; UsageError without a run; UnknownRun, Damaged as loading a run does.
    """
    from recipeline.settings import load

    settings = settings or load()
    anywhere = os.environ.get(INSECURE) == "1" if insecure_no_auth is None else insecure_no_auth
    keys = permitted(settings, host="127.0.0.1", insecure_no_auth=anywhere)  # whoever binds is checked with every request
    if pipeline is None:
        run = os.environ.get(RUN)
        if not run:
            raise UsageError(f"{RUN} is not set", hint=f"{RUN}=<run id> gunicorn 'recipeline.serve:app()' …")
        from recipeline import runs

        pipeline = runs.open_run(run, settings).pipeline
    return build(pipeline, guard=Guard(keys, anywhere=anywhere), limits=Limits.of(settings))
