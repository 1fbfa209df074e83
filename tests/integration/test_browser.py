"""The links growstage prints, opened in a headless browser: what a person sees is there."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.views import LOCAL_UI, ui_command
from tests.journals import RUN_ID, story, write

BROWSER = Path("/usr/bin/chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1000",
)
LANES = (("replay", 0), ("replay", 1), ("finetune", 0), ("finetune", 1))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BROWSER.exists(), reason=f"no {BROWSER}"),
]


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    run_dir = tmp_path_factory.mktemp("runs") / "one"
    write(run_dir, story(lanes=LANES))
    tracker = Tracker(run_dir, None)
    tracker.project()
    return tracker


@pytest.fixture(scope="module")
def ui(tracker: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow UI served by the printed command, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("ui")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            ["/bin/sh", "-c", "exec env " + ui_command(tracker.store.uri, port)],
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            assert answers(f"{address}/health", seconds=90), (folder / "log").read_text()
            yield address
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def answers(url: str, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    return False


def page(url: str, profile: Path, expected: str) -> str:
    """The page's DOM once it shows ``expected``; the last one seen where it never does."""
    dom = ""
    for budget in (15, 30, 60):
        shutil.rmtree(profile, ignore_errors=True)
        command = [
            str(BROWSER),
            *FLAGS,
            f"--user-data-dir={profile}",
            f"--virtual-time-budget={budget * 1000}",
            "--dump-dom",
            url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
        dom = done.stdout
        if expected in dom:
            break
    return dom


def test_the_tree_link_shows_the_run_on_its_own_line(
    tracker: Tracker, ui: str, tmp_path: Path
) -> None:
    dom = page(tracker.links().tree.replace(LOCAL_UI, ui), tmp_path / "profile", RUN_ID)
    assert RUN_ID in dom
    assert "Tree" in dom
    assert "acc.final" in dom
    assert "replay · s0 · fashion" not in dom  # lanes are folded under their run


def test_the_lanes_link_shows_every_lane(tracker: Tracker, ui: str, tmp_path: Path) -> None:
    link = tracker.links().lanes.replace(LOCAL_UI, ui)
    dom = page(link, tmp_path / "profile", "task/bags")
    for method, seed in LANES:
        assert f"{method} · s{seed} · fashion" in dom
    assert "task/bags" in dom


def test_the_methods_link_groups_lanes_by_method(tracker: Tracker, ui: str, tmp_path: Path) -> None:
    link = tracker.links().methods.replace(LOCAL_UI, ui)
    dom = page(link, tmp_path / "profile", "Group: replay")
    assert "Group: replay" in dom
    assert "Group: finetune" in dom
    assert "(average)" in dom


def test_a_lane_page_shows_its_note_and_figure(tracker: Tracker, ui: str, tmp_path: Path) -> None:
    run = tracker.store.ledger.ids[f"run:{RUN_ID}/replay-s0"]
    experiment = tracker.store.ledger.ids["experiment"]
    link = f"{ui}/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"
    dom = page(link, tmp_path / "profile", "accuracy_matrix.png")
    assert "accuracy_matrix.png" in dom
    assert "edits: 1" in dom
    url = f"{ui}/get-artifact?path=figures/accuracy_matrix.png&run_uuid={run}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.read(8) == b"\x89PNG\r\n\x1a\n"
