"""Adam that reads every parameter in the order of its memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class MemoryOrderAdam(torch.optim.Adam):
    """``torch.optim.Adam`` for parameters that may be stored transposed.

    The fused kernel copies all it is given of a matrix that does not lie row by row, and copies it
    back: of the first layer of a Craftax net, seven times its size at every step. Adam works
    element by element, so that the transposes, which share the memory, give the same numbers.
    """

    def _init_group(
        self,
        group: dict[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor],
        state_steps: list[Tensor],
    ) -> Any:
        each = (params_with_grad, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs)
        result = super()._init_group(group, *each, state_steps)
        kept = [tensors for tensors in each if tensors]
        for i, parameter in enumerate(params_with_grad):
            if not parameter.is_contiguous() and all(_transposed(one[i]) for one in kept):
                for one in kept:
                    one[i] = one[i].t()
        return result


def _transposed(matrix: Tensor) -> bool:
    """Whether it lies column by column."""
    return matrix.dim() == 2 and matrix.t().is_contiguous()
