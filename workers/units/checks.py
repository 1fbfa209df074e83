"""What changes units needs of a lane, known before anything runs."""

from __future__ import annotations

from workers.contract import LaneSettings
from workers.tables import Problem, construct


def unfit(lane: LaneSettings, silent: bool = False) -> list[Problem]:
    """Why a lane's units cannot be told and renewed, if so; the model is built without memory.

    ``silent``: whether units must be able to be exactly silent.
    """
    import torch

    from workers.models import MODELS
    from workers.units.finding import units_of

    if "compress_experts" in lane.proposes:
        allowed = "compressed experts read scaled inputs, by which units cannot be judged"
        return [Problem("kind", "a policy of this lane compresses experts", allowed)]
    with torch.device("meta"):
        config = lane.sections["model"]
        model = construct(MODELS, config, lane.input_shape, lane.outputs, seed=0)
    units = units_of(model)
    kind = config.kind
    if not units:
        allowed = (
            "needs hidden units that the model tells: head mlp, head moe, experts bottleneck, "
            "gated or mlp, backbone mlp or nature_cnn"
        )
        return [Problem("kind", f"model {kind!r} of this lane tells no units", allowed)]
    if silent and not any(part.can_be_silent for part in units.values()):
        allowed = "needs units that can be silent: ReLU between maps"
        return [Problem("kind", f"no unit of model {kind!r} is ever exactly silent", allowed)]
    return []
