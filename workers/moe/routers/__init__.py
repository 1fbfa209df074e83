"""Routers by name: token features -> one logit per expert."""

from workers.moe.routers.adaptive import AdaptiveRouter
from workers.moe.routers.base import Router, RouterContext
from workers.moe.routers.cosine import CosineRouter
from workers.moe.routers.hierarchical_multigate import HierarchicalMultigateRouter
from workers.moe.routers.kmeans_lstsq import KMeansRouter
from workers.moe.routers.linear import LinearRouter
from workers.moe.routers.noisy import NoisyRouter
from workers.moe.routers.oracle_domain import OracleDomainRouter
from workers.moe.routers.per_task_gate import PerTaskGateRouter
from workers.moe.routers.prototype import PrototypeRouter
from workers.moe.routers.recurrent import RecurrentRouter
from workers.moe.routers.ridge import RidgeRouter
from workers.moe.routers.segment import SegmentRouter
from workers.moe.routers.teacher_labels import TeacherLabelsRouter

ROUTERS: dict[str, type] = {
    "linear": LinearRouter,
    "adaptive": AdaptiveRouter,
    "noisy": NoisyRouter,
    "segment": SegmentRouter,
    "recurrent": RecurrentRouter,
    "prototype": PrototypeRouter,
    "oracle_domain": OracleDomainRouter,
    "per_task_gate": PerTaskGateRouter,
    "hierarchical_multigate": HierarchicalMultigateRouter,
    "ridge": RidgeRouter,
    "kmeans_lstsq": KMeansRouter,
    "teacher_labels": TeacherLabelsRouter,
    "cosine": CosineRouter,
}

__all__ = [
    "ROUTERS",
    "AdaptiveRouter",
    "HierarchicalMultigateRouter",
    "KMeansRouter",
    "LinearRouter",
    "NoisyRouter",
    "OracleDomainRouter",
    "PerTaskGateRouter",
    "PrototypeRouter",
    "RecurrentRouter",
    "RidgeRouter",
    "Router",
    "RouterContext",
    "SegmentRouter",
    "TeacherLabelsRouter",
]
