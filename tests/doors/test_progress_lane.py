"""Low-rank stages added by progress or time, through a whole lane and through kills."""

from __future__ import annotations

from pathlib import Path

from tests.doors.routed_lane import both, routed_lane


def test_stages_added_by_progress_and_by_time_go_through_kills(tmp_path: Path) -> None:
    raw = routed_lane({"kind": "lora_stages", "rank": 3})
    raw["model"] |= {"experts": 1, "max_experts": None}
    raw["policies"]["growth"] = {
        "kind": "progress_or_timeout",
        "growths": 2,
        "first_intervals": 2,
        "max_intervals": 2,
        "solved": 0.5,
    }
    whole = both(tmp_path, raw)
    assert len(whole.edits) == 2
