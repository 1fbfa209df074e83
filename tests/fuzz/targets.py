"""What reads what others wrote, and how each is fed. One line a target."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import seeds
from tests.fuzz.attack import Target, nothing_half_written
from tests.fuzz.damage import VALUES, WORDS, damaged, distorted
from workers.contract import InputError

Strategy = st.SearchStrategy[Any]


# ---------------------------------------------------------------- what people write


def _stream_file(folder: Path, text: bytes) -> None:
    from orchestrator.config.file import load

    file = folder / "s.toml"
    file.write_bytes(text)
    load(file)


def _stream_table(folder: Path, told: Any) -> None:
    from orchestrator.config.file import check
    from orchestrator.config.plan import as_json, plan

    config = check(told, "the file")
    as_json(config, plan(config))


def _stream_tables() -> Strategy:
    return distorted(seeds.stream_tables()).filter(lambda told: isinstance(told, dict))


def _override(folder: Path, item: str) -> None:
    import tomllib

    from orchestrator.config.file import check, override

    raw = tomllib.loads(seeds.stream_files()[0].decode())
    override(raw, item)
    check(raw, "the file")


def _overrides() -> Strategy:
    keys = ("name", "lanes", "lanes.0", "lanes.0.method", "stream.kind", "model.head.hidden", "x.y")
    words = [word.decode(errors="surrogateescape") for word in WORDS]
    key = st.one_of(st.sampled_from(keys), st.text(max_size=12))
    value = st.one_of(
        st.sampled_from(words), st.text(max_size=20), st.sampled_from(VALUES).map(repr)
    )
    return st.one_of(st.tuples(key, value).map("=".join), st.text(max_size=30))


def _environment(folder: Path, given: tuple[str, str]) -> None:
    from ops import build, library
    from orchestrator.beginning import code_version, tracking_store
    from workers.streams.places import find, named_folder

    name, value = given
    if name == "XDG_CACHE_HOME" or name.endswith(("_CACHE", "_DATA")):
        value = str(folder / value) if value and "\0" not in value else value
    with _variable(name, value):
        find("mnist")
        named_folder("x")
        code_version()
        tracking_store(folder, None)
        try:
            library.mode()
            build.cache_folder()
            build.toolchain()
        except (build.BuildError, library.OpsUnavailableError) as error:
            raise InputError(str(error)) from error


def _environments() -> Strategy:
    names = (
        "GROWSTAGE_DATA", "GROWSTAGE_OPS", "GROWSTAGE_OPS_CACHE", "GROWSTAGE_OPS_CUDA",
        "GROWSTAGE_OPS_ARCHS", "GROWSTAGE_CODE_VERSION", "XDG_CACHE_HOME", "MLFLOW_TRACKING_URI",
        "PYTHONPATH", "CXX", "CUDA_HOME",
    )  # fmt: skip
    sane = st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])
    value = st.one_of(
        st.text(sane, max_size=30), st.sampled_from(["", "auto", "/", "~", "~nobody/x"])
    )
    return st.tuples(st.sampled_from(names), value)


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# ---------------------------------------------------------------- what runs write


def _journal(folder: Path, data: bytes) -> None:
    from orchestrator.core.journal import JOURNAL_FILE, Journal, read
    from orchestrator.report.runs import listed
    from orchestrator.session import report_of

    file = folder / JOURNAL_FILE
    file.write_bytes(data)
    listed(folder)
    list(read(file))
    report_of(folder)
    Journal(file).close()


def _chained(folder: Path, events: Sequence[Any]) -> None:
    """Records that each follow the one before, so that their contents are what is read."""
    from orchestrator.core.records import mark

    lines: list[bytes] = []
    after = ""
    for event in events:
        told = {"after": after, **event} if isinstance(event, dict) else event
        lines.append(json.dumps(told, separators=(",", ":")).encode() + b"\n")
        after = mark(lines[-1])
    _journal(folder, b"".join(lines))


def _histories() -> Strategy:
    return distorted(seeds.histories()).filter(lambda records: isinstance(records, list))


def _restored(folder: Path, told: Any) -> None:
    from orchestrator.config.file import restore

    restore(told)


def _configs() -> Strategy:
    return distorted(seeds.configs())


def _ledger(folder: Path, data: bytes) -> None:
    from orchestrator.tracking.ledger import LEDGER_FILE, Ledger, tracked_offset

    (folder / LEDGER_FILE).write_bytes(data)
    tracked_offset(folder)
    Ledger(folder / LEDGER_FILE, "sqlite:///x.db").advance(1, "m")


LEDGER = [
    b'{"store": "0123456789abcdef", "ids": {"experiment": "1"}}\n'
    b'{"store": "0123456789abcdef", "offset": 10, "mark": "m"}\n'
]


def _checkpoint(folder: Path, given: tuple[str, bytes]) -> None:
    from workers import checkpoint

    name, data = given
    place = folder / "c"
    place.mkdir()
    before = {**seeds.checkpoint_files(), name: data}
    for file, contents in before.items():
        (place / file).write_bytes(contents)
    try:
        ref = checkpoint.describe(str(place))
        checkpoint.read(ref)
        checkpoint.adopt(ref, str(folder / "d"), {})
    except InputError:
        nothing_half_written(folder, {f"c/{file}": text for file, text in before.items()})
        raise


def _checkpoints() -> Strategy:
    files = seeds.checkpoint_files()
    raw = st.one_of(*(st.tuples(st.just(name), damaged([data])) for name, data in files.items()))
    state = distorted([json.loads(files["state.json"])]).map(
        lambda told: ("state.json", json.dumps(told).encode())
    )
    return st.one_of(raw, state)


# ---------------------------------------------------------------- data


def _file(name: str, read: Callable[[Path], Any]) -> Callable[[Path, bytes], None]:
    """What reads a file of this name."""

    def feed(folder: Path, data: bytes) -> None:
        (folder / name).write_bytes(data)
        read(folder / name)

    return feed


def _idx(folder: Path, given: tuple[str, bytes]) -> None:
    from workers.streams.idx import read_idx

    name, data = given
    (folder / name).write_bytes(data)
    read_idx(folder / name, 3, "fetch it again")


def _idx_files() -> Strategy:
    plain, packed = seeds.idx()
    return st.one_of(
        st.tuples(st.just("x"), damaged([plain])), st.tuples(st.just("x.gz"), damaged([packed]))
    )


def _images(folder: Path, data: bytes) -> None:
    from workers.streams.datasets.image_folder import ImageFolder

    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data if name == "b/1.png" else seeds.images()[0])
    made = ImageFolder(ImageFolder.Config(path=str(folder), size=4))
    made.problems("dataset")
    made.read(folder)


def _package(suffix: str) -> Callable[[Path, bytes], None]:
    def feed(folder: Path, data: bytes) -> None:
        from workers.streams.packages import Package, take

        inside = folder / "inside"
        inside.mkdir()
        (inside / f"p{suffix}").write_bytes(data)
        package = Package(manager="pip", name="p", version="1", sha256="", keep=("data/*",))
        take(inside / f"p{suffix}", package, inside / "unpacked", folder / "target")
        outside = [
            path
            for path in folder.rglob("*")
            if path.is_symlink() and not path.is_relative_to(inside)
        ]
        assert not outside, outside

    return feed


def _texts(path: Path) -> Any:
    from workers.streams.text.files import read

    return list(read(path, "text"))


def _table(path: Path) -> Any:
    from workers.streams.datasets.table import TableFile

    made = TableFile(TableFile.Config(path=str(path), label="label"))
    found = made.problems("dataset")
    if found:
        raise InputError(str(found[0]))
    return made.read(path)


def _keel(path: Path) -> Any:
    from workers.streams.datasets.keel import _read

    return _read(path)


def _array(path: Path) -> Any:
    from workers.streams.datasets.base import read_array

    return read_array(path, (4,))


def _arrays(folder: Path, data: bytes) -> None:
    from workers.streams.arrays import Arrays

    for name in ("train_x", "train_y", "test_x", "test_y"):
        (folder / "t").mkdir(exist_ok=True)
        (folder / "t" / f"{name}.npy").write_bytes(data)
    found = Arrays(Arrays.Config(path=str(folder)), 0).problems()
    if found:
        raise InputError(str(found[0]))


# ---------------------------------------------------------------- models of others


def _tokenizer(folder: Path, given: Mapping[str, bytes]) -> None:
    from workers.streams.text.tokenizers import HuggingFace

    for name, data in given.items():
        (folder / name).write_bytes(data)
    made = HuggingFace(HuggingFace.Config(path=str(folder)))
    found = made.problems("tokenizer")
    if found:
        raise InputError(str(found[0]))
    list(made.encoder(lambda name, characters: ("", ()), folder).encode(["the cat"]))


def _tokenizers() -> Strategy:
    files = seeds.tokenizer()
    single = {name: files[name] for name in ("tokenizer.json", "tokenizer_config.json")}
    pair = {name: files[name] for name in ("vocab.json", "merges.txt", "tokenizer_config.json")}
    whole = json.loads(files["tokenizer.json"])
    return st.one_of(
        *(
            damaged([data]).map(lambda text, given=given, name=name: {**given, name: text})
            for given in (single, pair)
            for name, data in given.items()
        ),
        distorted([whole]).map(
            lambda told: {**single, "tokenizer.json": json.dumps(told).encode()}
        ),
    )


def _gguf(folder: Path, data: bytes) -> None:
    from workers.models.huggingface.known import convert

    (folder / "m.gguf").write_bytes(data)
    convert(folder / "m.gguf", folder / "made")


def _model_folder(folder: Path, told: Any) -> None:
    from workers.models.huggingface.loading import config_of, fingerprint

    (folder / "config.json").write_text(json.dumps(told))
    config_of(str(folder), {}, None)
    fingerprint(str(folder))


def _bytes(
    good: Callable[[], list[bytes]], feed: Callable[[Path, bytes], None], slow: bool = False
) -> Target:
    """A target that is handed the bytes of a file."""
    return Target(lambda: damaged(good()), feed, lambda: good()[0], slow)


TARGETS: dict[str, Target] = {
    "stream file": _bytes(seeds.stream_files, _stream_file),
    "stream table": Target(
        _stream_tables, _stream_table, lambda: seeds.stream_tables()[0], slow=True
    ),
    "set": Target(_overrides, _override, lambda: "name=x"),
    "environment": Target(_environments, _environment, lambda: ("GROWSTAGE_OPS", "off")),
    "journal": _bytes(seeds.journals, _journal),
    "chained-journal": Target(_histories, _chained, lambda: seeds.histories()[0]),
    "journal-config": Target(_configs, _restored, lambda: seeds.configs()[0]),
    "ledger": _bytes(lambda: LEDGER, _ledger),
    "checkpoint": Target(
        _checkpoints, _checkpoint, lambda: ("state.json", seeds.checkpoint_files()["state.json"])
    ),
    "idx": Target(_idx_files, _idx, lambda: ("x", seeds.idx()[0])),
    "image": _bytes(seeds.images, _images),
    "zip": _bytes(seeds.wheels, _package(".whl")),
    "tar": _bytes(seeds.tars, _package(".tgz")),
    "jsonl": _bytes(seeds.json_lines, _file("t.jsonl", _texts)),
    "parquet": _bytes(seeds.parquets, _file("t.parquet", _texts)),
    "csv-table": _bytes(seeds.tables, _file("t.csv", _table)),
    "parquet-table": _bytes(seeds.parquets, _file("t.parquet", _table)),
    "keel": _bytes(seeds.keel, _file("v.dat", _keel)),
    "npy": _bytes(seeds.arrays, _file("x.npy", _array)),
    "arrays": _bytes(seeds.arrays, _arrays),
    "tokenizer": Target(_tokenizers, _tokenizer, seeds.tokenizer),
    "gguf": _bytes(lambda: [seeds.gguf()], _gguf, slow=True),
    "model-folder": Target(
        lambda: distorted([seeds.model_folder()]), _model_folder, seeds.model_folder, slow=True
    ),
}
"""What reads what others wrote, by name."""
