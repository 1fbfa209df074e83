"""Experts by name: any module; those with a kernel are computed together."""

from workers.moe.experts.base import Expert
from workers.moe.experts.bottleneck import Bottleneck
from workers.moe.experts.depthwise import DepthwiseExpert
from workers.moe.experts.fourier import FourierExpert
from workers.moe.experts.gated import GatedExpert
from workers.moe.experts.linear import LinearExpert
from workers.moe.experts.memory import MemoryExpert
from workers.moe.experts.mlp import MLPExpert
from workers.moe.experts.normed import NormedExpert
from workers.moe.experts.shared_latent import SharedLatentExpert

EXPERTS: dict[str, type] = {
    "bottleneck": Bottleneck,
    "depthwise": DepthwiseExpert,
    "fourier": FourierExpert,
    "gated": GatedExpert,
    "linear": LinearExpert,
    "mlp": MLPExpert,
    "normed": NormedExpert,
    "shared_latent": SharedLatentExpert,
    "memory": MemoryExpert,
}

__all__ = [
    "EXPERTS",
    "Bottleneck",
    "DepthwiseExpert",
    "Expert",
    "FourierExpert",
    "GatedExpert",
    "LinearExpert",
    "MLPExpert",
    "MemoryExpert",
    "NormedExpert",
    "SharedLatentExpert",
]
