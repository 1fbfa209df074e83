"""How trained models answer: one table of policies that change routing, not parameters."""

from __future__ import annotations

from workers.inference.base import Forward, InferencePolicy, Subject, Turn
from workers.inference.expert_gain import ExpertGain
from workers.inference.k_sweep import KSweep
from workers.inference.neighbour_rerouting import NeighbourRerouting
from workers.inference.plain import Plain
from workers.inference.router_bias import RouterBias
from workers.inference.self_contrast import SelfContrast

INFERENCE: dict[str, type] = {
    "plain": Plain,
    "k_sweep": KSweep,
    "expert_gain": ExpertGain,
    "router_bias": RouterBias,
    "neighbour_rerouting": NeighbourRerouting,
    "self_contrast": SelfContrast,
}
"""Inference policies by name."""

__all__ = ["INFERENCE", "Forward", "InferencePolicy", "Subject", "Turn"]
