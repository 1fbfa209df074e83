"""The contract of routers: token features -> one logit for each expert.

Letters: T tokens, B samples, E experts, D inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from workers.contract import InputError, Json
from workers.moe.losses.base import Loss


@dataclass(frozen=True, slots=True)
class RouterContext:
    """What a router may see besides a token's features; None where it is not known."""

    progress: float = 0.0
    """Share of the stage's training that is done, 0 to 1; 0 outside a step."""
    domain_T: Tensor | None = None
    """Place of each token's domain among the stream's, int64 [T]; outside a training step known to
    routers that need it only (``Router.needs_domain``)."""
    positions: Tensor | None = None
    """Place of each token in its sequence, as the model hands it to the layer."""
    lengths: Tensor | None = None
    """Length of each sequence, as the model hands it to the layer."""
    steps: int | None = None
    """S, tokens of each sequence, where the layer reads sequences [B, S, D]; they lie one behind
    the other. None where every token stands alone."""
    below: Tensor | None = None
    """What the router of the layer below, or of the round before, handed on [T, H]
    (``Router.route``); None in the first layer, or where the model joins none."""
    first: bool = True
    """Whether what moves once a step moves now (``StepContext.first``)."""


class Router(nn.Module, ABC):
    """Scores experts. What belongs to one expert is a parameter of its own, never reshaped."""

    adapts: ClassVar[bool] = False
    """Whether ``adapt`` does anything."""
    needs_domain: ClassVar[bool] = False
    """Whether it must know each token's domain, in evaluation too; its Config then says what it
    needs of the lane (``routers.known_domains``)."""

    fit_targets: ClassVar[tuple[str, ...]] = ("labels", "domains")
    """What ``fit`` understands, where it has one: ``workers.edits.fit_router.Targets``."""

    @classmethod
    def can_fit(cls, targets: str) -> bool:
        """Whether ``fit`` sets the parameters from these targets."""
        return cls.fit is not Router.fit and targets in cls.fit_targets

    @abstractmethod
    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E] in the order in which the experts were added."""

    def route(self, x_TD: Tensor, context: RouterContext) -> tuple[Tensor, Tensor | None]:
        """Logits as ``forward`` gives them, and what the next router gets as ``context.below``."""
        return self(x_TD, context), None

    def share(self, first: Router) -> None:
        """Use what all routers of a model have in common: it belongs to ``first``, the one in the
        first layer, which is of this class too and may be this very router."""

    @abstractmethod
    def add(self, expert: int) -> None:
        """A new expert, whose row is freshly drawn from torch's default generator."""

    @abstractmethod
    def remove(self, expert: int) -> None:
        """Forget an expert."""

    @abstractmethod
    def split(self, parent: int, child: int, amount: float) -> None:
        """Score the child as the parent, and take ``amount`` off the logits of both."""

    @abstractmethod
    def shift_bias(self, expert: int, amount: float) -> None:
        """Add ``amount`` to the expert's logits."""

    @abstractmethod
    def suppress(self, expert: int, offset: float, steps: int) -> None:
        """Score the expert by ``-offset``, which rises to 0 within ``steps`` training steps."""

    def place(self, expert: int, x_TD: Tensor, share: float) -> None:
        """Start the row of a new expert from those inputs [T, D], so large a share of them, that
        the others serve worst.

        A router whose scores do not tell how well an input is served does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no prototype to put anywhere")

    def parameters_of(self, expert: int) -> Iterable[nn.Parameter]:
        """What belongs to one expert, so that it can stop learning.

        Raises InputError where the router cannot tell.
        """
        raise InputError(
            f"{type(self).__name__} has no parameters of one expert; use a router that defines "
            "parameters_of, or do not freeze experts"
        )

    def reading(self) -> list[nn.Parameter] | None:
        """All parameters that read a token's features, these being their last dimension; None = the
        router cannot tell."""
        return None

    def aim(self, expert: int, features_D: Tensor) -> None:
        """Score the expert high for tokens with features like these (of any length).

        A router that cannot be set so does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be aimed at features")

    def adapt(self, seed: int) -> None:
        """Take over from the router trained so far in another form, with the first as teacher."""

    def fit(self, x_TD: Tensor, y: Tensor, seed: int) -> None:
        """Set the parameters without gradients, from inputs [T, D] and their targets: int64 [T]
        (labels, domains), or the cost of each expert [T, E] (losses, errors).

        Raises InputError where the router has no such fit.
        """
        raise InputError(
            f"{type(self).__name__} has no fit without gradients; use a router that has one, or "
            "leave the edit fit_router out"
        )

    def start_from(self, rows_ED: Tensor, biases_E: Tensor | None) -> None:
        """Score as a linear map does; its rows become the router's parameters, not copies of them.

        The experts are there already. Raises InputError where the router is no linear one at first.
        """
        raise InputError(
            f"{type(self).__name__} cannot start from the linear router of a trained model; use "
            "router linear or adaptive"
        )

    def as_linear(self) -> tuple[Tensor, Tensor | None]:
        """Rows [E, D], and biases [E] if it has any, of the linear map that it is.

        Raises InputError where it is none.
        """
        raise InputError(
            f"{type(self).__name__} is no linear map of a token's features, the only router that "
            "other libraries have; use router linear"
        )

    def losses(self) -> tuple[Loss, ...]:
        """Losses that the router brings along, besides those configured on the layer."""
        return ()

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that a phase may train."""
        yield from self.parameters()

    def arch(self) -> Json:
        """What the names of its parameters do not tell; None where there is nothing."""
        return None

    def ensure_arch(self, arch: Json) -> None:
        """Take the form that ``arch`` says (None = as it was made); the experts are there."""
