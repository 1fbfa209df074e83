"""``growstage predict``: a stage's model on the samples of a file, from a run folder.

Knows no Ray and no MLflow; the model answers in this process.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.report import checkpoints
from workers import trainers
from workers.contract import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What a model says of samples."""

    lane: str
    stage: int
    columns: list[str]
    """``sample``; of classes ``prediction`` and the probability of each, else each output."""
    rows: list[list[Any]]


def predict(run_dir: str | Path, lane: str | None, stage: int | None, path: Path) -> Predictions:
    """What the model of a lane after a stage says of the samples in a file.

    The file holds inputs as the stream's data set has them: an .npy array, a table with the same
    columns, an image or a folder of images. Raises InputError where the run has no such model, the
    file no such inputs, or the model's outputs are no prediction of a sample.
    """
    found = checkpoints.find(run_dir, lane, stage)
    predictor = trainers.predictor(found.lane.spec(), found.checkpoint)
    said, shares = predictor.predict(predictor.read(path))
    if shares.dim() != 2:
        raise InputError(
            f"lane {found.lane.name!r}: its model gives outputs {list(shares.shape[1:])} a sample, "
            "which are no table; use growstage.load(RUN).model() in Python"
        )
    told = [[f"{share:.6g}" for share in row] for row in shares.tolist()]
    names = predictor.names
    if names is None:
        columns = [f"output {number}" for number in range(shares.shape[1])]
    else:
        columns = ["prediction", *(f"p({name})" for name in names)]
        told = [[what, *row] for what, row in zip(said, told, strict=True)]
    rows = [[number, *row] for number, row in enumerate(told)]
    return Predictions(
        lane=found.lane.name, stage=found.stage, columns=["sample", *columns], rows=rows
    )


def as_csv(found: Predictions) -> str:
    """The predictions as CSV with a header."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([found.columns, *found.rows])
    return out.getvalue()
