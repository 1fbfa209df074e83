"""What a diagnostic is and what it may look at. Imports no torch.

Letters: N samples, T tokens (N or a multiple: several positions of a sample, or several rounds of
one token, lie together), E experts, F features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from workers.contract import Json

if TYPE_CHECKING:
    from torch import Tensor, nn

Figures = dict[str, float]
"""Name -> value."""

Scope = Literal["task", "layer", "model"]
"""What one figure is about: ``task``: a routed layer on one task's test part; ``layer``: the
features of one layer on one task's probe; ``model``: the model over all tasks. The first two are
reported by task, the last once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What one routed layer did with T tokens, in the order of their samples."""

    weights: Tensor
    """Weight of each expert in the token's output [T, E]; 0 where it was not chosen."""
    chosen: Tensor
    """Whether the expert ran for the token, bool [T, E]."""
    probabilities: Tensor
    """Softmax of the router's logits over all allowed experts [T, E]."""
    ids: tuple[int, ...] | None = None
    """Id of each of the E experts; None = they are numbered 0, 1, 2, ..."""
    born: int = 0
    """Experts that were ever there, those removed since included."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Id of each of the E experts: what figures call them by, so that one keeps its name when
        others are removed."""
        return tuple(range(self.weights.shape[1])) if self.ids is None else self.ids

    def by_id(self, values_NE: Tensor) -> Tensor:
        """Values of the experts (last dimension) by id, 0 for those that were removed."""
        if self.ids is None or len(self.ids) == self.born:
            return values_NE
        wide = values_NE.new_zeros((*values_NE.shape[:-1], self.born))
        wide[..., list(self.ids)] = values_NE
        return wide


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a model did with samples of one task, or of all tasks of a stream."""

    model: nn.Module
    """In evaluation mode; not to be changed."""
    inputs: Tensor
    """At most PROBE_SAMPLES samples, the same ones over the whole lane where data are fixed
    [N, ...]."""
    outputs: Tensor
    """The model's answers to them [N, ...]."""
    domains: tuple[str, ...]
    """Domains of the evaluated samples."""
    domain: Tensor
    """Place in ``domains`` of each evaluated sample, int64 [N]."""
    targets: Tensor | None = None
    """Labels or targets of ``inputs`` [N, ...]; None in a lane that acts."""
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    """Layer -> what its activation function gave on the inputs: [N, F], [N, positions, F] or
    [N, F, height, width]. Features inside experts are left out."""
    routed: Mapping[str, Gates] = field(default_factory=dict)
    """Routed layer -> what it did with every evaluated token, not only those of ``inputs``."""
    start: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameters of the untrained model by name."""
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    """Of (outputs, targets), the mean over samples; only where a diagnostic with
    ``needs_gradients`` was asked for, in a lane with targets."""
    inputs_domain: Tensor | None = None
    """Place in ``domains`` of each of ``inputs``, int64 [N]; None where it is not known."""
    stream_domains: tuple[str, ...] | None = None
    """Every domain of the stream, in the order in which a trainer counts them; None = ``domains``.
    """
    score: Callable[[Tensor, Tensor], Tensor] | None = None
    """Outputs [N, ...], targets -> how good each answer is, 0 to 1 [N]; None where nothing is."""
    events: Mapping[str, Tensor] = field(default_factory=dict)
    """What held for each evaluated sample, bool [N]: ``class<c>``, ``floor<f>``,
    ``achievement/<name>``; only where a diagnostic with ``needs_events`` was asked for."""
    gradients: Mapping[str, Tensor | None] | None = None
    """Gradient of the mean loss on ``inputs`` by parameter, None for frozen ones; only where a
    diagnostic with ``needs_gradients`` was asked for."""
    spectra: dict[str, Tensor] = field(default_factory=dict, init=False)
    """Layer -> singular values of its features, largest first: kept by the first diagnostic that
    takes them, for the others."""

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The model's parameters by name, detached."""
        return {name: tensor.detach() for name, tensor in self.model.named_parameters()}

    @property
    def told(self) -> Tensor | None:
        """Place of the domain of each of ``inputs`` among the stream's, int64 [N], for models that
        must know it (``workers.moe.stepping.telling``)."""
        if self.inputs_domain is None or self.stream_domains is None:
            return self.inputs_domain
        places = [self.stream_domains.index(name) for name in self.domains]
        return self.inputs_domain.new_tensor(places)[self.inputs_domain]

    def scored(self, outputs: Tensor, inside: Tensor | None = None) -> float:
        """Mean score of other outputs to ``inputs``, or to those ``inside``, bool [N]."""
        assert self.score is not None
        assert self.targets is not None
        scores = self.score(outputs, self.targets).double()
        return float((scores if inside is None else scores[inside]).mean())

    def by_domain(self, values_TE: Tensor) -> list[Tensor]:
        """Rows of a table over tokens, split by domain in the order of ``domains``."""
        domain_T = self.domain.repeat_interleave(len(values_TE) // len(self.domain))
        return [values_TE[domain_T == place] for place in range(len(self.domains))]


class Diagnostic(ABC):
    """One measure of a model: a function of a probe, with a unit and a source.

    The first line of the docstring is what ``growstage list`` shows. Figures are reported as
    ``<name>`` or ``<name>/<key>``, the name being the entry's in DIAGNOSTICS or the class's.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings that every diagnostic has."""

        kind: str
        name: str | None = None
        """What its figures are called; None = by its kind. Tells apart two of one kind."""

    unit: ClassVar[str]
    """Unit or range of its figures, e.g. ``share, 0..1``."""
    source: ClassVar[str]
    """Publication or section that defines it."""
    scope: ClassVar[Scope]
    cheap: ClassVar[bool] = True
    """Whether ``"cheap"`` includes it: costs no more than a pass over what the probe holds."""
    needs_gradients: ClassVar[bool] = False
    needs_events: ClassVar[bool] = False
    """Whether ``Probe.events`` is filled for it."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def samples(self) -> int:
        """Training samples of each domain it looks at when asked for at the start of a stage."""
        return 256

    @abstractmethod
    def figures(self, probe: Probe) -> Figures:
        """Key -> value: a layer, a part of the model, or ``""`` where there is one value only.

        Empty where the probe lacks what it needs.
        """

    def told(self, probe: Probe) -> Json:
        """What a policy reads that asked for it at the start of a stage; here the figures."""
        return self.figures(probe)
