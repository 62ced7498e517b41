"""The command line. `main` is the entry point; `run` is the same for a list of arguments, and returns the exit code.

Nothing heavy is imported here: a signal during the imports that follow ends with 130 like any other.
"""

from edgesafe.cli.process import main, run

__all__ = ["main", "run"]
