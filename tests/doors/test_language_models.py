"""Language models go through whole lanes: grown, masked, in phases, killed, to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.file import check
from tests import chains
from tests.doors.lane import run_killed, run_lane
from tests.families import FAMILIES, settings
from workers.contract import InputError

pytest.importorskip("transformers")

ADAMW = {"kind": "adamw", "lr": 3e-3, "weight_decay": 0.1}
TRAINING = {"steps": 12, "intervals": 3, "batch": 8, "optimizer": ADAMW}
DES_MOE = {
    "router": {"kind": "adapt_router", "from_stage": 1},
    "phases": {"kind": "three_phases", "from_stage": 1},
    "masks": {"kind": "usage_masks", "from_stage": 1},
}
GROWTH = {"growth": {"kind": "periodic", "add": 2, "max_experts": 10}}


SIX = TRAINING | {"intervals": 6}
"""Enough intervals for three phases."""


def lane(model: dict[str, Any], policies: dict[str, Any], **stream: Any) -> dict[str, Any]:
    return {
        "stream": {"kind": chains.KIND, **stream},
        "model": model,
        "training": TRAINING,
        "policies": policies,
        "lanes": [{}],
    }


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_grows_through_kills(family: str, tmp_path: Path) -> None:
    raw = lane({"kind": "huggingface", "settings": settings(family)}, GROWTH)
    whole = run_lane(tmp_path / "whole", raw)
    assert run_killed(tmp_path / "killed", raw).essence == whole.essence
    assert [edit["experts"] for edit in whole.edits] == [10]


@pytest.mark.parametrize("joint", [True, False])
def test_specialised_experts_go_through_kills(joint: bool, tmp_path: Path) -> None:
    losses = [{"kind": "balance", "weight": 0.01}]
    model = {"kind": "huggingface", "settings": settings("olmoe"), "router": "adaptive"}
    raw = lane(model | {"losses": losses}, DES_MOE, joint=joint) | {"training": SIX}
    whole = run_lane(tmp_path / "whole", raw)
    killed = run_killed(tmp_path / "killed", raw, edits="refresh_mask")
    assert killed.essence == whole.essence
    kinds = {edit["kind"] for edit in whole.edits}
    assert kinds == {"adapt_router", "set_phase", "refresh_mask"}


def test_chosen_experts_alone_are_tuned(tmp_path: Path) -> None:
    """ESFT: which experts a domain needs is measured before its stage."""
    model = {"kind": "huggingface", "settings": settings("qwen3_moe")}
    esft = {"phases": {"kind": "esft", "score": "token", "share": 0.4, "from_stage": 1}}
    raw = lane(model, esft)
    whole = run_lane(tmp_path / "whole", raw)
    killed = run_killed(tmp_path / "killed", raw, edits="refresh_mask")
    assert killed.essence == whole.essence


def test_the_decoder_learns_and_grows_through_kills(tmp_path: Path) -> None:
    decoder = {"kind": "decoder", "width": 32, "depth": 2, "heads": 4, "experts": 2}
    layer = {"kind": "moe", "selector": "topk", "expert": {"kind": "gated", "width": 16}}
    raw = lane(decoder | {"layer": layer, "max_experts": 4}, {"growth": "periodic"}, windows=400)
    raw["training"] = TRAINING | {"steps": 60, "batch": 16}
    whole = run_lane(tmp_path / "whole", raw)
    assert run_killed(tmp_path / "killed", raw).essence == whole.essence
    figures = whole.lane["stages"][-1]["figures"]["south"]
    assert figures["bits_per_byte"] < 6.2, "below the entropy of tokens drawn evenly (6.58 bits)"
    assert whole.matrix[-1][-1] > whole.matrix[1][-1], "the last domain was learnt"


def test_a_model_without_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="a model for: labels"):
        check({"name": "x", **lane({"kind": "classifier"}, {})}, "test")


def test_windows_longer_than_the_model_s_positions_are_refused() -> None:
    short = settings("olmoe", max_position_embeddings=16)
    with pytest.raises(InputError, match="the model has 16 positions"):
        check({"name": "x", **lane({"kind": "huggingface", "settings": short}, {})}, "test")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused() -> None:
    small = settings("olmoe", vocab_size=64)
    with pytest.raises(InputError, match="the tokenizer has 96 tokens, the model 64"):
        check({"name": "x", **lane({"kind": "huggingface", "settings": small}, {})}, "test")
