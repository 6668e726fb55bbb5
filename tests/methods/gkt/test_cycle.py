"""The three roles together: the gradient their messages carry, the filter, and resuming."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayunlearn.inversion.deep_inversion import BatchNormStatistics
from rayunlearn.methods.distillation import (
    MASKED_LOGIT,
    attention_map,
    band_pass_filter,
    lower_to_minimum,
    mask_classes,
)
from rayunlearn.methods.gkt.cycle import run_cycle
from rayunlearn.methods.gkt.generator import Generator
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.methods.gkt.student import Student
from rayunlearn.methods.gkt.teacher import Teacher
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.weights import version_id
from tests.methods.gkt.roles import BANK, EITHER, FORGET, PAPER, RETAIN, as_bytes, roles


@dataclass
class Spies:
    """What was refused, and what the student's body was given, as bytes of single images."""

    refused: set[bytes] = field(default_factory=set)
    passed: set[bytes] = field(default_factory=set)
    seen: list[Tensor] = field(default_factory=list)

    def seen_images(self) -> set[bytes]:
        """Every image that entered the student's first layer, in either mode."""
        return {as_bytes(image) for batch in self.seen for image in batch}


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
    "attention": replace(ADVERSARIAL, beta=40.0, generator_attention=True, attention="norm"),
    "attention, squared": replace(
        ADVERSARIAL, beta=250.0, generator_attention=True, targets="masked", generator_bn_weight=0.3
    ),
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
    answered, features = student.forward_with_maps(images[passed])
    t, s = targets / settings.temperature, answered / settings.temperature
    if settings.divergence == "kl":
        divergence = torch_kl(t.log_softmax(1), s.log_softmax(1))
    else:
        mixture = ((t.softmax(1) + s.softmax(1)) / 2).log()
        divergence = (torch_kl(t.log_softmax(1), mixture) + torch_kl(s.log_softmax(1), mixture)) / 2
    if settings.divergence_mean == "elements":
        divergence = divergence / logits.shape[1]
    if settings.generator_attention and flaw != "no attention":
        for theirs, own in zip(teacher.forward_with_maps(images[passed])[1], features, strict=True):
            maps = [m.square().mean(1).flatten(1) for m in (theirs, own)]
            left, right = (m / m.norm(dim=1, keepdim=True) for m in maps)
            difference = left - right
            squared = settings.attention == "squared"
            distance_l = difference.square().mean() if squared else difference.norm(dim=1).mean()
            divergence = divergence + settings.beta * distance_l
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
        flaws = ["constant teacher", "no filter", "sign"]
        for flaw in [*flaws, "no attention"] if settings.generator_attention else flaws:
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


@pytest.mark.parametrize("targets", ["teacher", "masked", "row_minimum"])
def test_students_learn_from_the_targets_that_were_set(targets: str, version: Classifier) -> None:
    """Both messages carry the teacher's logits treated as set, and `label` the attention maps with them.

    Masked: the forget classes have probability 0. Row minimum: they are at the row's least.
    """
    settings = replace(PAPER, targets=targets)
    teacher, _, generator = roles(version, settings)
    images = generator.propose(0)
    with torch.no_grad():
        logits, features = version.forward_with_maps(images)
    passed = band_pass_filter(logits, FORGET, settings.epsilon)
    plain = {
        "teacher": logits,
        "masked": logits.index_fill(1, torch.tensor(FORGET), MASKED_LOGIT),
        "row_minimum": logits.index_copy(
            1, torch.tensor(FORGET), logits[:, RETAIN].amin(1, keepdim=True).expand(-1, len(FORGET))
        ),
    }
    judged_by, labelled = teacher.judge(images), teacher.label(images[None])
    for message in (judged_by, labelled):
        assert torch.allclose(message.logits, plain[targets][passed], atol=1e-5)
        others = [name for name in plain if name != targets]
        assert not any(torch.allclose(message.logits, plain[n][passed], atol=1e-2) for n in others)
    assert judged_by.maps == ()
    for ours, full in zip(labelled.maps, features, strict=True):
        assert torch.allclose(ours, attention_map(full)[passed], atol=1e-6)
    assert Teacher(version, FORGET, replace(settings, beta=0.0)).label(images[None]).maps == ()


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


# Resuming.


@EITHER
def test_a_saved_run_goes_on_to_the_same_bits(settings: GKTSettings, version: Classifier) -> None:
    """3 cycles, a save without pickled code, fresh roles, 3 more: weights and figures as of 6 at once.

    The stall watch and the plateau schedule act on the way (the fifth cycle), so their counters are in the
    state too, and the snapshot is.
    Negative control: without any one part of the state the run ends elsewhere.
    """
    settings = replace(settings, stall_pass_rate=1.0, stall_cycles=5)
    # of the two schedules, each is what makes one part of the state matter
    inert = {("student", "plateau"), ("student", "statistics")}
    if not settings.learns_from_bank:
        settings = replace(settings, student_schedule="plateau", plateau_checkpoints=2, plateau_patience=0)
        inert = {("student", "cycles"), ("generator", "replayed")}

    def run(parts: tuple[Teacher, Student, Generator], first: int, last: int) -> None:
        for cycle in range(first, last):
            run_cycle(cycle, settings, *parts)
            parts[1].observe(1.0)

    def end(parts: tuple[Teacher, Student, Generator]) -> tuple[Any, ...]:
        _, student, generator = parts
        weights = version_id(student.checkpoint().state_dict()), version_id(generator.model.state_dict())
        return *weights, student.steps, student.report()["student_loss"], generator.report()

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
    state = {"student": first[1].state(), "generator": first[2].state()}
    for part in {(role, key) for role, values in state.items() for key in values} - inert:
        assert resumed(part) != expected, part


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
