"""BatchNorm over the global batch of several workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rayunlearn.errors import BadInput

if dist.is_available():
    # Its functions' default group is the one there is at import, and torch.optim imports it with the first
    # step: it would keep that group's threads beyond destroy_process_group, and a process may abort at exit.
    import torch.distributed.nn  # noqa: F401


class _SumOverWorkers(torch.autograd.Function):
    """y = sum of x over workers, on every worker; its gradient is the sum of the workers' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
        return total


def sum_over_workers(x: Tensor) -> Tensor:
    """The sum of `x` over the process group, differentiable; `x` itself where there is one worker."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return cast(Tensor, _SumOverWorkers.apply(x))
    return x


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose training statistics are those of the global batch.

    Policy: in training mode mean and biased variance are taken over the samples of all workers, as if
    one worker had the whole batch; the variance is the mean of squared deviations from the global mean
    (two passes, so nothing cancels), and gradients flow through both reductions. Running statistics
    take the unbiased variance of the global batch, as in torch, and are therefore equal on every
    worker. In evaluation mode it is `nn.BatchNorm2d`. Every worker must call it equally often.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalised `[B, C, H, W]`; B may differ between workers, C, H and W may not."""
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        self._check_input_dim(input)
        channels = (1, -1, 1, 1)
        local = input.new_full((1,), input.numel() / input.size(1))
        head = sum_over_workers(torch.cat([input.sum(dim=(0, 2, 3)), local]))
        count = head[-1].detach()
        if count.item() < 2:
            raise ValueError(f"BatchNorm in training mode needs 2 values per channel, got {count.item():.0f}")
        mean = head[:-1] / count
        centred = input - mean.view(channels)
        variance = sum_over_workers(centred.square().sum(dim=(0, 2, 3))) / count
        if self.training and self.track_running_stats:
            self._update_running(mean.detach(), variance.detach() * (count / (count - 1)))
        result = centred * torch.rsqrt(variance + self.eps).view(channels)
        if self.affine:
            result = result * self.weight.view(channels) + self.bias.view(channels)
        return result

    @torch.no_grad()
    def _update_running(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
        self.running_var.mul_(1 - momentum).add_(unbiased_variance, alpha=momentum)


def convert_batchnorm(model: nn.Module) -> nn.Module:
    """Put a `GlobalBatchNorm2d` in place of every `nn.BatchNorm2d`, in place; names stay.

    Parameters and buffers are shared with the modules replaced, so optimizers keep their hold; hooks
    on the replaced modules are not carried over.

    Raises:
        BadInput: another kind of BatchNorm is there, whose statistics would silently be a shard's.
    """
    _replace(model)
    return model


@contextmanager
def global_batchnorm(model: nn.Module) -> Iterator[nn.Module]:
    """`convert_batchnorm` while it lasts; afterwards the very modules of before are back."""
    replaced = _replace(model)
    try:
        yield model
    finally:
        for parent, name, original in replaced:
            original.train(getattr(parent, name).training)
            setattr(parent, name, original)


def _replace(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    for name, module in model.named_modules():
        wrong = isinstance(module, _BatchNorm) and type(module) not in (nn.BatchNorm2d, GlobalBatchNorm2d)
        if wrong or (module is model and isinstance(module, nn.BatchNorm2d)):
            allowed = "nn.BatchNorm2d inside a model, for training by several workers"
            raise BadInput(f"module {name or '(root)'}", type(module).__name__, allowed)
    twins: dict[nn.Module, GlobalBatchNorm2d] = {}
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                if child not in twins:
                    twins[child] = _twin(child)
                setattr(parent, name, twins[child])
                replaced.append((parent, name, child))
    return replaced


def _twin(original: nn.BatchNorm2d) -> GlobalBatchNorm2d:
    twin = GlobalBatchNorm2d(
        original.num_features, original.eps, original.momentum, original.affine, original.track_running_stats
    )
    twin._parameters = dict(original._parameters)
    twin._buffers = dict(original._buffers)
    return twin.train(original.training)
