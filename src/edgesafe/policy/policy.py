"""The policy: a TOML file that says what a candidate must keep, in units that cannot be misread.

    schema  = "edgesafe.policy/1"
    profile = "release"                       # a name for people
    [data]   min_samples = 5000
    [stats]  confidence = 0.99   on_inconclusive = "fail"   correction = "holm"
    [[gate]]   id = "mpc-drop"   metric = "mpc"   max_drop = "1.0pp"   level = "error"
    [[waiver]] gate = "mpc-drop" candidate = "sha256:…" until = 2027-01-31 limit = "1.5pp" reason = "…" approver = "…"

`load` checks everything that can be known before a measurement is seen; what it returns can be decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError

from edgesafe.errors import PolicyError, hint, hint_of_choice
from edgesafe.files import parse_toml, read_toml, sha256_bytes
from edgesafe.metrics import (
    MetricInfo,
    Rule,
    expand,
    is_family,
    known,
    members,
)
from edgesafe.policy.limits import Limit, parse

_VALID = "mend it; `edgesafe policy init` writes a valid policy"
_ALL_METRICS = "docs/metrics.md lists them"

__all__ = [
    "DEFAULT_CONFIDENCE",
    "Against",
    "Clause",
    "DataRules",
    "Gate",
    "Policy",
    "PolicyFile",
    "StatsRules",
    "Waiver",
    "load",
    "loads",
]

SCHEMA = "edgesafe.policy/1"
DEFAULT_CONFIDENCE = 0.99  #: at 0.95, up to 3.9 % of the verdicts on 1,000 images were wrong (decision 059)

Written = StrictStr | StrictInt | StrictFloat
Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
GateId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")]
Level = Literal["error", "warn"]


class Against(StrEnum):
    """What a gate compares the candidate with."""

    BASELINE = "baseline"
    SIBLING = "sibling"  #: the fp32 variant that an int8 or fp16 candidate was converted from: the same weights

    @property
    def noun(self) -> str:
        """As messages say it."""
        return "baseline" if self is Against.BASELINE else "fp32 sibling"


class _Table(BaseModel):
    """Base of the policy's tables: frozen, unknown keys are errors, no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class DataRules(_Table):
    """[data]: what the numbers must rest on."""

    min_samples: StrictInt = Field(default=1, ge=1, description="fewer images than this behind a metric: refused")
    test_sha256: Sha256 | None = Field(default=None, description="the test set that must have been used")
    lock: str | None = Field(
        default=None, min_length=1, description="path of the baseline lock, from the policy's folder"
    )


class StatsRules(_Table):
    """[stats]: how sure a decision must be."""

    confidence: StrictFloat = Field(
        default=DEFAULT_CONFIDENCE, ge=0.8, le=0.9999, description="one-sided, of each bound"
    )
    on_inconclusive: Literal["fail", "warn"] = Field(default="fail", description="fail: exit code 2; warn: exit code 0")
    correction: Literal["holm", "none"] = Field(default="holm", description="of fail alarms, per variant and level")


class GateTable(_Table):
    """[[gate]]: one metric or family, and at least one limit."""

    id: GateId
    metric: str = Field(min_length=1, max_length=200, description="a metric id, or a family such as mpc.corruption.*")
    level: Level = Field(default="error", description="warn: shown, never changes the exit code")
    against: Against = Field(
        default=Against.BASELINE, description="what max_drop, max_increase and max_ratio compare with"
    )
    max: Written | None = Field(default=None, description='upper limit of the value: "6pp", "8ms", "300kB", 0.3')
    min: Written | None = Field(default=None, description='lower limit of the value: "90%"')
    max_drop: Written | None = Field(
        default=None, description='of baseline minus candidate: "1.0pp", or "5%" of the baseline'
    )
    max_increase: Written | None = Field(default=None, description="of candidate minus baseline, as max_drop")
    max_ratio: Written | None = Field(default=None, description='of candidate divided by baseline: "0.9x"')


class WaiverTable(_Table):
    """[[waiver]]: a gate that one candidate file need not meet, up to a limit and a date."""

    gate: str
    candidate: Sha256 = Field(description="hash of the candidate's model.onnx")
    until: date = Field(strict=True, description="the last day on which it holds")
    limit: Written = Field(description="what the candidate must still meet, in the gate's rule")
    reason: str = Field(min_length=1)
    approver: str = Field(min_length=1)


class PolicyFile(_Table):
    """A policy as written. `Policy` is the checked form that decisions use."""

    schema_: Literal["edgesafe.policy/1"] = Field(alias="schema")
    profile: str = ""
    variants: tuple[str, ...] = Field(
        default=("*",), min_length=1, description="patterns of variant ids; baselines never match"
    )
    data: DataRules = DataRules()
    stats: StatsRules = StatsRules()
    gate: tuple[GateTable, ...] = Field(min_length=1)
    waiver: tuple[WaiverTable, ...] = ()


@dataclass(frozen=True)
class Clause:
    """One rule of a gate, and the limit that the policy gives it."""

    rule: Rule
    limit: Limit

    def __str__(self) -> str:
        """The clause as a policy writes it: "max_drop 1.0pp"."""
        return f"{self.rule.value} {self.limit.text}"


@dataclass(frozen=True)
class Gate:
    """A checked gate: the metric exists, each rule makes sense for it, each limit has its unit."""

    id: str
    metric: str
    level: Level
    clauses: tuple[Clause, ...]
    against: Against = Against.BASELINE


@dataclass(frozen=True)
class Waiver:
    """A checked waiver. `clause` is the gate's rule with the waiver's own limit."""

    gate: str
    candidate: str
    until: date
    clause: Clause
    reason: str
    approver: str


@dataclass(frozen=True)
class Policy:
    """A checked policy, as decisions use it. `sha256` is that of the file's bytes."""

    profile: str
    variants: tuple[str, ...]
    data: DataRules
    stats: StatsRules
    gates: tuple[Gate, ...]
    waivers: tuple[Waiver, ...]
    sha256: str


def load(path: Path) -> Policy:
    """Reads and checks a policy file.

    Raises:
        PolicyError: no such file, not UTF-8, not TOML, another schema, an unknown key or metric (the nearest is named),
            a limit without a unit, a rule that makes no sense for its metric.
    """
    return _checked(*read_toml(path, "a policy file", PolicyError), source=path.name)


def loads(text: str, *, source: str = "policy") -> Policy:
    """Reads and checks the text of a policy.

    Args:
        text: TOML.
        source: name of the text in messages.

    Raises:
        PolicyError: not TOML, another schema, an unknown key or metric, a wrong limit or rule, as for `load`.
    """
    return _checked(parse_toml(text, source, PolicyError), text.encode(), source=source)


def _checked(tables: Mapping[str, Any], content: bytes, *, source: str) -> Policy:
    _check_schema(tables, source)
    _check_keys(tables, source)
    try:
        written = PolicyFile.model_validate(tables)
    except ValidationError as error:
        raise _as_policy_error(error, source) from error
    gates = tuple(_gate(table, f"{source}: gate.{i}") for i, table in enumerate(written.gate))
    _refuse_repeats([gate.id for gate in gates], f"{source}: gate", "id")
    waivers = tuple(_waiver(table, gates, f"{source}: waiver.{i}") for i, table in enumerate(written.waiver))
    _refuse_repeats([f"{w.gate} for {w.candidate}" for w in waivers], f"{source}: waiver", "waiver")
    return Policy(
        profile=written.profile,
        variants=written.variants,
        data=written.data,
        stats=written.stats,
        gates=gates,
        waivers=waivers,
        sha256=sha256_bytes(content),
    )


# ------------------------------------------------------------------------------------------------- form of the file


def _check_schema(tables: Mapping[str, Any], source: str) -> None:
    schema = tables.get("schema")
    if schema is None:
        raise PolicyError("no schema", where=source, fix=f'begin the file with schema = "{SCHEMA}"')
    if schema == SCHEMA:
        return
    family, _, major = str(schema).partition("/")
    if family == SCHEMA.partition("/")[0] and major.isdecimal() and major.isascii() and major > "1":
        raise PolicyError(f"schema '{schema}' is newer than this edgesafe knows", where=source, fix="update edgesafe")
    raise PolicyError(f"schema '{schema}' is not a policy's", where=source, fix=f'write schema = "{SCHEMA}"')


def _check_keys(tables: Mapping[str, Any], source: str) -> None:
    """Names the nearest key before pydantic says only that one is forbidden."""
    _known_keys(tables, PolicyFile, source, "")
    shapes: tuple[tuple[str, type[_Table]], ...] = (("data", DataRules), ("stats", StatsRules))
    for key, model in shapes:
        if isinstance(tables.get(key), dict):
            _known_keys(tables[key], model, source, f"{key}.")
    arrays: tuple[tuple[str, type[_Table]], ...] = (("gate", GateTable), ("waiver", WaiverTable))
    for key, model in arrays:
        rows = tables.get(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise PolicyError(
                f"'{key}' is not a list of tables", where=source, fix=f"write [[{key}]] with two brackets"
            )
        for i, row in enumerate(rows):
            _known_keys(row, model, source, f"{key}.{i}.")


def _known_keys(table: Mapping[str, Any], model: type[_Table], source: str, prefix: str) -> None:
    allowed = [field.alias or name for name, field in model.model_fields.items()]
    for key in table:
        if key not in allowed:
            raise PolicyError(f"unknown key '{key}'", where=f"{source}: {prefix}{key}", fix=hint(key, allowed))


def _as_policy_error(error: ValidationError, source: str) -> PolicyError:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("str", "int", "float")))
    message = first["msg"][:1].lower() + first["msg"][1:]
    return PolicyError(message, where=f"{source}: {where}", fix=hint_of_choice(first, _VALID))


def _refuse_repeats(names: list[str], where: str, what: str) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise PolicyError(f"{what} '{name}' stands twice", where=f"{where}.{i}", fix="keep one")


# ---------------------------------------------------------------------------------------------- meaning of the file


def _gate(table: GateTable, where: str) -> Gate:
    infos = members(table.metric)
    if not infos:
        raise PolicyError(f"unknown metric '{table.metric}'", where=where, fix=_metric_hint(table.metric))
    units = {metric.unit for metric in infos}
    if len(units) > 1:
        raise PolicyError(f"the family '{table.metric}' mixes units", where=where, fix="write one gate for each metric")
    written = {rule: getattr(table, rule.value) for rule in Rule if getattr(table, rule.value) is not None}
    if not written:
        raise PolicyError(
            f"gate '{table.id}' has no limit", where=where, fix=f"give one of: {_names(infos[0].rules())}"
        )
    clauses = []
    for rule, value in written.items():
        if any(rule not in metric.rules() for metric in infos):
            fix = _instead(infos[0], rule, table.against)
            raise PolicyError(_senseless(rule, table.metric), where=f"{where}.{rule.value}", fix=fix)
        if table.against is Against.SIBLING and not rule.relative:
            what = f"{rule.value} limits a value, and compares with no sibling"
            raise PolicyError(what, where=f"{where}.{rule.value}", fix=_beside_sibling(infos[0]))
        clauses.append(Clause(rule, parse(value, infos[0].unit, rule, f"{where}.{rule.value}")))
    return Gate(table.id, table.metric, table.level, tuple(clauses), table.against)


def _senseless(rule: Rule, metric: str) -> str:
    return f"{rule.value} makes no sense for '{metric}'"


def _beside_sibling(metric: MetricInfo) -> str:
    """What to write where a limit of a value is put beside `against = "sibling"`."""
    own = f"{metric.id}.sibling"
    if metric.paired and own in known():
        return f'write metric = "{own}" without against: it is itself the comparison'
    relative = tuple(rule for rule in metric.rules() if rule.relative)
    return f"give {_names(relative)}, or leave against out" if relative else "leave against out"


def _instead(metric: MetricInfo, rule: Rule, against: Against) -> str:
    if metric.id.startswith("latency.") and rule.relative and not metric.paired:
        ratio = "latency.ratio" if against is Against.BASELINE else "latency.ratio.sibling"
        return f'write metric = "{ratio}", max = "0.9x": it is measured interleaved, so it has an interval'
    direction = "higher is better" if metric.higher_is_better else "lower is better"
    return f"it allows {_names(metric.rules())} ({direction})"


def _names(rules: tuple[Rule, ...]) -> str:
    return ", ".join(rule.value for rule in rules)


def _metric_hint(metric: str) -> str:
    """For a family, of the families; otherwise of the ids."""
    if not is_family(metric):
        return hint(metric, list(known()), _ALL_METRICS)
    families = sorted({name.rpartition(".")[0] + ".*" for name in known() if "." in name})
    single = [family for family in families if len({known()[i].unit for i in expand(family, known())}) == 1]
    return hint(metric, single, _ALL_METRICS)


def _waiver(table: WaiverTable, gates: tuple[Gate, ...], where: str) -> Waiver:
    gate = next((gate for gate in gates if gate.id == table.gate), None)
    if gate is None:
        fix = hint(table.gate, [gate.id for gate in gates], "remove it")
        raise PolicyError(f"waiver of an unknown gate '{table.gate}'", where=where, fix=fix)
    if len(gate.clauses) != 1:
        raise PolicyError(
            f"gate '{gate.id}' has several limits, so a waiver's limit is ambiguous",
            where=where,
            fix="split the gate in two",
        )
    clause = gate.clauses[0]
    limit = parse(table.limit, members(gate.metric)[0].unit, clause.rule, f"{where}.limit")
    if limit.of_baseline != clause.limit.of_baseline:
        raise PolicyError(
            f"limit '{limit.text}' and the gate's '{clause.limit.text}' differ in kind",
            where=where,
            fix="write both in pp or both in %",
        )
    tighter = limit.value > clause.limit.value if clause.rule is Rule.MIN else limit.value < clause.limit.value
    if tighter or limit.value == clause.limit.value:
        raise PolicyError(
            f"limit '{limit.text}' waives nothing of '{clause}'",
            where=where,
            fix="give a wider limit, or drop the waiver",
        )
    return Waiver(gate.id, table.candidate, table.until, Clause(clause.rule, limit), table.reason, table.approver)
