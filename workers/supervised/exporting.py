"""A checkpoint's model for other programs: in the form of another library, or in one of our own.

The form of our own is a checkpoint of the model (and of its method, where that answers) with what
it is built from beside it; it loads without executing code and without the run it came from.
"""

from __future__ import annotations

import json
import platform
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from workers import checkpoint
from workers.contract import CheckpointRef, InputError, LaneSpec
from workers.models.base import Model
from workers.supervised.building import build_stream
from workers.supervised.predicting import Predictor, predictor
from workers.supervised.restoring import restored

MODEL_FILE = "growstage.json"
"""What the model of an exported folder is built from, and the digest of its weights."""
WEIGHTS = "weights"
"""The checkpoint inside an exported folder."""
LOADER = "growstage.serving"
"""Module that MLflow opens the folder with."""
MLMODEL = """flavors:
  python_function:
    loader_module: {loader}
    python_version: {python}
model_uuid: {uuid}
signature:
  inputs: '[{{"type": "tensor", "tensor-spec": {{"dtype": "{dtype}", "shape": {shape}}}}}]'
"""
README = """# {lane}

A model trained by growstage: {kind}, {parameters:,} parameters, inputs {shape}, {outputs} outputs.

    import growstage
    model = growstage.load_model("{folder}")   # a torch module in evaluation mode
    outputs = model(inputs)                    # [B, {inputs}] -> [B, {outputs}]

MLflow serves it where growstage is installed, with nothing else to say:

    mlflow models serve -m {folder} --env-manager local --port 5001
    curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \\
        -d '{{"inputs": [ ... ]}}'

The weights are `weights/model.safetensors` (`safetensors.torch.load_file` reads them by name);
`growstage.json` holds the settings and the shape that the model is built from. What it was trained
on need not be there, unless the settings name files that decide its shape.
"""


def export_checkpoint(lane: LaneSpec, ref: CheckpointRef, folder: Path) -> None:
    """Write ``folder``, which must not be there, whole or not at all.

    Raises InputError where it is there or cannot be written.
    """
    if folder.exists():
        raise InputError(f"{folder}: is there already; give a new folder")
    stream = build_stream(lane)
    model = restored(lane, stream, ref).cpu()
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        if type(model).export is not Model.export:
            model.export(temporary)
            stream.write_reader(temporary)
        else:
            _write_own(lane, stream, model, ref, temporary, folder.name)
        temporary.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_own(
    lane: LaneSpec, stream: Any, model: Any, ref: CheckpointRef, folder: Path, name: str
) -> None:
    """The form of our own."""
    saved = checkpoint.read(ref)
    groups = {"model", "method"} & saved.tensors.keys()
    kept = {group: saved.tensors[group] for group in groups}
    place = str((folder / WEIGHTS).resolve())
    written = checkpoint.write(place, kept, saved.state, seq=ref.seq, stage=ref.stage)
    told = {"lane": asdict(lane), "digest": written.digest, "checkpoint": ref.digest}
    (folder / MODEL_FILE).write_text(json.dumps(told, indent=1), encoding="utf-8")
    shape = tuple(stream.input_shape)
    text = README.format(
        lane=lane.lane,
        kind=lane.settings["model"]["kind"],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        shape=list(shape),
        inputs=", ".join(map(str, shape)),
        outputs=stream.outputs,
        folder=name,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    served = MLMODEL.format(
        loader=LOADER,
        python=platform.python_version(),
        uuid=uuid.uuid4().hex,
        dtype="int64" if stream.input_type == "integer" else "float32",
        shape=json.dumps([-1, *shape]),
    )
    (folder / "MLmodel").write_text(served, encoding="utf-8")


def load_exported(folder: Path) -> Predictor:
    """The model of a folder that ``export_checkpoint`` wrote in the form of our own.

    Raises InputError where it is none, or damaged.
    """
    file = folder / MODEL_FILE
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        lane = TypeAdapter(LaneSpec).validate_python(told["lane"])
        digest = str(told["digest"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"{folder}: is no model that growstage export wrote ({MODEL_FILE}: {error}); give such "
            "a folder, or open one for transformers with transformers"
        ) from error
    place = str((folder / WEIGHTS).resolve())
    found = checkpoint.describe(place)
    if found.digest != digest:
        raise InputError(
            f"{folder}: its weights hash to {found.digest}, expected {digest}; export it anew"
        )
    return predictor(lane, found)
