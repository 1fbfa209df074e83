"""Ways from a dense feed-forward to the experts of a mixture, by name."""

from workers.moe.upcycles.base import Upcycle
from workers.moe.upcycles.copies import Copies
from workers.moe.upcycles.factorise import Factorise
from workers.moe.upcycles.none import NoUpcycle
from workers.moe.upcycles.partition_neurons import PartitionNeurons
from workers.moe.upcycles.slices import Slices

UPCYCLES: dict[str, type] = {
    "none": NoUpcycle,
    "copies": Copies,
    "slices": Slices,
    "partition_neurons": PartitionNeurons,
    "factorise": Factorise,
}

__all__ = [
    "UPCYCLES",
    "Copies",
    "Factorise",
    "NoUpcycle",
    "PartitionNeurons",
    "Slices",
    "Upcycle",
]
