"""The generator: its noise, its bank, and the watch over its pass rate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from rayunlearn.errors import BadInput
from rayunlearn.methods.gkt.cycle import GeneratorGradients, run_cycle
from rayunlearn.methods.gkt.generator import Generator
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.generators import GeneratorSpec, build_generator
from rayunlearn.models.weights import version_id
from tests.methods.gkt.roles import BANK, PAPER, as_bytes, roles, stand_ins


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


def test_the_rate_is_halved_by_the_cycles_number_alone(version: Classifier) -> None:
    """Cycles 1 to 3 at the full rate, 4 to 6 at half, also after others; 0 leaves the rate alone."""
    *_, generator = roles(version, replace(PAPER, generator_halving=3))
    rates = {}
    for cycle in (1, 3, 4, 6, 7, 2):
        generator.propose(cycle)
        rates[cycle] = generator.optimizer.param_groups[0]["lr"] / PAPER.generator_lr
    assert rates == {1: 1, 3: 1, 4: 0.5, 6: 0.5, 7: 0.25, 2: 1}
    *_, constant = roles(version, PAPER)
    constant.propose(1000)
    assert constant.optimizer.param_groups[0]["lr"] == PAPER.generator_lr


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


def test_jitter_moves_each_image_by_itself(version: Classifier) -> None:
    """Every image is a bank image moved by up to two pixels, black where it came from; moves differ."""
    settings = replace(BANK, mixing="none", replayed_batches=0, jitter=2)
    *_, generator = roles(version, settings)
    low = generator.model.spec.low
    padded = functional.pad(stand_ins(), (2,) * 4, value=low)
    moved = {
        as_bytes(padded[i, :, y : y + 8, x : x + 8].contiguous()): (y, x)
        for i in range(len(padded)) for y in range(5) for x in range(5)
    }  # fmt: skip
    drawn = [moved[as_bytes(image)] for image in generator.supply(0).flatten(0, 1)]
    assert len(set(drawn)) > 10


def test_contrast_is_taken_from_each_image_by_itself(version: Classifier) -> None:
    """An image keeps between a quarter and all of its distance from black, the same share everywhere."""
    plain = replace(BANK, mixing="none", replayed_batches=0)
    *_, generator = roles(version, plain)
    *_, paler = roles(version, replace(plain, contrast=0.25))
    low = generator.model.spec.low
    before, after = (g.supply(0).flatten(0, 1).flatten(1) - low for g in (generator, paler))
    far = before.abs() > 0.1
    kept = torch.where(far, after / before, torch.nan)
    shares = kept.nanmedian(dim=1).values
    assert bool(((kept - shares[:, None]).abs()[far] < 1e-3).all())
    assert 0.25 <= float(shares.min()) < 0.4 and 0.85 < float(shares.max()) <= 1


def feed(generator: Generator, cycle: int, passed: int) -> None:
    """One generator step with a gradient of 1 a pixel and this many passing images."""
    images = generator.propose(cycle)
    generator.update(GeneratorGradients(torch.ones_like(images), passed, 0.0))


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
    before = version_id(student.checkpoint().state_dict())
    for cycle in range(7):
        run_cycle(cycle, settings, teacher, student, generator)
    assert generator.report()["recoveries"] == 2
    assert student.steps == 0 and version_id(student.checkpoint().state_dict()) == before
    # no gradient moved it: all that differs from the start are statistics, which snapshots hold too
    assert all(torch.equal(a, b) for a, b in zip(parameters, generator.model.parameters(), strict=True))


def test_a_bank_without_its_images_is_refused(version: Classifier) -> None:
    """`inverted_per_class` above 0 without images is an error at construction, not an empty bank later."""
    spec = GeneratorSpec(z_dim=16, width=0.1, channels=1, image_size=8)
    with pytest.raises(BadInput, match="inverted"):
        Generator(build_generator(spec, 0), replace(BANK, generator_output="batchnorm"), 0, None)
