"""Checkpoints: named tensors and a JSON state in a folder, digested, renamed into place.

Loads without executing code (safetensors + JSON). The digest covers contents only, so equal
states give equal digests wherever and whenever they are written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from workers.contract import CheckpointRef, InputError, Json

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read back: groups of named tensors (``model``, ``optimizer``, ...) and the state."""

    tensors: dict[str, dict[str, Tensor]]
    state: Json


def write(
    uri: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Json,
    *,
    seq: int,
    stage: str | None,
) -> CheckpointRef:
    """Write a checkpoint folder at ``uri`` atomically; an equal one already there is kept.

    The same command may be executed twice (after a loss): the second write replaces the first.
    """
    target = Path(uri)
    files = {
        f"{group}.safetensors": save_tensors(
            {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(named.items())}
        )
        for group, named in sorted(tensors.items())
    }
    body = {"format": FORMAT, "seq": seq, "stage": stage, "groups": sorted(tensors), "state": state}
    files["state.json"] = json.dumps(body, sort_keys=True).encode()
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        for name, data in files.items():
            _write_durably(temporary / name, data)
        if target.exists():
            old = target.with_name(f".{target.name}.old-{uuid.uuid4().hex[:8]}")
            os.rename(target, old)
            os.rename(temporary, target)
            shutil.rmtree(old)
        else:
            os.rename(temporary, target)
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    size = sum(len(data) for data in files.values())
    return CheckpointRef(uri=str(uri), digest=_digest(files), seq=seq, stage=stage, bytes=size)


def read(ref: CheckpointRef) -> Checkpoint:
    """Read a checkpoint and verify its digest.

    Raises InputError where it is missing, damaged, or not one of ours.
    """
    files = _files(Path(ref.uri))
    found = _digest(files)
    if found != ref.digest:
        raise InputError(
            f"checkpoint {ref.uri}: contents hash to {found}, expected {ref.digest}; the folder "
            "is damaged or foreign: restore it from a copy, or start a new run"
        )
    return _decode(Path(ref.uri), files)


def describe(uri: str) -> CheckpointRef:
    """The reference of a checkpoint folder found on disk."""
    files = _files(Path(uri))
    body = _body(Path(uri), files)
    size = sum(len(data) for data in files.values())
    return CheckpointRef(
        uri=uri, digest=_digest(files), seq=body["seq"], stage=body["stage"], bytes=size
    )


def _files(folder: Path) -> dict[str, bytes]:
    if not (folder / "state.json").is_file():
        raise InputError(
            f"checkpoint {folder}: no state.json there; give a folder that a run has written"
        )
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _body(folder: Path, files: Mapping[str, bytes]) -> Json:
    try:
        body = json.loads(files["state.json"])
    except ValueError as error:
        raise InputError(f"checkpoint {folder}: state.json is not JSON ({error})") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise InputError(
            f"checkpoint {folder}: not a checkpoint of format {FORMAT}; it comes from another "
            "program or version"
        )
    return body


def _decode(folder: Path, files: Mapping[str, bytes]) -> Checkpoint:
    body = _body(folder, files)
    try:
        tensors = {group: load_tensors(files[f"{group}.safetensors"]) for group in body["groups"]}
    except (KeyError, SafetensorError) as error:
        raise InputError(f"checkpoint {folder}: tensors cannot be read ({error})") from error
    return Checkpoint(tensors, body["state"])


def _digest(files: Mapping[str, bytes]) -> str:
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return total.hexdigest()


def _write_durably(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
