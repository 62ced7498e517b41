from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesafe.display import show, show_limit
from edgesafe.errors import PolicyError
from edgesafe.metrics import Rule
from edgesafe.policy.limits import (
    Limit,
    canonical,
    parse,
)
from edgesafe.records import Unit

READS = [
    ("1.0pp", Unit.FRACTION, Rule.MAX_DROP, 0.01, False),
    ("1.0 pp", Unit.FRACTION, Rule.MAX, 0.01, False),
    ("6.0pp", Unit.FRACTION, Rule.MAX, 0.06, False),
    ("90%", Unit.FRACTION, Rule.MIN, 0.9, False),
    ("5%", Unit.FRACTION, Rule.MAX_DROP, 0.05, True),
    ("5%", Unit.FRACTION, Rule.MAX_INCREASE, 0.05, True),
    ("150%", Unit.NATS, Rule.MAX_INCREASE, 1.5, True),
    ("0.02nats", Unit.NATS, Rule.MAX_INCREASE, 0.02, False),
    (0.02, Unit.NATS, Rule.MAX_INCREASE, 0.02, False),
    ("8ms", Unit.MS, Rule.MAX, 8.0, False),
    ("0.5s", Unit.MS, Rule.MAX, 500.0, False),
    ("250us", Unit.MS, Rule.MAX, 0.25, False),
    ("300kB", Unit.BYTES, Rule.MAX, 300_000.0, False),
    ("1.5MiB", Unit.BYTES, Rule.MAX, 1_572_864.0, False),
    ("5B", Unit.BYTES, Rule.MAX, 5.0, False),
    ("2MB", Unit.BYTES, Rule.MAX, 2e6, False),
    ("2GB", Unit.BYTES, Rule.MAX, 2e9, False),
    ("1GiB", Unit.BYTES, Rule.MAX, 1_073_741_824.0, False),
    ("3k", Unit.COUNT, Rule.MAX, 3000.0, False),
    ("2G", Unit.COUNT, Rule.MAX, 2e9, False),
    ("100%", Unit.FRACTION, Rule.MAX, 1.0, False),
    ("100pp", Unit.FRACTION, Rule.MAX_DROP, 1.0, False),
    ("100%", Unit.FRACTION, Rule.MAX_DROP, 1.0, True),
    ("2KiB", Unit.BYTES, Rule.MAX, 2048.0, False),
    ("20M", Unit.COUNT, Rule.MAX, 2e7, False),
    (270_000, Unit.COUNT, Rule.MAX, 270_000.0, False),
    ("0.9x", Unit.RATIO, Rule.MAX, 0.9, False),
    ("0.9x", Unit.BYTES, Rule.MAX_RATIO, 0.9, False),
    (0.9, Unit.BYTES, Rule.MAX_RATIO, 0.9, False),
    (1e-4, Unit.LOGIT, Rule.MAX, 1e-4, False),
    (0, Unit.SCORE, Rule.MAX, 0.0, False),
]


@pytest.mark.parametrize(("text", "unit", "rule", "value", "of_baseline"), READS)
def test_reads(text, unit, rule, value, of_baseline):
    found = parse(text, unit, rule, "here")
    assert (found.value, found.of_baseline) == (value, of_baseline)


@pytest.mark.parametrize(
    ("text", "unit", "rule", "says"),
    [
        (1.0, Unit.FRACTION, Rule.MAX_DROP, "no unit"),
        (0.01, Unit.FRACTION, Rule.MAX, "no unit"),
        (300_000, Unit.BYTES, Rule.MAX, "no unit"),
        (8, Unit.MS, Rule.MAX, "no unit"),
        ("8", Unit.MS, Rule.MAX, "no unit"),
        ("5%", Unit.MS, Rule.MAX, "not a unit"),
        ("5%", Unit.BYTES, Rule.MAX, "not a unit"),
        ("90%", Unit.NATS, Rule.MAX_RATIO, "not a unit"),
        ("1pp", Unit.NATS, Rule.MAX_INCREASE, "not a unit"),
        ("300kb", Unit.BYTES, Rule.MAX, "not a unit"),
        ("8MS", Unit.MS, Rule.MAX, "not a unit"),
        ("101%", Unit.FRACTION, Rule.MAX, "more than 100"),
        ("101%", Unit.FRACTION, Rule.MAX_DROP, "more than 100"),
        ("100.1pp", Unit.FRACTION, Rule.MAX_INCREASE, "more than 100"),
        ("-1pp", Unit.FRACTION, Rule.MAX_DROP, "not a limit"),
        ("+1pp", Unit.FRACTION, Rule.MAX_DROP, "not a limit"),
        ("nan", Unit.NATS, Rule.MAX, "not a limit"),
        ("inf", Unit.NATS, Rule.MAX, "not a limit"),
        ("", Unit.NATS, Rule.MAX, "not a limit"),
        ("1,5pp", Unit.FRACTION, Rule.MAX, "not a limit"),
        ("1_000", Unit.COUNT, Rule.MAX, "not a limit"),
        ("\u0661pp", Unit.FRACTION, Rule.MAX, "not a limit"),
        ("1e999", Unit.NATS, Rule.MAX, "too large"),
        (-0.5, Unit.NATS, Rule.MAX, "not a limit"),
    ],
)
def test_refuses(text, unit, rule, says):
    with pytest.raises(PolicyError, match=says) as caught:
        parse(text, unit, rule, "gate.0.max")
    assert caught.value.where == "gate.0.max"
    assert caught.value.fix


def test_a_rate_without_unit_is_told_both_readings():
    with pytest.raises(PolicyError, match=r'"1.0pp" \(percentage points\) or "5%" \(of the baseline'):
        parse(0.01, Unit.FRACTION, Rule.MAX_DROP, "x")


def _legal(unit: Unit, rule: Rule, value: float, of_baseline: bool) -> bool:
    bounded = (unit is Unit.FRACTION and rule is not Rule.MAX_RATIO and not of_baseline) or (
        of_baseline and rule is Rule.MAX_DROP
    )
    return value <= 1.0 or not bounded


@given(
    st.floats(min_value=0, max_value=1e15, allow_nan=False),
    st.sampled_from(list(Unit)),
    st.sampled_from(list(Rule)),
    st.booleans(),
)
def test_canonical_text_reads_back_as_the_same_value(value, unit, rule, share):
    of_baseline = share and rule in (Rule.MAX_DROP, Rule.MAX_INCREASE)
    if not _legal(unit, rule, value, of_baseline):
        value = value / 1e15
    text = canonical(Limit(value, of_baseline, ""), unit, rule)
    back = parse(text, unit, rule, "x")
    assert (back.value, back.of_baseline) == (value, of_baseline)


@given(st.text(max_size=12), st.sampled_from(list(Unit)), st.sampled_from(list(Rule)))
def test_any_text_is_a_limit_or_a_policy_error(text, unit, rule):
    try:
        found = parse(text, unit, rule, "x")
    except PolicyError:
        return
    assert found.value >= 0


@pytest.mark.parametrize(
    ("values", "unit", "difference", "apart", "shown"),
    [
        ((0.0231, 0.0182), Unit.FRACTION, True, 0.01, (["2.31", "1.82"], " pp")),
        ((0.9173,), Unit.FRACTION, False, None, (["91.73"], " %")),
        ((0.010004,), Unit.FRACTION, True, 0.01, (["1.0004"], " pp")),
        ((0.01,), Unit.FRACTION, True, 0.01, (["1.00"], " pp")),
        ((-0.000001,), Unit.FRACTION, True, None, (["0.00"], " pp")),
        ((270_898.0,), Unit.COUNT, False, None, (["270,898"], "")),
        ((300_000.0,), Unit.BYTES, False, None, (["300.0"], " kB")),
        ((0.93,), Unit.RATIO, False, None, (["0.930"], "x")),
        ((0.35,), Unit.NATS, True, None, (["0.3500"], " nats")),
        ((0.118,), Unit.SCORE, False, None, (["0.1180"], "")),
        ((8.25,), Unit.MS, False, None, (["8.250"], " ms")),
        ((0.00001,), Unit.LOGIT, False, None, (["0.000010"], "")),
        ((1.00000001,), Unit.NATS, False, 1.0, (["1.0000000"], " nats")),
    ],
)
def test_shown_numbers_tell_a_value_from_its_limit(values, unit, difference, apart, shown):
    assert show(values, unit, difference=difference, apart=apart) == shown


@pytest.mark.parametrize(
    ("text", "shown"), [("1.0pp", "1.0 pp"), ("0.9x", "0.9x"), ("0.3", "0.3"), ("300kB", "300 kB")]
)
def test_limits_are_shown_as_written(text, shown):
    assert show_limit(text) == shown
