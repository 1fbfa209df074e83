"""The user's own modules of a config: found, digested, taken along by a job; tokens and hints."""

from __future__ import annotations

import hashlib
import sys
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.beginning import begin, own_code, takeover
from orchestrator.cluster.jobs import Submission, token_mode, travelling
from orchestrator.config.file import check
from orchestrator.config.modules import module_digests, own_modules
from orchestrator.core.hints import resume_command
from orchestrator.core.journal import Journal
from orchestrator.core.records import Record
from workers.contract import InputError


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a module and a package."""
    (tmp_path / "alone_x.py").write_text("class A: ...\n")
    inside = tmp_path / "packed_x" / "deep"
    inside.mkdir(parents=True)
    (tmp_path / "packed_x" / "__init__.py").touch()
    (inside / "__init__.py").touch()
    (inside / "part.py").write_text("class B: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("packed_x", "packed_x.deep"):  # looking for a part imports what it is in
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


NAMED = {
    "stream": {"kind": "alone_x:A"},
    "lanes": [{"x": [{"kind": "packed_x.deep.part:B"}]}],
    "model": {"kind": "workers.models.classifier:Classifier"},
    "installed": "torch.nn:Linear",
    "not one": "no_such_module_x:C",
    "a uri": "models:/one/1",
    "a time": "12:30",
}


def test_own_modules_are_told_from_installed_ones_and_ours(library: Path) -> None:
    assert own_modules(NAMED) == {
        "alone_x": library / "alone_x.py",
        "packed_x.deep.part": library / "packed_x" / "deep" / "part.py",
    }
    digest = hashlib.sha256(b"class A: ...\n").hexdigest()[:16]
    assert module_digests(NAMED)["alone_x"] == digest


def test_what_lies_outside_the_folder_travels_as_a_whole(library: Path, tmp_path: Path) -> None:
    alone, packed = own_modules(NAMED).values()
    assert travelling([packed], tmp_path / "project") == (str(library / "packed_x"),)
    assert travelling([alone, packed], library) == ()
    with pytest.raises(InputError, match=r"alone_x/__init__\.py"):
        travelling([alone, packed], tmp_path / "project")


def test_a_changed_module_is_told_when_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "held_x.py").write_text(
        "from workers.methods.plain import Finetune\nclass Mine(Finetune): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = check({"name": "own", "stream": {"kind": "split", "dataset": "digits"}, "lanes": [
        {"method": {"kind": "held_x:Mine"}}
    ]}, "test")  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    with closing(Journal(run / "journal.jsonl")) as journal:
        journal.append(Record(event=begin(config, "one")))
        first = own_code(run, config)
        assert capsys.readouterr().err == ""
        (tmp_path / "held_x.py").write_text("class Mine: ...\n")
        second = own_code(run, config)
        assert "changed since this run was here last: held_x;" in capsys.readouterr().err
        assert first.keys() == second.keys() == {"held_x"}
        assert first != second
        journal.append(Record(event=takeover(1, 0, None, second)))
        own_code(run, config)
        assert capsys.readouterr().err == ""


def test_a_token_is_sent_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert token_mode() == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    assert token_mode() == {"RAY_AUTH_MODE": "token"}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token_mode() == {}


def test_printed_commands_say_address_and_token() -> None:
    job = Submission(
        address="http://h:1",
        working_dir=".",
        entrypoint=("python", "-m", "orchestrator"),
        client={"RAY_AUTH_MODE": "token"},
    )
    assert job.hints("raysubmit_1") == (
        "follow: RAY_AUTH_MODE=token ray job logs --address http://h:1 -f raysubmit_1\n"
        "stop: RAY_AUTH_MODE=token ray job stop --address http://h:1 raysubmit_1"
    )
    assert job.command().startswith("RAY_AUTH_MODE=token ray job submit --address http://h:1 ")


def test_resume_is_told_as_it_works_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "argv", [".venv/bin/growstage"])
    assert resume_command("runs/a b") == ".venv/bin/growstage resume 'runs/a b'"
    monkeypatch.setattr(sys, "argv", ["/x/orchestrator/__main__.py"])
    assert resume_command("runs/a") == f"{sys.executable} -m orchestrator resume runs/a"
    (tmp_path / "growstage").touch(0o755)
    monkeypatch.setenv("PYTHONPATH", "examples/own_stream")
    assert resume_command("runs/a") == "PYTHONPATH=examples/own_stream growstage resume runs/a"
