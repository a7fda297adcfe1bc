"""A stage on fields of other names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..stages.record import Record, Records
from ..stages.stage import Checkpoint, Stage, State


class Renamed(Stage):
    """A stage on other fields: that of a step with `fields` of its own, or of an earlier step, which Again repeats.

    fields: field of the stage, or first part of a dotted one -> the field here. again: it learns nothing of its own.
    """

    def __init__(self, stage: Stage, fields: Mapping[str, str], again: bool = True):
        self.stage = stage
        self.fields = fields
        self.again = again

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.outer(name) for name in self.stage.needs)

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.outer(name) for name in self.stage.gives)

    @property
    def learns(self) -> tuple[str, ...]:  # type: ignore[override]
        return () if self.again else tuple(self.outer(name) for name in self.stage.learns)

    @property
    def learned(self) -> bool:
        return self.stage.learned and not self.again

    @property
    def chunk(self) -> int:  # type: ignore[override]
        return self.stage.chunk

    @property
    def parallel(self) -> bool:  # type: ignore[override]
        return self.stage.parallel

    @property
    def arrays(self) -> str:  # type: ignore[override]
        return self.stage.arrays

    @property
    def distributed(self) -> bool:  # type: ignore[override]
        return self.stage.distributed

    @property
    def ranked(self) -> bool:  # type: ignore[override]
        return self.stage.ranked

    def prepare(self) -> None:
        self.stage.prepare()

    def check_processes(self, count: int) -> None:
        self.stage.check_processes(count)

    def fit(self, records: Records, checkpoint: Checkpoint) -> None:
        self.stage.fit(RenamedRecords(records, self), checkpoint)

    def state(self) -> State:
        return self.stage.state()

    def state_for(self, step: str) -> State:
        return self.stage.state_for(step)

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.stage.load_state(state)

    def outer(self, name: str) -> str:
        """The field here for a field of the stage."""
        first, dot, rest = name.partition(".")
        return self.fields.get(name, self.fields.get(first, first) + dot + rest)

    def inner(self, record: Record, names: Iterable[str]) -> Record:
        """A record as the stage sees it, with these fields of its own."""
        return Record(record.id, {name: record.raw(self.outer(name)) for name in names}, record.reader)

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        inner = [self.inner(record, self.stage.needs) for record in records]
        return [{self.outer(n): value for n, value in fields.items()} for fields in self.stage(inner)]


class RenamedRecords(Records):
    """What a renamed stage learns from, as it sees it."""

    def __init__(self, records: Records, stage: Renamed):
        self.records, self.stage, self.classes = records, stage, records.classes

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        own = self.stage.stage
        return self.stage.inner(self.records[index], (*own.needs, *own.learns))
