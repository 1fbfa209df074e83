"""The experts of a stock mixture as modules of their own, one parameter for each tensor of each.

The parameters are views of the stock model's stacked tensors: nothing is copied. Letters: T tokens,
E experts, D inputs, W hidden units.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.models.huggingface.convention import Mixture, is_gated
from workers.moe.experts import Expert, GatedExpert

ACTIVATIONS: dict[str, Any] = {"silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu"}
"""Names of transformers -> ours, which our kernels compute."""


class StockExpert(Expert):
    """An expert of any other form: the family's own code with a single expert.

    Run one after another. Initial values of a new one: normal with the model's
    ``initializer_range``, biases 0.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """What the family's code needs; made from a stock mixture, never written in a file."""

        kind: str = "stock"
        width: int = 0
        template: Any = None
        """The family's experts with one expert and without memory (on the meta device)."""
        spread: float = 0.02
        """Standard deviation of a new expert's weights."""

    def __init__(self, config: Config, inputs: int, outputs: int, width: int) -> None:
        super().__init__(config, inputs, outputs, width)
        self.width = width
        self._template = (config.template,)  # in a tuple, so that it is no part of this module
        for name, one in config.template.named_parameters(recurse=False):
            drawn = torch.empty(one.shape[1:]).normal_(std=config.spread)
            bias = name.endswith("bias")
            self.register_parameter(name, nn.Parameter(drawn.zero_() if bias else drawn))

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D]."""
        own = {name: tensor.unsqueeze(0) for name, tensor in self.named_parameters()}
        index = torch.zeros(len(x_TD), 1, dtype=torch.int64, device=x_TD.device)
        weights = x_TD.new_ones(len(x_TD), 1)
        y_TD: Tensor = torch.func.functional_call(self._template[0], own, (x_TD, index, weights))
        return y_TD

    @staticmethod
    def width_for(config: Config, sizes: Any) -> int:
        """The stock model's."""
        return config.width


EXPERTS: dict[str, type] = {"gated": GatedExpert, "stock": StockExpert}
"""Forms that a stock expert may take."""


def form_of(mixture: Mixture) -> Any:
    """The Config of what an expert of this mixture becomes."""
    experts: Any = mixture.experts
    down = mixture.stacked["down_proj"]
    activation = activation_of(experts)
    if is_gated(experts) and activation is not None:
        return GatedExpert.Config(width=down.shape[2], activation=activation)
    width = down.shape[1] if experts.is_transposed else down.shape[2]
    spread = float(getattr(experts.config, "initializer_range", 0.02))
    return StockExpert.Config(width=width, template=_template(experts), spread=spread)


def activation_of(experts: Any) -> Any:
    """Our name of a stock module's activation; None where our kernels do not compute it."""
    return ACTIVATIONS.get(str(getattr(experts.config, "hidden_act", "")))


def take_over(expert: Expert, mixture: Mixture, number: int) -> None:
    """Make the parameters of ``expert`` views of expert ``number`` of the stock mixture."""
    for name, stacked in mixture.stacked.items():
        own = STOCK_NAMES.get(name, name) if isinstance(expert, GatedExpert) else name
        setattr(expert, own, nn.Parameter(stacked.detach()[number]))


STOCK_NAMES = {"gate_up_proj": "gate_up", "down_proj": "down"}
"""Parameters of a stock mixture -> those of our gated expert."""


def stacked_again(experts: list[Expert], name: str) -> Tensor:
    """The stock model's stacked tensor ``name`` [E, ...] from these experts."""
    own = STOCK_NAMES.get(name, name) if isinstance(experts[0], GatedExpert) else name
    return torch.stack([getattr(expert, own).detach() for expert in experts])


def _template(experts: Any) -> nn.Module:
    """The family's experts for one expert, on the meta device, run by its own plain code."""
    own = dict(experts.named_parameters(recurse=False))
    with torch.device("meta"):
        shell = copy.copy(experts)
        shell._parameters = {
            name: nn.Parameter(torch.empty((1, *tensor.shape[1:]), dtype=tensor.dtype))
            for name, tensor in own.items()
        }
    shell.num_experts = 1
    shell.config = copy.deepcopy(experts.config)
    shell.config._experts_implementation = "eager"
    made: nn.Module = shell
    return made
