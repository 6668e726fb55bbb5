"""The zoo's parts: requests, the cache, pictures, students and damages."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks.zoo.cache import Cache, Weights
from benchmarks.zoo.members import Workshop, retain_data
from benchmarks.zoo.pictures import drawn, photographed
from benchmarks.zoo.rows import FORMS, collected, once, tasks
from benchmarks.zoo.setups import SETUPS, Task
from benchmarks.zoo.students import StudentSettings, evened, shaken, taught
from benchmarks.zoo.without_data import Questions, measured
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.keeping import Keeping
from rayunlearn.evaluation.synthetic import assess, probe_recall
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.methods.distillation import kl_divergence, lower_to_minimum
from rayunlearn.methods.trivial import mask_logit
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier
from rayunlearn.roles import Roles

RGB = ClassifierSpec(
    name="allcnn", width=0.1, in_channels=3, image_size=32, num_classes=10, mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
)  # fmt: skip
GREY = ClassifierSpec(
    name="allcnn", width=0.1, in_channels=1, image_size=8, num_classes=4, mean=(0.3,), std=(0.4,)
)


def test_every_task_has_a_name_of_its_own_and_every_setup_a_recipe() -> None:
    """Of all data sets there are one class, two classes and a second request, from two originals at least."""
    every = tasks(tuple(SETUPS))
    assert len({task.name for task in every}) == len(every)
    for dataset in ("digits", "mnist", "svhn", "cifar10"):
        own = [task for task in every if task.setup.dataset == dataset]
        assert {len(task.requests) for task in own} == {1, 2}
        assert {len(task.requests[-1]) for task in own} == {1, 2}
        assert len({task.seed for task in own}) >= 2 and len({task.setup.model for task in own}) >= 2
    for setup in SETUPS.values():
        assert (setup.recipe.data.dataset, setup.recipe.model.name) == (setup.dataset, setup.model)


def test_a_setup_that_is_none_is_refused() -> None:
    """With the nearest name."""
    with pytest.raises(BadInput, match="digits-alcnn.*digits-allcnn"):
        tasks(("digits-alcnn",))


def test_the_roles_are_of_the_last_request() -> None:
    """Classes of earlier requests are forgotten already."""
    task = Task(setup=SETUPS["digits-allcnn"], seed=0, requests=((7,), (2, 0)))
    roles = task.roles(10)
    assert (roles.forgotten, roles.target, roles.retain) == ((7,), (2, 0), (1, 3, 4, 5, 6, 8, 9))


def test_what_is_made_is_made_once(tmp_path: Path) -> None:
    """For one origin once, also by another process's cache; for another origin anew."""
    made: list[int] = []

    def make() -> dict[str, dict[str, torch.Tensor]]:
        made.append(1)
        return {"0.5": {"body.0.weight": torch.arange(3.0)}, "1": {"body.0.weight": torch.ones(2)}}

    found = Cache(tmp_path).steps(("a", 1), make)
    again = Cache(tmp_path).steps(("a", 1), make)
    assert made == [1] and sorted(found) == sorted(again) == ["0.5", "1"]
    assert torch.equal(again["0.5"]["body.0.weight"], torch.arange(3.0))
    Cache(tmp_path).steps(("a", 2), make)
    assert made == [1, 1]
    images = SyntheticSet(images=torch.ones(2, 1, 2, 2), labels=torch.tensor([3, 4]), requested=3)
    kept = Cache(tmp_path).images("b", lambda: images)
    assert torch.equal(kept.images, images.images) and kept.labels.tolist() == [3, 4]


@pytest.mark.parametrize("spec", [RGB, GREY])
def test_pictures_are_the_seeds_and_within_the_pixels_range(spec: ClassifierSpec) -> None:
    """Of the classifier's shape, normalised, each different; the photographs' as well."""
    for source in (drawn, photographed):
        pictures = source(spec, 6, 1)
        assert pictures.shape == (6, spec.in_channels, spec.image_size, spec.image_size)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
        pixels = pictures * std + mean
        assert pixels.min() > -1e-5 and pixels.max() < 1 + 1e-5
        assert float(pixels.flatten(1).std(dim=1).min()) > 0.01, "a picture is of one colour"
        assert torch.equal(pictures, source(spec, 6, 1))
        assert not torch.equal(pictures, source(spec, 6, 2))
        assert len({tuple(p.flatten().tolist()) for p in pictures}) == 6


class Brightest(torch.nn.Module):
    """Answers an image with the number of its brightest pixel, as sure as the pixel is bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The first four pixels as logits."""
        return x.flatten(1)[:, :4]


def test_images_of_the_class_are_left_out_and_the_others_evened() -> None:
    """Three images of class 1, one of class 2 and one of the class: each class has half of the weight."""
    pool = torch.zeros(5, 1, 2, 2)
    for image, brightest in zip(pool, (1, 1, 1, 2, 0), strict=True):
        image.view(-1)[brightest] = 9
    kept, answers, weights = evened(Brightest(), pool, [0])  # type: ignore[arg-type]
    assert torch.equal(kept, pool[:4])
    assert answers.argmax(dim=1).tolist() == [1, 1, 1, 2]
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


@pytest.fixture
def teacher() -> Classifier:
    """Untrained, with a head by which its answers hang on the image and are sure."""
    model, pictures = build_classifier(GREY, 0), drawn(GREY, 200, 0)
    with torch.no_grad():
        for _ in range(100):
            model.train()(pictures)  # BatchNorm's statistics are of these
        features = model.eval().features(pictures)
        centre, spread = features.mean(dim=0), features.std()
        directions = torch.eye(4, features.shape[1]) - 0.25
        model.head.weight.copy_(3 * directions / spread)
        model.head.bias.copy_(-model.head.weight @ centre)
    return model


@pytest.mark.learned
def test_a_student_comes_near_its_teacher_and_never_answers_the_class(teacher: Classifier) -> None:
    """From the teacher with its head turned round, on pictures that neither saw.

    Over twelve root seeds to 13 +- 2 % of its first divergence.
    """
    student, settings = copy.deepcopy(teacher), StudentSettings(steps=100, batch_size=64, lr=1e-2)
    unseen = drawn(GREY, 200, 9)
    with torch.no_grad():
        student.head.weight.neg_()
        said = lower_to_minimum(teacher(unseen), [0])
        before = float(kl_divergence(said, student(unseen)))
    found = taught(student, teacher, drawn(GREY, 200, 3), [0], settings, 0)
    assert all(torch.equal(weight, student.state_dict()[name]) for name, weight in found.items())
    with torch.no_grad():
        answers = student.eval()(unseen)
    assert float(kl_divergence(said, answers)) < before / 3
    assert float((answers.argmax(dim=1) == 0).double().mean()) < 0.1


def test_noise_is_of_the_weights_own_size(teacher: Classifier) -> None:
    """Biases and statistics stay; the same seed goes further along one direction."""
    weights = dict(teacher.state_dict())
    little, more = shaken(weights, 0.1, 4), shaken(weights, 0.2, 4)
    for name, before in weights.items():
        moved = little[name] - before
        if before.dim() < 2:
            assert torch.equal(little[name], before)
            continue
        size = float(before.square().mean().sqrt())
        assert float(moved.square().mean().sqrt()) / size == pytest.approx(0.1, rel=0.5)
        torch.testing.assert_close(more[name] - before, 2 * moved)
    assert any(not torch.equal(shaken(weights, 0.1, 5)[name], little[name]) for name in weights)


def test_what_is_measured_of_a_model_is_what_the_gate_measures(teacher: Classifier) -> None:
    """By the same functions; what the stop sees is measured of checkpoints alone."""
    images = drawn(GREY, 300, 5)
    with torch.no_grad():
        labels = teacher(images).argmax(dim=1)
    check = SyntheticSet(images=images, labels=labels, requested=300)
    roles = Roles(retain=(1, 2, 3), target=(0,))
    keeping = Keeping(teacher, check, roles, 0)
    asked = Questions(
        check=check, keeping=keeping, stop=check, stop_keeping=keeping, roles=roles, seed=2
    )
    hidden = mask_logit(teacher, [0])
    found = measured(asked, hidden, checkpoint=True)
    assert found["probe"] == list(probe_recall(hidden, check, roles, 2))
    assert found["assessment"] == asdict(assess(hidden, check, roles))
    assert found["kept"] == keeping.measure(hidden) and found["kept"]["coarse"] == pytest.approx(1)
    assert found["stop"] == {"assessment": found["assessment"], "kept": found["kept"]}
    assert measured(asked, hidden, checkpoint=False) == found | {"stop": None}


def test_a_part_of_a_row_is_measured_once_for_a_model_and_a_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version or another form is measured anew; a row of an old form is not collected."""
    made: list[int] = []

    def make() -> float:
        made.append(1)
        return 0.5

    task = tasks(("digits-allcnn",))[0]
    rows = tmp_path / "rows"

    def write(part: str, version: str) -> None:
        about = {"task": task.name, "family": "hidden", "name": "parent", "version": version}
        once(rows / f"{task.name}.parent.json", part, about, make)

    write("truth", "a")
    write("truth", "a")
    assert len(made) == 1
    write("truth", "b")
    write("without_data", "b")
    assert len(made) == 3
    (row,) = collected(tmp_path, [task]).to_pylist()
    assert (row["version"], row["truth"], row["without_data"]) == ("b", 0.5, 0.5)
    monkeypatch.setitem(FORMS, "truth", 99)
    (row,) = collected(tmp_path, [task]).to_pylist()
    assert row.get("truth") is None and row["without_data"] == 0.5
    write("truth", "b")
    assert len(made) == 4
    write("without_data", "c")  # a build that ended here
    (row,) = collected(tmp_path, [task]).to_pylist()
    assert row["version"] == "c" and row.get("truth") is None, "parts of two versions are one row"


@pytest.mark.parametrize(
    ("family", "name", "has"),
    [
        ("retrained", "retrained-0", True), ("undertrained", "undertrained-0.1", True),
        ("noisy", "noisy-5", True), ("hidden", "mask_logit", False), ("version", "version", False),
        ("hidden-noisy", "hidden-noisy-5", False), ("method", "fine_tune-60", True),
        ("method", "delete-real-300", True), ("method", "delete-300", False),
        ("method", "gated_inversion-24", False), ("student", "student-retain-nothing", True),
        ("student", "student-photographs-nothing", False),
    ],
)  # fmt: skip
def test_a_row_says_what_its_model_was_made_from(family: str, name: str, has: bool) -> None:
    """Noise on a retrained model leaves it one that learned from samples of the retain classes."""
    assert retain_data(family, name) == has


@pytest.mark.parametrize("whole", [0.9, 0.6])
def test_a_damage_is_of_the_models_own_accuracy(
    whole: float, teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose D_r falls by half of the noise's size loses five points by noise of a tenth."""
    weights = dict(teacher.state_dict())

    def size(of: Weights) -> float:
        moved = of["head.weight"] - weights["head.weight"]
        return float(moved.square().mean().sqrt() / weights["head.weight"].square().mean().sqrt())

    def accuracy(self: Workshop, of: Weights, classes: tuple[int, ...], *, most: int | None = None) -> float:
        return whole - size(of) / 2

    monkeypatch.setattr(Workshop, "accuracy", accuracy)
    shop = object.__new__(Workshop)
    shop.cache = Cache(tmp_path)
    noisy = shop.damaged(weights, Roles(retain=(1, 2, 3), target=(0,)), 5.0, 1)
    assert size(noisy) == pytest.approx(0.1, abs=0.002)
