"""Reinforcement learning on Craftax: the settings of PPO that matter most, and growth."""

from __future__ import annotations

from tune_spaces.space import Choice, LogUniform, Space


class PPO(Space):
    """PPO on Craftax: learning rate, entropy bonus, passes over a rollout, experts added."""

    base = "configs/quickstart.toml"
    lane = "craftax"
    fixed = {"model.max_experts": 4}  # noqa: RUF012
    parameters = {  # noqa: RUF012
        "training.lr": LogUniform(5e-5, 2e-3),
        "training.entropy": LogUniform(1e-3, 5e-2),
        "training.epochs": Choice((2, 4, 8)),
        "policies.growth.add": Choice((1, 2)),
    }
    objective = "return"
