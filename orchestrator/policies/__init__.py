"""Pure deciders: what to change in a model between intervals. They decide, they never do."""

from typing import Any

from orchestrator.policies.adapt_router import AdaptRouters
from orchestrator.policies.base import EditFields, LaneFacts, Policy, Proposal, View
from orchestrator.policies.compress import Compress
from orchestrator.policies.detectors import DETECTORS
from orchestrator.policies.drift_detector import DriftDetector
from orchestrator.policies.esft import Esft
from orchestrator.policies.factor_latent import FactorExperts
from orchestrator.policies.fit_routers import FitRouters
from orchestrator.policies.fixed_masks import FixedMasks
from orchestrator.policies.freeze_old import FreezeOldExperts
from orchestrator.policies.freeze_routers import FreezeRouters
from orchestrator.policies.gradient_drift import GradientDrift
from orchestrator.policies.growing import Evidence, Triggered
from orchestrator.policies.periodic import Periodic
from orchestrator.policies.plasticity_loss import PlasticityLoss
from orchestrator.policies.plateau import Plateau
from orchestrator.policies.probe_experts import ProbeExperts
from orchestrator.policies.progress_or_timeout import ProgressOrTimeout
from orchestrator.policies.prune import PruneExperts
from orchestrator.policies.redo import ReDo
from orchestrator.policies.resets import Resets
from orchestrator.policies.routing_saturation import RoutingSaturation
from orchestrator.policies.shrink_perturb import ShrinksPerturbs
from orchestrator.policies.signals import seen
from orchestrator.policies.three_phases import ThreePhases
from orchestrator.policies.unserved_tokens import UnservedTokens
from orchestrator.policies.usage_masks import UsageMasks
from workers.tables import lookup

POLICIES: dict[str, type] = {
    "periodic": Periodic,
    "progress_or_timeout": ProgressOrTimeout,
    "plateau": Plateau,
    "plasticity_loss": PlasticityLoss,
    "routing_saturation": RoutingSaturation,
    "gradient_drift": GradientDrift,
    "drift_detector": DriftDetector,
    "probe_experts": ProbeExperts,
    "adapt_router": AdaptRouters,
    "fit_routers": FitRouters,
    "three_phases": ThreePhases,
    "usage_masks": UsageMasks,
    "fixed_masks": FixedMasks,
    "freeze_routers": FreezeRouters,
    "esft": Esft,
    "prune": PruneExperts,
    "compress": Compress,
    "factor_latent": FactorExperts,
    "freeze_old": FreezeOldExperts,
    "unserved_tokens": UnservedTokens,
    "redo": ReDo,
    "reset": Resets,
    "shrink_perturb": ShrinksPerturbs,
}
"""Policies: when a model is changed, and how."""


def proposed(config: Any) -> tuple[str, ...]:
    """Kinds of edit that the policy of this config may propose."""
    found: Any = lookup(POLICIES, config.kind, "kind")
    kinds: tuple[str, ...] = found.proposes
    return kinds


__all__ = [
    "DETECTORS",
    "POLICIES",
    "EditFields",
    "Evidence",
    "LaneFacts",
    "Policy",
    "Proposal",
    "Triggered",
    "View",
    "proposed",
    "seen",
]
