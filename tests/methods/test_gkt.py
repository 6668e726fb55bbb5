"""Gated knowledge transfer: the three roles, their messages, and what never happens between them."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.inversion.deep_inversion import BatchNormStatistics
from rayunlearn.methods.distillation import (
    attention_loss,
    attention_map,
    band_pass_filter,
    kl_divergence,
    lower_to_minimum,
    mask_classes,
)
from rayunlearn.methods.gkt.cycle import Judged, Pull, run_cycle
from rayunlearn.methods.gkt.generator import Generator
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.methods.gkt.student import Student, one_cycle
from rayunlearn.methods.gkt.teacher import Teacher
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.models.generators import GeneratorSpec, build_generator
from rayunlearn.models.weights import version_id

FORGET = (0, 3)
RETAIN = (1, 2, 4, 5, 6, 7, 8, 9)

PAPER = GKTSettings(
    cycles=6, schedule_cycles=6, batch_size=24, z_dim=16, generator_width=0.1, student_steps=3, epsilon=0.05
)
BANK = replace(
    PAPER,
    divergence_mean="samples",
    temperature=4.0,
    beta=15.0,
    targets="row_minimum",
    student_schedule="one_cycle",
    generator_output="pixel_range",
    generator_gate_weight=1.0,
    generator_bn_weight=0.01,
    inverted_per_class=4,
    replayed_batches=2,
    mixing="cutmix",
)
EITHER = pytest.mark.parametrize("settings", [PAPER, BANK], ids=["paper", "bank"])


@pytest.fixture
def version(digits_version: Callable[[], Classifier]) -> Classifier:
    """The version to forget from: a trained teacher, so that its answers differ from image to image."""
    return digits_version()


@dataclass
class Spies:
    """What was refused, and what the student's body was given, as bytes of single images."""

    refused: set[bytes] = field(default_factory=set)
    passed: set[bytes] = field(default_factory=set)
    seen: list[Tensor] = field(default_factory=list)

    def seen_images(self) -> set[bytes]:
        """Every image that entered the student's first layer, in either mode."""
        return {as_bytes(image) for batch in self.seen for image in batch}


def as_bytes(image: Tensor) -> bytes:
    """An image's identity: its bits."""
    return image.detach().contiguous().numpy().tobytes()


def stand_ins(seed: int = 5) -> Tensor:
    """Images `[32, 1, 8, 8]` for the bank in DeepInversion's place."""
    return torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def roles(
    version: Classifier, settings: GKTSettings, seed: int = 0, forget: tuple[int, ...] = FORGET
) -> tuple[Teacher, Student, Generator]:
    """Fresh roles of a run, as the runtime builds them."""
    low, high = version.spec.pixel_range
    spec = GeneratorSpec(
        z_dim=settings.z_dim, width=settings.generator_width, channels=1, image_size=8,
        output=settings.generator_output, low=low, high=high,
    )  # fmt: skip
    inverted = stand_ins() if settings.inverted_per_class else None
    return (
        Teacher(copy.deepcopy(version), forget, settings),
        Student(build_classifier(version.spec, seed + 100), settings),
        Generator(build_generator(spec, seed), settings, seed, inverted),
    )


def spy(teacher: Teacher, student: Student, epsilon: float) -> Spies:
    """Write down each image the filter decides on, by the teacher's own answer, and each the student sees."""
    spies = Spies()

    def watch_teacher(_: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        decide(inputs[0], logits)

    def decide(images: Tensor, logits: Tensor) -> None:
        likely = logits.detach().softmax(1)[:, list(FORGET)].amax(1)
        for image, p in zip(images, likely, strict=True):
            (spies.passed if p < epsilon else spies.refused).add(as_bytes(image))

    with_maps = teacher.model.forward_with_maps

    def watched_with_maps(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits, maps = with_maps(x)
        decide(x, logits)
        return logits, maps

    teacher.model.register_forward_hook(watch_teacher)
    teacher.model.forward_with_maps = watched_with_maps  # type: ignore[method-assign]
    first = student.model.blocks[0]  # type: ignore[index]
    first.register_forward_pre_hook(lambda _, inputs: spies.seen.append(inputs[0].detach().clone()))
    return spies


# The generator's gradient.


class Doubled(nn.Module):
    """A generator in float64 for the float32 noise that the role draws."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.double()

    def forward(self, z: Tensor) -> Tensor:
        """Images in float64."""
        return self.inner(z.double())


ADVERSARIAL = replace(PAPER, clip_norm=1e9, epsilon=0.2, adversarial_weight=2.0)
GRADIENT_CASES = {
    "paper": ADVERSARIAL,
    "js": replace(ADVERSARIAL, divergence="js", divergence_mean="samples", temperature=3.0),
    "row minimum": replace(
        ADVERSARIAL, targets="row_minimum", temperature=4.0, divergence_mean="samples",
        generator_bn_weight=0.3, generator_gate_weight=0.7,
    ),
    "masked": replace(ADVERSARIAL, targets="masked", generator_bn_weight=0.3, generator_gate_weight=0.7),
    "gate alone": replace(ADVERSARIAL, adversarial_weight=0.0, generator_gate_weight=1.0),
}  # fmt: skip


def torch_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """D_KL(p || q) by torch, mean over the batch."""
    return nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def joint_loss(
    settings: GKTSettings, teacher: Classifier, student: Classifier, images: Tensor, *, flaw: str = ""
) -> Tensor:
    """The generator's loss on one graph from the images through both models, written out from the paper."""
    with BatchNormStatistics(teacher) as statistics:
        logits = teacher(images)
        distance = statistics.take()
    passed = band_pass_filter(logits.detach(), FORGET, settings.epsilon)
    assert 2 <= int(passed.sum()) < len(images), "the case must have images of both kinds"
    if flaw == "no filter":
        passed = torch.ones_like(passed)
    targets = {
        "teacher": lambda: logits,
        "masked": lambda: mask_classes(logits, FORGET),
        "row_minimum": lambda: lower_to_minimum(logits, FORGET),
    }[settings.targets]()[passed]
    if flaw == "constant teacher":
        targets = targets.detach()
    t, s = targets / settings.temperature, student(images[passed]) / settings.temperature
    if settings.divergence == "kl":
        divergence = torch_kl(t.log_softmax(1), s.log_softmax(1))
    else:
        mixture = ((t.softmax(1) + s.softmax(1)) / 2).log()
        divergence = (torch_kl(t.log_softmax(1), mixture) + torch_kl(s.log_softmax(1), mixture)) / 2
    if settings.divergence_mean == "elements":
        divergence = divergence / logits.shape[1]
    gate = -(1 - logits.softmax(1)[:, list(FORGET)].sum(1)).log().mean()
    sign = 1 if flaw == "sign" else -1
    loss = sign * settings.adversarial_weight * divergence
    return loss + settings.generator_bn_weight * distance + settings.generator_gate_weight * gate


def gradients(loss: Tensor, model: nn.Module) -> Tensor:
    """All gradients in one vector."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("case", GRADIENT_CASES)
def test_messages_carry_the_joint_graphs_gradient(case: str, version: Classifier) -> None:
    """propose, judge, challenge, pull, update: the generator's gradient is autograd's, to 1e-9 in float64.

    Negative controls: a constant teacher, no filter and the other sign are each far off.
    """
    settings = GRADIENT_CASES[case]
    teacher, student, generator = roles(version, settings)
    teacher.model.double()
    student.model.double().eval()
    generator.model = Doubled(generator.model)
    generator.optimizer = torch.optim.SGD(generator.model.parameters(), lr=0.0)
    reference = copy.deepcopy(generator.model)

    generator.update(teacher.pull(student.challenge(teacher.judge(generator.propose(0)))))
    got = torch.cat([p.grad.flatten() for p in generator.model.parameters()])

    def expected(flaw: str = "") -> Tensor:
        images = reference(generator._z(0))
        return gradients(joint_loss(settings, teacher.model, student.model, images, flaw=flaw), reference)

    def relative_error(other: Tensor) -> float:
        return float((got - other).norm() / got.norm())

    assert got.norm() > 1e-6
    assert relative_error(expected()) < 1e-9
    if settings.adversarial_weight:
        for flaw in ("constant teacher", "no filter", "sign"):
            assert relative_error(expected(flaw)) > 1e-3, flaw


def test_the_reported_generator_loss_is_the_joint_loss(version: Classifier) -> None:
    """The figure in the records is the loss that was differentiated, over passed images and own terms."""
    settings = GRADIENT_CASES["row minimum"]
    teacher, student, generator = roles(version, settings)
    images = generator.propose(0)
    student.model.eval()
    with torch.no_grad():
        expected = joint_loss(settings, teacher.model, student.model, images)
    generator.update(teacher.pull(student.challenge(teacher.judge(images))))
    assert generator.report()["generator_loss"] == pytest.approx(float(expected), rel=1e-4)


def test_generator_steps_raise_the_divergence(version: Classifier) -> None:
    """Against a student that stands still, 15 generator steps raise D(T || S): it is adversarial."""
    settings = replace(PAPER, epsilon=1.0, generator_lr=3e-3)
    teacher, student, generator = roles(version, settings)
    values = []
    for _ in range(15):
        challenge = student.challenge(teacher.judge(generator.propose(0)))
        values.append(challenge.divergence)
        generator.update(teacher.pull(challenge))
    assert values[-1] > 1.2 * values[0]


def test_a_batch_of_which_nothing_passes_gives_no_gradient(version: Classifier) -> None:
    """No image passed: the paper's loss has gradient 0 (not NaN), and the gate's term still pulls."""
    for gate in (0.0, 1.0):
        settings = replace(PAPER, epsilon=1e-12, generator_gate_weight=gate)
        teacher, student, generator = roles(version, settings)
        pull = teacher.pull(student.challenge(teacher.judge(generator.propose(0))))
        assert pull.passed == 0
        assert bool(pull.images.isfinite().all())
        assert bool(pull.images.any()) == (gate > 0)


# The filter is a place.


@EITHER
def test_the_student_never_holds_a_refused_image(settings: GKTSettings, version: Classifier) -> None:
    """Over four cycles, in either mode, what enters the student is what the teacher let through, all of it.

    Negative control: with an open gate the same spies find in the student what should have been refused.
    """
    for gate in (settings.epsilon, math.inf):
        teacher, student, generator = roles(version, settings)
        spies = spy(teacher, student, settings.epsilon)
        teacher.settings = copy.copy(settings)
        object.__setattr__(teacher.settings, "epsilon", gate)  # past the check, which refuses an open gate
        for cycle in range(4):
            run_cycle(cycle, settings, teacher, student, generator)
        seen = spies.seen_images()
        assert len(spies.refused) > 20 and len(seen) > 20
        if gate == settings.epsilon:
            assert not seen & spies.refused
            assert seen == spies.passed
        else:
            assert spies.refused <= seen


@EITHER
def test_refused_images_are_in_no_message(settings: GKTSettings, version: Classifier) -> None:
    """`judge` and `label` hand on as many rows as passed, in order, with sizes that add up to them."""
    teacher, _, generator = roles(version, settings)
    images = generator.propose(0)
    judged = teacher.judge(images)
    with torch.no_grad():
        logits = version(images)
    passed = logits.softmax(1)[:, list(FORGET)].amax(1) < settings.epsilon
    assert 0 < int(passed.sum()) < len(images)
    assert torch.equal(judged.images, images[passed])
    assert judged.sizes == (int(passed.sum()),) and len(judged.logits) == int(passed.sum())
    assert not judged.images.requires_grad and not judged.logits.requires_grad

    batches = generator.supply(0)
    labelled = teacher.label(batches)
    assert len(labelled.sizes) == len(batches) == (settings.student_steps if settings is BANK else 1)
    assert sum(labelled.sizes) == len(labelled.images) == len(labelled.logits)
    assert len(labelled.images) < len(batches.flatten(0, 1))
    assert len(labelled.maps) == 8 and {len(m) for m in labelled.maps} == {len(labelled.images)}
    start = 0
    for batch, size in zip(batches, labelled.sizes, strict=True):
        rows = {as_bytes(image) for image in batch}
        assert {as_bytes(x) for x in labelled.images[start : start + size]} <= rows
        start += size


# Who is changed by what.


@EITHER
def test_the_teacher_is_unchanged_by_a_run(settings: GKTSettings, version: Classifier) -> None:
    """Weights, statistics, mode and gradients of the teacher are as before after three cycles."""
    teacher, student, generator = roles(version, settings)
    before = version_id(teacher.model.state_dict())
    for cycle in range(3):
        run_cycle(cycle, settings, teacher, student, generator)
    assert version_id(teacher.model.state_dict()) == before == version_id(version.state_dict())
    assert not any(module.training for module in teacher.model.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in teacher.model.modules())
    assert student.steps == 3 * settings.student_steps


def test_a_challenge_leaves_the_student_as_it_was(version: Classifier) -> None:
    """Weights, BatchNorm statistics and gradients stay; learning from the same batch changes them."""
    teacher, student, generator = roles(version, PAPER)
    student.model.train()
    before = student.weights()
    statistics = [m for name, m in before.items() if "running_mean" in name]
    student.challenge(teacher.judge(generator.propose(0)))
    assert len(statistics) == 8
    assert all(torch.equal(before[name], value) for name, value in student.weights().items())
    assert all(p.grad is None for p in student.model.parameters())
    student.learn(teacher.label(generator.supply(0)))
    changed = {name for name, value in student.weights().items() if not torch.equal(before[name], value)}
    assert {n for n in before if "running_mean" in n} <= changed and "head.weight" in changed


def test_student_batches_update_its_statistics_from_passed_images_alone(version: Classifier) -> None:
    """One step at momentum 0.1: running mean = 0.1 times the mean over what passed, not over the batch."""
    teacher, student, generator = roles(version, replace(PAPER, student_steps=1))
    batches = generator.supply(0)
    labelled = teacher.label(batches)
    conv, norm = student.model.blocks[0][0], student.model.blocks[0][1]  # type: ignore[index]
    with torch.no_grad():
        passed = 0.1 * conv(labelled.images).mean((0, 2, 3))
        everything = 0.1 * conv(batches[0]).mean((0, 2, 3))
    student.learn(labelled)
    assert torch.allclose(norm.running_mean, passed, atol=1e-6)
    assert not torch.allclose(norm.running_mean, everything, atol=1e-3)


# Student steps.


def judged(teacher: Teacher, images: Tensor, sizes: tuple[int, ...], *, beta: float) -> Judged:
    """A message with these sizes, its images taken as passed."""
    with torch.no_grad():
        logits, features = teacher.model.forward_with_maps(images)
    maps = tuple(attention_map(f) for f in features) if beta else ()
    return Judged(images, logits, maps, sizes)


def test_student_steps_on_one_batch_and_on_many(version: Classifier) -> None:
    """The paper: `student_steps` steps on the cycle's one batch. A bank: one step on each of its batches."""
    teacher, student, _ = roles(version, PAPER)
    images = stand_ins()
    calls: list[int] = []
    student.model.blocks[0].register_forward_pre_hook(  # type: ignore[index]
        lambda _, inputs: calls.append(len(inputs[0]))
    )
    assert student.learn(judged(teacher, images, (32,), beta=1.0)) == 3
    assert calls == [32, 32, 32]
    calls.clear()
    assert student.learn(judged(teacher, images, (12, 15, 2, 3), beta=1.0)) == 3 + 4
    assert calls == [12, 15, 2, 3]
    assert student.cycles == 2 and student.steps == 7


def test_a_batch_with_fewer_than_two_images_is_skipped(version: Classifier) -> None:
    """Sizes 0 and 1 make no step and no forward pass; a cycle of which nothing passed still counts."""
    teacher, student, _ = roles(version, PAPER)
    images = stand_ins()[:9]
    calls: list[int] = []
    student.model.blocks[0].register_forward_pre_hook(  # type: ignore[index]
        lambda _, inputs: calls.append(len(inputs[0]))
    )
    assert student.learn(judged(teacher, images, (0, 4, 1, 4), beta=1.0)) == 2
    assert calls == [4, 4]
    before = version_id(student.weights())
    for size in (0, 1):
        assert student.learn(judged(teacher, images[:size], (size,), beta=1.0)) == 2
    assert version_id(student.weights()) == before
    assert student.cycles == 3 and student.take_loss() is not None and student.take_loss() is None


@pytest.mark.parametrize("attention", ["squared", "norm"])
def test_a_student_step_is_adam_on_eq_9(attention: str, version: Classifier) -> None:
    """One step equals torch's Adam on (D/K + beta L_at) of a copy, bit for bit; the loss is reported.

    Negative control: without the attention loss, or with targets of another image, weights differ.
    """
    settings = replace(PAPER, student_steps=1, attention=attention, beta=20.0)
    teacher, student, _ = roles(version, settings)
    copied = copy.deepcopy(student.model)
    images = stand_ins()
    message = judged(teacher, images, (32,), beta=20.0)
    student.learn(message)

    def one_step(beta: float, targets: Tensor) -> tuple[str, float]:
        model = copy.deepcopy(copied).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        logits, features = model.forward_with_maps(images)
        loss = kl_divergence(targets, logits) / 10
        own = [attention_map(f) for f in features]
        loss = loss + beta * attention_loss(message.maps, own, squared=attention == "squared")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        return version_id(model.state_dict()), loss.item()

    weights, loss = one_step(20.0, message.logits)
    assert version_id(student.weights()) == weights
    assert student.take_loss() == pytest.approx(loss, rel=1e-6)
    assert weights != one_step(0.0, message.logits)[0]
    assert weights != one_step(20.0, message.logits.roll(1, 0))[0]


def test_gradients_are_clipped(version: Classifier) -> None:
    """The student's gradient has at most `clip_norm`, though beta makes it far longer before."""
    for clip in (0.5, 1e9):
        teacher, student, _ = roles(version, replace(PAPER, beta=1e5, clip_norm=clip, student_steps=1))
        student.learn(judged(teacher, stand_ins(), (32,), beta=1e5))
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in student.model.parameters()))
        assert norm == pytest.approx(0.5, rel=1e-3) if clip == 0.5 else norm > 10


def test_one_cycle_is_its_closed_form() -> None:
    """Linear to 1 over the first tenth, then 0.01 + 0.99 (1 + cos) / 2, held at 0.01; never above 1."""
    total = 200
    for step in range(20):
        assert one_cycle(step, total) == pytest.approx((step + 1) / 20)
    for step in (19, 20, 60, 109, 150, 199):
        along = (step - 19) / 180
        assert one_cycle(step, total) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi * along)) / 2)
    assert one_cycle(109, total) == pytest.approx(0.505)
    assert [one_cycle(s, total) for s in (199, 200, 10**6)] == pytest.approx([0.01] * 3)
    falling = [one_cycle(s, total) for s in range(19, 220)]
    assert falling == sorted(falling, reverse=True) and max(falling) == 1.0
    assert [one_cycle(s, 1) for s in (0, 1)] == pytest.approx([1.0, 0.01])


def test_the_schedule_reaches_the_optimizer(version: Classifier) -> None:
    """Step i of cycle c runs at one_cycle(c * steps + i) of the peak; "constant" stays at the peak."""
    settings = replace(PAPER, student_schedule="one_cycle", schedule_cycles=5, student_steps=4)
    teacher, student, _ = roles(version, settings)
    rates: list[float] = []
    student.optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    for _ in range(3):
        student.learn(judged(teacher, stand_ins(), (32,), beta=1.0))
    assert rates == pytest.approx([1e-3 * one_cycle(step, 20) for step in range(12)])
    teacher, student, _ = roles(version, PAPER)
    student.learn(judged(teacher, stand_ins(), (32,), beta=1.0))
    assert student.optimizer.param_groups[0]["lr"] == 1e-3


# The generator's draws and its watch.


def test_noise_is_the_seeds_and_the_cycles_alone(version: Classifier) -> None:
    """z of a cycle is the same before and after other cycles, in any order; seed and cycle each change it."""
    *_, one = roles(version, PAPER)
    *_, two = roles(version, BANK)
    forward = [one._z(c) for c in range(4)]
    for cycle in (3, 1):
        two.propose(cycle)
        two.supply(cycle)
    assert all(torch.equal(two._z(c), forward[c]) for c in (2, 0, 3, 1))
    assert not torch.equal(forward[0], forward[1])
    *_, other = roles(version, PAPER, seed=1)
    assert not torch.equal(other._z(0), forward[0])
    assert forward[0].shape == (24, 16) and abs(float(torch.cat(forward).mean())) < 0.1


def test_student_and_generator_steps_share_the_cycles_noise(version: Classifier) -> None:
    """Algorithm 2: with unmoved weights, the student's batch is the very batch that was proposed."""
    *_, generator = roles(version, PAPER)
    proposed = generator.propose(2)
    assert torch.equal(generator.supply(2)[0], proposed)
    assert not torch.equal(generator.supply(3)[0], proposed)


def test_the_bank_draws_from_recent_and_inverted_images_alone(version: Classifier) -> None:
    """Every image is one of the last two generator batches or an inverted one, at the share that was set."""
    settings = replace(BANK, mixing="none", batch_size=100, generated_share=0.25)
    *_, generator = roles(version, settings)
    batches = [generator.supply(cycle) for cycle in range(4)]
    assert batches[3].shape == (3, 100, 1, 8, 8)
    recent = {as_bytes(image) for batch in generator.replayed for image in batch}
    inverted = {as_bytes(image) for image in stand_ins()}
    assert len(generator.replayed) == 2 and len(recent) == 200
    drawn = [as_bytes(image) for image in batches[3].flatten(0, 1)]
    assert set(drawn) <= recent | inverted
    share = sum(image in recent for image in drawn) / len(drawn)
    assert 0.15 < share < 0.35  # 300 draws at 0.25: standard deviation 0.025
    assert not torch.equal(batches[3][0], batches[3][1])


def test_cutmix_takes_each_pixel_from_one_of_two_images(version: Classifier) -> None:
    """Every pixel of a mixed image is some bank image's at that place; most images are cut."""
    settings = replace(BANK, replayed_batches=0)
    *_, generator = roles(version, settings)
    bank, mixed = stand_ins()[:, 0], generator.supply(0)[:, :, 0].flatten(0, 1)
    assert bool((mixed[:, None] == bank[None]).any(1).all())
    whole = (mixed[:, None] == bank[None]).flatten(2).all(2).any(1)
    assert float(whole.float().mean()) < 0.3


def feed(generator: Generator, cycle: int, passed: int) -> None:
    """One generator step with a gradient of 1 a pixel and this many passing images."""
    images = generator.propose(cycle)
    generator.update(Pull(torch.ones_like(images), passed, 0.0))


WATCHED = replace(PAPER, stall_pass_rate=0.25, stall_cycles=3, snapshot_every=2)


def test_a_stalled_generator_goes_back_to_its_last_healthy_snapshot(version: Classifier) -> None:
    """Five healthy cycles, three below the rate: weights of the fourth, fresh optimizer, new noise, a count.

    At the rate is healthy (6 of 24 = 0.25), one image fewer is not.
    """
    *_, generator = roles(version, WATCHED)
    noise = generator._z(9)
    at: dict[int, str] = {}
    for cycle in range(7):
        feed(generator, cycle, 6 if cycle < 5 else 5)
        at[cycle] = version_id(generator.model.state_dict())
    figures = generator.report()
    assert figures["stalled"] is True and figures["recoveries"] == 0
    assert figures["pass_rate"] == pytest.approx((5 * 6 + 2 * 5) / (7 * 24))
    feed(generator, 7, 5)
    assert version_id(generator.model.state_dict()) == at[3]
    assert len(set(at.values())) == 7
    assert not generator.optimizer.state_dict()["state"]
    assert not torch.equal(generator._z(9), noise)
    figures = generator.report()
    assert figures["stalled"] is False and figures["recoveries"] == 1


def test_a_generator_that_recovers_by_itself_is_left_alone(version: Classifier) -> None:
    """Low cycles that are not `stall_cycles` running, and healthy ones, bring nothing back, count nothing."""
    *_, generator = roles(version, WATCHED)
    for cycle in range(12):
        before = version_id(generator.model.state_dict())
        feed(generator, cycle, 24 if cycle % 3 == 2 else 0)
        assert version_id(generator.model.state_dict()) != before
        assert generator.optimizer.state_dict()["state"]
    assert generator.report()["recoveries"] == 0
    for cycle in range(20):
        feed(generator, cycle, 24)
    assert generator.report() == {
        "pass_rate": 1.0, "generator_loss": 0.0, "stalled": False, "recoveries": 0,
    }  # fmt: skip
    assert generator.report()["pass_rate"] is None


def test_a_run_of_which_nothing_passes_counts_its_recoveries(version: Classifier) -> None:
    """Nothing ever passes: the student never steps, and 7 cycles make 2 recoveries to where it started."""
    settings = replace(WATCHED, epsilon=1e-12)
    teacher, student, generator = roles(version, settings)
    parameters = [p.clone() for p in generator.model.parameters()]
    before = version_id(student.weights())
    for cycle in range(7):
        run_cycle(cycle, settings, teacher, student, generator)
    assert generator.report()["recoveries"] == 2
    assert student.steps == 0 and version_id(student.weights()) == before
    # no gradient moved it: all that differs from the start are statistics, which snapshots hold too
    assert all(torch.equal(a, b) for a, b in zip(parameters, generator.model.parameters(), strict=True))


# Resuming.


@EITHER
def test_a_saved_run_goes_on_to_the_same_bits(settings: GKTSettings, version: Classifier) -> None:
    """3 cycles, a save without pickled code, fresh roles, 3 more: weights and figures as of 6 at once.

    The stall watch acts on the way (the fifth cycle), so its counters and snapshot are in the state too.
    Negative control: without any one part of the state the run ends elsewhere.
    """
    settings = replace(settings, stall_pass_rate=1.0, stall_cycles=5)

    def run(parts: tuple[Teacher, Student, Generator], first: int, last: int) -> None:
        for cycle in range(first, last):
            run_cycle(cycle, settings, *parts)

    def end(parts: tuple[Teacher, Student, Generator]) -> tuple[Any, ...]:
        _, student, generator = parts
        weights = version_id(student.weights()), version_id(generator.model.state_dict())
        return *weights, student.steps, student.take_loss(), generator.report()

    whole = roles(version, settings)
    run(whole, 0, 6)
    expected = end(whole)
    assert expected[-1]["recoveries"] == 1

    first = roles(version, settings)
    run(first, 0, 3)
    buffer = io.BytesIO()
    torch.save({"student": first[1].state(), "generator": first[2].state()}, buffer)
    run(first, 3, 6)
    assert end(first) == expected, "taking the state must not disturb the run"

    def resumed(dropped: tuple[str, str] | None = None) -> tuple[Any, ...]:
        buffer.seek(0)
        state = torch.load(buffer, weights_only=True)
        # another start of both, so that nothing but the state can bring the weights back
        parts = roles(version, settings, seed=77)
        parts[2].seed = 0
        if dropped is not None:
            role, key = dropped
            state[role][key] = (parts[1] if role == "student" else parts[2]).state()[key]
        parts[1].load(state["student"])
        parts[2].load(state["generator"])
        run(parts, 3, 6)
        return end(parts)

    assert resumed() == expected
    if settings.learns_from_bank:
        state = {"student": first[1].state(), "generator": first[2].state()}
        for role, key in ((role, key) for role, values in state.items() for key in values):
            assert resumed((role, key)) != expected, (role, key)


def test_a_state_is_a_copy(version: Classifier) -> None:
    """What was saved does not change when the run goes on, nor when what was loaded from it does."""
    teacher, student, generator = roles(version, BANK)
    run_cycle(0, BANK, teacher, student, generator)
    states = student.state(), generator.state()
    kept = copy.deepcopy(states)
    _, again, other = roles(version, BANK)
    again.load(states[0])
    other.load(states[1])
    for cycle in (1, 2):
        run_cycle(cycle, BANK, teacher, student, generator)
        run_cycle(cycle, BANK, teacher, again, other)

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        if isinstance(a, (list, tuple)):
            return len(a) == len(b) and all(map(same, a, b))
        return bool(a == b)

    assert same(states, kept)
    assert not same(student.state(), kept[0])


# Settings.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cycles", 0), ("cycles", 1.5), ("cycles", True), ("generator_steps", 0), ("student_steps", 0),
        ("batch_size", 1), ("z_dim", 0), ("schedule_cycles", 0), ("stall_cycles", 0), ("snapshot_every", 0),
        ("epsilon", 0.0), ("epsilon", 1.01), ("epsilon", math.nan), ("beta", -1.0), ("beta", math.nan),
        ("beta", math.inf), ("temperature", 0.0), ("temperature", math.inf), ("generator_lr", 0.0),
        ("student_lr", -1e-3), ("student_lr", math.nan), ("clip_norm", 0.0), ("generator_width", 0.0),
        ("student_weight_decay", -0.1), ("adversarial_weight", -1.0), ("generator_bn_weight", -1.0),
        ("generator_gate_weight", -1.0), ("inverted_per_class", -1), ("inverted_per_class", 0.5),
        ("replayed_batches", -1), ("generated_share", 1.1), ("stall_pass_rate", -0.1), ("mixing", "cutmix"),
        ("divergence", "kld"), ("divergence_mean", "sample"), ("attention", "sqared"), ("targets", "none"),
        ("student_schedule", "onecycle"), ("generator_output", "batchnrm"), ("mixing", "mixup"),
    ],
)  # fmt: skip
def test_settings_refuse_a_bad_value_by_name(name: str, value: object) -> None:
    """The field, the value and what is allowed; a misspelt choice is not taken for the other one."""
    with pytest.raises(BadInput) as error:
        GKTSettings(**{name: value})
    assert error.value.thing == f"gkt.{name}"
    assert error.value.value is value and error.value.allowed


def test_the_defaults_are_the_papers() -> None:
    """Section V.A: batch 256, z of 128, 10 student steps, epsilon 0.01, beta 250, 4000 epochs; one batch."""
    s = GKTSettings()
    assert (s.batch_size, s.z_dim, s.student_steps, s.generator_steps) == (256, 128, 10, 1)
    assert (s.epsilon, s.beta, s.temperature, s.cycles, s.clip_norm) == (0.01, 250.0, 1.0, 4000, 5.0)
    assert not s.learns_from_bank and s.targets == "teacher"
    assert (s.generator_bn_weight, s.generator_gate_weight, s.student_weight_decay) == (0.0, 0.0, 0.0)


def test_a_bank_without_its_images_is_refused(version: Classifier) -> None:
    """`inverted_per_class` above 0 without images is an error at construction, not an empty bank later."""
    spec = GeneratorSpec(z_dim=16, width=0.1, channels=1, image_size=8)
    with pytest.raises(BadInput, match="inverted"):
        Generator(build_generator(spec, 0), replace(BANK, generator_output="batchnorm"), 0, None)
