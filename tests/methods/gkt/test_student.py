"""The student: what changes it, what does not, and each of its steps."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rayunlearn.methods.distillation import (
    attention_loss,
    attention_map,
    kl_divergence,
)
from rayunlearn.methods.gkt.student import one_cycle
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.weights import version_id
from tests.methods.gkt.roles import BANK, PAPER, judged, roles, stand_ins


def test_a_challenge_leaves_the_student_as_it_was(version: Classifier) -> None:
    """Weights, BatchNorm statistics and gradients stay; learning from the same batch changes them."""
    teacher, student, generator = roles(version, PAPER)
    student.model.train()
    before = student.checkpoint().state_dict()
    statistics = [m for name, m in before.items() if "running_mean" in name]
    student.challenge(teacher.judge(generator.propose(0)))
    assert len(statistics) == 8
    assert all(torch.equal(before[name], value) for name, value in student.checkpoint().state_dict().items())
    assert all(p.grad is None for p in student.model.parameters())
    student.learn(teacher.label(generator.supply(0)))
    after = student.checkpoint().state_dict()
    changed = {name for name, value in after.items() if not torch.equal(before[name], value)}
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


def test_a_checkpoint_has_statistics_averaged_over_cycles(version: Classifier) -> None:
    """After cycles on batches of means a and b, whose ten steps leave weight w = 1 - 0.9 ** 10 on each:

    the model's running mean is r = w (a (1 - w) + b), the checkpoint's 0.1 (0.9 w a + r), and all else is
    the model's. A bank's student meets a new batch at each step, and its checkpoint is the model.
    """
    settings = replace(PAPER, student_steps=10, student_lr=1e-12, beta=0.0)
    teacher, student, generator = roles(version, settings)
    conv, norm = student.model.blocks[0][0], student.model.blocks[0][1]  # type: ignore[index]
    means = []
    for cycle in (0, 1):
        labelled = teacher.label(generator.supply(cycle))
        with torch.no_grad():
            means.append(conv(labelled.images).mean((0, 2, 3)))
        student.learn(labelled)
    a, b = means
    w = 1 - 0.9**10
    running = w * (a * (1 - w) + b)
    assert torch.allclose(norm.running_mean, running, atol=1e-6)
    own, published = student.model.state_dict(), student.checkpoint().state_dict()
    assert torch.allclose(published["blocks.0.1.running_mean"], 0.1 * (0.9 * w * a + running), atol=1e-6)
    differing = {name for name in own if not torch.equal(own[name], published[name])}
    assert differing == {name for name in own if name.endswith(("running_mean", "running_var"))}
    assert version_id(student.checkpoint().state_dict()) == version_id(published)

    teacher, student, generator = roles(version, BANK)
    student.learn(teacher.label(generator.supply(0)))
    assert version_id(student.checkpoint().state_dict()) == version_id(student.model.state_dict())


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
    before = version_id(student.checkpoint().state_dict())
    for size in (0, 1):
        assert student.learn(judged(teacher, images[:size], (size,), beta=1.0)) == 2
    assert version_id(student.checkpoint().state_dict()) == before
    losses = [student.report()["student_loss"] for _ in range(2)]
    assert student.cycles == 3 and losses[0] is not None and losses[1] is None


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
    assert version_id(student.model.state_dict()) == weights
    assert student.report()["student_loss"] == pytest.approx(loss, rel=1e-6)
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


def test_the_plateau_schedule_halves_the_rate_when_the_synthetic_loss_stops_falling(
    version: Classifier,
) -> None:
    """Means of two, 2, 2, 3, 1, 1: halved after the third, though single losses of 1 beat all before them.

    Negative control: under another schedule the rate stays what it was.
    """
    losses = (3.0, 1.0, 1.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0)
    halvings = {"plateau": (1, 1, 1, 1, 1, 2, 2, 2, 2, 2), "constant": (1,) * 10}
    for schedule, expected in halvings.items():
        settings = replace(PAPER, student_schedule=schedule, plateau_checkpoints=2, plateau_patience=1)
        _, student, _ = roles(version, settings)
        rates = []
        for loss in losses:
            student.observe(loss)
            rates.append(student.optimizer.param_groups[0]["lr"])
        assert rates == [settings.student_lr / divisor for divisor in expected]
