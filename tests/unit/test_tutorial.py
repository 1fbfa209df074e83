"""Tutorial and examples: files plan as they stand; GROWSTAGE_TUTORIAL=1 runs every command.

``make tutorial`` runs them, page by page, each page in an empty folder; minutes.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.config.plan import plan
from orchestrator.session import checked, load

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "tutorial").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/stream.toml"))
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.M | re.S)
WHOLE = os.environ.get("GROWSTAGE_TUTORIAL") == "1"


@dataclass(frozen=True)
class Page:
    """What a page has its reader save and type."""

    files: dict[str, str]
    commands: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> Page:
        files, commands = {}, []
        for language, info, body in BLOCK.findall(path.read_text()):
            if title := re.search(r'title="([^"]+)"', info):
                files[title[1]] = body
            elif language == "console":
                commands += [line[2:] for line in body.splitlines() if line.startswith("$ ")]
        return cls(files, tuple(commands))

    def write(self, folder: Path) -> None:
        """The page's files, and what it takes for granted: a folder of photos."""
        for name, text in self.files.items():
            (folder / name).write_text(text)
        rng = np.random.default_rng(0)
        for place in range(4 * 12):
            image = folder / "photos" / "train" / f"class {place % 4}" / f"{place}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(image)
        shutil.copytree(folder / "photos" / "train", folder / "photos" / "test")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_stream_file_of_a_page_plans(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page.of(path)
    page.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if "prepare.py" in page.files:
        subprocess.run([sys.executable, "prepare.py"], check=True)
    files = [name for name in page.files if name.endswith(".toml")]
    for name in files:
        assert plan(load(tmp_path / name, (), None)), name
    assert files or path.stem.endswith("clusters")
    named = {word for command in page.commands for word in shlex.split(command)}
    assert set(files) - named <= {"images.toml"}, "saved, and never used"


def test_the_pages_follow_each_other() -> None:
    assert len(PAGES) == 10
    for page, following in pairwise(PAGES):
        assert f"]({following.name})" in page.read_text()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_plans(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path)
    monkeypatch.syspath_prepend(str(path))
    assert plan(load(path / "stream.toml", (), None))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_config_of_every_notebook_plans(path: Path) -> None:
    """Cells compile, hold no outputs, and the dictionary that is run is a stream file's."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert not any(cell["outputs"] for cell in cells)
    (config,) = (
        ast.literal_eval(node.value)
        for source in sources
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "config"
    )
    assert plan(checked(config, path.name, None))


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.skipif(not WHOLE, reason="make tutorial runs it: minutes")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_runs(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "here")
    typed("growstage run stream.toml --run-dir runs/one", tmp_path / "here")


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.skipif(not WHOLE, reason="make tutorial runs it: minutes")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_command_of_a_page_works(path: Path, tmp_path: Path) -> None:
    page = Page.of(path)
    page.write(tmp_path)
    for command in page.commands:
        typed(command, tmp_path)


def typed(command: str, folder: Path) -> None:
    """Run a command as typed in ``folder`` with the environment activated."""
    binaries = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": binaries, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
