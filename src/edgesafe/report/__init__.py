"""A study as one self-contained page, a Markdown summary, CSV and JSON. Nothing is measured here.

Importing this package imports neither matplotlib nor jinja2; `build` does.
"""

from __future__ import annotations

from edgesafe.errors import UsageError
from edgesafe.report.view import ReportFiles, View

__all__ = ["ReportFiles", "View", "build"]


def build(view: View) -> ReportFiles:
    """The report of a study: the same study gives the same bytes.

    Args:
        view: the study, its evidence and a verdict. All of it is only read.

    Returns:
        index.html (one file, no network, no script, under 1 MB), report.md, results.csv, results.json as text.

    Raises:
        NothingEvaluated, StoreError, NonFiniteError: see `View.check`.
        UsageError: matplotlib or jinja2 is not installed.
    """
    view.check()
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{error.name} is not installed", where="edgesafe report", fix='run: pip install "edgesafe[report]"'
        ) from error
    from edgesafe.report.page import make

    return make(view)
