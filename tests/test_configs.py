"""Every checked-in config loads, plans, and survives the journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.config.file import load, restore
from orchestrator.config.plan import as_json, plan
from workers.contract import InputError
from workers.streams.fetch import status

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.toml"))


def needs_missing_data(path: Path) -> bool:
    absent = {row.name.removeprefix("text/") for row in status() if not row.available}
    return any(f'"{name}"' in path.read_text() for name in absent)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_loads_plans_and_restores(path: Path) -> None:
    if needs_missing_data(path):
        with pytest.raises(InputError, match="data fetch"):
            load(path)
        return
    config = load(path)
    lanes = plan(config)
    for stage in (stage for lane in lanes for stage in lane.stages):
        assert bool(stage.parameters) == (stage.last_experts is not None)
    assert as_json(config, lanes)["config_digest"] == config.digest
    assert restore(json.loads(json.dumps(config.plain()))) == config
