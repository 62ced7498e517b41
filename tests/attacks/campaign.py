"""What a campaign of damaged files counts and keeps, so that one that was interrupted goes on where it ended."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType

import pytest

from edgesafe.errors import EdgesafeError, ExitCode

CASES = int(os.environ.get("EDGESAFE_ATTACKS", "3000"))
LOG = os.environ.get("EDGESAFE_ATTACKS_LOG")  # a file of JSON lines, one for each target that was finished
PATIENCE = 10.0  # seconds of CPU for one case: without a limit some took minutes. A case that waits ends by the timeout
REFUSALS = {ExitCode.REFUSED, ExitCode.USAGE, ExitCode.NOTHING_EVALUATED}
_ROOT = Path(__file__).parents[2]

SETS = (
    "data.train_images=64", "data.test_images=40", "train.epochs=1", "train.milestones=[]", "recover.epochs=0",
    "recover.bn_images=32", "evaluate.corruptions=none", "evaluate.latency=false",
    'compress=[{method="weight", ratios=[0.5]}]', 'certify.sets=["brightness=1"]', "certify.images=12",
)  # fmt: skip
POLICY = """schema = "edgesafe.policy/1"
profile = "attack"
[[gate]]
id = "size"
metric = "size.onnx_bytes"
max_ratio = "2x"
"""


@cache
def version() -> str:
    """A hash of what is attacked and of the attacks: a finished target counts for as long as it is the same."""
    digest = hashlib.sha256()
    for path in sorted([*_ROOT.glob("src/edgesafe/**/*.py"), *Path(__file__).parent.glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass
class Target:
    """Counts the cases of one target; a context that writes them to the log when it ends without an error."""

    name: str
    cases: int
    codes: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    begin: float = 0.0

    def __post_init__(self) -> None:
        lines = Path(LOG).read_text().splitlines() if LOG and Path(LOG).is_file() else []
        done = {(line["target"], line["cases"], line["version"]) for line in map(json.loads, lines)}
        if (self.name, self.cases, version()) in done:
            pytest.skip("finished: it stands in the log")
        self.begin = time.process_time()

    def attempt(self, run: Callable[[], object], what: str) -> ExitCode:
        """The exit code that a command would end with; fails for anything that is not edgesafe's own."""
        begin = time.process_time()
        code = ExitCode.DONE
        try:
            run()
        except EdgesafeError as error:
            code = error.exit_code
            str(error).encode()  # can be printed
            assert "\n" not in str(error), what
            assert code in REFUSALS, f"{what}: exit {code}"
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            pytest.fail(f"{what}: {type(error).__name__}: {error}"[:2000])
        self.took(time.process_time() - begin, what)
        return self.ended(code)

    def took(self, seconds: float, what: str) -> None:
        """Notice what a case cost."""
        self.slowest_s = max(self.slowest_s, seconds)
        assert seconds < PATIENCE, f"{what}: over {PATIENCE} s"

    def ended(self, code: int) -> ExitCode:
        """Count an exit code."""
        name = ExitCode(code).name.lower()
        self.codes[name] = self.codes.get(name, 0) + 1
        return ExitCode(code)

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if LOG and kind is None:
            spent = round(time.process_time() - self.begin, 1)
            line = {
                "target": self.name, "cases": self.cases, "codes": self.codes, "slowest_s": round(self.slowest_s, 3),
                "cpu_s": spent, "version": version(),
            }  # fmt: skip
            with Path(LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
