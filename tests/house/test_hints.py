"""The hint about an unknown name, by itself and in what the commands say."""

import string

import onnxruntime as ort
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgesafe.cli.process import run
from edgesafe.errors import UsageError, hint, hint_of_choice, nearest
from edgesafe.measure.inference.session import require_provider
from edgesafe.policy import policy as policies
from edgesafe.recipe import parsing

NAMES = st.lists(
    st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=20), unique=True, max_size=30
)
OTHER = st.text("äöü!?", min_size=1, max_size=20)


@given(name=st.text(max_size=20), known=NAMES)
def test_only_a_known_name_is_ever_named(name, known):
    near, said = nearest(name, known), hint(name, known, "look elsewhere")
    assert near is None or near in known
    listed = f"known: {', '.join(known)}" if 0 < len(known) <= 24 else "look elsewhere"
    assert said == (listed if near is None else f"did you mean '{near}'?")


@given(name=OTHER, known=NAMES)
def test_a_name_unlike_all_gets_the_list_and_no_guess(name, known):
    assert nearest(name, known) is None
    assert "did you mean" not in hint(name, known)
    assert hint(name, [f"{i:03}" for i in range(25)]) == ""


@given(known=NAMES, data=st.data())
def test_a_slip_of_one_name_names_it(known, data):
    """Its case, its separators, or its end missing: found whatever else is known, unless that is as near."""
    assume(known)
    name = data.draw(st.sampled_from(known))
    same = [one for one in known if one.lower().replace("_", "-") == name.lower().replace("_", "-")]
    assert nearest(name.swapcase().replace("-", "_"), known) in same
    cut = data.draw(st.integers(2, max(2, len(name))))
    found = nearest(name[:cut], known)
    assert found is not None
    assert found.lower().replace("_", "-").startswith(name[:cut].lower().replace("_", "-"))


def test_of_equally_begun_names_the_likest_is_named():
    assert nearest("stat", ["data", "stats", "static_file"]) == "stats"
    assert nearest("s", ["stats"]) is None  # one letter begins too much


def test_only_a_choice_is_hinted_at():
    """Oracle: pydantic, whose problems these are."""
    with pytest.raises(UsageError, match="did you mean 'filter'"):
        parsing.from_flags({"method": "fliter"})
    assert hint_of_choice({"input": "x", "ctx": {"expected": "'filter' or 'weight'"}}, "else") == "else"
    assert hint_of_choice({"input": 7, "msg": "Input should be greater than 8"}, "else") == "else"


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("compress.0.method=fliter", "filter"),
        ("compress.0.scope=intrnal", "internal"),
        ("compress.0.allocation=unifrom", "uniform"),
        ("compress.0.recover.optimiser=adam", "adamw"),
        ("evaluate.mode=quik", "quick"),
        ("evaluate.corruptions=['fogg']", "fog"),
        ("train.devise=cpu", "device"),
        ("model.arch_=smallnet", "arch"),
    ],
)
def test_each_choice_of_a_recipe_names_the_nearest(override, near, capsys):
    assert run(["compress", "--show-recipe", "--set", override]) == 4
    assert f"did you mean '{near}'?" in capsys.readouterr().err


def test_an_option_that_is_misspelt_is_hinted_at(capsys):
    assert run(["compress", "--methd", "filter"]) == 4
    assert "no such option: --methd; did you mean '--method'?" in capsys.readouterr().err
    assert run(["compress", "--zzz", "1"]) == 4
    assert "no such option: --zzz; known: --set, --out" in capsys.readouterr().err


def test_a_choice_of_a_policy_names_the_nearest():
    text = 'schema = "edgesafe.policy/1"\n[[gate]]\nid = "a"\nmetric = "accuracy"\nmin = "90%"\nlevel = "eror"\n'
    with pytest.raises(UsageError, match="did you mean 'error'"):
        policies.loads(text)


def test_a_provider_that_is_misspelt_is_told_from_one_that_is_not_here():
    with pytest.raises(UsageError, match="did you mean 'CPUExecutionProvider'"):
        require_provider("CPUExecutionProvidr", "target.provider")
    absent = sorted(set(ort.get_all_providers()) - set(ort.get_available_providers()))
    assert absent
    with pytest.raises(UsageError, match=r"install a build that has it, or use one of .*CPUExecutionProvider"):
        require_provider(absent[0], "target.provider")


def test_of_a_mapping_the_keys_are_the_names():
    assert hint("resnte20", {"resnet20": object()}) == "did you mean 'resnet20'?"
    assert hint("vgg", {"resnet20": object(), "cnn7": object()}) == "known: resnet20, cnn7"
