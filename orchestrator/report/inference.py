"""``growstage evaluate``: a stage's model under an inference policy, from a run folder.

Knows no Ray and no MLflow; the model answers in this process.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.report import checkpoints
from workers import trainers
from workers.contract import InputError, Json
from workers.inference import INFERENCE
from workers.parsing import choose

KEY = re.compile(r"\s*\w+\s*=")


def settings(text: str) -> Json:
    """The checked settings of ``NAME``, ``NAME:key=value,...`` or a TOML table ``{...}``.

    A name may be ``module:Class``. Raises InputError where they are none of a policy.
    """
    _, config, problems = choose(INFERENCE, _raw(text), "--policy")
    if problems:
        raise InputError("; ".join(map(str, problems)))
    return asdict(config)


def evaluate(
    run_dir: str | Path,
    policy: Json,
    lane: str | None,
    stage: int | None,
    tasks: Sequence[str],
) -> Json:
    """``workers.inference.running.Comparison`` of ``tasks`` (default: all) as JSON, with ``lane``,
    ``stage`` and the checkpoint's ``digest``.

    Raises InputError where the run has no such lane, stage or task, or the policy cannot answer.
    """
    found = checkpoints.find(run_dir, lane, stage)
    known = {one.name: one for one in found.lane.scored_tasks()}
    chosen = tuple(checkpoints.named(known, name, "task") for name in tasks or known)
    compared = trainers.infer(found.lane.spec(), found.checkpoint, chosen, policy)
    where = {"lane": found.lane.name, "stage": found.stage, "digest": found.checkpoint.digest}
    return {**where, **compared}


def text(told: Json) -> str:
    """A table of the scores on test parts, plain and under the policy."""
    names = [*told["tasks"], "mean"]
    wide = max(len(name) for name in names)
    kind = told["policy"]["kind"].rpartition(":")[2]
    lines = [
        f"{told['lane']}, after stage {told['stage']}: scores on test parts",
        f"{'':{wide}}   plain  {kind:>8}  difference",
    ]
    rows = zip(_with_mean(told["plain"]), _with_mean(told["scores"]), strict=True)
    for name, (plain, score) in zip(names, rows, strict=True):
        lines.append(
            f"{name:{wide}}  {plain:6.4f}  {score:>{max(8, len(kind))}.4f}  {score - plain:+10.4f}"
        )
    if told["choices"]:
        lines.append("chosen on validation parts (mean score of each choice):")
        chosen = set(told["chosen"])
        for choice, row in told["choices"].items():
            mark = "  chosen" if int(choice) in chosen else ""
            lines.append(f"  {choice:>3}  {sum(row) / len(row):6.4f}{mark}")
    lines += [f"{name} = {value:.4g}" for name, value in told["told"].items()]
    return "\n".join(lines)


def _with_mean(values: Sequence[float]) -> list[float]:
    return [*values, sum(values) / len(values)]


def _raw(text: str) -> dict[str, Any] | str:
    """What a policy's text says, unchecked."""
    if text.lstrip().startswith("{"):
        found: dict[str, Any] = _toml(f"policy = {text}", text)["policy"]
        return found
    name, values = text, ""
    for end in (place for place, letter in enumerate(text) if letter == ":"):
        if KEY.match(text, end + 1):
            name, values = text[:end], text[end + 1 :]
            break
    raw: dict[str, Any] = {"kind": name}
    for pair in _pairs(values):
        key, _, value = pair.partition("=")
        raw[key.strip()] = _value(value.strip())
    return raw


def _pairs(text: str) -> list[str]:
    """Split at commas outside brackets and quotes that a ``key=`` follows."""
    found: list[str] = []
    depth, quoted, start = 0, False, 0
    for place, letter in enumerate(text):
        quoted ^= letter == '"'
        depth += 0 if quoted else (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quoted and KEY.match(text, place + 1):
            found.append(text[start:place])
            start = place + 1
    return [*found, text[start:]] if text else []


def _value(text: str) -> Any:
    """A TOML value; anything else is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _toml(document: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(document)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"--policy {text}: no TOML table ({error})") from error
