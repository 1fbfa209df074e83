"""The door of edits: a kind from outside, proposed by a policy from outside, seen everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from orchestrator.core.events import EditApplied
from orchestrator.policies import Policy, Proposal, View
from orchestrator.report.progress import line
from orchestrator.report.results import print_report
from orchestrator.tracking import pages
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.writes import LogPoints
from tests.doors.lane import Outcome, run_killed, run_lane
from tests.doors.routed_lane import both, routed_lane
from tests.tokens import text_lane, write_texts
from workers.contract import InputError, Json
from workers.edits import Change, Edit, EditProbe, FitRouter, Forward
from workers.moe.routers.linear import LinearRouter
from workers.streams import places

HERE = "tests.doors.test_edit_door"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleBiases(Edit):
    """Every bias of a routed layer's router is multiplied by a factor."""

    noun: ClassVar[str] = "scaling"

    kind: str = f"{__name__}:ScaleBiases"
    factor: float

    def text(self) -> str:
        return f"router biases times {self.factor:g}"

    def plan(
        self, module: torch.nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        biases = [p for name, p in module.named_parameters() if ".router.biases." in name]
        if not biases:
            raise InputError("there is no router bias to scale")

        @torch.no_grad()
        def change() -> Change:
            for bias in biases:
                bias.mul_(self.factor)
            return Change(rebind=False)

        return change


class Calm(Policy):
    """Scales router biases at the start of each stage but the first, by less each time."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """The first factor."""

        kind: str
        factor: float = 0.5

    config: Config

    def propose(self, view: View, memory: Json) -> Proposal:
        if view.n or not view.stage.index:
            return (), memory
        factor = self.config.factor if memory is None else memory * self.config.factor
        common = view.edit(policy="calm", trigger="stage start", figures={"factor": factor})
        return (ScaleBiases(**common, factor=factor),), factor


class Fits(Policy):
    """Asks for a fit of the routers in the middle of each stage."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """What to fit to."""

        kind: str
        targets: str = "labels"

    config: Config

    def propose(self, view: View, memory: Json) -> Proposal:
        if view.n != 1:
            return (), memory
        common = view.edit(policy="fits", trigger="first interval")
        return (FitRouter(**common, targets=self.config.targets),), memory  # type: ignore[arg-type]


class LeastSquares(LinearRouter):
    """A linear router that can be fitted: expert ``e`` is told the targets that fall on it."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Strength of the ridge."""

        kind: str
        ridge: float = 1e-3

    config: Config

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(LinearRouter.Config(), inputs)
        self.config = config

    @torch.no_grad()
    def fit(self, x_TD: torch.Tensor, y_T: torch.Tensor, seed: int) -> None:
        experts = list(self.rows)
        wanted_TE = torch.nn.functional.one_hot(y_T % len(experts), len(experts)).double()
        ones_T1 = torch.ones(len(x_TD), 1, dtype=torch.double)
        x_TD1 = torch.cat([x_TD.double(), ones_T1], 1)
        square_DD = x_TD1.T @ x_TD1 + self.config.ridge * torch.eye(x_TD1.shape[1])
        solved_DE = torch.linalg.solve(square_DD, x_TD1.T @ wanted_TE)
        for number, expert in enumerate(experts):
            self.rows[expert].copy_(solved_DE[:-1, number])
            self.biases[expert].copy_(solved_DE[-1, number])


BASE: dict[str, Any] = {
    "stream": {"kind": "split", "dataset": "digits", "classes_per_task": 2},
    "model": {"head": {"kind": "moe", "hidden": [12]}},
    "training": {"epochs": 2, "intervals": 3, "batch": 32},
    "lanes": [{}],
}
TWO = ("grow", "ScaleBiases")
CALM = {**BASE, "policies": {"growth": "periodic", "calm": f"{HERE}:Calm"}}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_lane(tmp_path_factory.mktemp("calm"), CALM)


def test_a_kind_from_outside_is_applied_journalled_and_survives_kills(
    calm: Outcome, tmp_path: Path
) -> None:
    assert run_killed(tmp_path, CALM).essence == calm.essence
    kinds = [(edit["kind"].rpartition(":")[2], edit["revision"]) for edit in calm.edits]
    assert kinds == [(name, 2 * n + i + 1) for n in range(4) for i, name in enumerate(TWO)]
    assert [e["factor"] for e in calm.edits if "factor" in e] == [0.5, 0.25, 0.125, 0.0625]


def test_it_is_seen_in_the_terminal_the_report_and_mlflow(
    calm: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    """A listener with a table of kinds used to stop the run."""
    applied = [r for r in calm.records if isinstance(r.event, EditApplied)]
    assert "router biases times 0.5" in str(line(applied[1]))
    print_report(calm.report)
    assert "4 growths, 4 scalings" in capsys.readouterr().out
    assert calm.edits[1]["text"] == "router biases times 0.5"
    projection = Projection()
    writes = [write for record in calm.records for write in projection.add(record)]
    points = [p for w in writes if isinstance(w, LogPoints) for p in w.points]
    assert [p.value for p in points if p.name == "experts"]
    (lane,) = projection.history.lanes.values()
    page = pages.stage_page(projection.history, lane, 1)
    assert "**router biases times 0.5**" in page.tags[pages.NOTE]
    assert json.loads(page.texts["edits.json"])[1]["factor"] == 0.5
    assert pages.lane_figures(projection.history, lane.name).images


def fitting(**router: Any) -> dict[str, Any]:
    head = {"kind": "moe", "hidden": [24], "layer": {"router": router}}
    return {
        **BASE,
        "model": {"experts": 2, "head": head},
        "policies": {"growth": "periodic", "fits": f"{HERE}:Fits"},
    }


def test_a_router_from_outside_is_fitted_without_a_gradient(tmp_path: Path) -> None:
    raw = fitting(kind=f"{HERE}:LeastSquares")
    whole, killed = run_lane(tmp_path / "a", raw), run_killed(tmp_path / "b", raw)
    assert killed.essence == whole.essence
    fits = [edit for edit in whole.edits if edit["kind"] == "fit_router"]
    assert [edit["text"] for edit in fits] == ["routers of all layers fitted to labels"] * 5
    assert all(edit["probe_change"] > 1e-3 for edit in fits)


def test_a_router_that_is_trained_by_gradients_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"LinearRouter of layer .* is trained by gradients"):
        run_lane(tmp_path, fitting(kind="linear"))


def test_windows_of_tokens_have_no_label_to_fit_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "data"))
    raw = text_lane(
        write_texts(tmp_path / "texts"),
        model={
            "kind": "tests.tokens:TinyTokens",
            "layer": {"router": {"kind": f"{HERE}:LeastSquares"}},
        },
        policies={"fits": f"{HERE}:Fits"},
    )
    with pytest.raises(InputError, match="a sample has 16 labels, one for each token"):
        run_lane(tmp_path / "lane", raw)


FITTED = {
    "ridge": {"at": "start", "targets": "domains"},
    "kmeans_lstsq": {"at": "end", "targets": "losses"},
}


@pytest.mark.parametrize("router", FITTED)
def test_the_policy_has_routers_fitted_and_survives_kills(tmp_path: Path, router: str) -> None:
    raw = routed_lane({"kind": "moe", "router": router})
    raw["policies"]["fit"] = {"kind": "fit_routers", **FITTED[router]}
    whole = both(tmp_path, raw)
    fits = [edit for edit in whole.edits if edit["kind"] == "fit_router"]
    assert len(fits) == 2
    assert all(edit["probe_change"] > 1e-4 for edit in fits)
