"""Settings of a lane, as configs of routers look at them."""

from __future__ import annotations

from typing import Any

from workers.contract import LaneSettings, TaskSpec
from workers.methods.plain import Finetune


def lane(domains: tuple[str, ...] = ("a", "b", "c", "d"), **settings: Any) -> LaneSettings:
    """A supervised lane with a task for each domain, hidden unless ``settings`` say so."""
    tasks = [TaskSpec(index=i, name=name, domain=name) for i, name in enumerate(domains)]
    given = {
        "sections": {"method": Finetune.Config()},
        "tasks": tuple(tasks),
        "domains": domains,
        "trainer": "supervised",
        "acts": False,
        "workers": 1,
        "intervals": 2,
    }
    return LaneSettings(**(given | settings))
