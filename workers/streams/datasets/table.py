"""A CSV or Parquet file as a data set: a row a sample, one column the label, the others inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workers.contract import InputError
from workers.streams.datasets.base import Dataset, PartName
from workers.streams.sampling import held_out
from workers.tables import Problem

FORMATS = (".csv", ".parquet")
MOST_CATEGORIES = 256
"""Different texts of a column; more are no categories."""


class _Numbers(NamedTuple):
    """A column of numbers: less the mean, over the deviation."""

    name: str
    mean: float
    deviation: float


class _Categories(NamedTuple):
    """A column of texts or truth values: an input for each, 1 where it is that one."""

    name: str
    values: tuple[str, ...]


class TableFile(Dataset):
    """Your own table: a CSV or Parquet file with a row a sample and a column for the label.

    Columns of numbers become one input each, less the mean and over the standard deviation of the
    training part; columns of texts one input for each text that occurs there. A number that is
    missing is taken as the mean, a text as none of those known. Classes are numbered in the order
    of their sorted labels.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Dataset.Config):
        """Settings of a table."""

        kind: str = "table"
        path: str = ""
        """The file; relative to the working folder of the process that reads it."""
        label: str = ""
        """Column that holds the class of each row."""
        test: str = ""
        """File of the test part, of the same columns; empty = rows of ``path`` are held out."""
        columns: tuple[str, ...] = ()
        """Columns that are inputs; empty = all but the label."""
        name: str = ""
        """Name in tasks and domains; empty = the file's name without its suffix."""
        holdout: float = 0.2
        """Share of each class held out as test part where there is no file of it; between 0 and
        1."""
        holdout_seed: int = 0
        """Seed of the hold-out: of the data set, so that every lane has the same test part."""

    config: TableFile.Config
    top = None

    @property
    def label(self) -> str:
        return self.config.name or Path(self.config.path).stem

    @cached_property
    def shape(self) -> tuple[int, ...]:
        counts = (len(c.values) if isinstance(c, _Categories) else 1 for c in self._encoding)
        return (sum(counts),)

    @property
    def classes(self) -> int:
        return len(self.names)

    @cached_property
    def names(self) -> list[str]:
        return sorted(
            {str(value) for value in self._table[self.config.label].to_pylist()}, key=_key
        )

    def labels(self, part: PartName) -> np.ndarray:
        number = {name: label for label, name in enumerate(self.names)}
        found = _texts(self._parts[part][self.config.label])
        for name in found:
            if name not in number:
                raise InputError(
                    f"{self.config.test}: label {name!r} is not in {self.config.path}; every class "
                    "needs rows in both files"
                )
        return np.array([number[name] for name in found], dtype=np.int64)

    def inputs(self, part: PartName, index: np.ndarray) -> np.ndarray:
        return self._encoded[part][index]

    def read(self, path: Path) -> np.ndarray:
        """Inputs of another file with the same columns, float32 [N, features]; of an .npy file as
        they are."""
        if path.suffix == ".npy":
            return super().read(path)
        return self._encode(_read(path), path)

    def problems(self, path: str) -> list[Problem]:
        config, found = self.config, []
        for name, what in (("path", "the CSV or Parquet file"), ("label", "the label's column")):
            if not getattr(config, name):
                found.append(Problem(f"{path}.{name}", "missing", f"give {what}"))
        if not 0 < config.holdout < 1:
            allowed = "must be between 0 and 1"
            found.append(Problem(f"{path}.holdout", f"got {config.holdout}", allowed))
        if found:
            return found
        try:
            _ = self.shape, self.names, self._encoded, self.labels("test")
        except InputError as error:
            what, _, remedy = str(error).rpartition("; ")
            return [Problem(f"{path}.path", what, remedy)]
        return []

    # ------------------------------------------------------------ inside

    @cached_property
    def _table(self) -> Any:
        """The file at ``path``, its label checked."""
        table, label = _read(_place(self.config.path)), self.config.label
        if label not in table.column_names:
            raise InputError(
                f"{self.config.path}: no column {label!r} for the label; there are: "
                f"{', '.join(table.column_names)}"
            )
        if table[label].null_count:
            raise InputError(
                f"{self.config.path}: column {label!r} has {table[label].null_count} rows without "
                "a label; fill or delete them"
            )
        return table

    @cached_property
    def _parts(self) -> dict[PartName, Any]:
        if self.config.test:
            return {"train": self._table, "test": _read(_place(self.config.test))}
        labels = _texts(self._table[self.config.label])
        number = np.unique(labels, return_inverse=True)[1]
        rng = np.random.default_rng(self.config.holdout_seed)
        held = held_out(number, self.config.holdout, rng)
        return {"train": self._table.filter(~held), "test": self._table.filter(held)}

    @cached_property
    def _encoding(self) -> list[_Numbers | _Categories]:
        """How each input column becomes numbers, from the training part."""
        table = self._parts["train"]
        names = self.config.columns or tuple(
            name for name in table.column_names if name != self.config.label
        )
        return [_encoding(table, name, self.config.path) for name in names]

    @cached_property
    def _encoded(self) -> dict[PartName, np.ndarray]:
        test = Path(self.config.test or self.config.path)
        files = {"train": Path(self.config.path), "test": test}
        return {part: self._encode(table, files[part]) for part, table in self._parts.items()}

    def _encode(self, table: Any, path: Path) -> np.ndarray:
        blocks = []
        for column in self._encoding:
            if column.name not in table.column_names:
                raise InputError(
                    f"{path}: no column {column.name!r}; give the columns of {self.config.path}"
                )
            blocks.append(_block(table[column.name], column, path))
        return np.concatenate(blocks, axis=1)


def _encoding(table: Any, name: str, path: str) -> _Numbers | _Categories:
    """How a column becomes inputs; InputError where it is of no use."""
    import pyarrow as pa

    if name not in table.column_names:
        raise InputError(f"{path}: no column {name!r}; there are: {', '.join(table.column_names)}")
    column = table[name]
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = _floats(column)
        known = values[np.isfinite(values)]
        mean = float(known.mean()) if len(known) else 0.0
        return _Numbers(name, mean, float(known.std() if len(known) else 0.0) or 1.0)
    texts = sorted({str(value) for value in column.to_pylist() if value is not None})
    if len(texts) > MOST_CATEGORIES:
        raise InputError(
            f"{path}: column {name!r} holds {len(texts)} different values of type {kind}, which "
            "are no categories; leave it out with dataset.columns, or make numbers of it"
        )
    return _Categories(name, tuple(texts))


def _block(column: Any, encoding: _Numbers | _Categories, path: Path) -> np.ndarray:
    """The inputs of one column, float32 [N, n]."""
    import pyarrow as pa

    if isinstance(encoding, _Categories):
        place = {text: number for number, text in enumerate(encoding.values)}
        block = np.zeros((len(column), len(encoding.values)), np.float32)
        for row, value in enumerate(column.to_pylist()):
            if value is not None and str(value) in place:
                block[row, place[str(value)]] = 1.0
        return block
    try:
        values = _floats(column)
    except (pa.ArrowException, ValueError) as error:
        raise InputError(
            f"{path}: column {encoding.name!r} holds {column.type}, numbers are needed; "
            "give the columns that the model was trained on"
        ) from error
    values = np.where(np.isfinite(values), values, encoding.mean)
    scaled: np.ndarray = ((values - encoding.mean) / encoding.deviation).astype(np.float32)
    return scaled[:, None]


def _floats(column: Any) -> np.ndarray:
    """A column of numbers, float64; nan where one is missing."""
    import pyarrow as pa

    found: np.ndarray = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def _texts(column: Any) -> list[str]:
    """A column as texts."""
    return [str(value) for value in column.to_pylist()]


def _key(name: str) -> tuple[bool, float, str]:
    """Numbers in their order, before texts in theirs."""
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def _place(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _read(path: Path) -> Any:
    """The file as a table; InputError naming it where it is none."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    readers = dict(zip(FORMATS, (csv.read_csv, parquet.read_table), strict=True))
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: no table that can be read; give a file {' or '.join(FORMATS)}")
    try:
        table = readers[path.suffix.lower()](str(path))
        _ = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as a table ({first}); give another file") from (
            error
        )
    if not len(table):
        raise InputError(f"{path}: has no rows; give a table with some")
    return table
