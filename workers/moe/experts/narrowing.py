"""Which hidden units an expert keeps when it becomes narrower, and the output map for those.

Letters: T tokens, H hidden units, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def strongest(size_H: Tensor, hidden_TH: Tensor, width: int) -> Tensor:
    """The ``width`` units with the largest ``size mean_x |hidden(x)|``, in their old order."""
    score_H = size_H * hidden_TH.abs().mean(0)
    order_H = torch.sort(score_H, descending=True, stable=True).indices
    return order_H[:width].sort().values


def ridge(hidden_TH: Tensor, wanted_TO: Tensor, strength: float = 1e-4) -> Tensor:
    """``argmin_V |hidden V^T - wanted|^2 + lam |V|^2`` as [O, H], lam relative to the mean unit."""
    hidden, wanted = hidden_TH.double(), wanted_TO.double()
    gram = hidden.t() @ hidden
    lam = strength * gram.diagonal().mean() + torch.finfo(torch.float32).tiny
    gram.diagonal().add_(lam)
    return torch.linalg.solve(gram, hidden.t() @ wanted).t().to(hidden_TH.dtype).contiguous()
