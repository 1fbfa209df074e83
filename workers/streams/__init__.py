"""Supervised streams and data sets by name."""

from workers.streams.arrays import Arrays
from workers.streams.base import DatasetStream, SampledStream, Stream
from workers.streams.chunks import Chunks, ClassOrdered
from workers.streams.data import Part, Rows, TaskData
from workers.streams.datasets import DATASETS, Dataset
from workers.streams.domains import Domains
from workers.streams.linear_clusters import LinearClusters
from workers.streams.permuted import Permuted
from workers.streams.random_labels import RandomLabels
from workers.streams.rotated import Rotated
from workers.streams.sequence import DatasetSequence
from workers.streams.split import Split
from workers.streams.text import TOKENIZERS, Text

STREAMS: dict[str, type] = {
    "split": Split,
    "permuted": Permuted,
    "rotated": Rotated,
    "chunks": Chunks,
    "class_ordered": ClassOrdered,
    "random_labels": RandomLabels,
    "datasets": DatasetSequence,
    "domains": Domains,
    "linear_clusters": LinearClusters,
    "arrays": Arrays,
    "text": Text,
}
"""Streams by name."""

__all__ = [
    "DATASETS",
    "STREAMS",
    "TOKENIZERS",
    "Dataset",
    "DatasetStream",
    "Part",
    "Rows",
    "SampledStream",
    "Stream",
    "TaskData",
]
