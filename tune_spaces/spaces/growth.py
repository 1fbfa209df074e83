"""How a model grows: what distinguishes trials acts only from the first growth on.

``max_experts`` is the same in all trials, so that experts have the same width everywhere: trials
share the stages before their first growth, and may go on from each other's grown models.
"""

from __future__ import annotations

from tune_spaces.space import Choice, Integer, Space


class Growth(Space):
    """Growth of experts: granularity, initialiser, optimizer handling, interval."""

    base = "configs/digits_growth.toml"
    lane = "replay"
    fixed = {  # noqa: RUF012  (typed in the base class)
        "policies.growth.kind": "periodic",
        "policies.growth.unit": "stages",
        "policies.growth.max_experts": 9,
        "model.max_experts": 9,
    }
    parameters = {  # noqa: RUF012
        "policies.growth.add": Integer(1, 2),
        "policies.growth.every": Choice((1, 2, 3)),
        "policies.growth.initialiser": Choice(("random", "clone_split", "clone_noise")),
        "policies.growth.optimizer": Choice(("keep", "reset")),
    }
