"""The generator: adversarial images, and a bank to learn from again."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.inversion.augmentations import cut_together, moved
from rayunlearn.methods.gkt.cycle import GeneratorGradients
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.models.generators import Generator as Network
from rayunlearn.models.resuming import Resumable
from rayunlearn.seeds import generator as seeded


class Generator(Resumable):
    """Makes the images that teach: adversarial ones, and a bank to learn from again.

    Args:
        model: freshly initialised; maps z `[B, z_dim]` to images `[B, C, H, W]`.
        settings: of the run.
        seed: of the run; z and every draw come from it and the cycle's number.
        inverted: DeepInversion images of retain classes `[N, C, H, W]`, or None.
        device: where it is trained.
    """

    saved = {
        "model": "model", "optimizer": "optimizer", "snapshot": "snapshot", "replayed": "replayed",
        "watch": ("attempt", "low_cycles", "healthy_cycles"),
        "tally": ("_seen", "_passed", "_loss_sum", "_updates"),
    }  # fmt: skip

    def __init__(
        self,
        model: Network,
        settings: GKTSettings,
        seed: int,
        inverted: Tensor | None = None,
        device: str = "cpu",
    ) -> None:
        if settings.inverted_per_class > 0 and inverted is None:
            allowed = f"images, since {settings.section}.inverted_per_class is above 0"
            raise BadInput("inverted", None, allowed)
        self.device = torch.device(device)
        self.model = model.to(self.device).train()
        self.settings = settings
        self.seed = seed
        self.inverted = None if inverted is None else inverted.to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.generator_lr)
        self.replayed: list[Tensor] = []
        self.attempt = 0
        self.low_cycles = 0
        self.healthy_cycles = 0
        self.snapshot: dict[str, Any] = copy.deepcopy(self.model.state_dict())
        self._images: Tensor | None = None
        self._seen, self._passed, self._loss_sum, self._updates = 0, 0, 0.0, 0

    def propose(self, cycle: int) -> Tensor:
        """The cycle's images G(z) `[B, C, H, W]`, their graph kept for `update`."""
        if self.settings.generator_halving:
            rate = self.settings.generator_lr * 0.5 ** ((cycle - 1) // self.settings.generator_halving)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        self._images = self.model(self._z(cycle))
        return self._images.detach()

    def update(self, pull: GeneratorGradients) -> None:
        """One generator step, and the watch over its pass rate."""
        assert self._images is not None, "update() answers a propose()"
        gradient = pull.images.to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        self._images.backward(gradient)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self._seen += len(gradient)
        self._passed += pull.passed
        self._loss_sum += pull.loss
        self._updates += 1
        self._images = None
        self._watch(pull.passed / len(gradient))

    @torch.no_grad()
    def supply(self, cycle: int) -> Tensor:
        """Student batches `[S, B, C, H, W]`: the cycle's one batch, or draws from the bank."""
        fresh = None
        if self.settings.replayed_batches > 0 or not self.settings.learns_from_bank:
            fresh = self.model(self._z(cycle))
        if not self.settings.learns_from_bank:
            assert fresh is not None
            return fresh[None]
        if fresh is not None:
            self.replayed = [*self.replayed, fresh][-self.settings.replayed_batches :]
        draws = seeded(self.seed, "gkt supply", cycle)
        shape = (self.settings.student_steps, self.settings.batch_size)
        images = self._draw(shape, draws)
        if self.settings.mixing == "cutmix":
            other = self._draw(shape, draws)
            images = cut_together(images.flatten(0, 1), other.flatten(0, 1), draws).view(images.shape)
        return self._varied(images, draws)

    def _varied(self, images: Tensor, draws: torch.Generator) -> Tensor:
        """Images `[S, B, C, H, W]`, each moved and with less contrast, by as much as the settings allow."""
        low = self.model.spec.low or 0.0
        steps, batch = images.shape[:2]
        if self.settings.jitter:
            pixels = self.settings.jitter
            moves = torch.randint(0, 2 * pixels + 1, (2, steps * batch), generator=draws)
            images = moved(images.flatten(0, 1), pixels, moves, background=low).view(images.shape)
        if self.settings.contrast < 1:
            least = self.settings.contrast
            kept = least + (1 - least) * torch.rand((steps, batch, 1, 1, 1), generator=draws)
            images = low + (images - low) * kept.to(self.device)
        return images

    def _draw(self, shape: tuple[int, int], draws: torch.Generator) -> Tensor:
        """Images from the bank, `[*shape, C, H, W]`."""
        count = shape[0] * shape[1]
        sources = [torch.cat(self.replayed)] if self.replayed else []
        if self.inverted is not None:
            sources.append(self.inverted)
        picks = [s[torch.randint(len(s), (count,), generator=draws).to(self.device)] for s in sources]
        if len(picks) == 2:
            generated = torch.rand(count, generator=draws) < self.settings.generated_share
            images = torch.where(generated.to(self.device)[:, None, None, None], picks[0], picks[1])
        else:
            (images,) = picks
        return images.view(*shape, *images.shape[1:])

    def _z(self, cycle: int) -> Tensor:
        draws = seeded(self.seed, "gkt z", self.attempt, cycle)
        size = (self.settings.batch_size, self.settings.z_dim)
        return torch.randn(size, generator=draws).to(self.device)

    def _watch(self, pass_rate: float) -> None:
        """Notice a generator whose images no longer pass, and go back to its last healthy snapshot.

        Without a rule like it the student stops learning in silence (the published code reloads an
        earlier generator after 100 batches of which nothing passed; here it need not come to nothing).
        """
        if pass_rate >= self.settings.stall_pass_rate:
            self.low_cycles = 0
            self.healthy_cycles += 1
            if self.healthy_cycles % self.settings.snapshot_every == 0:
                self.snapshot = copy.deepcopy(self.model.state_dict())
            return
        self.low_cycles += 1
        if self.low_cycles >= self.settings.stall_cycles:
            self.model.load_state_dict(self.snapshot)
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.settings.generator_lr)
            self.attempt += 1
            self.low_cycles = 0

    def report(self) -> dict[str, float | int | bool | None]:
        """How the generator fared since the last report, and its recoveries so far."""
        rate = self._passed / self._seen if self._seen else None
        loss = self._loss_sum / self._updates if self._updates else None
        self._seen, self._passed, self._loss_sum, self._updates = 0, 0, 0.0, 0
        return {
            "pass_rate": rate,
            "generator_loss": loss,
            "stalled": self.low_cycles > 0,
            "recoveries": self.attempt,
        }
