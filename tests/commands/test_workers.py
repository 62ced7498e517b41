"""A study made by several processes: the digests of one, whatever happens to the workers."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from edgesafe.commands import compress
from edgesafe.errors import UsageError, WorkerError
from edgesafe.executors.crew import Crew, Kind
from edgesafe.executors.processes import Processes
from edgesafe.progress import Silent
from edgesafe.recipe import parsing, recipe
from edgesafe.records import VariantStatus
from edgesafe.study.study import Study, read

from .conftest import TINY


def digests(study: Study) -> dict[str, str]:
    return {entry.id: entry.digest for entry in study.record.variants} | {"": study.record.digest}


class Heard(Silent):
    """Remembers what was said, and does something when it hears certain words for the first time."""

    def __init__(self, words: str = "", then: object = None) -> None:
        self.said: list[str] = []
        self._words, self._then = words, then

    def note(self, text: str) -> None:
        self.said.append(text)
        if self._words and self._words in text and callable(self._then):
            self._words = ""
            self._then()


@pytest.fixture
def crews(monkeypatch: pytest.MonkeyPatch) -> list[Processes]:
    """The crews of processes that are started while a test runs."""
    made: list[Processes] = []
    begin = Processes.__init__

    def init(self: Processes, job: str, workers: int) -> None:
        begin(self, job, workers)
        made.append(self)

    monkeypatch.setattr(Processes, "__init__", init)
    return made


SHORT = [
    *TINY, "threads=1", "train.epochs=1", "recover.epochs=1", "recover.images=64", "evaluate.corruptions=['fog']",
    "evaluate.latency=false", "export.temperature=false", 'compress=[{method="weight", ratios=[0.5]}]',
]  # fmt: skip


def killed_while_working(wanted: recipe.Recipe, root: Path, crews: list[Processes]) -> tuple[Study, Heard]:
    """A study by two workers, one of which is killed when it has just been given the first pruned network."""
    heard = Heard("weight-r0.50-s0", lambda: os.kill(crews[0].pids[0], signal.SIGKILL))
    return compress.compress(wanted, root, heard, Crew(2)), heard


def test_two_workers_of_whom_one_is_killed_make_the_study_of_one_process(
    tmp_path: Path, crews: list[Processes]
) -> None:
    wanted = parsing.load(None, SHORT)
    made, heard = killed_while_working(wanted, tmp_path / "two", crews)
    assert digests(made) == digests(compress.compress(wanted, tmp_path / "one"))
    assert sum("its worker is gone (killed by signal 9)" in line for line in heard.said) == 1
    assert not (tmp_path / "two" / ".work").exists()
    shutil.rmtree(tmp_path / "two" / "weight-r0.50-s0")  # made again, from the baseline that is there
    again = compress.compress(wanted, tmp_path / "two", None, Crew(2))
    assert digests(again) == digests(made)
    assert not (tmp_path / "two" / ".work").exists()


@pytest.mark.slow
def test_every_method_by_two_workers(study: Path, tiny: recipe.Recipe, tmp_path: Path, crews: list[Processes]) -> None:
    """With timings, temperatures, slimming before the cut, and a worker killed."""
    made, _ = killed_while_working(tiny, tmp_path / "s", crews)
    assert digests(made) == digests(read(study))
    for name in made:
        assert set(made[name].measurements.metrics) == set(read(study)[name].measurements.metrics)
        assert set(made[name].measurements.differences) == set(read(study)[name].measurements.differences)


class Stop(BaseException):
    """An interruption that nothing catches."""


def stop() -> None:
    raise Stop


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", ["[2/6] weight-r0.50-s0", "channel-r0.30-s0", "timing", "[6/6] random-r0.50-s0: done"]
)
def test_a_driver_that_is_stopped_goes_on(study: Path, tiny: recipe.Recipe, tmp_path: Path, words: str) -> None:
    with pytest.raises(Stop):
        compress.compress(tiny, tmp_path / "s", Heard(words, stop), Crew(2))
    assert digests(compress.compress(tiny, tmp_path / "s", None, Crew(2))) == digests(read(study))


@pytest.mark.slow
def test_a_variant_that_kills_its_workers_is_told_once_and_the_others_are_made(
    study: Path, tiny: recipe.Recipe, tmp_path: Path, crews: list[Processes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is given filter-r0.50-s0 dies; the same command makes it when that has been mended."""
    submit = Processes.submit

    def deadly(self: Processes, task: object, order: object) -> None:
        submit(self, task, order)  # type: ignore[arg-type]
        if getattr(order, "variant", "") == "filter-r0.50-s0":
            worker = next(worker for worker in self._workers if worker.task is task)
            worker.process.kill()

    monkeypatch.setattr(Processes, "submit", deadly)
    heard = Heard()
    with pytest.raises(WorkerError, match=r"filter-r0\.50-s0 could not be made .*3 workers were lost") as told:
        compress.compress(tiny, tmp_path / "s", heard, Crew(2))
    assert told.value.exit_code == 70
    assert sum("given up" in line for line in heard.said) == 1
    status = {entry.id: entry.status for entry in read(tmp_path / "s").record.variants}
    assert status.pop("filter-r0.50-s0") is VariantStatus.PENDING
    assert set(status.values()) == {VariantStatus.DONE}
    monkeypatch.setattr(Processes, "submit", submit)
    assert digests(compress.compress(tiny, tmp_path / "s", None, Crew(2))) == digests(read(study))


@pytest.mark.slow
def test_a_refused_variant_does_not_stop_the_others(tmp_path: Path) -> None:
    wanted = parsing.load(
        None, [*TINY, 'compress=[{method="filter", ratios=[0.1, 0.5], round_to=64}]', "recover.epochs=0"]
    )
    made = compress.compress(wanted, tmp_path / "s", None, Crew(2))
    status = {entry.id: (entry.status, entry.reason) for entry in made.record.variants}
    assert status["baseline-s0"][0] is VariantStatus.DONE
    assert status["filter-r0.10-s0"][0] is VariantStatus.REFUSED
    assert "round_to" in status["filter-r0.10-s0"][1]


def test_crews_that_cannot_work() -> None:
    with pytest.raises(UsageError, match="0 workers"):
        Crew(0)
    with pytest.raises(UsageError, match="goes with Ray"):
        Crew(2, Kind.LOCAL, "auto")


def test_weights_depend_on_threads_and_so_does_the_recipe_s_identity(tiny: recipe.Recipe) -> None:
    assert parsing.load(None, [*TINY, "threads=1"]).sha256 != tiny.sha256
