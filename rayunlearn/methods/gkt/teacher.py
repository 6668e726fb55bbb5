"""The teacher, and with it the band-pass filter."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from rayunlearn.inversion.deep_inversion import BatchNormStatistics
from rayunlearn.methods.distillation import attention_map, band_pass_filter, lower_to_minimum, mask_classes
from rayunlearn.methods.gkt.cycle import FilteredBatch, GeneratorGradients, StudentGradients
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.models.classifiers import Classifier


class Teacher:
    """The version to forget from, frozen, with the band-pass filter.

    Args:
        model: the version; put into eval mode, its parameters frozen.
        forget: classes that the filter stops: those to forget now and all forgotten before.
        settings: of the run.
        device: where the model lives.
    """

    def __init__(
        self, model: Classifier, forget: Sequence[int], settings: GKTSettings, device: str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.forget = tuple(forget)
        self.settings = settings
        self._pending: tuple[Tensor, Tensor, list[Tensor], Tensor] | None = None

    def judge(self, images: Tensor) -> FilteredBatch:
        """Filter a generator batch `[B, C, H, W]`, keeping its graph for `pull`."""
        x = images.to(self.device).detach().requires_grad_(True)
        logits, maps, distance = self._forward(x)
        own = self._own_loss(logits, distance)
        passed = band_pass_filter(logits.detach(), self.forget, self.settings.epsilon)
        given = [self._targets(logits)[passed], *(m[passed] for m in maps)]
        self._pending = (x, passed, given, own)
        targets, *passing = (g.detach() for g in given)
        return FilteredBatch(x.detach()[passed], targets, tuple(passing), (int(passed.sum()),))

    def pull(self, challenge: StudentGradients) -> GeneratorGradients:
        """The gradient for the judged batch: through the student, the teacher and the teacher's losses."""
        assert self._pending is not None, "pull() answers a judge()"
        x, passed, given, own = self._pending
        self._pending = None
        outputs, seeds = [own], [torch.ones_like(own)]
        if bool(passed.any()):
            outputs += given
            seeds += [g.to(self.device) for g in (challenge.logits, *challenge.maps)]
        (gradient,) = torch.autograd.grad(outputs, x, seeds)
        gradient[passed] += challenge.images.to(self.device)
        loss = float(own.detach()) - self.settings.adversarial_weight * challenge.divergence
        return GeneratorGradients(gradient, int(passed.sum()), loss)

    @torch.no_grad()
    def label(self, images: Tensor) -> FilteredBatch:
        """Targets and attention maps for student batches `[S, B, C, H, W]`."""
        batches, size = images.shape[:2]
        x = images.to(self.device).flatten(0, 1)
        logits, features = self.model.forward_with_maps(x)
        passed = band_pass_filter(logits, self.forget, self.settings.epsilon)
        sizes = passed.view(batches, size).sum(dim=1).tolist()
        maps = tuple(attention_map(f)[passed] for f in features) if self.settings.beta > 0 else ()
        return FilteredBatch(x[passed], self._targets(logits)[passed], maps, tuple(sizes))

    def _targets(self, logits: Tensor) -> Tensor:
        if self.settings.targets == "masked":
            return mask_classes(logits, self.forget)
        if self.settings.targets == "row_minimum":
            return lower_to_minimum(logits, self.forget)
        return logits

    def _forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Logits; attention maps and the distance to the BatchNorm statistics where a loss needs them."""
        with_maps = self.settings.generator_attention and self.settings.beta > 0
        statistics = BatchNormStatistics(self.model)
        with statistics if self.settings.generator_bn_weight > 0 else nullcontext():
            logits, features = self.model.forward_with_maps(x) if with_maps else (self.model(x), [])
        observed = self.settings.generator_bn_weight > 0 and statistics.layers
        return logits, [attention_map(f) for f in features], statistics.take() if observed else None

    def _own_loss(self, logits: Tensor, distance: Tensor | None) -> Tensor:
        """The generator's losses that need the teacher alone; a zero with a graph where there are none."""
        loss = logits.sum() * 0.0
        if distance is not None:
            loss = loss + self.settings.generator_bn_weight * distance
        if self.settings.generator_gate_weight > 0:
            retained = [c for c in range(logits.shape[1]) if c not in self.forget]
            log_p = F.log_softmax(logits, dim=1)[:, retained].logsumexp(dim=1)
            loss = loss - self.settings.generator_gate_weight * log_p.mean()
        return loss
