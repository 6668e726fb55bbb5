"""Settings by dotted path: from text, to JSON, and one hash of them all."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayunlearn.data.mislabelling import Mislabelling
from rayunlearn.errors import BadInput
from rayunlearn.recipes import RECIPES, digits, digits_gkt, load_recipe
from rayunlearn.settings import config_hash, override, parse_value, paths, stated, to_json


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Every leaf type that settings use."""

    count: int = 3
    rate: float = 0.5
    enabled: bool = True
    kind: Literal["kl", "js"] = "kl"
    limit: int | None = None
    share: float | None = 0.25
    label: str | None = None
    widths: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        """Two fields that depend on each other."""
        if self.enabled and self.count < 1:
            raise BadInput("outer.inner.count", self.count, "at least 1 where enabled")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A group and a group in it."""

    name: str = "plain"
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True, kw_only=True)
class Top:
    """Three levels."""

    outer: Outer = field(default_factory=Outer)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Extra:
    """An optional section: one field has no default, one is a section."""

    size: int
    share: float = 0.5
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        """Check one field."""
        if self.size < 1:
            raise BadInput("group.extra.size", self.size, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Group:
    """A section with an optional one in it."""

    name: str = "plain"
    extra: Extra | None = None


@dataclass(frozen=True, kw_only=True)
class WithExtra:
    """Two levels, the second optional."""

    group: Group = field(default_factory=Group)
    seed: int = 0


WHOLE = st.integers(-(2**63) + 1, 2**63 - 1)
"""What a setting may be: a whole number of 64 bits."""

INNERS = st.builds(
    Inner,
    count=st.integers(1, 10**6),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    enabled=st.booleans(),
    kind=st.sampled_from(["kl", "js"]),
    limit=st.none() | WHOLE,
    share=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    # "none" names None, and text is stripped
    label=st.none()
    | st.text(st.characters(categories=["L", "N"]), min_size=1).filter(
        lambda s: s.lower() not in ("none", "null")
    ),
    widths=st.lists(WHOLE, max_size=4).map(tuple),
)
TOPS = st.builds(
    Top,
    outer=st.builds(Outer, name=st.text(st.characters(categories=["L"])), inner=INNERS),
    seed=WHOLE,
)


# From text.


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("count=7", 7), ("count=-2", -2), ("rate=1e-3", 1e-3), ("rate=2", 2.0), ("enabled=false", False),
        ("enabled=True", True), ("kind=js", "js"), ("limit=5", 5), ("limit=none", None), ("limit=None", None),
        ("limit=null", None), ("share=0.75", 0.75), ("share=none", None), ("label=a=b", "a=b"),
        ("label=none", None), ("widths=[4, 5, 6]", (4, 5, 6)), (" rate = 4 ", 4.0),
    ],
)  # fmt: skip
def test_every_leaf_type_is_read_from_text(assignment: str, value: object) -> None:
    """The value, and its type: 2 for a float is 2.0, and `limit=none` is None and not a text."""
    name = assignment.partition("=")[0].strip()
    base = Top(outer=Outer(inner=Inner(enabled=False, limit=9)))
    changed = override(base, [f"outer.inner.{assignment.lstrip()}"])
    got = getattr(changed.outer.inner, name)
    assert got == value and type(got) is type(value)
    others = dataclasses.replace(changed.outer.inner, **{name: getattr(base.outer.inner, name)})
    assert others == base.outer.inner and changed.outer.name == base.outer.name
    assert base == Top(outer=Outer(inner=Inner(enabled=False, limit=9))), "the given settings stay"


def test_none_is_a_text_where_none_is_not_allowed() -> None:
    """`mixing=none` is the choice "none"; an int that is never None refuses it."""
    assert override(digits(), ["gated_inversion.mixing=none"]).gated_inversion.mixing == "none"
    assert override(Top(), ["outer.name=none"]).outer.name == "none"
    with pytest.raises(BadInput):
        override(Top(), ["seed=none"])


def test_levels_and_several_assignments() -> None:
    """One, two and three levels at once; the last of one path counts; none at all changes nothing."""
    changed = override(Top(), ["seed=1", "outer.name=x", "outer.inner.count=2", "seed=3"])
    assert changed == Top(seed=3, outer=Outer(name="x", inner=Inner(count=2)))
    assert override(Top(), []) == Top()


def test_settings_that_need_each_other_come_in_any_order() -> None:
    """Neither order passes through a state that is refused; the end state is checked."""
    pair = ["outer.inner.enabled=false", "outer.inner.count=0"]
    for assignments in (pair, pair[::-1]):
        assert override(Top(), assignments).outer.inner == Inner(enabled=False, count=0)
    with pytest.raises(BadInput, match="outer.inner.count is 0"):
        override(Top(), pair[1:])
    paper = override(digits_gkt(), ["gkt.mixing=cutmix", "gkt.replayed_batches=4"])
    assert paper.gkt.mixing == "cutmix" and paper.gkt.learns_from_bank


def test_an_unknown_path_names_the_nearest() -> None:
    """Misspelt, a group, or empty: the path is named, with the valid names nearest to it."""
    with pytest.raises(BadInput) as error:
        override(digits(), ["gkt.epsilom=0.1"])
    assert error.value.thing == "setting" and error.value.value == "gkt.epsilom"
    assert "'gkt.epsilon'" in error.value.allowed and "--set" in str(error.value)
    for path in ("outer.inner", "", "outer.inner.count.more", "Seed"):
        with pytest.raises(BadInput, match="setting is"):
            override(Top(), [f"{path}=1"])


@pytest.mark.parametrize(
    ("assignment", "allowed"),
    [
        ("outer.inner.count=many", "integer"), ("outer.inner.count=1.5", "integer"),
        ("outer.inner.rate=fast", "number"), ("outer.inner.enabled=maybe", "boolean"),
        ("outer.inner.kind=kld", "'kl' or 'js'"), ("outer.inner.limit=soon", "integer"),
        ("outer.inner.widths=[1, x]", "JSON"), ("outer.inner.count=[1]", "integer"), ("seed=", "integer"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(assignment: str, allowed: str) -> None:
    """The message holds the path, the value as written, and what is allowed."""
    path, _, text = assignment.partition("=")
    with pytest.raises(BadInput) as error:
        override(Top(), [assignment])
    assert error.value.thing == path and error.value.value == text
    assert allowed in error.value.allowed
    assert all(part in str(error.value) for part in (path, repr(text), "--set"))


@pytest.mark.parametrize(
    "assignment",
    [
        "name=", "name=a b", "name=\ud800", "method=none", "data.test_fraction=nan",
        "data.test_fraction=1", "data.test_fraction=official",
        "model.name=lenet6", "model.width=nan", "model.width=0", "model.width=inf",
        "audit.trivial_offset=nan", "audit.trivial_offset=-1", "train.epochs=9223372036854775808",
    ],
)  # fmt: skip
def test_what_no_recipe_can_be_is_refused(assignment: str) -> None:
    """At once, by the setting's own name, rather than where it is used; the bounds themselves are told."""
    with pytest.raises(BadInput, match=assignment.partition("=")[0]):
        override(load_recipe("digits"), [assignment])


def test_an_assignment_without_equals_is_refused() -> None:
    """What is expected is shown."""
    with pytest.raises(BadInput, match="key.path=value"):
        override(Top(), ["seed 3"])


def test_the_settings_own_checks_are_made_again() -> None:
    """A value of the right type that a recipe refuses is refused by its own message."""
    with pytest.raises(BadInput, match="gkt.epsilon is 0.0"):
        override(digits(), ["gkt.epsilon=0"])


# A section that need not be there.

SECTION = WithExtra(group=Group(extra=Extra(size=4, share=0.25)))


@pytest.mark.parametrize(
    ("base", "assignments", "expected"),
    [
        (WithExtra(), ["group.extra=none"], None),
        (WithExtra(), ["group.extra.size=2"], Extra(size=2)),
        (WithExtra(), ["group.extra.share=0.1", "seed=1", "group.extra.size=2"], Extra(size=2, share=0.1)),
        (
            WithExtra(), ["group.extra.size=2", "group.extra.inner.count=9"],
            Extra(size=2, inner=Inner(count=9)),
        ),
        (SECTION, ["group.extra.share=0.1"], Extra(size=4, share=0.1)),
        (SECTION, ["group.extra=none"], None),
        (SECTION, ["group.extra.size=2", "group.extra=none"], None),
        (SECTION, ["group.extra=none", "group.extra.size=2"], Extra(size=2)),
    ],
)  # fmt: skip
def test_an_optional_section_is_set_and_taken_away(
    base: WithExtra, assignments: list[str], expected: Extra | None
) -> None:
    """Its fields make it where there is none; `none` takes it away; what is assigned last counts."""
    assert override(base, assignments).group == Group(extra=expected)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("group.extra.share=0.1", "group.extra is None; allowed: a whole section: set group.extra.size as"),
        ("group.extra=4", "group.extra is '4'; allowed: none, or what is in it: group.extra.size, "),
        ("group.extra.sise=4", "setting is 'group.extra.sise'; allowed: 'group.extra.size'"),
        ("group.extra.size=0", "group.extra.size is 0; allowed: at least 1"),
        ("group.extra.size=none", "group.extra.size is 'none'; allowed: .*integer"),
        ("group=none", "setting is 'group'"),
    ],
)
def test_what_an_optional_section_refuses(assignment: str, said: str) -> None:
    """Part of a section that is not there, a value in its place, and what any setting refuses."""
    with pytest.raises(BadInput, match=said):
        override(WithExtra(), [assignment])


def test_an_optional_section_enters_the_hash_where_it_is_there() -> None:
    """Not there, the hash is that of settings without such a section, which the JSON shows as null.

    There, each of its leaves counts. An optional leaf that is None counts: it has a value, none.
    """

    @dataclass(frozen=True, kw_only=True)
    class Before:
        name: str = "plain"

    assert config_hash(Group()) == config_hash(Before())
    assert stated(WithExtra()) == {"group": {"name": "plain"}, "seed": 0}
    assert to_json(Group()) == '{"extra":null,"name":"plain"}'
    there = [SECTION, *(override(SECTION, [s]) for s in ("group.extra.size=5", "group.extra.inner.rate=0"))]
    assert len({config_hash(s) for s in (WithExtra(), *there)}) == 4
    assert "limit" in stated(Inner()) and Inner().limit is None


def test_paths_of_an_optional_section() -> None:
    """A leaf where it is not there, its own leaves where it is; both are rebuilt from their paths."""
    (declared, value) = paths(WithExtra())["group.extra"]
    assert value is None and declared == (Extra | None)
    assert "group.extra" not in paths(SECTION) and paths(SECTION)["group.extra.inner.count"] == (int, 3)
    for wanted, base in ((SECTION, WithExtra()), (WithExtra(), SECTION)):
        written = [
            f"{path}={json.dumps(v) if isinstance(v, tuple) else v}" for path, (_, v) in paths(wanted).items()
        ]
        assert override(base, written) == wanted


def test_wrong_labels_of_a_recipe_are_set_by_name() -> None:
    """`data.mislabelling` by its fields; alone the share says what it needs; `none` gives the recipe back."""
    named = ["data.mislabelling.of=7", "data.mislabelling.to=2,3,7"]
    recipe = override(digits(), named)
    assert recipe.data.mislabelling == Mislabelling(of=7, to=(2, 3, 7), share=0.2)
    assert override(recipe, ["data.mislabelling.share=0.5"]).data.mislabelling == Mislabelling(
        of=7, to=(2, 3, 7), share=0.5
    )
    assert (
        override(recipe, ["data.mislabelling=none"])
        == digits()
        == override(digits(), ["data.mislabelling=none"])
    )
    assert recipe.config_hash != digits().config_hash
    with pytest.raises(BadInput, match="set data.mislabelling.of, data.mislabelling.to as well"):
        override(digits(), ["data.mislabelling.share=0.5"])
    with pytest.raises(BadInput, match="data.mislabelling.share is 2.0; allowed: a finite number > 0"):
        override(recipe, ["data.mislabelling.share=2"])


def test_a_recipe_may_be_named_with_its_method() -> None:
    """`mnist_lenet_gkt`; the name without is what its hash, its space and the ledger know."""
    assert load_recipe("mnist_lenet_gkt") == load_recipe("mnist_lenet")
    assert load_recipe("digits_min_max") == replace(digits(), method="min_max")
    assert load_recipe("digits_few_shot").name == "digits_few_shot"
    for wrong in ("mnist_lenet_gtk", "mnist_lenetgkt", "_gkt", "gkt"):
        with pytest.raises(BadInput, match="--recipe"):
            load_recipe(wrong)


def test_hashes_of_recipes_stay() -> None:
    """What was computed under these hashes took days; a new optional section leaves them as they were.

    They change with the gate: what another gate has let pass is another result.
    """
    assert digits().data.mislabelling is None
    assert digits().config_hash == "1266247696a7894f9256cd9452c2fa2076ff5c6700226efb85299116476ed484"
    assert digits_gkt().config_hash == "812203378945bdd7229cca33ac009148aec4149df200dd74134d11153daf72e3"


def test_the_default_of_what_is_held_out_is_stated_as_what_it_was() -> None:
    """The digits have no official test part, where the default means what it meant: their hashes stay.

    Of another dataset it may mean the official part: no run of half of each class is taken for that.
    """
    assert digits().data.test_fraction == "official_or_half"
    assert override(digits(), ["data.test_fraction=0.5"]).config_hash == digits().config_hash
    other = [
        override(digits(), ["data.dataset=parquet:x", *said])
        for said in ([], ["data.test_fraction=0.5"], ["data.test_fraction=none"], ["data.test_fraction=0.25"])
    ]
    assert [recipe.data.test_fraction for recipe in other] == ["official_or_half", 0.5, None, 0.25]
    assert len({recipe.config_hash for recipe in other}) == 4


def test_a_setting_that_came_later_counts_where_it_changes_what_was_done() -> None:
    """Where it says what was done before it is no part of the hash, whatever its default is."""

    @dataclass(frozen=True, kw_only=True)
    class Older:
        """Before."""

        width: int = 3

    @dataclass(frozen=True, kw_only=True)
    class Newer(Older):
        """After."""

        share: float = dataclasses.field(default=0.02, metadata={"before": 0.1})

    assert Newer().share == 0.02
    assert config_hash(Newer(share=0.1)) == config_hash(Older())
    assert len({config_hash(made) for made in (Older(), Newer(), Newer(share=0.3))}) == 3
    assert paths(Newer(share=0.1))["share"][1] == 0.1


# Paths, JSON and hash.


@given(TOPS)
def test_paths_and_json_hold_the_same_leaves(settings: Top) -> None:
    """Walking the JSON by each dotted path gives each leaf's value, and there are no others."""
    tree = json.loads(to_json(settings))
    leaves = paths(settings)
    for path, (_, value) in leaves.items():
        node: Any = tree
        for part in path.split("."):
            node = node[part]
        assert node == (list(value) if isinstance(value, tuple) else value)
    assert json.loads(to_json(override(settings, []))) == tree
    inner = {f"outer.inner.{f.name}" for f in dataclasses.fields(Inner)}
    assert set(leaves) == {"seed", "outer.name"} | inner


@given(TOPS, TOPS)
def test_settings_are_rebuilt_from_their_paths(wanted: Top, base: Top) -> None:
    """Every leaf written as text over other settings gives equal settings and the same hash."""

    def text(value: object) -> str:
        if isinstance(value, tuple):
            return json.dumps(value)
        return "none" if value is None else str(value)

    rebuilt = override(base, [f"{path}={text(value)}" for path, (_, value) in paths(wanted).items()])
    assert rebuilt == wanted
    assert config_hash(rebuilt) == config_hash(wanted)


def test_the_hash_of_a_recipe_is_of_what_its_method_depends_on() -> None:
    """Another method's section changes nothing; the method's own, what all share, and the method do."""
    base = digits()
    same = [override(base, [setting]) for setting in ("gkt.epsilon=0.5", "ispf.epochs=3", "fisher.alpha=0")]
    assert {recipe.config_hash for recipe in same} == {base.config_hash}
    assert len({config_hash(recipe) for recipe in same}) == 3
    others = ("gated_inversion.epsilon=0.5", "gate.least_power=0.5", "train.epochs=3", "method=gkt")
    assert len({base.config_hash, *(override(base, [setting]).config_hash for setting in others)}) == 5


def test_the_hash_changes_with_every_leaf() -> None:
    """One leaf at a time, over both recipes: all hashes differ."""
    for recipe in (digits(), digits_gkt()):
        hashes = {config_hash(recipe)}
        changes = 0
        for path, (_, value) in paths(recipe).items():
            tree = json.loads(to_json(recipe))
            node = tree
            *groups, leaf = path.split(".")
            for group in groups:
                node = node[group]
            node[leaf] = f"not {value}"
            changed = with_leaf(recipe, path.split("."), node[leaf])
            assert json.loads(to_json(changed)) == tree
            hashes.add(config_hash(changed))
            changes += 1
        assert changes > 60 and len(hashes) == changes + 1


def with_leaf(settings: Any, path: list[str], value: object) -> Any:
    """A copy with one leaf set past every check."""
    copied = object.__new__(type(settings))
    for f in dataclasses.fields(settings):
        old = getattr(settings, f.name)
        if f.name == path[0]:
            old = value if len(path) == 1 else with_leaf(old, path[1:], value)
        object.__setattr__(copied, f.name, old)
    return copied


def test_the_hash_does_not_change_with_order() -> None:
    """Fields declared in another order, and assignments given in another order."""

    @dataclass(frozen=True, kw_only=True)
    class Backwards:
        seed: int = 0
        outer: Outer = field(default_factory=Outer)

    assert config_hash(Top()) == config_hash(Backwards())
    pair = ["seed=4", "outer.inner.rate=0.75"]
    hashes = {config_hash(override(Top(), assignments)) for assignments in (pair, pair[::-1])}
    assert len(hashes) == 1 and config_hash(Top()) not in hashes


def test_the_hash_is_the_sha_256_of_canonical_json() -> None:
    """Sorted keys, no spaces: what `printf '{"a":1,"b":0.5}' | sha256sum` says."""

    @dataclass(frozen=True)
    class Two:
        b: float = 0.5
        a: int = 1

    assert to_json(Two()) == '{"a":1,"b":0.5}'
    assert config_hash(Two()) == "2e76599baa1e42fd9bf6253fdc2bf4ea1317abe64622c63aeb6c862f4b705306"


def test_both_recipes_are_plain_data() -> None:
    """Every recipe goes through JSON, and every leaf has a type that text can set."""
    for make in RECIPES.values():
        for path, (declared, value) in paths(make()).items():
            text = "none" if value is None else str(value)
            if isinstance(value, tuple):
                text = ", ".join(map(str, value))
                assert parse_value(path, json.dumps(value), declared) == value
            assert parse_value(path, text, declared) == value


@pytest.mark.parametrize("name", ["cifar10", "svhn", "mnist"])
def test_a_data_set_s_name_is_the_project_s_own_recipe(name: str) -> None:
    """AllCNN served by partial restart; the paper's is named with its model, and any other method by name."""
    recipe = load_recipe(name)
    assert (recipe.name, recipe.data.dataset, recipe.method) == (name, name, "partial_restart")
    assert recipe.method_settings.kept is None
    assert load_recipe(f"{name}_gkt") == replace(recipe, method="gkt")
    assert load_recipe(f"{name}_allcnn").model.width == 1


def test_infinity_is_written_as_json_can() -> None:
    """A recipe's settings are recorded as JSON, which has no infinity; the text is what `--set` reads."""
    recipe = override(digits(), ["last_layer.log_lambda_per_parameter=-inf"])
    written = json.loads(to_json(recipe), parse_constant=lambda name: pytest.fail(name))
    assert written["last_layer"]["log_lambda_per_parameter"] == "-inf"
    assert override(digits(), ["last_layer.log_lambda_per_parameter=-inf"]) == recipe
    assert recipe.config_hash == digits().config_hash  # another method's section
