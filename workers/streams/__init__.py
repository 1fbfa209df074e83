"""Supervised streams and data sets by name."""

from workers.streams.base import DatasetStream, SampledStream, Stream, TaskData
from workers.streams.chunks import Chunks, ClassOrdered
from workers.streams.datasets import DATASETS, Dataset
from workers.streams.domains import Domains
from workers.streams.permuted import Permuted
from workers.streams.random_labels import RandomLabels
from workers.streams.rotated import Rotated
from workers.streams.sequence import DatasetSequence
from workers.streams.split import Split

STREAMS: dict[str, type] = {
    "split": Split,
    "permuted": Permuted,
    "rotated": Rotated,
    "chunks": Chunks,
    "class_ordered": ClassOrdered,
    "random_labels": RandomLabels,
    "datasets": DatasetSequence,
    "domains": Domains,
}
"""Streams by name."""

__all__ = [
    "DATASETS",
    "STREAMS",
    "Dataset",
    "DatasetStream",
    "SampledStream",
    "Stream",
    "TaskData",
]
