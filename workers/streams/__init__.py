"""Supervised streams and data sets by name."""

from workers.streams.arrays import Arrays
from workers.streams.base import DatasetStream, SampledStream, Stream
from workers.streams.blurred import Blurred
from workers.streams.chunks import Chunks, ClassOrdered
from workers.streams.data import Part, Rows, TaskData
from workers.streams.datasets import DATASETS, Dataset
from workers.streams.discovered import Discovered
from workers.streams.discovery import DISCOVERIES
from workers.streams.domains import Domains
from workers.streams.flights import Flights
from workers.streams.gradual_rotation import GradualRotation
from workers.streams.hidden import Hidden
from workers.streams.linear_clusters import LinearClusters
from workers.streams.overlap import Overlap
from workers.streams.permuted import Permuted
from workers.streams.random_labels import RandomLabels
from workers.streams.recurring import Recurring
from workers.streams.rotated import Rotated
from workers.streams.sequence import DatasetSequence
from workers.streams.sized import Imbalanced, RandomLengths
from workers.streams.split import Split
from workers.streams.text import TOKENIZERS, Text
from workers.streams.time_ordered import TimeOrdered
from workers.streams.wrapped import Wrapped

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
    "flights": Flights,
    "overlap": Overlap,
    "gradual_rotation": GradualRotation,
    "blurred": Blurred,
    "recurring": Recurring,
    "imbalanced": Imbalanced,
    "random_lengths": RandomLengths,
    "time_ordered": TimeOrdered,
    "hidden": Hidden,
    "discovered": Discovered,
}
"""Streams by name."""

__all__ = [
    "DATASETS",
    "DISCOVERIES",
    "STREAMS",
    "TOKENIZERS",
    "Dataset",
    "DatasetStream",
    "Part",
    "Rows",
    "SampledStream",
    "Stream",
    "TaskData",
    "Wrapped",
]
