"""The entropy attack on outputs that give members away, on outputs that do not, and on too few of them."""

import itertools
import math
from collections.abc import Mapping
from statistics import mean, stdev

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.svm import SVC
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.membership import (
    CalledMembers,
    EntropyAttackReport,
    EntropyAttackSettings,
    entropy_attack,
    output_entropy,
)

CLASSES = 5


def confident(n: int, seed: int) -> Tensor:
    """Logits [n, 5] of entropy below 0.01 nat."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, CLASSES, generator=g) + 10 * torch.eye(CLASSES)[torch.arange(n) % CLASSES]


def unsure(n: int, seed: int) -> Tensor:
    """Logits [n, 5] of entropy above 1.5 nat."""
    return torch.rand(n, CLASSES, generator=torch.Generator().manual_seed(seed)) / 2


def mixed(n: int, seed: int) -> Tensor:
    """Logits [n, 5] whose entropies spread from 0 to log 5."""
    g = torch.Generator().manual_seed(seed)
    return 6 * torch.rand(n, 1, generator=g) * torch.randn(n, CLASSES, generator=g)


def attack(logits: Mapping[str, Tensor], seed: int = 0, **settings: object) -> EntropyAttackReport:
    """The attack by the published settings, or others."""
    return entropy_attack(logits, EntropyAttackSettings(**settings), seed)  # type: ignore[arg-type]


def called(report: EntropyAttackReport) -> dict[str, tuple[int, int]]:
    """(called a member, count) by set."""
    parts = {name: getattr(report, name) for name in ("train", "retain", "forget", "test")}
    return {name: (part.called_member, part.count) for name, part in parts.items()}


def test_entropy_equals_scipys_and_closed_forms() -> None:
    """Nats in float64: scipy's on random logits and on log-probabilities, log K where logits are equal."""
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 3
    expected = scipy.stats.entropy(logits.double().softmax(1).numpy(), axis=1)
    assert np.allclose(output_entropy(logits).numpy(), expected, rtol=1e-12)
    assert np.allclose(output_entropy(logits.double().log_softmax(1)).numpy(), expected, rtol=1e-12)
    assert output_entropy(torch.zeros(1, 10)).item() == pytest.approx(math.log(10), rel=1e-12)
    assert not np.allclose(output_entropy(logits).numpy(), expected / math.log(2), rtol=0.1)  # not bits


def test_entropy_at_extremes_is_finite() -> None:
    """Logits of +-1e4 leave one or two possible classes: entropy 0 and log 2, where 0 log 0 would be NaN."""
    logits = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]])
    expected = torch.tensor([0.0, math.log(2), math.log(3)], dtype=torch.float64)
    assert torch.allclose(output_entropy(logits), expected, atol=1e-12)
    probabilities = logits.softmax(1)
    assert (probabilities * probabilities.log()).sum(1).isnan().any()


def test_separable_outputs_are_told_apart_exactly() -> None:
    """Members confident, the others not: every retain image is called, no test image, and of the forget
    images exactly the 30 confident ones of 41; train is retain and forget together."""
    forget = torch.cat([confident(30, 2), unsure(11, 3)])
    report = attack({"retain": confident(60, 0), "test": unsure(50, 1), "forget": forget})
    assert called(report) == {"train": (90, 101), "retain": (60, 60), "forget": (30, 41), "test": (0, 50)}
    assert report.forget.share == 30 / 41 and report.train.share == 90 / 101
    assert report.fitted == (25, 25)


def test_what_is_fitted_on_what_is_not_symmetric() -> None:
    """With retain unsure and test confident the same forget images are called the other way round."""
    forget = torch.cat([confident(30, 2), unsure(11, 3)])
    report = attack({"retain": unsure(60, 0), "test": confident(50, 1), "forget": forget})
    assert called(report) == {"train": (71, 101), "retain": (60, 60), "forget": (11, 41), "test": (0, 50)}


def test_a_model_that_is_sure_of_everything_gives_nothing_away() -> None:
    """Table VII's row of GKT: one entropy for all images is one answer for all of them."""
    same = torch.tensor([[9.0, 0, 0]])
    report = attack({name: same.repeat(40, 1) for name in ("retain", "forget", "test")})
    shares = {part.share for part in (report.train, report.retain, report.forget, report.test)}
    assert shares in ({0.0}, {1.0})


class Recorder(SVC):
    """A support vector machine that keeps what it was fitted on and what it was asked about."""

    made: list["Recorder"] = []

    def fit(self, X, y):
        """Keep the features of each label."""
        Recorder.made.append(self)
        self.parameters = (self.C, self.kernel, self.gamma)
        self.seen = {label: X[y == label].ravel().tolist() for label in (0, 1)}
        self.asked = []
        return super().fit(X, y)

    def predict(self, X):
        """Keep the features asked about."""
        self.asked.append(X.ravel().tolist())
        return super().predict(X)


def test_no_image_is_scored_by_an_attack_that_was_fitted_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the two fits every image is asked about exactly once, and never by the fit that it was part of;
    members are retain images, non-members test images, as many of either; forget images are in no fit."""
    monkeypatch.setattr("sklearn.svm.SVC", Recorder)
    monkeypatch.setattr(Recorder, "made", [])
    logits = {"retain": mixed(83, 0), "test": mixed(40, 1), "forget": mixed(21, 2)}
    report = attack(logits)
    entropies = {name: output_entropy(given).tolist() for name, given in logits.items()}
    assert len({value for values in entropies.values() for value in values}) == 83 + 40 + 21
    assert len(Recorder.made) == 2
    for made in Recorder.made:
        assert made.parameters == (3.0, "rbf", "auto")
        asked = set(itertools.chain(*made.asked))
        assert set(made.seen[1]) <= set(entropies["retain"]) - asked
        assert set(made.seen[0]) <= set(entropies["test"]) - asked
        assert len(made.seen[0]) == len(made.seen[1]) == 20
    scored = sorted(itertools.chain(*(part for made in Recorder.made for part in made.asked)))
    assert scored == sorted(itertools.chain(*entropies.values()))
    assert report.fitted == (20, 20)


def test_identical_distributions_are_not_told_apart() -> None:
    """Retain and test from one distribution, 30 of either, 150 seeds: the shares called differ by nothing
    (mean within four standard errors of 0).

    Negative control: scored on the images that it was fitted on, as in the published code, the same attack
    calls more of the members, by over ten standard errors.
    """

    def advantages(on_itself: bool) -> list[float]:
        found = []
        for seed in range(150):
            retain, test = mixed(30, 2 * seed), mixed(30, 2 * seed + 1)
            if on_itself:
                x = output_entropy(torch.cat([retain, test])).numpy()[:, None]
                fitted = SVC(C=3, gamma="auto").fit(x, np.repeat([1, 0], 30)).predict(x)
                found.append(fitted[:30].mean() - fitted[30:].mean())
            else:
                report = attack({"retain": retain, "test": test, "forget": test[:1]}, seed)
                found.append(report.retain.share - report.test.share)
        return found

    ours, published = advantages(on_itself=False), advantages(on_itself=True)
    assert abs(mean(ours)) < 4 * stdev(ours) / math.sqrt(150)
    assert mean(published) > 10 * stdev(published) / math.sqrt(150)


def test_sides_of_different_size_are_balanced() -> None:
    """Ten times as many members of the same distribution: the attack still calls some test images
    non-members. Negative control: fitted on all of them it calls every image a member."""
    retain, test = mixed(800, 0), mixed(80, 1)
    report = attack({"retain": retain, "test": test, "forget": mixed(50, 2)})
    assert report.fitted == (40, 40)
    assert 0.1 < report.test.share < 0.9 and 0.1 < report.retain.share < 0.9
    x = output_entropy(torch.cat([retain, test])).numpy()[:, None]
    everything = SVC(C=3, gamma="auto").fit(x, np.repeat([1, 0], [800, 80])).predict(x)
    assert everything.mean() == 1.0


def test_the_attack_is_a_function_of_its_seed() -> None:
    """Twice the same counts, whatever the global generators do; other halves for another seed."""
    logits = {"retain": mixed(50, 0), "test": mixed(60, 1), "forget": mixed(31, 2)}
    reports = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)
        reports.append(attack(logits, 7))
    assert reports[0] == reports[1]
    assert len({str(called(attack(logits, seed))) for seed in range(5)}) > 1


def test_log_probabilities_do_as_well_as_logits() -> None:
    """The same counts, and for logits of a graph, which is left alone."""
    logits = {"retain": confident(50, 0), "test": unsure(60, 1), "forget": confident(31, 2)}
    assert attack(logits) == attack({name: given.log_softmax(1) for name, given in logits.items()})
    assert attack(logits) == attack({name: given.clone().requires_grad_() for name, given in logits.items()})


def test_a_single_forget_image_is_scored_once() -> None:
    """The least forget set: one image, one answer."""
    report = attack({"retain": confident(20, 0), "test": unsure(20, 1), "forget": confident(1, 2)})
    assert called(report)["forget"] == (1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retain": None}, r"sets is \['forget', 'test'\]; allowed: exactly retain, forget, test"),
        ({"train": confident(30, 3)}, "the training set is retain and forget together"),
        ({"retain": confident(19, 0)}, "images of set 'retain' is 19; allowed: at least 20, 10 in each half"),
        ({"test": unsure(3, 0)}, "images of set 'test' is 3; allowed: at least 20"),
        ({"forget": confident(0, 0)}, "images of set 'forget' is 0; allowed: at least 1$"),
        ({"test": torch.zeros(30, 4)}, "classes of set 'test' is 4; allowed: 5, as of set 'retain'"),
        ({"forget": torch.zeros(30)}, "logits of set 'forget' is 'torch.float32 .30.'; allowed: floats"),
        ({"forget": torch.zeros(30, 5).long()}, "logits of set 'forget' is 'torch.int64"),
        ({"retain": torch.zeros(30, 1)}, "K >= 2"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Tensor | None], message: str) -> None:
    """A missing or unknown set, too few images, other classes or shapes: which set, and what it needs."""
    logits: dict[str, Tensor | None] = {
        "retain": confident(30, 0), "test": unsure(30, 1), "forget": confident(30, 2)
    }  # fmt: skip
    logits = {name: given for name, given in (logits | changes).items() if given is not None}
    with pytest.raises(BadInput, match=message):
        attack(logits)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["retain", "forget", "test"])
def test_logits_that_are_not_finite_are_an_error(name: str, value: float) -> None:
    """Two of 30 rows hold a NaN or an infinity: the error names the set and counts the rows."""
    logits = {"retain": confident(30, 0), "test": unsure(30, 1), "forget": confident(30, 2)}
    logits[name][3, 0] = logits[name][7, 1] = logits[name][7, 2] = value
    with pytest.raises(BadInput, match=f"logits of set '{name}' are not finite for 2 of 30 images"):
        attack(logits)


def test_fewer_images_where_they_are_allowed() -> None:
    """`least_fitted` is what either half of a fitted set must have."""
    logits = {"retain": confident(4, 0), "test": unsure(4, 1), "forget": confident(2, 2)}
    assert attack(logits, least_fitted=2).fitted == (2, 2)
    with pytest.raises(BadInput, match="at least 6, 3 in each half"):
        attack(logits, least_fitted=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("C", 0.0), ("C", math.inf), ("kernel", "poly"), ("gamma", "automatic"), ("least_fitted", 0)],
)
def test_settings_are_checked(name: str, value: object) -> None:
    """Each wrong field is refused by its name."""
    with pytest.raises(BadInput, match=f"audit.entropy.{name}"):
        EntropyAttackSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("counts", [(3, 2), (-1, 2), (0, 0)])
def test_counts_that_are_none_are_refused(counts: tuple[int, int]) -> None:
    """More called than there are, fewer than none, and a share of nothing."""
    with pytest.raises(BadInput, match="called_member"):
        CalledMembers(called_member=counts[0], count=counts[1])
