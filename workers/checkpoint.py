"""Checkpoints: named tensors and a JSON state in a folder, digested, put into place at once.

Loads without executing code (safetensors + JSON). The digest covers contents only, so equal
states give equal digests wherever and whenever they are written. The folder may lie behind a URI.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from workers.contract import CheckpointError, CheckpointRef, InputError, Json, LaneSpec, Taken
from workers.packing import Packed
from workers.storage import RemoteFolder, is_remote, local_path, sync_folder

FORMAT = 3
STATE = "state.json"
PACKED = "packed"
"""Group of tensors kept in few bits, and what tells their shapes."""
PARTS = ("codes", "scale", "least")
KEYS: dict[str, Any] = {"seq": int, "stage": (str, type(None)), "groups": list, "state": dict}
"""What a state must hold."""
FOREIGN = (KeyError, ValueError, TypeError, AttributeError, RuntimeError)
"""What reading raises where files of another program have the right names."""


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
    """Write a checkpoint folder at ``uri``, whole or not at all.

    The same command may be executed twice (after a loss): the second write replaces the first.
    """
    return _put(uri, _encode(tensors, state, seq, stage), seq, stage)


def write_packed(
    uri: str,
    model: Mapping[str, Tensor],
    packed: Mapping[str, Packed],
    state: Json,
    *,
    seq: int,
    stage: str | None,
) -> CheckpointRef:
    """Write a checkpoint of a model alone, some of its tensors ``packed`` in few bits.

    ``read`` gives all of them back as plain tensors, those packed as they were rounded.
    """
    parts = {
        f"{name}/{what}": tensor
        for name, one in packed.items()
        for what, tensor in zip(PARTS, (one.codes_B, one.scale_G, one.least_G), strict=True)
    }
    files = _encode({"model": model, PACKED: parts}, state, seq, stage)
    body = json.loads(files[STATE])
    body[PACKED] = {
        name: {"shape": list(one.shape), "bits": one.bits, "dtype": str(one.dtype)}
        for name, one in packed.items()
    }
    files[STATE] = json.dumps(body, sort_keys=True).encode()
    return _put(uri, files, seq, stage)


def foretell(
    uri: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Json,
    *,
    seq: int,
    stage: str | None,
) -> CheckpointRef:
    """What ``write`` would answer, with nothing written: equal states give equal references."""
    return _reference(uri, _encode(tensors, state, seq, stage), seq, stage)


def _encode(
    tensors: Mapping[str, Mapping[str, Tensor]], state: Json, seq: int, stage: str | None
) -> dict[str, bytes]:
    """A checkpoint's files by name."""
    files = {
        f"{group}.safetensors": save_tensors(
            {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(named.items())}
        )
        for group, named in sorted(tensors.items())
    }
    body = {"format": FORMAT, "seq": seq, "stage": stage, "groups": sorted(tensors), "state": state}
    files[STATE] = json.dumps(body, sort_keys=True).encode()
    return files


def adopt(ref: CheckpointRef, uri: str, changes: Json) -> CheckpointRef:
    """A checkpoint of the same tensors at ``uri`` whose state holds ``changes``.

    For a lane that goes on from another lane's model. Raises InputError as ``read`` does.
    """
    files = _verified(ref)
    body = _body(ref.uri, files)
    body["state"] = {**body["state"], **changes, "adopted_from": ref.digest}
    files[STATE] = json.dumps(body, sort_keys=True).encode()
    return _put(uri, files, ref.seq, ref.stage)


def _put(uri: str, files: Mapping[str, bytes], seq: int, stage: str | None) -> CheckpointRef:
    """Put a checkpoint's files into place."""
    if is_remote(uri):
        _upload(RemoteFolder(uri), files)
    else:
        _rename_into_place(local_path(uri), files)
    return _reference(uri, files, seq, stage)


def _reference(uri: str, files: Mapping[str, bytes], seq: int, stage: str | None) -> CheckpointRef:
    size = sum(len(data) for data in files.values())
    return CheckpointRef(uri=str(uri), digest=_digest(files), seq=seq, stage=stage, bytes=size)


def _upload(folder: RemoteFolder, files: Mapping[str, bytes]) -> None:
    """The state last: a folder without it is none, and the digest tells a mixed one apart."""
    for name in set(folder.names()) - set(files):
        folder.remove(name)
    for name in sorted(files, key=lambda name: (name == STATE, name)):
        folder.write(name, files[name])


def _rename_into_place(target: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder beside ``target`` durably and swap it in."""
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
        sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read(ref: CheckpointRef) -> Checkpoint:
    """Read a checkpoint and verify its digest.

    Raises InputError where it is missing, damaged, or not one of ours.
    """
    return _decode(ref.uri, _verified(ref))


def read_of(ref: CheckpointRef, lane: LaneSpec, taken: Taken | None = None) -> Checkpoint:
    """Read a checkpoint of this lane; raises InputError as ``read``, and where it is another's.

    ``taken``: the stage at whose end, or before whose first, another lane wrote it for this one
    too.
    """
    saved = read(ref)
    if saved.state.get("trainer") != lane.trainer:
        raise InputError(
            f"checkpoint {ref.uri}: written by trainer {saved.state.get('trainer')!r}, the lane's "
            f"is {lane.trainer!r}; give a checkpoint of this lane"
        )
    if taken is not None:
        assert ref.stage == (taken.stage and taken.stage.id), (ref, taken)
    elif saved.state["settings_digest"] != lane.built_from:
        raise InputError(
            f"checkpoint {ref.uri}: written by a lane with other settings than {lane.lane!r}; "
            "restore with the config it was made with"
        )
    return saved


def describe(uri: str) -> CheckpointRef:
    """The reference of a checkpoint folder that is already there."""
    files = _files(uri)
    body = _body(uri, files)
    return _reference(uri, files, body["seq"], body["stage"])


def _verified(ref: CheckpointRef) -> dict[str, bytes]:
    files = _files(ref.uri)
    found = _digest(files)
    if found != ref.digest:
        raise CheckpointError(
            f"checkpoint {ref.uri}: contents hash to {found}, expected {ref.digest}; the folder "
            "is damaged or foreign: restore it from a copy, or start a new run"
        )
    return files


def _files(uri: str) -> dict[str, bytes]:
    """The state and the files of the groups it lists, as far as they are there; others that lie in
    the folder (a file manager's) are none of the checkpoint's."""
    there, read = _remote(uri) if is_remote(uri) else _local(local_path(uri))
    if STATE not in there:
        raise CheckpointError(
            f"checkpoint {uri}: no {STATE} there; give a folder that a run has written"
        )
    state = read(STATE)
    return {STATE: state, **{name: read(name) for name in sorted(_listed(state) & there)}}


def _listed(state: bytes) -> set[str]:
    """Files of the groups that a state lists; none where it is damaged, which its digest tells."""
    try:
        return {f"{group}.safetensors" for group in json.loads(state)["groups"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return set()


def _remote(uri: str) -> tuple[set[str], Callable[[str], bytes]]:
    """(names of what is there, what reads one of them)."""
    folder = RemoteFolder(uri)
    return set(folder.names()), folder.read


def _local(folder: Path) -> tuple[set[str], Callable[[str], bytes]]:
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return names, lambda name: (folder / name).read_bytes()


def _body(folder: str, files: Mapping[str, bytes]) -> Json:
    try:
        body = json.loads(files[STATE])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {folder}: state.json is not JSON ({error})") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {folder}: not a checkpoint of format {FORMAT}; it comes from another "
            "program or version"
        )
    wrong = [key for key, kinds in KEYS.items() if not isinstance(body.get(key, ...), kinds)]
    if wrong:
        raise CheckpointError(
            f"checkpoint {folder}: {STATE} says no {wrong[0]}, or one of another kind; the folder "
            "is damaged or foreign: restore it from a copy, or start a new run"
        )
    return body


def _decode(folder: str, files: Mapping[str, bytes]) -> Checkpoint:
    body = _body(folder, files)
    try:
        tensors = {group: load_tensors(files[f"{group}.safetensors"]) for group in body["groups"]}
        if PACKED in body:
            tensors["model"] |= _unpacked(body[PACKED], tensors.pop(PACKED))
    except (SafetensorError, *FOREIGN) as error:
        raise CheckpointError(f"checkpoint {folder}: tensors cannot be read ({error})") from error
    return Checkpoint(tensors, body["state"])


def _unpacked(told: Json, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors kept in few bits, as they are read back; raises one of FOREIGN where ``told`` and
    ``parts`` do not fit each other."""
    found = {}
    for name, one in told.items():
        codes_B, scale_G, least_G = (parts[f"{name}/{what}"] for what in PARTS)
        dtype = getattr(torch, one["dtype"].removeprefix("torch."))
        if not isinstance(dtype, torch.dtype) or one["bits"] not in range(1, 33):
            raise ValueError(f"{name}: {one['bits']!r} bits, of type {one['dtype']!r}")
        shape = tuple(one["shape"])
        found[name] = Packed(shape, one["bits"], codes_B, scale_G, least_G, dtype).unpacked()
    return found


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
