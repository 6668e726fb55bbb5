"""The likelihood ratio attack where members are known, where there are none, and on too few shadow models."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.lira import (
    AttackCurve,
    LikelihoodRatioSettings,
    attack_curve,
    likelihood_ratios,
    membership_scores,
    shadow_plan,
)

POOLED = LikelihoodRatioSettings()
PER_EXAMPLE = LikelihoodRatioSettings(variance="per_example")


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal float64 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The score.


def test_the_score_equals_the_naive_formula() -> None:
    """log(p / (1 - p)) of the softmax in float64, where that is exact enough; float32 logits included."""
    logits, labels = 3 * normal(200, 10, seed=0), torch.arange(200) % 10
    p = logits.softmax(1)[torch.arange(200), labels]
    assert torch.allclose(membership_scores(logits, labels), (p / (1 - p)).log(), rtol=1e-9, atol=1e-9)
    scores = membership_scores(logits.float(), labels)
    assert scores.dtype == torch.float64
    assert torch.allclose(scores, (p / (1 - p)).log(), atol=1e-5)
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert not torch.allclose(scores, -cross_entropy, atol=0.1)


def test_the_score_of_two_classes_is_the_difference_of_logits() -> None:
    """With K = 2 the log-odds are z_y - z_other; a constant added to all logits changes nothing."""
    logits = torch.tensor([[2.5, -1.0], [0.0, 7.0]])
    assert membership_scores(logits, torch.tensor([0, 0])).tolist() == [3.5, -7.0]
    shifted = membership_scores(logits + 100, torch.tensor([0, 0]))
    assert shifted.tolist() == [3.5, -7.0]


def test_the_score_at_extremes_is_finite() -> None:
    """Logits of +-1e4: +-2e4 up to the logarithm of ties, where the naive formula gives infinities."""
    logits = torch.tensor([[1e4, -1e4, -1e4], [-1e4, 1e4, -1e4], [1e4, 1e4, 1e4], [-1e4, 1e4, 1e4]])
    labels = torch.zeros(4).long()
    expected = [2e4 - math.log(2), -2e4, -math.log(2), -2e4 - math.log(2)]
    assert membership_scores(logits, labels).tolist() == pytest.approx(expected, abs=1e-9)
    p = logits.double().softmax(1)[:, 0]
    assert (p / (1 - p)).log().isinf().sum() == 3


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.tensor([[0.0, math.nan], [math.inf, 0.0]]), [0, 1], "logits that are NaN or infinite is 2"),
        (torch.zeros(2, 1), [0, 0], "K >= 2"),
        (torch.zeros(2, 3).long(), [0, 0], "floats of shape"),
        (torch.zeros(2, 3), [0, 3], "range of the labels"),
        (torch.zeros(2, 3), [0], "number of labels"),
    ],
)
def test_scores_of_what_does_not_fit_are_refused(logits: Tensor, labels: list[int], message: str) -> None:
    """NaN or infinite logits, one class, labels that are none or too few."""
    with pytest.raises(BadInput, match=message):
        membership_scores(logits, torch.tensor(labels))


# The plan.


@given(half=st.integers(2, 20), n=st.integers(1, 30), seed=st.integers(0, 2**31))
def test_every_candidate_is_in_exactly_half_of_the_shadows(half: int, n: int, seed: int) -> None:
    """Each column has S / 2 true, whatever S, N and seed; a coin for each cell would not do that."""
    shadows = 2 * half
    plan = shadow_plan(torch.arange(100, 100 + n), shadows, seed)
    assert plan.shape == (shadows, n) and plan.dtype == torch.bool
    assert plan.sum(dim=0).tolist() == [shadows // 2] * n


def test_a_candidates_column_is_its_own() -> None:
    """The draw depends on seed, S and the sample's id: not on its place, nor on the other candidates."""
    ids = torch.arange(50)
    plan = shadow_plan(ids, 8, 3)
    assert torch.equal(plan, shadow_plan(ids, 8, 3))
    assert torch.equal(plan.flip(1)[:, :20], shadow_plan(ids.flip(0)[:20], 8, 3))
    assert not torch.equal(plan, shadow_plan(ids, 8, 4))


def test_no_shadow_is_favoured() -> None:
    """Over 4000 candidates each of 8 shadows has half of them, and each pair of shadows shares 3/14 (both
    of C(8, 4) draws: C(6, 2) / C(8, 4)), within five standard errors."""
    plan = shadow_plan(torch.arange(4000), 8, 0).double()
    shares = plan.mean(dim=1)
    assert (shares - 0.5).abs().max() < 5 * 0.5 / math.sqrt(4000)
    both = (plan @ plan.T / 4000)[~torch.eye(8, dtype=torch.bool)]
    assert (both - 3 / 14).abs().max() < 5 * math.sqrt(3 / 14 * 11 / 14 / 4000)


@pytest.mark.parametrize(
    ("ids", "shadows", "message"),
    [
        ([1, 2], 7, "shadows is 7; allowed: an even number >= 4"),
        ([1, 2], 2, "shadows is 2"),
        ([1, 2], 8.0, "shadows is 8.0"),
        ([], 8, "at least one"),
        ([1, 2, 1], 8, "number of different sample ids is 2; allowed: 3, each once"),
    ],
)
def test_plans_that_cannot_be_are_refused(ids: list[int], shadows: int, message: str) -> None:
    """An odd number of shadows or fewer than four, no candidates, or one given twice."""
    with pytest.raises(BadInput, match=message):
        shadow_plan(torch.tensor(ids, dtype=torch.int64), shadows, 0)


# The likelihood ratio.


@pytest.mark.parametrize("settings", [POOLED, PER_EXAMPLE])
def test_ratios_equal_scipys_densities(settings: LikelihoodRatioSettings) -> None:
    """Each example's ratio is scipy's logpdf by means, and by variances with one degree of freedom less a
    mean, written as plain loops; the numbers of models with and without an example differ."""
    spread = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.1])
    scores, target = normal(12, 5, seed=0) * spread + torch.arange(5.0), 2 * normal(5, seed=1)
    included = torch.rand(12, 5, generator=torch.Generator().manual_seed(2)) < 0.4
    scores = scores + 2 * included
    assert included.sum(0).min() >= 2 and len(set(included.sum(0).tolist())) > 2

    expected = []
    for example in range(5):
        ratio = 0.0
        for mask, sign in ((included, 1), (~included, -1)):
            parts = [scores[mask[:, n], n].numpy() for n in range(5)]
            own = parts[example]
            if settings.variance == "per_example":
                variance = np.var(own, ddof=1)
            else:
                variance = sum(((p - p.mean()) ** 2).sum() for p in parts) / sum(len(p) - 1 for p in parts)
            ratio += sign * norm.logpdf(float(target[example]), own.mean(), math.sqrt(variance))
        expected.append(ratio)
    ratios = likelihood_ratios(target, scores, included, settings)
    assert ratios.dtype == torch.float64
    assert ratios.tolist() == pytest.approx(expected, rel=1e-9)
    other = PER_EXAMPLE if settings is POOLED else POOLED
    assert likelihood_ratios(target, scores, included, other).tolist() != pytest.approx(expected, rel=0.01)


def test_the_sign_of_the_ratio() -> None:
    """Models with the example score 1, without it -1: 0.9 has a ratio above 0, -0.9 below, and 0 none."""
    scores = torch.tensor([[1.1], [0.9], [-1.1], [-0.9]], dtype=torch.float64)
    included = torch.tensor([[True], [True], [False], [False]])
    for target, sign in ((0.9, 1), (-0.9, -1), (0.0, 0)):
        ratio = likelihood_ratios(torch.tensor([target]), scores, included, POOLED).item()
        assert (ratio > 1e-6) - (ratio < -1e-6) == sign


def test_equal_scores_have_a_least_variance() -> None:
    """Shadow models that all agree give a large ratio, not an infinite one nor NaN."""
    scores = torch.tensor([[2.0], [2.0], [1.0], [1.0]])
    included = torch.tensor([[True], [True], [False], [False]])
    for settings in (POOLED, PER_EXAMPLE):
        ratio = likelihood_ratios(torch.tensor([2.0]), scores, included, settings).item()
        assert ratio == pytest.approx(0.5 / 1e-6)


def test_the_attack_reaches_the_auc_of_its_closed_form() -> None:
    """In-scores N(mu + d, 1), out-scores N(mu, 1), mu of each example its own and known from 200 shadows:
    the ratio is increasing in score - mu, so the AUC is Phi(d / sqrt 2), within four standard errors.

    Negative control: one threshold on the score for all examples, mu having deviation 10, is near chance.
    """
    n, shadows, d = 2000, 200, 1.0
    mu = 10 * normal(2 * n, seed=0)
    included = shadow_plan(torch.arange(2 * n), shadows, 0)
    scores = mu + normal(shadows, 2 * n, seed=1) + d * included
    member = torch.arange(2 * n) < n
    target = mu + normal(2 * n, seed=2) + d * member
    for settings in (POOLED, PER_EXAMPLE):
        ratios = likelihood_ratios(target, scores, included, settings)
        curve = attack_curve(ratios[member], ratios[~member])
        assert abs(curve.auc - norm.cdf(d / math.sqrt(2))) < 4 * null_error(curve)
    assert attack_curve(target[member], target[~member]).auc < 0.56


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"included": [[1, 1, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]]},
         r"with and without example 1 is \(3, 1\); allowed: at least 2 of each"),
        ({"included": [[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]}, r"without example 2 is \(1, 3\)"),
        ({"included": [[1, 1], [1, 1], [0, 0], [0, 0]]}, r"included is 'torch.bool \[4, 2\]'"),
        ({"target": [0.0, 0.0]}, r"shape of the shadow scores is \[4, 3\]; allowed: \[S, 2\]"),
        ({"target": []}, "target's scores"),
        ({"target": [0.0, math.nan, math.inf]}, "target's scores that are NaN or infinite is 2; .* 0 of 3"),
        ({"scores": [[math.inf, 0.0, 0.0]] + [[0.0] * 3] * 3}, "shadow scores that are NaN or infinite is 1"),
    ],
)  # fmt: skip
def test_what_has_no_ratio_is_named(changes: dict[str, list], message: str) -> None:
    """Fewer than two models with or without an example (which, and how many), shapes, NaN and infinities."""
    given: dict[str, list] = {
        "target": [0.0, 1.0, 2.0],
        "scores": [[0.1, 0.2, 0.3]] * 4,
        "included": [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]],
    }
    given = given | changes
    target, scores = torch.tensor(given["target"]), torch.tensor(given["scores"])
    with pytest.raises(BadInput, match=message):
        likelihood_ratios(target, scores, torch.tensor(given["included"]).bool(), POOLED)


def test_numbers_for_truths_are_refused() -> None:
    """`included` of whole numbers would be turned about by ~ into something else: an error."""
    with pytest.raises(BadInput, match="included is 'torch.int64"):
        likelihood_ratios(torch.zeros(1), torch.zeros(4, 1), torch.tensor([[1], [1], [0], [0]]), POOLED)


# The attack on models that were trained.


def null_error(curve: AttackCurve) -> float:
    """Standard error of the AUC about 1/2 where nothing leaks: Mann-Whitney's U under its null, scaled."""
    return math.sqrt((curve.members + curve.non_members + 1) / (12 * curve.members * curve.non_members))


@dataclass(frozen=True)
class World:
    """Candidates with labels drawn by coin, which a model can only know by heart, and shadow models of them.

    A model is a ridge regression on about as many samples as weights; logits (-f, f).
    """

    images: Tensor
    labels: Tensor
    included: Tensor
    scores: Tensor

    CANDIDATES = 800
    WEIGHTS = 400
    SHADOWS = 16

    @classmethod
    def drawn(cls) -> World:
        """800 candidates, and 16 shadow models trained on half of them each."""
        images = normal(cls.CANDIDATES, cls.WEIGHTS, seed=0)
        labels = (normal(cls.CANDIDATES, seed=1) > 0).long()
        included = shadow_plan(torch.arange(cls.CANDIDATES), cls.SHADOWS, 0)
        scores = [membership_scores(cls.fitted(images[row], labels[row], images), labels) for row in included]
        return cls(images, labels, included, torch.stack(scores))

    @staticmethod
    def fitted(images: Tensor, labels: Tensor, shown: Tensor, ridge: float = 10.0) -> Tensor:
        """Logits [N, 2] of the shown images by a model fitted to the others."""
        gram = images.T @ images + ridge * torch.eye(images.shape[1], dtype=torch.float64)
        outputs = shown @ torch.linalg.solve(gram, images.T @ (2.0 * labels - 1).double())
        return torch.stack([-outputs, outputs], dim=1)

    def curve(
        self, targets: range, *, trained_on_members: bool, included: Tensor | None = None
    ) -> AttackCurve:
        """The attack on models that were trained on the members, a half of the candidates, or on as many
        other samples; pooled over the models of these numbers."""
        members, others = [], []
        for number in targets:
            half = torch.randperm(self.CANDIDATES, generator=torch.Generator().manual_seed(number)) < 400
            images, labels = self.images[half], self.labels[half]
            if not trained_on_members:
                images = normal(400, self.WEIGHTS, seed=100 + number)
                labels = (normal(400, seed=200 + number) > 0).long()
            target = membership_scores(self.fitted(images, labels, self.images), self.labels)
            masks = self.included if included is None else included
            ratios = likelihood_ratios(target, self.scores, masks, POOLED)
            members.append(ratios[half])
            others.append(ratios[~half])
        return attack_curve(torch.cat(members), torch.cat(others))


@pytest.fixture(scope="module")
def world() -> World:
    """Drawn once."""
    return World.drawn()


def test_a_planted_leak_is_found(world: World) -> None:
    """Models that were trained on the members: AUC over 0.9, and ten times the true positives at 1 %.

    Negative control: with the plan's columns exchanged, so that the attack mistakes which shadow model was
    trained with which example, it finds nothing in the same models (bounds: 4.9 standard errors).
    """
    curve = world.curve(range(4), trained_on_members=True)
    assert (curve.members, curve.non_members) == (1600, 1600)
    assert curve.auc > 0.9
    assert curve.tpr() > 0.1 and curve.note == ""
    order = torch.randperm(World.CANDIDATES, generator=torch.Generator().manual_seed(9))
    blind = world.curve(range(4), trained_on_members=True, included=world.included[:, order])
    assert 0.45 < blind.auc < 0.55


def test_models_trained_on_other_data_leak_nothing(world: World) -> None:
    """Targets that saw no candidate: AUC within 0.45 and 0.55.

    "Members" are then a coin's choice, so the AUC over 4 models with 400 + 400 candidates each has the null
    standard error of 1600 against 1600, 0.0102: the bounds are 4.9 of them away.
    """
    curve = world.curve(range(4), trained_on_members=False)
    assert null_error(curve) < 0.0103
    assert 0.45 < curve.auc < 0.55
    assert curve.tpr() < 0.01 + 5 * math.sqrt(0.01 * 0.99 * 2 / 1600)


def test_the_difference_to_retrain_finds_the_leak_and_nothing_else(world: World) -> None:
    """Against models that never saw the members, leaking ones differ by over 0.35; others that never saw
    them by less than 0.06, which is 4.1 standard errors of a difference of two such AUCs (0.0144)."""
    gold = world.curve(range(4), trained_on_members=False)
    leak = world.curve(range(4), trained_on_members=True)
    assert leak.auc - gold.auc > 0.35 and leak.tpr() - gold.tpr() > 0.1
    assert abs(world.curve(range(4, 8), trained_on_members=False).auc - gold.auc) < 0.06


# The curve.

FEW = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=25)


@given(members=FEW, others=FEW)
def test_the_auc_equals_all_pairs_and_the_libraries(members: list[float], others: list[float]) -> None:
    """Ties count half: exactly the count over all pairs, and scikit-learn's and scipy's figures."""
    curve = attack_curve(torch.tensor(members), torch.tensor(others))
    twice = sum(2 * (m > o) + (m == o) for m in members for o in others)
    assert curve.auc == twice / (2 * len(members) * len(others))
    truth = [1] * len(members) + [0] * len(others)
    assert curve.auc == pytest.approx(roc_auc_score(truth, members + others), abs=1e-12)
    assert curve.auc * len(members) * len(others) == pytest.approx(mannwhitneyu(members, others).statistic)


@given(members=FEW, others=FEW)
def test_the_curve_equals_scikit_learns(members: list[float], others: list[float]) -> None:
    """One point a distinct score, as counts; turned about, the AUC is its complement."""
    curve = attack_curve(torch.tensor(members), torch.tensor(others))
    truth = [1] * len(members) + [0] * len(others)
    fpr, tpr, _ = roc_curve(truth, members + others, drop_intermediate=False)
    assert np.allclose(curve.roc, np.stack([fpr, tpr], axis=1), atol=1e-12)
    assert (curve.members, curve.non_members) == (len(members), len(others))
    turned = attack_curve(-torch.tensor(members), -torch.tensor(others))
    assert turned.auc == pytest.approx(1 - curve.auc, abs=1e-12)


@given(members=FEW, others=FEW, max_fpr=st.sampled_from([0.0, 0.01, 0.1, 0.34, 1.0]))
def test_the_rate_at_a_low_rate_is_the_best_threshold(
    members: list[float], others: list[float], max_fpr: float
) -> None:
    """Over every threshold whose false positives are few enough, the most members; nothing between points."""
    curve = attack_curve(torch.tensor(members), torch.tensor(others))
    thresholds = [*members, *others, math.inf]
    allowed = [t for t in thresholds if sum(o >= t for o in others) <= max_fpr * len(others)]
    assert curve.caught(max_fpr) == max(sum(m >= t for m in members) for t in allowed)


def test_the_null_error_is_that_of_all_assignments() -> None:
    """Over all 252 ways to name five of ten scores members the AUC has mean 1/2 and this very deviation."""
    scores = torch.arange(10.0)
    found = []
    for chosen in itertools.combinations(range(10), 5):
        member = torch.isin(torch.arange(10), torch.tensor(chosen))
        curve = attack_curve(scores[member], scores[~member])
        found.append(curve.auc)
    assert np.mean(found) == pytest.approx(0.5) and np.std(found) == pytest.approx(null_error(curve))


@given(st.lists(st.integers(0, 60), min_size=1), st.lists(st.integers(0, 60), min_size=1), st.integers(3, 40))
def test_points_are_of_the_curve_and_few(members: list[int], others: list[int], most: int) -> None:
    """At most so many, each what `caught` says of its rate, from none to the first at which all are found."""
    curve = attack_curve(torch.tensor(members).double(), torch.tensor(others).double())
    points = curve.points(most)
    assert 1 <= len(points) <= most and len(set(points)) == len(points)
    assert points == [(fp, curve.caught(fp / curve.non_members)) for fp, _ in points]
    last = curve.false_positives[curve.true_positives.index(len(members))]
    assert points[0][0] == 0 and points[-1] == (last, len(members))
    if last < most:
        assert [fp for fp, _ in points] == list(range(last + 1))


def test_points_of_a_long_curve_are_dense_where_it_matters() -> None:
    """Of 100,000 non-members 200 points or fewer are kept, as many below 0.1 % as evenly in the logarithm."""
    curve = attack_curve(torch.arange(0, 100_000, 500).double(), torch.arange(100_000).double())
    points = curve.points()
    assert 150 < len(points) <= 200
    assert 0.4 < sum(fp <= 300 for fp, _ in points) / len(points) < 0.6
    with pytest.raises(BadInput, match="most is 2; allowed: a whole number >= 3"):
        curve.points(2)


def test_ties_of_a_model_that_says_one_thing() -> None:
    """One score for all: AUC one half, and no member is caught without every non-member."""
    curve = attack_curve(torch.zeros(30), torch.zeros(200))
    assert (curve.auc, curve.tpr(), curve.roc) == (0.5, 0.0, [(0.0, 0.0), (1.0, 1.0)])


@pytest.mark.parametrize(("n", "allowed"), [(50, 0), (99, 0), (100, 1), (199, 1), (200, 2), (700, 7)])
def test_what_one_percent_means_is_said(n: int, allowed: int) -> None:
    """Members 1, 2, 3, ... just above each of the non-members' scores in turn: as many as false positives
    are allowed, plus one, are caught; under 100 non-members the note says that none is allowed."""
    others = torch.arange(n, dtype=torch.float64)
    curve = attack_curve(others + 0.5, others)
    assert curve.caught() == allowed + 1
    assert curve.resolution == 1 / n
    assert bool(curve.note) == (n < 100)
    if n == 50:
        says = "one of 50 non-members is 2.00%: the true positive rate at 1% is that at no false positive"
        assert curve.note == says


def test_curves_of_nothing_are_refused() -> None:
    """No member, no non-member, NaN, infinities, counts that fall, a rate that is none."""
    some, none = torch.zeros(3), torch.zeros(0)
    for members, others, message in (
        (none, some, r"shape of the members is \[0\]; allowed: \[N\], at least one"),
        (some, none, "shape of the non-members"),
        (some, some[:, None], "shape of the non-members"),
        (torch.tensor([0.0, math.nan]), some, "scores of the members that are NaN or infinite is 1"),
        (some, torch.tensor([math.inf]), "scores of the non-members that are NaN or infinite is 1"),
    ):
        with pytest.raises(BadInput, match=message):
            attack_curve(members, others)
    for tp, fp in (((0, 2, 1), (0, 1, 1)), ((0, 1), (0, 1, 2)), ((0,), (0,)), ((1, 2), (0, 1)), ((), ())):
        with pytest.raises(BadInput, match="counts of the curve"):
            AttackCurve(true_positives=tp, false_positives=fp)
    with pytest.raises(BadInput, match="max_fpr is 1.5"):
        attack_curve(torch.arange(10.0), torch.arange(10.0)).tpr(1.5)


@pytest.mark.parametrize(
    ("name", "value"), [("variance", "global"), ("least_variance", 0.0), ("least_variance", math.inf)]
)
def test_settings_are_checked(name: str, value: object) -> None:
    """Each wrong field is refused by its name."""
    with pytest.raises(BadInput, match=f"audit.likelihood_ratio.{name}"):
        LikelihoodRatioSettings(**{name: value})  # type: ignore[arg-type]
