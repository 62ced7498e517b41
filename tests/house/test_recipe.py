from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesafe.errors import EdgesafeError, ExitCode, RecipeError
from edgesafe.recipe import parsing, recipe, toml

QUICK = Path(__file__).parents[2] / "configs" / "quickstart.toml"


def test_the_quickstart_is_the_embedded_recipe() -> None:
    assert parsing.load(None) == parsing.load(QUICK)


@pytest.mark.parametrize(
    "path",
    sorted([path for where in ("*", "paper/**/*", "robust/**/*") for path in QUICK.parent.glob(f"{where}.toml")]),
    ids=lambda p: p.stem,
)
def test_every_shipped_recipe_loads(path: Path) -> None:
    assert recipe.variants(parsing.load(path))[0].id == "baseline-s0"


def test_the_designs_example_is_a_recipe(tmp_path: Path) -> None:
    text = """
schema = "edgesafe.recipe/1"
name   = "resnet20-cifar10"
seeds  = [0]
[model]
arch    = "resnet20"
weights = "weights/r20.th"
args    = {}
[data]
name = "cifar10"
root = "data"
mean = [0.485, 0.456, 0.406]
std  = [0.229, 0.224, 0.225]
validation = 5000
[[compress]]
method = "weight"
ratios = [0.3, 0.5, 0.7]
[[compress]]
method = "filter"
ratios = [0.3, 0.5]
scope  = "internal"
[train]
epochs = 160
lr = 0.1
milestones = [80, 120]
[recover]
bn_images = 2000
epochs = 1
lr = 0.001
[export]
opset = 18
sparse = true
temperature = true
precisions = ["fp32"]
[evaluate]
corruptions = "all"
severities  = [1, 2, 3, 4, 5]
mode        = "full"
[target]
name = "host-1t"
"""
    path = tmp_path / "r.toml"
    path.write_text(text)
    ids = [plan.id for plan in recipe.variants(parsing.load(path))]
    assert ids == [
        "baseline-s0",
        "weight-r0.30-s0",
        "weight-r0.50-s0",
        "weight-r0.70-s0",
        "filter-r0.30-s0",
        "filter-r0.50-s0",
    ]


def test_what_is_printed_is_the_same_recipe(tmp_path: Path) -> None:
    own = "compress.1={method='filter', budget={macs=0.5}, recover={lr=0.5}}"
    for source in sorted(QUICK.parent.glob("*.toml")):
        first = parsing.load(source, ["data.args.note='a \"b\" c'", own])
        path = tmp_path / source.name
        path.write_text(toml.dump_toml(first), encoding="utf-8")
        assert parsing.load(path) == first


def test_set_overrides_any_key() -> None:
    changed = parsing.load(
        None,
        [
            "compress.0.ratios=[0.3]",
            "recover.epochs=7",
            "evaluate.mode=quick",
            "data.root=/some where",
            "compress.1.label=narrow",
            "compress.1.ratios=[0.3]",
        ],
    )
    assert changed.compress[0].ratios == (0.3,)
    assert changed.recover.epochs == 7
    assert changed.evaluate.mode == "quick"
    assert changed.data.root == "/some where"
    assert [p.id for p in recipe.variants(changed)][2] == "narrow-r0.30-s0"


def test_a_blocks_recovery_is_the_recipes_but_for_the_keys_that_it_gives(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("""
name = "r"
model.arch = "smallnet"
data.name = "digits"
[recover]
epochs = 4
images = 700
lr = 0.02
milestones = [3]
[[compress]]
method = "weight"
ratios = [0.3]
recover = { epochs = 1, lr = 0.001 }
[[compress]]
method = "filter"
ratios = [0.5]
[[compress]]
method = "channel"
ratios = [0.5]
[compress.recover]
milestones = []
""")
    first, second, third = parsing.load(path).compress
    shared = parsing.load(path).recover
    assert first.recover == shared.model_copy(update={"epochs": 1, "lr": 0.001})
    assert second.recover is None
    assert third.recover == shared.model_copy(update={"milestones": ()})
    assert (first.recover.images, first.recover.milestones) == (700, (3,))
    changed = parsing.load(path, ["recover.images=50", "compress.0.recover.lr=0.5", "compress.1.recover.epochs=0"])
    recoveries = [block.recover for block in changed.compress if block.recover is not None]
    assert [(r.images, r.epochs, r.lr) for r in recoveries] == [(50, 1, 0.5), (50, 0, 0.02), (50, 4, 0.02)]


def test_set_can_add_a_block_and_a_target_value() -> None:
    more = parsing.load(
        None, ["compress.4.method=filter", "compress.4.ratios=[0.25]", "compress.4.label=x", "target.threads=2"]
    )
    assert more.compress[4].ratios == (0.25,)
    assert more.target.threads == 2
    assert more.target.round_to == 8  # from the target's file


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("recover.epcohs=1", "did you mean 'epochs'?"),
        ("recvoer.epochs=1", "did you mean 'recover'?"),
        ("compress.0.method=wieght", "'weight'"),
        ("compress.0.criterion=usn_l2", "'usn_l1'"),
        ("compress.0.ratios=[0]", "between 0 and 1"),
        ("compress.0.ratios=[1]", "between 0 and 1"),
        ("compress.0.ratios=[1.0]", "between 0 and 1"),
        ("compress.0.ratios=[-0.2]", "between 0 and 1"),
        ("compress.0.ratios=[nan]", "between 0 and 1"),
        ("compress.0.ratios=[]", "ratios"),
        ("compress.0.ratios=[0.5,0.5]", "twice"),
        ("compress.0.ratios=[0.501,0.502]", "two digits"),
        ("compress.0.budget={macs=0.5}", "ratios, or a budget"),
        ('compress=[{method="weight", budget={macs=0.5}}]', "structured"),
        ('compress=[{method="weight", ratios=[0.5], steps=3}]', "structured"),
        ('compress=[{method="filter", budget={macs=0.5, params=0.5}}]', "exactly one"),
        ('compress=[{method="filter", budget={mcas=0.5}}]', "did you mean 'macs'"),
        ('compress=[{method="filter"}]', "ratios, or a budget"),
        ("compress.9.method=weight", "count from 0"),
        ("compress.0.recover.epcohs=1", "compress.0.recover.epcohs: unknown key; did you mean 'epochs'?"),
        ("compress.0.recover.lr=0", "compress.0.recover.lr: Input should be greater than 0"),
        ("compress.0.recover=gently", "compress.0.recover: must be a table"),
        ("recover.lr=0", "quickstart: recover.lr"),
        ("compress.0.label=baseline", "something else"),
        ("target.name=raspberry-pi", "host-1t"),
        ("target.nmae=host-1t", "did you mean 'name'?"),
        ("seeds=[]", "seeds"),
        ("seeds=[1,1]", "distinct"),
        ("seeds=[-1]", "not negative"),
        ('evaluate.corruptions=["fogg"]', "fogg"),
        ("evaluate.corruptions=most", "dir:PATH"),
        ("evaluate.severities=[6]", "severities"),
        ("export.opset=13", "opset"),
        ("data.validation_from=tset", "'train' or 'test'"),
        ('data={name="cifar10", validation_from="test"}\nevaluate.corruptions=dir:c', "held out for validation"),
        ("name=../evil", "name"),
        ("schema=edgesafe.recipe/9", "edgesafe.recipe/1"),
        ("recover.lr=inf", "lr"),
        ("nonsense", "KEY=VALUE"),
        ("compress.0.ratios=[0.3", "TOML"),
        ("name.x=1", "not a table"),
    ],
)
def test_a_wrong_recipe_says_what_where_and_what_to_do(override: str, says: str) -> None:
    with pytest.raises(EdgesafeError) as caught:
        parsing.load(None, override.splitlines())
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE
    assert says in message
    assert "\n" not in message
    assert caught.value.fix


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    for content, says in ((b"a = ", "TOML"), (b"\xff\xfe", "UTF-8"), (b"name = 'x'", "missing")):
        path = tmp_path / "r.toml"
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=says):
            parsing.load(path)
    with pytest.raises(RecipeError, match="no such file"):
        parsing.load(tmp_path / "absent.toml")


def test_an_empty_list_of_corruptions_is_refused_with_the_word_for_none() -> None:
    with pytest.raises(RecipeError, match='an empty list; use "none"'):
        parsing.load(None, ["evaluate.corruptions=[]"])
    assert parsing.load(None, ["evaluate.corruptions=none"]).evaluate.corruptions == "none"


def test_flags_make_a_recipe() -> None:
    made = parsing.from_flags({"model": "resnet20", "data": "cifar10", "method": "weight", "ratios": [0.3, 0.5]})
    assert [p.id for p in recipe.variants(made)] == ["baseline-s0", "weight-r0.30-s0", "weight-r0.50-s0"]
    odd = parsing.from_flags({"model": "my nets/a.py:make"})
    assert odd.name == "my-nets-a.py-make-digits-filter"
    with pytest.raises(RecipeError, match="between 0 and 1"):
        parsing.from_flags({"ratios": [1.5]})


def test_identity_is_what_is_computed_not_what_it_is_called() -> None:
    base = parsing.load(None)
    assert parsing.load(None, ["name=other"]).sha256 == base.sha256
    assert parsing.load(None, ["evaluate.cache_dir=/tmp/c"]).sha256 == base.sha256
    assert parsing.load(None, ["recover.epochs=3"]).sha256 != base.sha256


@given(st.text(), st.text())
def test_no_override_ends_in_a_traceback(key: str, value: str) -> None:
    try:
        parsing.load(None, [f"{key}={value}"])
    except EdgesafeError as error:
        assert error.exit_code == ExitCode.USAGE


PAPER = QUICK.parent / "paper"
PAIRS = {
    ("weight", "vgg19"): 0.0, ("weight", "preresnet110"): 0.0, ("filter", "vgg16"): 0.0, ("filter", "resnet110"): 0.0,
    ("channel", "vgg19"): 1e-4, ("channel", "preresnet164"): 1e-5,
}  # fmt: skip


@pytest.mark.parametrize(("pair", "penalty"), PAIRS.items(), ids=str)
def test_the_benchmark_study_is_run_as_published(pair: tuple[str, str], penalty: float) -> None:
    """Oracle: the table of the study, arXiv 2405.20876, sections 3 and 4."""
    method, arch = pair
    study = parsing.load(PAPER / f"{arch}-{method}.toml")
    (block,) = study.compress
    assert (block.method, study.model.arch, study.data.name) == (method, arch, "cifar10")
    assert block.ratios == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert study.seeds == (0, 1, 2)
    assert block.scope == (None if method == "weight" else "paper")
    train, tune = study.train, study.recover
    assert (train.epochs, train.lr, train.milestones, train.gamma) == (160, 0.1, (80, 120), 0.1)
    assert (tune.epochs, tune.lr, tune.milestones, tune.bn_images, tune.images) == (40, 0.001, (), 0, None)
    for section in (train, tune):
        assert (section.momentum, section.weight_decay, section.batch_size) == (0.9, 1e-4, 64)
        assert section.augment
        assert section.flip
    assert train.slim_l1 == penalty
    assert method != "channel" or block.slim_epochs == 0
    assert len(recipe.variants(study)) == 3 * 8
    assert (study.evaluate.corruptions, study.evaluate.severities) == ("all", (1, 2, 3, 4, 5))
    assert (study.evaluate.images_per_cell, study.data.test_images, study.data.train_images) == (None, None, None)


@pytest.mark.parametrize(("method", "arch"), PAIRS, ids=str)
def test_a_small_profile_changes_what_it_says_and_nothing_else(method: str, arch: str) -> None:
    whole, small = (parsing.load(folder / f"{arch}-{method}.toml").resolved() for folder in (PAPER, PAPER / "small"))
    differ = {
        f"{section}.{key}" if isinstance(value, dict) else section
        for section, value in whole.items()
        for key in (value if isinstance(value, dict) else [""])
        if (small[section][key] != value[key] if isinstance(value, dict) else small[section] != value)
    }
    assert differ == {
        "name", "seeds", "compress", "data.train_images", "train.epochs", "train.milestones", "recover.epochs",
        "evaluate.images_per_cell",
    }  # fmt: skip
    assert small["compress"] == [whole["compress"][0] | {"ratios": [0.3, 0.5, 0.7]}]


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(QUICK.read_text(encoding="utf-8"), encoding="utf-8")
    other = tmp_path / "other.toml"
    other.write_text('extends = "base.toml"\nseeds = [7]\ncompress = [{}, {ratios = [0.1]}]\ntrain = {epochs = 3}\n')
    base, got = parsing.load(QUICK), parsing.load(other, ["train.lr=0.5"])
    assert got.seeds == (7,)
    assert got.compress == (
        base.compress[0], base.compress[1].model_copy(update={"ratios": (0.1,)}), *base.compress[2:],
    )  # fmt: skip
    assert got.train == base.train.model_copy(update={"epochs": 3, "lr": 0.5})
    assert got.recover == base.recover


@pytest.mark.parametrize(
    ("extends", "says"),
    [("3", "must be a path"), ('"quickstart"', "must be a path"), ('"gone.toml"', "gone.toml"), ('"x.toml"', "itself")],
)
def test_what_cannot_be_extended_is_said(tmp_path: Path, extends: str, says: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(f"extends = {extends}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=says):
        parsing.load(path)


def test_each_seed_can_have_weights_of_its_own(tmp_path: Path) -> None:
    from edgesafe.commands.compress import _weights
    from edgesafe.study.inputs import input_hashes

    one = parsing.load(QUICK, ["model.weights=w.safetensors", "seeds=[1,2]"])
    each = parsing.load(QUICK, [f"model.weights={tmp_path}/w-{{seed}}.safetensors", "seeds=[1,2]"])
    assert _weights(parsing.load(QUICK)) == {}
    assert _weights(one) == {"weights": "w.safetensors"}
    assert _weights(each) == {f"weights s{seed}": f"{tmp_path}/w-{seed}.safetensors" for seed in (1, 2)}
    (tmp_path / "w-1.safetensors").write_bytes(b"1")
    with pytest.raises(EdgesafeError, match="w-2"):
        input_hashes(weights=_weights(each), arch="smallnet")
    (tmp_path / "w-2.safetensors").write_bytes(b"2")
    hashes = input_hashes(weights=_weights(each), arch="smallnet")
    assert len(set(hashes.values())) == 2
