"""What users set: settings of recipes by dotted path, and the spaces that a search tries."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence

from hypothesis import strategies as st

from benchmarks.fuzz.kinds import Answer, Kind
from benchmarks.fuzz.mutations import TEXTS, mangled_text
from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.recipes import Recipe, load_recipe
from rayunlearn.scheduling.keeping import TERMS
from rayunlearn.scheduling.space import SPACES, as_text, assignments
from rayunlearn.settings import override, paths, to_json
from rayunlearn.tuning.search_space import draw as drawn
from rayunlearn.tuning.search_space import space_of

# settings

RECIPES = ("digits", "digits_gkt", "digits_few_shot", "mnist_lenet")
MAY_BE_BELOW_ZERO = {
    "last_layer.log_lambda_per_parameter", *(f"gate.calibration.{name}" for name in ("offset", *TERMS))
}  # fmt: skip
"""The first may be infinite as well; every other number is at least 0 and finite."""


@st.composite
def assigned(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A recipe and what is set of it."""
    name = draw(st.sampled_from(RECIPES))
    leaves = paths(load_recipe(name))
    said = []
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(sorted(leaves)))
        value = str(leaves[path][1])
        number = st.integers(-2, 10**22).map(str) | st.floats().map(str)
        text = draw(number | TEXTS | mangled_text(value) | st.just(value))
        entry = f"{path}={text}"
        said.append(draw(st.just(entry) | st.just(entry) | st.just(entry) | mangled_text(entry)))
    return name, said


def settings_faults(recipe: Recipe) -> list[str]:
    """What no setting may be, whichever it is."""
    wrong = []
    for path, (_, value) in paths(recipe).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                low = -math.inf if path in MAY_BE_BELOW_ZERO else 0
                high = math.inf if isinstance(number, float) else 2**63
                if not low <= number < high and not (path in MAY_BE_BELOW_ZERO and number == low):
                    wrong.append(f"{path} is {number!r}")
            if isinstance(number, str) and not number.isprintable():
                wrong.append(f"{path} is {number!r}")
    return wrong


def _set(case: tuple[str, Sequence[str]]) -> Answer:
    name, said = case
    before = load_recipe(name)
    recipe = override(before, said)
    wrong = settings_faults(recipe)
    was, now = paths(before), paths(recipe)
    named = [f"{entry.partition('=')[0].strip()}." for entry in said]
    for path in was.keys() | now.keys():
        near = any(name.startswith(f"{path}.") or f"{path}.".startswith(name) for name in named)
        if was.get(path) != now.get(path) and not near:
            wrong.append(f"{path} was changed and not named")
    again = [
        f"{path}={json.dumps(v) if isinstance(v, tuple) else as_text(v)}" for path, (_, v) in now.items()
    ]
    if not wrong and override(before, again) != recipe:
        wrong.append("it is another once it is written and read again")
    if recipe.model != before.model:  # whether it goes with the images is seen where these are
        ClassifierSpec(
            name=recipe.model.name, width=recipe.model.width, in_channels=1, image_size=32, num_classes=10,
            mean=(0.5,), std=(0.5,),
        )  # fmt: skip
    assert json.loads(to_json(recipe)) and len(recipe.config_hash) == 64
    return Answer(wrong=wrong)


SETTINGS = Kind(name="settings of recipes", cases=assigned(), read=_set)


# search spaces

_BASE = ("digits_gkt", "digits_few_shot")
_SPACES = (
    *(entry for (recipe, _), entries in SPACES.items() if recipe in _BASE for entry in entries),
    "gkt.cycles=randint(10,20)", "gkt.beta=quniform(0,1,0.25)", "gkt.z_dim=grid(8,16)",
    "gkt.generator_attention=choice(true,false)", "few_shot.gan.epochs=quniform(1,9,2)",
)  # fmt: skip


@st.composite
def spaces(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A recipe and entries of `--space`."""
    name = draw(st.sampled_from(_BASE))
    number = st.one_of(
        st.sampled_from(["0", "0.5", "1", "2", "4", "8", "10", "1e-3", "0.25", "1e300", "1e-300", "kl"]),
        st.floats(0.001, 20).map(str), st.integers(1, 50).map(str), st.floats().map(str),
        st.integers(-9, 10**20).map(str), TEXTS,
    )  # fmt: skip
    entries = []
    for _ in range(draw(st.integers(1, 3))):
        entry = draw(st.sampled_from(_SPACES))
        if draw(st.booleans()):
            key = entry.partition("=")[0]
            kind = draw(st.sampled_from(["uniform", "loguniform", "quniform", "randint", "choice", "grid"]))
            entry = f"{key}={kind}({','.join(draw(st.lists(number, min_size=1, max_size=4)))})"
        entries.append(draw(mangled_text(entry)) if draw(st.integers(0, 3)) == 0 else entry)
    return name, entries


def _space(case: tuple[str, Sequence[str]]) -> Answer:
    name, entries = case
    recipe = load_recipe(name)
    space = space_of(recipe, entries)
    wrong = []
    if space_of(recipe, space.entries) != space or not json.loads(space.to_json()):
        wrong.append("it is another once it is written and read again")
    for trial in range(3):
        point = drawn(space, 0, trial)
        if not space.holds(point):
            wrong.append(f"{point} does not lie in it")
        try:
            wrong += settings_faults(override(recipe, assignments(point)))
        except BadInput as error:
            wrong.append(f"the settings refuse {point}: {error}")
    if (space.size or 0) <= 100:
        with contextlib.suppress(RayUnlearnError):
            assert len(space.grid()) == space.size
    return Answer(wrong=wrong)


SEARCH_SPACES = Kind(name="search spaces", cases=spaces(), read=_space)

KINDS = (SETTINGS, SEARCH_SPACES)
