"""Data sets by name: labelled samples that streams cut into tasks."""

from workers.streams.datasets.base import Dataset, PartName, ThreeParts
from workers.streams.datasets.digits import Digits
from workers.streams.datasets.image_folder import ImageFolder
from workers.streams.datasets.keel import Keel
from workers.streams.datasets.mnist import FashionMnist, Mnist
from workers.streams.datasets.table import TableFile

DATASETS: dict[str, type] = {
    "digits": Digits,
    "mnist": Mnist,
    "fashion_mnist": FashionMnist,
    "image_folder": ImageFolder,
    "keel": Keel,
    "table": TableFile,
}
"""Data sets by name."""

__all__ = [
    "DATASETS",
    "Dataset",
    "Digits",
    "FashionMnist",
    "ImageFolder",
    "Keel",
    "Mnist",
    "PartName",
    "TableFile",
    "ThreeParts",
]
