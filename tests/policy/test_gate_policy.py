"""Reading policies: what is accepted, and that whatever is not says where and what to do."""

from __future__ import annotations

from datetime import date

import pytest
from gate_fixtures import diff, judge, only, policy, policy_text, sha
from hypothesis import given
from hypothesis import strategies as st

from edgesafe.errors import ExitCode, PolicyError
from edgesafe.files import MAX_TEXT
from edgesafe.metrics import (
    Rule,
    expand,
    info,
    known,
    members,
    title,
)
from edgesafe.policy.policy import load, loads
from edgesafe.recipe.sections import CORRUPTIONS
from edgesafe.records import GateStatus, Unit

GATE = "accuracy max_drop='1.0pp'"
WAIVER = (
    f'waiver = [{{ gate = "g0", candidate = "{sha("c")}", until = 2027-01-31, '
    'limit = "1.5pp", reason = "r", approver = "a" }]'
)


def refuse(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        loads(text, source="p.toml")
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.where.startswith("p.toml")
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_policy():
    text = policy_text(
        GATE, "ece_em10_top1 max='6.0pp';max_increase='0.5pp';level='warn'",
        head=f"""profile = "release"
variants = ["weight-*"]
data = {{ min_samples = 5000, test_sha256 = "{sha("d")}", lock = "edgesafe.lock" }}
stats = {{ confidence = 0.99, on_inconclusive = "warn", correction = "none" }}
{WAIVER}
""",
    )  # fmt: skip
    found = loads(text)
    assert (found.profile, found.variants, found.data.min_samples) == ("release", ("weight-*",), 5000)
    assert (found.stats.confidence, found.stats.on_inconclusive, found.stats.correction) == (0.99, "warn", "none")
    assert [str(clause) for gate in found.gates for clause in gate.clauses] == [
        "max_drop 1.0pp", "max 6.0pp", "max_increase 0.5pp",
    ]  # fmt: skip
    assert [gate.level for gate in found.gates] == ["error", "warn"]
    (waiver,) = found.waivers
    assert (waiver.until, str(waiver.clause)) == (date(2027, 1, 31), "max_drop 1.5pp")


def test_the_smallest_and_largest_settings():
    assert policy(GATE, head="[data]\nmin_samples = 1").data.min_samples == 1
    assert policy(GATE, head="[stats]\nconfidence = 0.8").stats.confidence == 0.8
    assert policy(GATE, head="[stats]\nconfidence = 0.9999").stats.confidence == 0.9999


def test_defaults():
    found = policy(GATE, head="")
    assert (found.variants, found.data.min_samples, found.stats.confidence) == (("*",), 1, 0.99)
    assert (found.stats.on_inconclusive, found.stats.correction, found.gates[0].level) == ("fail", "holm", "error")


@pytest.mark.parametrize(
    ("gates", "head", "says"),
    [
        ((GATE,), "profil = 'x'", "unknown key 'profil'; did you mean 'profile'?"),
        ((GATE,), "[stats]\nconfidense = 0.9", "unknown key 'confidense'; did you mean 'confidence'?"),
        ((GATE,), "[data]\nminsamples = 9", "did you mean 'min_samples'?"),
        (("accuracy max_dorp='1pp'",), "", "p.toml: gate.0.max_dorp: unknown key 'max_dorp'; did you mean 'max_drop'?"),
        (("acuracy max_drop='1pp'",), "", "p.toml: gate.0: unknown metric 'acuracy'; did you mean 'accuracy'?"),
        (("mpc.by_corruption max_drop='1pp'",), "", "did you mean 'mpc.corruption."),
        (("mpc.corruptions.* max_drop='1pp'",), "", "did you mean 'mpc.corruption.*'?"),
        (("mpc.corruption.fogg max_drop='1pp'",), "", "did you mean 'mpc.corruption.fog'?"),
        (("ece max='1pp'",), "", "did you mean 'ece_em10_top1'?"),
        (("latency.p95_ms max='1ms'",), "", "did you mean 'latency.p90_ms'?"),
        (("accuracy",), "", "gate 'g0' has no limit; give one of: min, max_drop"),
        (("accuracy max_drop=0.01",), "", "p.toml: gate.0.max_drop: 0.01 has no unit"),
        (("accuracy max_drop=true",), "", "gate.0.max_drop"),
        (("accuracy max_drop=['1pp']",), "", "gate.0.max_drop"),
        (("nll max=nan",), "", "gate.0.max"),
        (
            ("nll max_drop=0.1",),
            "",
            "max_drop makes no sense for 'nll'; it allows max, max_increase, max_ratio (lower is better)",
        ),
        (("accuracy max='99%'",), "", "it allows min, max_drop (higher is better)"),
        (("latency.p50_ms max_ratio=0.9",), "", 'write metric = "latency.ratio", max = "0.9x"'),
        (("latency.ratio max_ratio=0.9",), "", "it allows max (lower is better)"),
        (("flips max_increase='1pp'",), "", "it allows max"),
        (("latency.* max='1ms'",), "", "mixes units"),
        ((GATE, GATE.replace("accuracy", "mpc") + ";level='info'"), "", "gate.1.level"),
        ((GATE,), "[data]\nmin_samples = 0", "data.min_samples"),
        ((GATE,), "[data]\nmin_samples = '9'", "data.min_samples"),
        ((GATE,), "[stats]\nconfidence = 0.5", "stats.confidence"),
        ((GATE,), "[stats]\nconfidence = 1.0", "stats.confidence"),
        ((GATE,), "[stats]\non_inconclusive = 'pass'", "stats.on_inconclusive"),
        ((GATE,), "variants = []", "variants"),
        ((), "", "gate"),
        ((), "gate = 3", "'gate' is not a list of tables; write [[gate]] with two brackets"),
        ((), "gate = [3]", "'gate' is not a list of tables"),
    ],
)
def test_refusals_name_the_place_and_the_cure(gates, head, says):
    assert says in refuse(policy_text(*gates, head=head))


def test_gate_ids_are_unique_and_plain():
    assert "id 'g0' stands twice" in refuse(policy_text(GATE, GATE).replace('"g1"', '"g0"'))
    assert "gate.0.id" in refuse(policy_text(GATE).replace('"g0"', '"<script>"'))


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ('schema = "edgesafe.policy/2"', "newer than this edgesafe knows; update edgesafe"),
        ('schema = "edgesafe.policy/0"', "is not a policy's"),
        ('schema = "edgesafe.recipe/1"', "is not a policy's"),
        ("schema = 1", "is not a policy's"),
        ("", "no schema"),
    ],
)
def test_schemas(schema, says):
    assert says in refuse(policy_text(GATE).replace('schema = "edgesafe.policy/1"', schema))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"g0"', '"g9"', "waiver of an unknown gate 'g9'; did you mean 'g0'?"),
        ("1.5pp", "1.0pp", "waives nothing"),
        ("1.5pp", "0.5pp", "waives nothing"),
        ("1.5pp", "150%", "more than 100"),
        ("1.5pp", "15%", "differ in kind"),
        ('"1.5pp"', "1.5", "no unit"),
        (sha("c"), "sha256:abc", "candidate"),
        ("2027-01-31", '"2027-01-31"', "until"),
        ("2027-01-31", "2027-01-31T00:00:00", "until"),
        ("2027-01-31", "20270131", "until"),
        ('reason = "r"', 'reason = ""', "reason"),
        (', approver = "a"', "", "approver"),
        ('reason = "r"', 'reasons = "r"', "did you mean 'reason'?"),
    ],
)
def test_waivers_are_checked(old, new, says):
    assert policy(GATE, head=WAIVER).waivers
    assert old in WAIVER
    assert says in refuse(policy_text(GATE, head=WAIVER.replace(old, new)))


def test_a_waiver_of_a_minimum_must_be_lower():
    low, high = WAIVER.replace("1.5pp", "80%"), WAIVER.replace("1.5pp", "95%")
    assert policy("accuracy min='90%'", head=low).waivers
    assert "waives nothing" in refuse(policy_text("accuracy min='90%'", head=high))


def test_a_waiver_of_a_gate_with_two_limits_is_ambiguous():
    assert "split the gate" in refuse(policy_text("nll max=1;max_increase=0.1", head=WAIVER))


def test_two_waivers_of_the_same_gate_and_file():
    twice = WAIVER[:-1] + ", " + WAIVER.partition("[")[2]
    assert "stands twice" in refuse(policy_text(GATE, head=twice))


def test_files(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(policy_text(GATE), encoding="utf-8")
    assert load(path) == loads(policy_text(GATE))
    for name, data in (
        ("a", b"\xff\xfe"),
        ("b", b"x" * (MAX_TEXT + 1)),
        ("c", b"schema = "),
        ("d", b"a=1\na=2"),
        ("e", b""),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PolicyError):
            load(tmp_path / name)
    for missing in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(PolicyError, match="give a policy file"):
            load(missing)


def test_a_deeply_nested_file_is_an_error_and_not_a_crash():
    assert "p.toml" in refuse("a = " + "[" * 100_000)


def test_the_hash_is_of_the_text():
    assert policy(GATE).sha256 != policy(GATE + "\n# a comment").sha256
    assert policy(GATE).sha256 == policy(GATE).sha256


@given(st.text(alphabet="agte[]{}=\"'.# \n0pmx_", max_size=80))
def test_any_text_is_a_policy_or_a_policy_error(text):
    with pytest.raises(PolicyError):
        loads('schema = "edgesafe.policy/1"\n' + text)


# ------------------------------------------------------------------------------------------------------ the catalogue


def test_the_ids_of_the_design_are_known():
    ids = {
        "accuracy": Unit.FRACTION, "ece_em10_top1": Unit.FRACTION, "nll": Unit.NATS, "brier": Unit.SCORE,
        "high_conf_error@0.9": Unit.FRACTION, "mpc": Unit.FRACTION, "latency.p50_ms": Unit.MS,
        "latency.p90_ms": Unit.MS,
        "latency.ratio": Unit.RATIO, "size.onnx_bytes": Unit.BYTES, "size.params": Unit.COUNT, "macs": Unit.COUNT,
        "sparsity": Unit.FRACTION, "parity.max_abs_logit": Unit.LOGIT, "flips": Unit.FRACTION, "aurc": Unit.SCORE,
        "mce": Unit.FRACTION, "ece_classwise": Unit.FRACTION, "ece_em10_top1.calibrated": Unit.FRACTION,
        "nll.severity.3": Unit.NATS, "ece_em10_top1.corruption.fog": Unit.FRACTION,
        "high_conf_error@0.95": Unit.FRACTION,
        "high_conf_error@0.95.severity.5": Unit.FRACTION,
    }  # fmt: skip
    for corruption in CORRUPTIONS:
        ids[f"mpc.corruption.{corruption}"] = Unit.FRACTION
        ids.update({f"accuracy.{corruption}.{severity}": Unit.FRACTION for severity in range(1, 6)})
    for name, unit in ids.items():
        one = info(name)
        assert one is not None, name
        assert (one.id, one.unit) == (name, unit)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "mpc.severity.6",
        "accuracy.fog.0",
        "high_conf_error@0.0",
        "high_conf_error@1.5",
        "high_conf_error@0.9.fog",
    ],
)
def test_others_are_not(name):
    assert members(name) == ()


def test_a_star_is_one_part():
    assert len(members("mpc.corruption.*")) == 19
    assert len(members("mpc.severity.*")) == 5
    assert len(members("accuracy.*.5")) == 19
    assert len(members("accuracy.*.*")) == 95
    assert members("mpc.*") == ()
    assert expand("a.*", ["a.b", "a.b.c", "a.", "xa.b"]) == ("a.b",)


def test_one_line_of_the_catalogue_makes_a_family():
    one = info("certified_accuracy.jpeg=50..95")
    assert one is not None
    assert (one.title, one.unit, one.rules()) == (
        "Certified accuracy, jpeg=50..95", Unit.FRACTION, (Rule.MIN, Rule.MAX_DROP),
    )  # fmt: skip
    assert [info(name) for name in ("certified_accuracy.<set>", "certified_accuracy.", "falsified.../x")] == [None] * 3
    measured = ["certified_accuracy.jpeg=50..95", "certified_accuracy.shift=1", "falsified.shift=1"]
    assert expand("certified_accuracy.*", measured) == tuple(measured[:2])
    assert loads(policy_text("certified_accuracy.* min='90%'")).gates[0].metric == "certified_accuracy.*"
    assert info("pck@2").higher_is_better and info("error.mean_px").unit is Unit.PIXELS


def test_titles_are_those_that_people_read():
    titles = {
        "accuracy": "Accuracy", "mpc.severity.3": "mPC, severity 3",
        "mpc.corruption.jpeg_compression": "mPC, jpeg compression",
        "mpc.corruption.*": "mPC, each corruption", "accuracy.fog.5": "Accuracy, fog, severity 5",
        "ece_em10_top1.calibrated": "ECE after temperature", "high_conf_error@0.95": "Wrong above 95 % confidence",
        "falsified.*": "Falsified, each", "nonsense": "",
    }  # fmt: skip
    assert {name: title(name) for name in titles} == titles
    names = [one.title for one in known().values()]
    assert len(names) == len(set(names))


def test_a_family_of_parameters_is_decided_on_what_was_measured():
    sets = [diff(f"certified_accuracy.{s}", -0.01, half=0.002) for s in ("shift=1", "jpeg=50..95")]
    result = only(judge("certified_accuracy.* max_drop='5pp'", *sets))
    assert result.status is GateStatus.PASS
    assert "worst of 2" in result.message
    assert only(judge("certified_accuracy.* max_drop='5pp'")).status is GateStatus.MISSING


def test_upper_limits_and_drops_fit_the_direction():
    for one in known().values():
        assert (Rule.MIN in one.rules()) == one.higher_is_better
        assert (Rule.MAX_DROP in one.rules()) == (one.higher_is_better and not one.paired)
        assert (Rule.MAX in one.rules()) != one.higher_is_better
