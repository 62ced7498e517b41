"""States of stages under way, kept in the study directory and found again only if their inputs are the same."""

from __future__ import annotations

from edgesafe.files import stage_key
from edgesafe.study.writer import StudyWriter

__all__ = ["Kept"]


class Kept:
    """The state of one stage of one owner in the study directory; it is found again only if the key is the same.

    Serves both as training checkpoints (`load`, `save`) and as keeper of parts (`get`, `put`).
    """

    def __init__(self, study: StudyWriter, owner: str, name: str, key: str) -> None:
        self._study, self._owner, self._name, self._key = study, owner, name, key

    def load(self) -> bytes | None:
        """The state after the last finished epoch."""
        return self._study.stage(self._owner, self._name, self._key)

    def save(self, state: bytes) -> None:
        """Keep the state of a training, in place of the one before."""
        self._study.put_stage(self._owner, self._name, self._key, state)

    def get(self, name: str) -> bytes | None:
        """A finished part by name; None: it is not there, or belongs to other inputs."""
        return self._study.stage(self._owner, f"{self._name}-{name}", stage_key(part=name, of=self._key))

    def put(self, name: str, data: bytes) -> None:
        """Keep a finished part under a name."""
        self._study.put_stage(self._owner, f"{self._name}-{name}", stage_key(part=name, of=self._key), data)
