"""The shared-latent expert: experts of a layer read its input through one projection.

Letters: T tokens, E experts, D inputs, R numbers of the latent, S rows, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ops.expert_mlp import ACTIVATIONS
from workers.moe.experts.base import Kernel
from workers.moe.experts.bottleneck import Bottleneck
from workers.moe.experts.feed_forward import FeedForward
from workers.moe.growth.budget import Size, shared_width


class SharedLatentExpert(Bottleneck):
    """V act(B A x + b) + c with one A [R, D] for the whole layer (MoLAE, arXiv 2503.23100).

    The input matrix of an expert is W_e = B_e A. A belongs to the layer (``common``): a new
    expert costs B_e [width, R] and V_e only. A learns from every token that teaches an expert, and
    stays when experts come and go; a copy of an expert reads the same A. Once experts are frozen A
    is frozen too, as it is a part of what they answer.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Bottleneck.Config):
        """Settings of a shared-latent expert."""

        kind: str = "shared_latent"
        rank: int = 16
        """R: numbers of the latent that all experts of the layer read."""

        def __post_init__(self) -> None:
            # super() has no cell to look in here: a dataclass with slots is a second class.
            Bottleneck.Config.__post_init__(self)
            if self.rank < 1:
                raise ValueError(f"rank must be at least 1, got {self.rank}")

    def __init__(self, config: Config, inputs: int, outputs: int, width: int) -> None:
        super().__init__(config, config.rank, outputs, width)
        self._latent: tuple[nn.Linear, ...] = ()

    @staticmethod
    def common_part(config: Any, inputs: int, outputs: int) -> nn.Linear:
        """A, drawn as torch draws a Linear(D, R) without bias."""
        return nn.Linear(inputs, config.rank, bias=False)

    def attach(self, part: nn.Module) -> None:
        """Read through this A."""
        assert isinstance(part, nn.Linear)
        self._latent = (part,)  # in a tuple: it is a part of the layer, not of this

    @property
    def latent(self) -> nn.Linear:
        """A."""
        (found,) = self._latent
        return found

    @classmethod
    @torch.no_grad()
    def take_over(cls, experts: Sequence[Any], replaced: Sequence[Any]) -> None:
        """Take the place of bottleneck experts: ``W_e ~ B_e A`` with least squared error.

        A: the first R right singular vectors of all W_e [width, D] stacked; ``B_e = W_e A^T``. All
        else are the parameters of the experts replaced, themselves.
        """
        latent = experts[0].latent.weight
        rows_HD = torch.cat([old.up.weight.to("cpu", torch.float64) for old in replaced])
        a_RD = principal(rows_HD, len(latent))
        latent.copy_(a_RD)
        for new, old in zip(experts, replaced, strict=True):
            new.up.weight.copy_(old.up.weight.to("cpu", torch.float64) @ a_RD.t())
            new.up.weight.requires_grad_(old.up.weight.requires_grad)
            new.up.bias, new.down = old.up.bias, old.down
            for name, parameter in old.named_parameters(recurse=False):
                new.register_parameter(name, parameter)

    def _hidden(self, x: Tensor) -> Tensor:
        return super()._hidden(self.latent(x))

    def detached(self, x: Tensor) -> Tensor:
        """See ``Expert.detached``; A learns nothing either."""
        up, down = self.up, self.down
        latent = functional.linear(x, self.latent.weight.detach())
        hidden = functional.linear(latent, up.weight.detach(), up.bias.detach())
        hidden = ACTIVATIONS[self.activation][0](hidden)
        return functional.linear(hidden, down.weight.detach(), down.bias.detach())

    def feed_forward(self) -> FeedForward | None:
        """None: its input map is a product, of which a part is not its own."""
        return None

    @staticmethod
    def width_for(config: Any, sizes: Sequence[Size]) -> int:
        """The configured width, or the largest that the budget allows once A is paid for."""
        paid = [size._replace(spent=size.spent + size.inputs * config.rank) for size in sizes]
        return config.width or shared_width(paid, reads=config.rank)

    @classmethod
    def packed(cls, experts: Sequence[Any]) -> Kernel | None:
        """All of them as one kernel, where they share an activation and A."""
        inner = super().packed(experts)
        first = experts[0].latent
        if inner is None or any(expert.latent is not first for expert in experts):
            return None
        return PackedLatent(inner, first.weight)


def principal(rows_HD: Tensor, rank: int) -> Tensor:
    """The first right singular vectors [rank, D] of ``rows``, each with its largest entry positive.

    Beyond the rank of ``rows`` they are completed to an orthonormal set.
    """
    _, triangle_HD = torch.linalg.qr(rows_HD, mode="r")
    vectors_RD = torch.linalg.svd(triangle_HD, full_matrices=True)[2][:rank]
    largest_R1 = vectors_RD.abs().argmax(1, keepdim=True)
    return vectors_RD * vectors_RD.gather(1, largest_R1).sign()


class PackedLatent:
    """Experts that read one latent, as one kernel (``experts.base.Kernel``)."""

    def __init__(self, inner: Kernel, latent_RD: Tensor) -> None:
        """``inner``: the kernel of what comes after A."""
        self._inner, self._latent_RD = inner, latent_RD

    def mixture(self, x_TD: Tensor, weights_TE: Tensor, frozen: bool = False) -> Tensor:
        """See ``Kernel.mixture``."""
        latent_RD = self._latent_RD.detach() if frozen else self._latent_RD
        return self._inner.mixture(functional.linear(x_TD, latent_RD), weights_TE, frozen)

    def on_rows(
        self, rows_SD: Tensor, offsets: Tensor, trainable_S: Tensor | None = None
    ) -> Tensor:
        """See ``Kernel.on_rows``."""
        latent_SR = functional.linear(rows_SD, self._latent_RD)
        if trainable_S is not None:
            still_SR = functional.linear(rows_SD, self._latent_RD.detach())
            latent_SR = torch.where(trainable_S.unsqueeze(1), latent_SR, still_SR)
        return self._inner.on_rows(latent_SR, offsets, trainable_S)
