"""Jobs for workers, in a module of their own, since workers import it by name."""

import os
import time
from pathlib import Path
from typing import Any

from edgesafe.errors import RefusedError
from edgesafe.executors.tasks import Blob, Send


def work(order: Any, send: Send) -> None:
    """Do what the order's first word says."""
    verb, *rest = order
    match verb:
        case "square":
            send(rest[0] ** 2)
        case "sleep":
            time.sleep(rest[0])
            send(os.getpid())
        case "read":
            blob: Blob = rest[0]
            send(len(blob.read()))
        case "refuse":
            raise RefusedError("it cannot be", where="a layer", fix="do otherwise")
        case "break":
            raise ZeroDivisionError("once")
        case "die":
            os.kill(os.getpid(), 9)
        case "die once":
            send("begun")
            path = Path(rest[0])
            if not path.exists():
                path.touch()
                os.kill(os.getpid(), 9)
            send("survived")
        case _:
            raise ValueError(verb)
