"""The model of a supervised lane's checkpoint, ready to answer."""

from __future__ import annotations

from typing import Any

from workers import checkpoint
from workers.contract import CheckpointRef, LaneSpec
from workers.machine import pick_device
from workers.moe.growth import surgery
from workers.supervised.building import build_model


def restore(model: Any, ref: CheckpointRef) -> Any:
    """The model with the shape and weights of a checkpoint, in evaluation mode on the device."""
    saved = checkpoint.read(ref)
    surgery.ensure_arch(model, saved.state["arch"])
    model.load_state_dict(saved.tensors["model"])
    return model.to(pick_device()).eval()


def restored(lane: LaneSpec, stream: Any, ref: CheckpointRef) -> Any:
    """The same, built from the lane's settings."""
    return restore(build_model(lane, stream), ref)
