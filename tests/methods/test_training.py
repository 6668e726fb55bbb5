"""Claims about training; two workers are two processes over gloo."""

import copy
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F

from rayunlearn.data.datasets import load_dataset
from rayunlearn.data.splits import split
from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.inversion.transformations import DEFAULT, transformations
from rayunlearn.methods import training
from rayunlearn.methods.training import (
    GlobalBatchNorm2d,
    TrainSettings,
    TrainState,
    batches,
    convert_batchnorm,
    global_batchnorm,
    schedule_at,
    train_classifier,
    train_steps,
)
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier
from rayunlearn.models.weights import load_weights_file, version_id, weights_to_bytes
from tests.waiting import HANG_S

WORKERS_TOLERANCE = 1e-12
"""Greatest difference of any weight or statistic, float64, after 10 steps: sums in another order."""

TINY = TrainSettings(epochs=2, batch_size=15, lr=1e-2)
RECIPES = {
    "adamw": TINY,
    "sgd": TrainSettings(epochs=2, batch_size=15, lr=0.05, optimizer="sgd", weight_decay=0.0),
    "transformed": TrainSettings(epochs=2, batch_size=15, lr=1e-2, transformations=DEFAULT),
    "flips and crops": TrainSettings(epochs=2, batch_size=15, lr=1e-2, flips=True, crop=2),
    "statistics kept": TrainSettings(epochs=2, batch_size=15, lr=1e-2, update_statistics=False),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_model(width=0.05, dtype=torch.float64):
    """An untrained AllCNN, always the same."""
    spec = ClassifierSpec(
        name="allcnn", width=width, in_channels=1, image_size=8, num_classes=10, mean=(0.0,), std=(1.0,)
    )
    return build_classifier(spec, seed=0).to(dtype)


def tiny_data(n=75, dtype=torch.float64):
    """Images that brighten with their index, so that shards differ in their statistics."""
    images = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (images + torch.linspace(0, 2, n).view(-1, 1, 1, 1)).to(dtype), torch.arange(n) % 10


def greatest_difference(a, b):
    """Greatest difference of any value of two state dicts."""
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


# --- one worker -----------------------------------------------------------------------------------------


def test_training_is_torchs_own_loop_bit_for_bit():
    """A plain loop of AdamW and OneCycleLR over the same batches gives the same bits in float32."""
    images, labels = tiny_data(dtype=torch.float32)
    model, plain = tiny_model(dtype=torch.float32), tiny_model(dtype=torch.float32)
    train_classifier(model, images, labels, TINY, seed=3)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=10)
    for ids in batches(75, TINY, seed=3):
        optimizer.zero_grad()
        F.cross_entropy(plain(images[ids]), labels[ids]).backward()
        optimizer.step()
        schedule.step()
    assert version_id(model.state_dict()) == version_id(plain.state_dict())
    other = tiny_model(dtype=torch.float32)
    train_classifier(other, images, labels, TINY, seed=4)
    assert version_id(other.state_dict()) != version_id(model.state_dict())


@pytest.mark.learned
def test_images_are_shown_as_they_are_or_under_one_transformation():
    """Each of an image's forms comes up, about as often; which one changes from step to step."""
    settings = TrainSettings(epochs=40, batch_size=25, transformations=DEFAULT)
    images, labels = tiny_data(25, dtype=torch.float32)
    model, shown = tiny_model(dtype=torch.float32), []
    model.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].clone()))
    train_classifier(model, images, labels, settings, seed=0)
    views = transformations(DEFAULT, background=model.spec.pixel_range[0])
    forms = torch.stack([images, *(view(images) for view in views)])
    drawn = []
    for step, ids in enumerate(batches(25, settings, seed=0)):
        apart = (forms[:, ids] - shown[step]).abs().amax(dim=(2, 3, 4))
        assert (apart.min(dim=0).values < 1e-5).all(), "no image is shown in another form"
        drawn.append(apart.argmin(dim=0)[ids.argsort()])
    counts = torch.stack(drawn).flatten().bincount(minlength=4)
    assert len(counts) == 4
    assert (counts.double() / 1000 - 0.25).abs().max() < 0.07  # five standard deviations
    assert not torch.equal(drawn[0], drawn[1])


def test_images_are_mirrored_and_moved():
    """Each mirror image and each move of one pixel comes up about as often; none without the setting."""
    images, labels = tiny_data(25, dtype=torch.float32)
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    moved = [padded[..., y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    mirrored = [F.pad(images.flip(-1), (1, 1, 1, 1), mode="reflect")[..., y : y + 8, x : x + 8]
                for y in range(3) for x in range(3)]  # fmt: skip
    for flips, crop, forms in (
        (True, 1, moved + mirrored), (True, 0, [images, images.flip(-1)]), (False, 1, moved)
    ):  # fmt: skip
        settings = TrainSettings(epochs=40, batch_size=25, flips=flips, crop=crop)
        model, shown = tiny_model(dtype=torch.float32), []
        model.register_forward_pre_hook(lambda _, inputs, shown=shown: shown.append(inputs[0].clone()))
        train_classifier(model, images, labels, settings, seed=0)
        which = []
        for step, ids in enumerate(batches(25, settings, seed=0)):
            apart = (torch.stack(forms)[:, ids] - shown[step]).abs().amax(dim=(2, 3, 4))
            assert (apart.min(dim=0).values == 0).all(), "an image is shown in another form"
            which.append(apart.argmin(dim=0))
        counts = torch.stack(which).flatten().bincount(minlength=len(forms))
        share = 1 / len(forms)
        deviation = (share * (1 - share) / 1000) ** 0.5
        assert (counts.double() / 1000 - share).abs().max() < 5 * deviation


@pytest.mark.learned
def test_statistics_stay_where_they_are_not_updated():
    """Weights are learned, by the statistics that the model has; with them updated it ends elsewhere."""
    images, labels = tiny_data()
    ends = {}
    for update in (True, False):
        settings = TrainSettings(epochs=2, batch_size=15, lr=1e-2, update_statistics=update)
        model = tiny_model()
        train_classifier(model, images, labels, settings, seed=0)
        ends[update] = dict(model.state_dict())
        assert model.training, "its mode is as it was"
        buffers = dict(tiny_model().named_buffers())
        moved = [name for name, now in model.named_buffers() if not torch.equal(now, buffers[name])]
        assert bool(moved) == update
    assert greatest_difference(ends[False], tiny_model().state_dict()) > 1e-3
    weights = [name for name, _ in tiny_model().named_parameters()]
    assert greatest_difference(*({name: end[name] for name in weights} for end in ends.values())) > 1e-3


def test_a_resumed_training_shows_the_same_images():
    """What a step shows depends on the seed and its number alone."""
    images, labels = tiny_data()
    whole, state = tiny_model(), TrainState(tiny_model(), RECIPES["transformed"])
    train_classifier(whole, images, labels, RECIPES["transformed"], seed=0)
    for until in (3, 10):
        resumed = TrainState(tiny_model(), RECIPES["transformed"])
        resumed.load_state_dict(copy.deepcopy(state.state_dict()))
        for info in train_steps(resumed, images, labels, RECIPES["transformed"], seed=0):
            if info.step + 1 == until:
                break
        state = resumed
    assert version_id(state.model.state_dict()) == version_id(whole.state_dict())


@pytest.mark.parametrize("total", [5, 10, 97])
@pytest.mark.parametrize("cycle", [True, False])
def test_one_cycle_is_torchs(total, cycle):
    """Rate and momentum at every step equal torch's OneCycleLR."""
    same = {"div_factor": 7.0, "final_div_factor": 50.0, "cycle_momentum": cycle}
    settings = TrainSettings(lr=0.3, warmup_fraction=0.25, **same)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=total, pct_start=0.25, **same)
    for step in range(total):
        lr, beta1 = schedule_at(step, total, settings)
        group = optimizer.param_groups[0]
        assert lr == pytest.approx(group["lr"], rel=1e-12)
        assert beta1 == pytest.approx(group["betas"][0], rel=1e-12)
        optimizer.step()
        if step < total - 1:
            schedule.step()


def test_shortest_schedules_are_defined():
    """One step, and a peak exactly at step 0 (where torch divides by zero), start at finite rates."""
    assert schedule_at(0, 1, TrainSettings(lr=1.0)) == (1.0, 0.85)
    assert schedule_at(0, 4, TrainSettings(lr=1.0, warmup_fraction=0.25))[0] == 1.0
    assert schedule_at(5, 9, TrainSettings(lr=1.0, schedule="constant", momentum=0.7)) == (1.0, 0.7)


def test_batches_are_permutations_by_seed_and_epoch():
    """Whole batches without repeats, another order each epoch, the same for one seed; the rest is dropped."""
    settings = TrainSettings(epochs=2, batch_size=4)
    drawn = list(batches(10, settings, seed=0))
    assert [len(b) for b in drawn] == [4, 4, 4, 4]
    first, second = torch.cat(drawn[:2]).tolist(), torch.cat(drawn[2:]).tolist()
    assert len(set(first)) == len(set(second)) == 8
    assert first != second
    assert [b.tolist() for b in batches(10, settings, seed=0)] == [b.tolist() for b in drawn]
    assert [b.tolist() for b in batches(10, settings, seed=1)] != [b.tolist() for b in drawn]
    for start in range(5):
        assert [b.tolist() for b in batches(10, settings, seed=0, start_step=start)] == [
            b.tolist() for b in drawn[start:]
        ]
    assert [sorted(b.tolist()) for b in batches(3, settings, seed=0)] == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("recipe", RECIPES)
def test_resumed_training_is_the_uninterrupted_one(recipe):
    """Saved after 7 steps and loaded afresh, it ends with the same bits; without the optimizer not."""
    settings = RECIPES[recipe]
    images, labels = tiny_data(dtype=torch.float32)
    whole = tiny_model(dtype=torch.float32)
    train_classifier(whole, images, labels, settings, seed=0)
    state = TrainState(tiny_model(dtype=torch.float32), settings)
    for info in train_steps(state, images, labels, settings, seed=0):
        if info.step == 6:
            break
    saved = copy.deepcopy(state.state_dict())
    ends = []
    for drop in (False, True):
        fresh = TrainState(tiny_model(dtype=torch.float32), settings)
        start = copy.deepcopy(saved)
        if drop:
            start["optimizer"] = fresh.optimizer.state_dict()
        fresh.load_state_dict(start)
        assert [i.step for i in train_steps(fresh, images, labels, settings, seed=0)] == [7, 8, 9]
        ends.append(version_id(fresh.model.state_dict()))
    assert ends[0] == version_id(whole.state_dict()) != ends[1]


@pytest.mark.learned
def test_on_step_gives_global_ids_and_the_updated_model():
    """Ids are the batches'; the parameter changes seen step by step add up to the whole change."""
    images, labels = tiny_data()
    model = tiny_model()
    start = {k: p.detach().clone() for k, p in model.named_parameters()}
    before, total, ids, losses = dict(start), {k: torch.zeros_like(p) for k, p in start.items()}, [], []

    def on_step(info):
        for name, parameter in info.model.named_parameters():
            total[name] += parameter.detach() - before[name]
            before[name] = parameter.detach().clone()
        ids.append(info.sample_ids.tolist())
        losses.append(info.loss)
        info.model.eval()  # the next step trains in training mode all the same
        assert not any(isinstance(m, GlobalBatchNorm2d) for m in info.model.modules())

    result = train_classifier(model, images, labels, TINY, seed=0, on_step=on_step)
    assert ids == [b.tolist() for b in batches(75, TINY, seed=0)]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(start[name] + total[name], parameter.detach(), atol=1e-12, rtol=0)
        assert total[name].abs().max() > 0
    assert result.steps == 10
    assert result.epoch_losses == (sum(losses[:5]) / 5, sum(losses[5:]) / 5)
    plain = tiny_model()
    train_classifier(plain, images, labels, TINY, seed=0)
    assert version_id(plain.state_dict()) == version_id(model.state_dict())


def test_mode_is_left_as_it_was():
    """A model in evaluation mode comes back in it."""
    images, labels = tiny_data()
    for mode in (True, False):
        model = tiny_model().train(mode)
        train_classifier(model, images, labels, TINY, seed=0)
        assert model.training is mode


@pytest.mark.learned
def test_recipe_learns_digits():
    """8 epochs of the default recipe: above 96 % of the test digits (the default 40 give 98.5-99.7 %)."""
    data = load_dataset("digits")
    parts = split(data, 0.2, seed=0)
    model = tiny_model(width=0.25, dtype=torch.float32)
    settings = TrainSettings(epochs=8)
    train_classifier(model, data.images[parts.train_ids], data.labels[parts.train_ids], settings, seed=0)
    model.eval()
    with torch.no_grad():
        right = model(data.images[parts.test_ids]).argmax(1) == data.labels[parts.test_ids]
    assert right.double().mean() > 0.96


def test_divergence_is_said():
    """A loss that is not finite stops training with the step; NaN weights are never handed back quietly."""
    images, labels = tiny_data()
    images[:] = float("nan")
    with pytest.raises(RayUnlearnError, match="step 0"):
        train_classifier(tiny_model(), images, labels, TINY, seed=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0), ("epochs", 1.0), ("batch_size", 0), ("lr", 0.0), ("lr", float("nan")), ("lr", "1"),
        ("weight_decay", -1e-9), ("momentum", 1.0), ("optimizer", "adam"), ("schedule", "onecycle"),
        ("warmup_fraction", 1.0), ("div_factor", 0.5), ("final_div_factor", 0), ("cycle_momentum", 1),
        ("transformations", ("flip",)), ("update_statistics", 0), ("flips", 1), ("crop", -1), ("crop", True),
    ],
)  # fmt: skip
def test_bad_settings_are_named(field, value):
    """A field out of range is refused with its name and value."""
    with pytest.raises(BadInput) as error:
        TrainSettings(**{field: value})
    said = value[0] if field == "transformations" else value
    assert (error.value.thing, error.value.value) == (f"train.{field}", said) or value != value


def test_bad_calls_are_refused():
    """No samples, labels that do not match, and a shard that torch.distributed does not know are refused."""
    images, labels = tiny_data()
    with pytest.raises(BadInput, match="at least 1"):
        train_classifier(tiny_model(), images[:0], labels[:0], TINY, seed=0)
    with pytest.raises(BadInput, match="crop.*8.*below 8"):
        train_classifier(tiny_model(), images, labels, replace(TINY, crop=8), seed=0)
    with pytest.raises(BadInput, match="one per image"):
        train_classifier(tiny_model(), images, labels[:-1], TINY, seed=0)
    with pytest.raises(BadInput, match="Sequential.*Classifier"):
        train_classifier(nn.Sequential(tiny_model()), images, labels, RECIPES["transformed"], seed=0)
    for shard in ((0, 2), (2, 2), (0, 0), (-1, 1)):
        with pytest.raises(BadInput, match="shard"):
            train_classifier(tiny_model(), images, labels, TINY, seed=0, shard=shard)


# --- BatchNorm over the global batch --------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_global_batchnorm_is_torchs_with_one_worker(momentum, affine):
    """Outputs, all gradients and running statistics equal nn.BatchNorm2d's in float64, also far from zero."""
    draw = torch.Generator().manual_seed(0)
    ours = GlobalBatchNorm2d(3, momentum=momentum, affine=affine).double()
    theirs = nn.BatchNorm2d(3, momentum=momentum, affine=affine).double()
    if affine:
        for module in (ours, theirs):
            module.weight.data = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
            module.bias.data = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    for offset in (0.0, 100.0, 1.0):
        x = torch.randn(5, 3, 4, 2, generator=draw, dtype=torch.float64) + offset
        weight = torch.randn(5, 3, 4, 2, generator=draw, dtype=torch.float64)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [module(i) for module, i in zip((ours, theirs), inputs, strict=True)]
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-10)
        for output in outputs:
            (output * weight).sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-10)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-10)
    assert greatest_difference(ours.state_dict(), theirs.state_dict()) < 1e-10
    assert torch.equal(ours.eval()(x), nn.BatchNorm2d.forward(ours, x))


def test_global_batchnorm_passes_gradcheck():
    """The gradient is the numerical one in float64."""
    module = GlobalBatchNorm2d(2, track_running_stats=False).double()
    x = torch.randn(
        3, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(module, (x,))


def test_conversion_shares_weights_and_is_undone():
    """Names, parameters and buffers stay; after the context the very same modules are back, on errors too."""
    model = tiny_model()
    originals = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    parameters = list(model.parameters())

    def fail():
        with global_batchnorm(model):
            assert sum(isinstance(m, GlobalBatchNorm2d) for m in model.modules()) == 8
            assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
            model(tiny_data()[0])
            model.eval()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    now = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(a is b for a, b in zip(originals, now, strict=True))
    assert all(m.num_batches_tracked == 1 and not m.training for m in now)
    names = list(model.state_dict())
    assert list(convert_batchnorm(model).state_dict()) == names
    with pytest.raises(BadInput, match="BatchNorm1d"):
        convert_batchnorm(nn.Sequential(nn.BatchNorm1d(3)))


def worker(rank, world, folder):
    """Train three times with this rank's shard; keep the weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    images, labels = tiny_data()
    for name, settings in RECIPES.items():
        model = tiny_model()
        result = train_classifier(model, images, labels, settings, seed=0, shard=(rank, world))
        assert not any(isinstance(m, GlobalBatchNorm2d) for m in model.modules())
        state = dict(model.state_dict(), losses=torch.tensor(result.epoch_losses, dtype=torch.float64))
        (folder / f"{name}-{rank}").write_bytes(weights_to_bytes(state))
    setattr(training, "global_batchnorm", nullcontext)  # the flawed variant: a shard's own statistics  # noqa: B010
    model = tiny_model()
    train_classifier(model, images, labels, TINY, seed=0, shard=(rank, world))
    (folder / f"flawed-{rank}").write_bytes(weights_to_bytes(model.state_dict()))
    dist.destroy_process_group()
    threads = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
    (folder / f"threads-{rank}").write_text("".join(threads))


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """A folder with what two gloo workers ended with."""
    folder = tmp_path_factory.mktemp("workers")
    context = mp.spawn(worker, (2, folder), nprocs=2, join=False)
    deadline = time.monotonic() + HANG_S
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the workers hang")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_workers_equal_one(two_workers, recipe):
    """With shards of 7 and 8, two workers end where one does, in weights, running statistics and losses.

    The two ranks agree bit for bit.
    """
    images, labels = tiny_data()
    model = tiny_model()
    result = train_classifier(model, images, labels, RECIPES[recipe], seed=0)
    one = dict(model.state_dict(), losses=torch.tensor(result.epoch_losses, dtype=torch.float64))
    ranks = [load_weights_file(two_workers / f"{recipe}-{rank}") for rank in range(2)]
    assert version_id(ranks[0]) == version_id(ranks[1])
    assert greatest_difference(one, ranks[0]) < WORKERS_TOLERANCE
    assert greatest_difference(one, tiny_model().state_dict() | {"losses": one["losses"]}) > 1e-3  # it moved


@pytest.mark.slow
def test_statistics_of_shards_miss_the_tolerance(two_workers):
    """Negative control: plain BatchNorm2d on each shard ends far from one worker's weights."""
    images, labels = tiny_data()
    model = tiny_model()
    train_classifier(model, images, labels, TINY, seed=0)
    parameters = dict(model.named_parameters())
    flawed = load_weights_file(two_workers / "flawed-0")
    far = greatest_difference({k: p.detach() for k, p in parameters.items()}, flawed)
    assert far > 1e9 * WORKERS_TOLERANCE


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc, where threads have names")
def test_no_thread_of_a_process_group_outlives_it(two_workers):
    """gloo's threads end with the group; one that is still there at exit can abort the process."""
    for rank in range(2):
        threads = (two_workers / f"threads-{rank}").read_text().split()
        assert threads
        assert not [name for name in threads if "gloo" in name]
