"""Averaged gradient episodic memory: no step may raise the loss on remembered samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.contract import derive_seed
from workers.evaluation import places
from workers.methods.base import Method, MethodContext
from workers.methods.memory import Memory, MemoryConfig, classes_of
from workers.moe.stepping import telling
from workers.supervised.objectives import Objective


class AGEM(Method):
    """Averaged gradient episodic memory (Chaudhry et al., arXiv 1812.00420, equations 10 and 11).

    With the step's gradient g and g_ref, that of the mean loss on ``batch`` remembered samples:
    where ``g . g_ref < 0``, g becomes ``g - (g . g_ref / g_ref . g_ref) g_ref``; else it stays as
    it is. Both are taken over the parameters that have a gradient in this step: within what may
    move, this is the nearest gradient that does not conflict. g_ref is taken in evaluation mode, so
    that nothing is counted; losses of routed layers are not in it. Samples are remembered at the
    end of each stage, by default uniformly over the whole stream.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MemoryConfig):
        """Settings of the memory."""

        kind: str = "agem"
        batch: int = 128
        """Remembered samples that g_ref is taken on."""

    config: AGEM.Config
    plain_start = True

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.memory = Memory(config.storage, config.buffer, derive_seed(seed, "agem"))

    def after_backward(self, context: MethodContext) -> None:
        if not len(self.memory):
            return
        learning = [p for p in context.model.parameters() if p.grad is not None]
        reference = self._reference(context, learning)
        with torch.no_grad():
            project([p.grad for p in learning if p.grad is not None], reference)

    def _reference(self, context: MethodContext, learning: list[nn.Parameter]) -> list[Tensor]:
        """g_ref of these parameters, on samples drawn anew."""
        drawn, model = self.memory.draw(self.config.batch), context.model
        assert self.objective is not None, "the lane learns from data"
        training = model.training
        model.eval()
        with telling(model, drawn["domain"]):
            outputs = model(drawn["x"].to(context.device))
        model.train(training)
        loss = self.objective.loss(outputs, drawn["y"].to(context.device))
        found = torch.autograd.grad(loss, learning, allow_unused=True, materialize_grads=True)
        return list(found)

    def end_stage(self, context: MethodContext) -> None:
        assert context.data is not None, "samples of data are remembered"
        train = context.data.train
        domain_N = places(context.domains, context.stage.task, train)
        self.memory.offer(
            classes_of(self.objective, train.y),
            context.stage.index,
            lambda at: {"x": train.x[at], "y": train.y[at], "domain": domain_N[at]},
        )

    def state(self) -> dict[str, Tensor]:
        return self.memory.state()

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self.memory.load_state(state)


def project(gradients: list[Tensor], reference: list[Tensor]) -> None:
    """Turn a gradient, in place, into the nearest one that does not conflict with the reference.

    Products are summed in float32 at least.
    """
    product = _product(gradients, reference)
    if product < 0:
        share = product / _product(reference, reference)
        for gradient, kept in zip(gradients, reference, strict=True):
            gradient -= (share * kept).to(gradient.dtype)


def _product(left: list[Tensor], right: list[Tensor]) -> Tensor:
    parts = [(a.float() * b.float()).sum() for a, b in zip(left, right, strict=True)]
    return torch.stack(parts).sum()
