"""What a method knows of parameters: tensors that follow a model through edits and restarts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from workers.edits import Change

Known = dict[str, Tensor]
"""What is known of one parameter, by name: tensors of its shape."""


class PerParameter:
    """Tensors of the shape of a parameter, for each one that something is known of.

    An edit leaves what is known of old parameters bit for bit, and new ones start without. Where a
    parameter is narrowed, its tensors are cut alike; entries that the optimizer is to forget become
    0; what was known of a parameter that is gone, or was replaced by another one, is dropped.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[nn.Parameter, Known]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[tuple[str, nn.Parameter, Known]]:
        """(name, parameter, what is known of it), in the order in which they came."""
        return ((name, parameter, known) for name, (parameter, known) in self._known.items())

    def of(self, name: str) -> Known:
        """What is known of a parameter."""
        return self._known[name][1]

    def put(self, name: str, parameter: nn.Parameter, known: Known) -> None:
        """Know this of a parameter from now on, and nothing else."""
        self._known[name] = (parameter, known)

    def follow(self, model: nn.Module, change: Change) -> None:
        """Go along with an edit that has just changed the model."""
        named = dict(model.named_parameters())
        for name, (old, known) in list(self._known.items()):
            parameter = named.get(name)
            if parameter is not None and name in change.narrowed:
                _, dim, kept = change.narrowed[name]
                cut = {key: value.index_select(dim, kept) for key, value in known.items()}
                self.put(name, parameter, cut)
            elif parameter is not old:
                del self._known[name]
        for name, entries in change.cleared.items():
            for value in self.of(name).values() if name in self else ():
                if entries is None:
                    value.zero_()
                for dim, index in entries or ():
                    value.index_fill_(dim, index.to(value.device), 0)

    def state(self) -> dict[str, Tensor]:
        """``"<parameter>/<name>" -> tensor``, copies."""
        return {
            f"{name}/{key}": value.clone()
            for name, (_, known) in self._known.items()
            for key, value in known.items()
        }

    def load(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        """Know what ``state`` says of the parameters of ``model``, and nothing else."""
        named = dict(model.named_parameters())
        self._known = {}
        for entry, value in state.items():
            name, _, key = entry.rpartition("/")
            parameter = named[name]
            known = self._known.setdefault(name, (parameter, {}))[1]
            known[key] = value.to(parameter.device, copy=True)
