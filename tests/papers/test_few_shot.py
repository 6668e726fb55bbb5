"""The few-shot paper's rows: what is printed, what is run, and what is said to differ."""

from __future__ import annotations

import math

import pytest

from papers.few_shot import (
    CLASS,
    FIGURES,
    MISLABELLED,
    TABLES,
    TUNED_LAMBDA,
    page,
    row,
    transferred,
)
from papers.few_shot_figures import (
    CLASSIFIERS,
    COMPARISONS,
    FEW,
    FULL,
    KERNELS,
    LOSSES,
    T_ENT,
    T_ENT_SAID,
    TRANSFER,
    TUNED_LOG_LAMBDA,
)
from papers.rows import SCALES, differences
from rayunlearn.errors import BadInput
from rayunlearn.methods.registry import METHODS
from rayunlearn.recipes import load_recipe

PAGES = [("table", number) for number in TABLES] + [("figure", number) for number in FIGURES]
MOONS = {"table-1", "figure-2", "figure-3"}


def test_tables_that_print_the_same_experiment_agree() -> None:
    """Defaults of Tables 3, 6 and 7 are Table 2a's Ours+; Table 5's diagonal is Ours of Tables 2 and 4."""
    ours_plus = COMPARISONS["mnist", "preactresnet18", "class"]["few_shot_pretrained"]
    assert T_ENT[0.5] == LOSSES[""] == KERNELS["rbf"] == ours_plus
    for task in ("class", "mislabelled"):
        for model in ("preactresnet18", "lenet5_bn", "resnet50"):
            assert TRANSFER[task, model, model] == COMPARISONS["mnist", model, task]["few_shot"][FEW]


def test_the_papers_entropies_are_in_reverse_order() -> None:
    """In nats the three distributions have 0.867, 0.5, 0.282, where the paper says 0.282, 0.5, 0.867."""
    computed = [-(top * math.log(top) + (1 - top) * math.log((1 - top) / 9)) for top in T_ENT_SAID.values()]
    assert [round(value, 3) for value in computed] == list(T_ENT_SAID)[::-1]


def test_mislabelled_accuracies_are_multiples_of_a_137th() -> None:
    """Of every single run, originals and oracles: what the share of a fifth is inferred from."""
    for (_, _, task), models in COMPARISONS.items():
        if task == "mislabelled":
            for name in ("original", "oracle"):
                share = models[name][FULL].forget / 100 * 137
                assert abs(share - round(share)) < 0.01, (name, share)


def test_tuned_lambda_is_the_papers() -> None:
    """ln 10^-2410 over the 5130 parameters of a head of 512 features and 10 classes."""
    assert round(TUNED_LOG_LAMBDA * math.log(10) / (512 * 10 + 10), 2) == TUNED_LAMBDA


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("kind", "number"), PAGES)
def test_every_page_has_rows_of_known_methods(kind: str, number: str, scale: str) -> None:
    """Names are unique, methods the registry's, refused results published; the moons have no rows."""
    found = page(kind, number, scale)
    names = [each.name for each in found.rows]
    assert found.paper == "few-shot" and found.name == f"{kind}-{number}"
    assert bool(names) != (found.name in MOONS) and len(set(names)) == len(names)
    for each in found.rows:
        assert each.recipe.method in METHODS and each.recipe.publish_refused
        assert each.kind in METHODS[each.recipe.method].granularity
        own = {title for title in each.printed if title != "original"}
        assert own <= {each.title}, "the paper's figures of a row are its own"


@pytest.mark.parametrize(("kind", "number"), PAGES)
def test_the_papers_scale_has_no_reduction(kind: str, number: str) -> None:
    """At `--scale paper` no setting differs from the paper's recipe; on CPUs some do, and are listed."""
    assert not [d for r in page(kind, number, "paper").rows for d in differences(r.recipe, r.paper)]
    assert all(differences(r.recipe, r.paper) for r in page(kind, number, "cpu").rows)


def test_the_papers_settings() -> None:
    """Appendix C.4: weights of the losses, and the three optimizers. Eq. 1, 2, 4 and 8 have the same phi."""
    recipe = load_recipe("mnist_lenet5")
    train, few_shot = recipe.train, recipe.few_shot
    assert (train.optimizer, train.lr, train.momentum, train.weight_decay) == ("sgd", 0.01, 0.9, 2e-4)
    assert train.schedule == "constant"
    inversion = few_shot.model_inversion
    assert (inversion.lr, inversion.betas, inversion.weight_decay) == (2e-3, (0.5, 0.999), 2e-4)
    assert (inversion.batchnorm_weight, inversion.entropy_weight, inversion.augmentation_weight) == (
        10,
        1,
        0.03,
    )
    assert (inversion.diversity_weight, inversion.total_variation_weight) == (1, 3)
    assert (few_shot.lr, few_shot.momentum, few_shot.weight_decay) == (3e-3, 0.9, 2e-5)
    assert (few_shot.t_ent, few_shot.kernel, few_shot.examples_share) == (0.5, "rbf", 0.0)
    phi = inversion.transformations
    assert phi and train.transformations == recipe.fine_tune.transformations == phi
    assert few_shot.relearning.transformations == ()
    assert load_recipe("cifar10_resnet50").model.name == "resnet50"


def test_a_row_asks_for_what_its_method_can_forget() -> None:
    """Examples, a class, or samples where the class is named in part or the task is a mislabelling."""
    kinds = {
        (method, task.name, share): row("mnist", "lenet5_bn", task, "cpu", method, share).kind
        for method in ("few_shot", "fisher")
        for task in (CLASS, MISLABELLED)
        for share in (FULL, FEW)
    }
    assert {kind for (method, *_), kind in kinds.items() if method == "few_shot"} == {"examples"}
    assert kinds["fisher", "class", FULL] == "classes"
    rest = [kind for key, kind in kinds.items() if key[0] == "fisher" and key[1:] != ("class", FULL)]
    assert set(rest) == {"samples"} and len(rest) == 3


def test_tasks_and_their_measures() -> None:
    """Class 9 is to be answered no more; mislabelled 7s are to be answered rightly, a fifth of them."""
    whole, wrong = (row("mnist", "lenet5_bn", task, "cpu", "few_shot") for task in (CLASS, MISLABELLED))
    assert whole.requests == ((9,),) and (whole.erased, whole.wanted_high) == ("forget_accuracy", False)
    assert wrong.requests == ((2, 3),) and (wrong.erased, wrong.wanted_high) == ("mislabelled_accuracy", True)
    mislabelling = wrong.recipe.data.mislabelling
    assert mislabelling is not None and mislabelling.erased == (2, 3) and mislabelling.share == 0.2


def test_the_same_row_has_the_same_key_on_every_page() -> None:
    """Table 4's Ours is Table 6's default, and in Fig. 4, 5, 7 and 9; shares and donors have their own."""
    keys: dict[str, set[str]] = {}
    for kind, number in PAGES:
        for each in page(kind, number, "cpu").rows:
            keys.setdefault(each.name, set()).add(each.key)
    assert {len(found) for found in keys.values()} == {1}
    every = [key for found in keys.values() for key in found]
    assert len(set(every)) == len(every)
    name = "mnist-lenet5_bn-class-few_shot-0.03"
    holders = {
        (kind, number) for kind, number in PAGES for r in page(kind, number, "cpu").rows if r.name == name
    }
    shown = {("table", n) for n in "456"} | {("figure", n) for n in "4579"}
    assert holders == shown


def test_a_transferred_generator_is_of_another_classifier() -> None:
    """Its own: few-shot; another's: taken over from that one's row, which may be of the second original."""
    own = transferred(CLASS, "lenet5_bn", "lenet5_bn", "cpu")
    assert own.recipe.method == "few_shot" and own.donor is None
    lent = transferred(CLASS, "preactresnet18_2", "lenet5_bn", "cpu")
    assert lent.recipe.method == "few_shot_pretrained" and lent.recipe.few_shot.further_iterations == 0
    assert lent.donor is not None and lent.donor.second and not lent.second
    assert lent.donor.recipe.model.name == "preactresnet18"
    other = transferred(CLASS, "preactresnet18", "lenet5_bn", "cpu")
    assert other.donor is not None and not other.donor.second and other.key != lent.key
    count = len(CLASSIFIERS)
    assert len(page("table", "5", "cpu").rows) == 2 * (count + 2 * count * (count - 1))


@pytest.mark.parametrize(("scale", "iterations"), [("cpu", 100), ("paper", 1170)])
def test_a_transferred_generator_is_trained_further_as_well(scale: str, iterations: int) -> None:
    """A row of its own, from the same donor, which has no figure of the paper."""
    paper, ours = (transferred(CLASS, "lenet5_bn", "resnet50", scale, further=f) for f in (False, True))
    assert paper.recipe.few_shot.further_iterations == 0
    assert ours.recipe.few_shot.further_iterations == iterations
    assert ours.donor == paper.donor and ours.key != paper.key
    assert paper.title in paper.printed and ours.title not in ours.printed


def test_a_loss_is_switched_off_by_its_weight() -> None:
    """Table 6 and Fig. 10: a weight of 0, and only the loss that the row is called by."""
    for each in page("table", "6", "cpu").rows[1:]:
        inversion = each.recipe.few_shot.model_inversion
        off = [loss for loss in LOSSES if loss and getattr(inversion, f"{loss}_weight") == 0]
        said = [f"without {loss.replace('_', ' ')} loss" for loss in off] or ["all losses"]
        assert said == [each.title]


def test_stand_ins_are_said() -> None:
    """On CPUs LeNet5 stands in for PreActResNet-18, in the note and among the differences; not in Table 4."""
    for kind, number in (("table", "3"), ("table", "7"), ("figure", "8")):
        found = page(kind, number, "cpu")
        assert "LeNet5 stands in" in found.note and "LeNet5 stands in" not in page(kind, number, "paper").note
        assert ("model.name", "lenet5_bn", "preactresnet18") in differences(
            found.rows[0].recipe, found.rows[0].paper
        )
    assert "reverse order" in page("table", "3", "cpu").note
    assert "LeNet5 stands in" not in page("table", "4", "cpu").note


@pytest.mark.parametrize(
    ("kind", "number", "named"),
    [("table", "8", "--table is '8'; allowed: one of 1, 2"), ("figure", "1", "--figure is '1'")],
)
def test_an_unknown_page_is_named(kind: str, number: str, named: str) -> None:
    """What was asked for and what there is."""
    with pytest.raises(BadInput, match=named):
        page(kind, number, "cpu")
