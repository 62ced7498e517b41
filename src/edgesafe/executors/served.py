"""A worker process: takes orders from its pipe, does the job, sends what comes of it; ends when its driver is gone.

python -m edgesafe.executors.served module:function FILE_DESCRIPTOR FOLDER DRIVER

The folder is for temporary files of all workers of a driver; it goes when the driver does. The driver is named by its
process id: it may be gone before this interpreter has started.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from importlib import import_module
from multiprocessing.connection import Connection

from edgesafe.errors import EdgesafeError, WorkerError
from edgesafe.executors.tasks import Job
from edgesafe.files import full_disk

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
        except (EOFError, ConnectionError):  # the driver is gone
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
    if (full := full_disk(error)) is not None:
        return full
    traceback.print_exception(error)
    return WorkerError("".join(traceback.format_exception_only(error)).strip(), fix="this may be a bug of edgesafe")


def load_job(name: str) -> Job:
    """The function called "module:function"."""
    module, _, function = name.partition(":")
    job: Job = getattr(import_module(module), function)
    return job


def _end_with(parent: int, folder: str) -> None:
    """End this process when its driver has ended, which may have been killed without a word, and clean up after it."""
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def main() -> None:
    """Serve the job that the command line names on the pipe that it names."""
    job, pipe, tempfile.tempdir, driver = sys.argv[1:]
    watch = threading.Thread(target=_end_with, args=(int(driver), tempfile.tempdir), daemon=True)
    watch.start()
    serve(load_job(job), Connection(int(pipe)))
    watch.join()  # the pipe ends with the driver


if __name__ == "__main__":
    main()
