"""A worker process: takes orders from its pipe, does the job, sends what comes of it; ends when its driver is gone.

python -m edgesafe.executors.served module:function FILE_DESCRIPTOR
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from importlib import import_module
from multiprocessing.connection import Connection

from edgesafe.errors import EdgesafeError, WorkerError
from edgesafe.executors.tasks import Job

__all__ = ["load_job", "serve", "tellable"]

_LOOK_EVERY_S = 1.0


def serve(job: Job, pipe: Connection) -> None:
    """Do orders until the pipe ends.

    Args:
        job: does one order.
        pipe: orders come from it; ("sent", message), ("done", None) or ("failed", error) go into it.
    """
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        try:
            job(order, lambda message: pipe.send(("sent", message)))
        except BrokenPipeError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the driver is told
            pipe.send(("failed", tellable(error)))
        else:
            pipe.send(("done", None))


def tellable(error: Exception) -> Exception:
    """An error as it can be sent: our own as it is, another as its last line; its traceback goes to standard error."""
    if isinstance(error, EdgesafeError):
        return error
    traceback.print_exception(error)
    return WorkerError("".join(traceback.format_exception_only(error)).strip(), fix="this may be a bug of edgesafe")


def load_job(name: str) -> Job:
    """The function called "module:function"."""
    module, _, function = name.partition(":")
    job: Job = getattr(import_module(module), function)
    return job


def _end_with(parent: int) -> None:
    """End this process when its driver has ended: it may have been killed without a word."""
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os._exit(1)


def main() -> None:
    """Serve the job that the command line names on the pipe that it names."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    serve(load_job(sys.argv[1]), Connection(int(sys.argv[2])))


if __name__ == "__main__":
    main()
