"""The cluster files: what `ray up` reads passes its own schema, and names what this project has."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import ROOT

FILES = (ROOT / "cluster.yaml", ROOT / "docs" / "cluster-onprem.yaml")


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` fills it in before it checks it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(filled)
    return filled


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_rays_own_schema(path: Path) -> None:
    raw = yaml.safe_load(path.read_text())
    filled = prepared(raw)
    assert filled["head_node_type"] in filled["available_node_types"]
    with pytest.raises(Exception, match="gpu_workers"):
        prepared({**raw, "gpu_workers": 2})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_they_name_is_there(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    for place in config["file_mounts"].values():
        assert place.startswith("~") or (ROOT / place).exists(), place
    setup = " ".join(config["setup_commands"])
    pinned = "torch==" + _version("torch")
    assert pinned in setup, "the cluster installs another torch than the tests run with"
    assert "constraints.txt" in setup
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in text for text in starts if "ray start" in text)


def test_aws_has_nodes_for_lanes_and_for_environment_runners() -> None:
    types = yaml.safe_load(FILES[0].read_text())["available_node_types"]
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["cpu"]["resources"]["CPU"] > 0
    assert "GPU" not in types["cpu"]["resources"]
    assert types["head"]["max_workers"] == 0


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name).partition("+")[0]
