"""Gradients of single samples of a stage, as importance is measured by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workers.contract import derive_seed
from workers.evaluation import places
from workers.methods.base import MethodContext
from workers.methods.penalty import check_finite
from workers.moe.stepping import telling

Scalar = Callable[[Tensor, Tensor], Tensor]
"""Outputs [1, ...] to one sample and its target [1, ...] -> what is differentiated, a scalar."""


def mean_over_samples(
    context: MethodContext, samples: int, scalar: Scalar, of: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Parameter -> mean over samples of ``of(gradient)``, float32: of the square, say.

    At most ``samples`` of the stage's training samples, drawn by its seed. Exact for each of them:
    they pass one by one, in evaluation mode, which any model can do; routing that depends on the
    rest of a batch sees one sample. Parameters that a phase has frozen are differentiated as well;
    those that a sample does not reach get 0 from it. Raises InputError where the model diverged.
    """
    assert context.data is not None, "samples of data are differentiated"
    model, train = context.model, context.data.train
    generator = torch.Generator().manual_seed(derive_seed(context.seed, "samples"))
    few = train.take(torch.randperm(len(train), generator=generator)[:samples]).in_memory()
    named = dict(model.named_parameters())
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in named.items()}
    domain_N = places(context.domains, context.stage.task, few)
    with _differentiable(model), telling(model, domain_N):
        for x, y in zip(few.x.split(1), few.y.split(1), strict=True):
            outputs = model(x.to(context.device))
            check_finite(outputs, context, "outputs at its end")
            value = scalar(outputs, y.to(context.device))
            found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), found, strict=True):
                if gradient is not None:
                    total += of(gradient.float())
    return {name: total.div_(len(few)) for name, total in sums.items()}


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and a gradient for every parameter inside the block."""
    training = model.training
    frozen = [p for p in model.parameters() if not p.requires_grad]
    model.eval()
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        model.train(training)
