"""The contract of experts, and the two ways in which a layer runs several of them.

Letters: T tokens, E experts, D inputs, O outputs, S rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from workers.contract import InputError
from workers.moe.experts.feed_forward import FeedForward
from workers.moe.growth.budget import Size


class Kernel(Protocol):
    """Several experts, run together."""

    def mixture(self, x_TD: Tensor, weights_TE: Tensor, frozen: bool = False) -> Tensor:
        """All experts on all tokens, weighted and summed, [T, O].

        ``frozen``: the experts' parameters get no gradient, inputs and weights do.
        """
        ...

    def on_rows(
        self, rows_SD: Tensor, offsets: Tensor, trainable_S: Tensor | None = None
    ) -> Tensor:
        """Each expert on its own rows ``offsets[e]:offsets[e + 1]``, [S, O]; later rows are 0.

        ``trainable`` (bool) leaves rows out of the gradients of the experts' parameters only.
        """
        ...


class Expert(nn.Module):
    """Base of experts: any module [rows, D] -> [rows, O]; it needs a forward and a nested Config.

    Parameters are drawn from torch's default generator, which the layer seeds. An expert whose
    kind has ``packed`` runs in one kernel with its like, others run in a loop.
    """

    width: int = 0
    """Hidden units; 0 where the kind has none that the layer's budget could set."""
    watches: ClassVar[bool] = False
    """Whether ``watch`` does anything."""
    narrows: ClassVar[bool] = False
    """Whether ``narrow`` can take hidden units away, as the growth reading rescale asks for."""
    reads_sequences: bool = False
    """Whether it takes whole sequences [B, S, D]; such a one can only run for every token."""

    def __init__(self, config: Any, inputs: int, outputs: int, width: int) -> None:
        super().__init__()

    @staticmethod
    def width_for(config: Any, sizes: Sequence[Size]) -> int:
        """Hidden width of each expert of layers that share one parameter budget; 0 = no width.

        Raises InputError where none fits.
        """
        return 0

    @classmethod
    def packed(cls, experts: Sequence[Any]) -> Kernel | None:
        """One kernel for experts that are all of this class; None = run them in a loop."""
        return None

    def feed_forward(self) -> FeedForward | None:
        """The expert as linear maps, its own parameters; None = it is something else.

        What has it can be made of a dense layer's maps (``workers.moe.upcycles``).
        """
        return None

    @staticmethod
    def common_part(config: Any, inputs: int, outputs: int) -> nn.Module | None:
        """What all experts of a form have in common in one layer, which owns it; None = nothing.

        Drawn from torch's default generator. Growth leaves it as it is.
        """
        return None

    def attach(self, part: nn.Module) -> None:
        """Take in the form's common part, which stays a part of the layer and not of this."""
        raise NotImplementedError

    @classmethod
    def latent_form(cls, config: Any, rank: int) -> Any:
        """Config of experts alike but for reading their input through one projection of the layer
        to ``rank`` numbers; None = there are none (edit ``factor_latent``).

        Their class has ``take_over``.
        """
        return None

    @classmethod
    def take_over(cls, experts: Sequence[Any], replaced: Sequence[Any]) -> None:
        """Take the place of experts, each of one, with their parameters where these fit."""
        raise NotImplementedError

    def detached(self, x: Tensor) -> Tensor:
        """The answer, whose gradient reaches ``x`` but none of the parameters that make it."""
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        y: Tensor = torch.func.functional_call(self, frozen, (x,))
        return y

    def watch(self, x_TD: Tensor, y_TO: Tensor) -> None:
        """Look at what the layer was asked and answered in a training forward, without a graph."""

    def zero_output(self) -> None:
        """Make the expert answer 0 to everything, leaving what it computes inside as it is."""
        raise InputError(
            f"initialiser 'zero_out' needs experts whose output map can be set to 0, and "
            f"{type(self).__name__} has none; use another initialiser"
        )

    def narrow(self, width: int, x_TD: Tensor) -> dict[str, tuple[int, Tensor]]:
        """Keep ``width`` hidden units, those that matter most on ``x``.

        Returns, for each parameter that is now smaller: its name -> (dimension, indices kept).
        """
        raise NotImplementedError


def kernel_of(experts: Sequence[Any]) -> Kernel:
    """What runs these experts: the kernel of their class if they share one, else a loop."""
    first = type(experts[0])
    if all(type(expert) is first for expert in experts):
        packed: Kernel | None = first.packed(experts)
        if packed is not None:
            return packed
    return Loop(experts)


def sequences(config: Any) -> bool:
    """Whether an expert of this Config reads whole sequences: its ``reads_sequences``, if any."""
    return bool(getattr(config, "reads_sequences", False))


class Loop:
    """Experts of any kinds, run one after another."""

    def __init__(self, experts: Sequence[Expert]) -> None:
        self.experts = experts

    def mixture(self, x_TD: Tensor, weights_TE: Tensor, frozen: bool = False) -> Tensor:
        """See ``Kernel.mixture``."""
        y_TEO = torch.stack([e.detached(x_TD) if frozen else e(x_TD) for e in self.experts], 1)
        return (y_TEO * weights_TE.unsqueeze(-1)).sum(1)

    def on_rows(
        self, rows_SD: Tensor, offsets: Tensor, trainable_S: Tensor | None = None
    ) -> Tensor:
        """See ``Kernel.on_rows``; an expert without rows does not run."""
        bounds = _bounds(offsets, len(rows_SD))
        sizes = [stop - start for start, stop in pairwise(bounds)]
        *parts, rest = rows_SD.split([*sizes, rows_SD.shape[0] - bounds[-1]])
        outputs: list[Tensor] = []
        for expert, part, start in zip(self.experts, parts, bounds, strict=False):
            if not len(part):
                continue
            output: Tensor = expert(part)
            if trainable_S is not None:
                trainable_S1 = trainable_S[start : start + len(part)].unsqueeze(1)
                output = torch.where(trainable_S1, output, expert.detached(part))
            outputs.append(output)
        if not outputs:  # nobody chose anything: a forward over no rows tells the output's size
            outputs.append(self.experts[0](rows_SD[:0]))
        return torch.cat([*outputs, outputs[0].new_zeros((len(rest), outputs[0].shape[1]))])


def _bounds(offsets: Tensor, rows: int) -> list[int]:
    """Where each expert's rows begin, and where the last one's end; without data they are taken to
    be shared out evenly."""
    if not offsets.is_meta:
        found: list[int] = offsets.tolist()
        return found
    return [rows * place // (len(offsets) - 1) for place in range(len(offsets))]
