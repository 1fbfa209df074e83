"""Commands about trained models: each opens a checkpoint of a run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.options import (
    AsJson,
    Lane,
    LaneNamed,
    NewFolder,
    RunDir,
    Stage,
    StageNamed,
    TrackingUri,
    print_json,
)
from workers.contract import InputError


def trace(
    run_dir: RunDir,
    lane: Lane = None,
    stage: Stage = None,
    task: Annotated[
        str | None, typer.Option(help="Task to play or to read from; default: the stage's.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Text to read; default: the first held out of the task.")
    ] = None,
    out: Annotated[Path, typer.Option(help="PNG file to draw.")] = Path("trace.png"),
    replay: Annotated[
        Path | None, typer.Option(help="GIF file: the episode with its gates beside it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a model's routers do in one episode or text: a figure, and the numbers as JSON."""
    from orchestrator.report import replays, traces

    for path in (out, replay):
        if path is not None:
            traces.check_writable(path)
    reel = None if replay is None else replays.Reel()
    traced = traces.trace(run_dir, lane, stage, task, text, replays.watching(reel))
    traces.save(traced, out)
    if replay is not None and reel is not None:
        replays.save(reel, traced, replay)
    if as_json:
        print_json({**traced, "figure": str(out)})
        return
    where = f"{traced['lane']}, task {traced['task']}, after stage {traced['stage']}"
    steps = (
        f"{len(next(iter(traced['gates'].values())))} {'tokens' if 'tokens' in traced else 'steps'}"
    )
    drawn = f"{out} and {replay}" if replay is not None else str(out)
    print(f"{where}: {steps}, drawn in {drawn}")


def evaluate(
    run_dir: RunDir,
    policy: Annotated[
        str,
        typer.Option(help="NAME, NAME:key=value,... or a TOML table; growstage list inference."),
    ] = "plain",
    lane: Lane = None,
    stage: Stage = None,
    tasks: Annotated[
        list[str] | None, typer.Option(help="Task to score; repeatable; default: all.")
    ] = None,
    tracking_uri: TrackingUri = None,
    tracking: Annotated[bool, typer.Option(help="Record it in MLflow.")] = True,
    as_json: AsJson = False,
) -> None:
    """How a stage's model answers under an inference policy, and how as it was trained."""
    from orchestrator import session
    from orchestrator.report import inference

    told = session.evaluate(run_dir, policy, lane, stage, tasks or (), tracking_uri, tracking)
    if as_json:
        print_json(told)
    else:
        print(inference.text(told))


def predict(
    run_dir: RunDir,
    inputs: Annotated[
        Path,
        typer.Argument(
            help="Samples: .npy, a table with the columns trained on, an image or a folder.",
            show_default=False,
        ),
    ],
    lane: Lane = None,
    stage: Stage = None,
    out: Annotated[
        Path | None, typer.Option(help="CSV file to write; default: standard output.")
    ] = None,
) -> None:
    """What a stage's model says of samples: classes with probabilities, or numbers, as CSV."""
    from orchestrator.report import predictions

    found = predictions.predict(run_dir, lane, stage, inputs)
    text = predictions.as_csv(found)
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror})") from error
    print(f"{found.lane}, after stage {found.stage}: {len(found.rows)} predictions in {out}")


def export(
    run_dir: RunDir,
    lane: LaneNamed,
    stage: StageNamed,
    folder: NewFolder,
) -> None:
    """Write a stage's model as a folder: for transformers where it is one of theirs (tokenizer
    included), else safetensors that growstage.load_model opens."""
    from orchestrator.report import checkpoints
    from workers import trainers

    found = checkpoints.find(run_dir, lane, stage)
    trainers.export(found.lane.spec(), found.checkpoint, folder)
    print(f"{found.lane.name}, after stage {found.stage} ({found.task.name}): {folder}")


def compress(
    run_dir: RunDir,
    lane: LaneNamed,
    stage: StageNamed,
    folder: NewFolder,
    bits: Annotated[float, typer.Option(help="Average bits of an expert's weights.")] = 2.5,
    symmetric: Annotated[bool, typer.Option(help="Steps around 0.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a copy of a stage's checkpoint with experts in few bits, which loads like the other."""
    from orchestrator.report import checkpoints
    from workers import trainers

    if folder.exists():
        raise InputError(f"{folder}: is there already; give a new folder")
    found = checkpoints.find(run_dir, lane, stage)
    spec, uri = found.lane.spec(), str(folder.resolve())
    told = trainers.compress(
        spec, found.checkpoint, found.task, uri, bits=bits, symmetric=symmetric
    )
    if as_json:
        print_json(told)
        return
    size, score = told["checkpoint"]["bytes"], told["score"]
    print(
        f"{found.lane.name}, after stage {found.stage} ({found.task.name}): "
        f"{told['bytes_before']:,} -> {size:,} bytes, score {told['score_before']:.3f} -> "
        f"{score:.3f}; {folder}"
    )


COMMANDS = (predict, evaluate, trace, export, compress)
