"""Where domains come from that nobody has labelled, by name."""

from workers.streams.discovery.base import Discovery
from workers.streams.discovery.corrupted import Corrupted
from workers.streams.discovery.dp_means import DPMeans
from workers.streams.discovery.kmeans import KMeans

DISCOVERIES: dict[str, type] = {
    "kmeans": KMeans,
    "dp_means": DPMeans,
    "corrupted": Corrupted,
}
"""Ways to find domains."""

__all__ = ["DISCOVERIES", "Discovery"]
