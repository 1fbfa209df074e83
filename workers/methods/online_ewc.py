"""Online elastic weight consolidation: one decaying Fisher information, one anchor."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workers.methods.ewc import EWC
from workers.methods.parameters import Known


class OnlineEWC(EWC):
    """Online EWC (Schwarz et al., arXiv 1805.06370, section 3): the latest task is the anchor.

    ``L + strength / 2 * sum_k F~_k (theta_k - theta*_k)^2`` with theta* where the last task ended
    and ``F~ <- decay * F~ + F_t``. The Fisher informations are not rescaled to one another.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(EWC.Config):
        """Strength, estimate and decay."""

        kind: str = "online_ewc"
        decay: float = 0.9
        """gamma: what remains of earlier tasks' information with each new task; 0 to 1."""

        def __post_init__(self) -> None:
            EWC.Config.__post_init__(self)
            if not 0.0 <= self.decay <= 1.0:
                raise ValueError(f"decay must be from 0 to 1, got {self.decay}")

    config: OnlineEWC.Config
    plain_start = True

    def _joined(self, old: Known | None, fisher: Tensor, value: Tensor) -> Known:
        earlier = 0.0 if old is None else self.config.decay * old["importance"]
        return {"importance": earlier + fisher, "anchor": value}
