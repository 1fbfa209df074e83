"""Gates by domain: each domain scores the experts by rows of its own.

The base of routers whose tasks or domains are known. Letters: T tokens, E experts, D inputs, G
domains.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from workers.contract import InputError, LaneSettings
from workers.moe.routers.base import Router, RouterContext
from workers.moe.routers.known_domains import domains_of_tokens
from workers.moe.routers.linear import LinearRouter
from workers.tables import Problem


class DomainGates(LinearRouter):
    """r_e(x) = w_{d,e} x + b_{d,e}, d = domain of x: a softmax gate for each domain.

    An expert has one parameter with a row for each of G domains, so that gates of other domains do
    not move while one is trained (their gradient is zero; with momentum or weight decay a parameter
    moves without one).
    """

    needs_domain = True
    start_from = Router.start_from
    as_linear = Router.as_linear

    def __init__(self, inputs: int, domains: int) -> None:
        super().__init__(LinearRouter.Config(), inputs)
        self.gates = (domains,)

    def known(self, context: RouterContext) -> Tensor:
        """Domain of each token, int64 [T]. Raises InputError where it is unknown or has no gate."""
        domain_T = domains_of_tokens(context)
        if not domain_T.is_meta and len(domain_T) and int(domain_T.max()) >= self.gates[0]:
            raise InputError(
                f"router of {self.gates[0]} domains: a token is of domain number "
                f"{int(domain_T.max())} (from 0); set as many as the stream has"
            )
        return domain_T

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E] of each token's own gate."""
        domain_T, domains = self.known(context), self.gates[0]
        rows_EGD = torch.stack(list(self.rows.values()))
        biases_EG = torch.stack(list(self.biases.values()))
        all_TEG = functional.linear(x_TD, rows_EGD.flatten(0, 1), biases_EG.flatten())
        own_TE1 = domain_T.view(-1, 1, 1).expand(-1, len(rows_EGD), 1)
        logits_TE = all_TEG.unflatten(1, (-1, domains)).gather(2, own_TE1).squeeze(2)
        return self.shift(logits_TE, context)


def gates_needed(lane: LaneSettings, domains: int, path: str) -> list[Problem]:
    """The problem of gates for fewer domains than the stream has."""
    if domains >= len(lane.domains):
        return []
    allowed = f"the stream has {len(lane.domains)} domains: {', '.join(lane.domains)}"
    return [Problem(path, f"gates for {domains} domains", allowed)]
