"""A checkpoint's model in the form of another library, with what makes its inputs."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from workers.contract import CheckpointRef, InputError, LaneSpec
from workers.supervised.building import build_stream
from workers.supervised.restoring import restored


def export_checkpoint(lane: LaneSpec, checkpoint: CheckpointRef, folder: Path) -> None:
    """Write ``folder``, which must not be there, whole or not at all.

    Raises InputError where it is there, or where the model has no such form.
    """
    if folder.exists():
        raise InputError(f"{folder}: is there already; give a new folder")
    stream = build_stream(lane)
    model = restored(lane, stream, checkpoint).cpu()
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        model.export(temporary)
        stream.write_reader(temporary)
        temporary.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
