"""Dense stock models as stock mixtures: each feed-forward becomes several experts.

The mixture is of a family with the same attention (``FAMILIES``), so that the result is
a plain model of transformers. Letters: E experts, W hidden units of the dense layer, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import InputError, derive_seed
from workers.models.huggingface.loading import transformers
from workers.moe.seeding import seeded

FAMILIES = {"llama": "mixtral", "mistral": "mixtral", "qwen3": "qwen3_moe"}
"""Dense family -> family of its mixtures, in which everything but the feed-forward is the same."""
FEED_FORWARD = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")
"""What a mixture has experts for."""
ROUTER_SPREAD = 0.02
"""Standard deviation of the router's initial weights."""


@dataclass(frozen=True, slots=True)
class FeedForward:
    """The three matrices of a dense gated feed-forward."""

    gate_WD: Tensor
    up_WD: Tensor
    down_DW: Tensor


class Upcycle:
    """Base: how experts come from a dense feed-forward."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the mixture; ``kind`` is its name in the table."""

        kind: str

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def experts(self) -> int:
        """Experts of each mixture; 0 = the model stays as it is."""
        raise NotImplementedError

    @property
    def k(self) -> int:
        """Experts that a token runs through."""
        raise NotImplementedError

    def width(self, dense: int) -> int:
        """Hidden units of an expert, given those of the dense feed-forward."""
        return dense

    def fill(self, whole: FeedForward, gate_up_E2WD: Tensor, down_EDW: Tensor) -> None:
        """Set the experts' weights, gate above up; draws from torch's default generator."""
        raise NotImplementedError

    def rows(self, inputs: int) -> Tensor:
        """Initial weights of the router [E, inputs], drawn from torch's default generator."""
        return torch.randn(self.experts, inputs) * ROUTER_SPREAD


class NoUpcycle(Upcycle):
    """The model is a mixture already and stays as it is."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Upcycle.Config):
        """No settings."""

        kind: str = "none"

    experts = 0
    k = 0


class Copies(Upcycle):
    """Every expert is the whole feed-forward, with noise if wanted (arXiv 2212.05055).

    Without noise the outputs are those of the dense model, since the weights of a token's experts
    add up to 1.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Upcycle.Config):
        """Number of copies."""

        kind: str = "copies"
        experts: int = 4
        """Copies."""
        k: int = 2
        """Copies that a token runs through."""
        noise: float = 0.0
        """Standard deviation of Gaussian noise on each copy's weights, as a share of that of the
        weights."""

        def __post_init__(self) -> None:
            _check(self.experts, self.k)
            if self.noise < 0:
                raise ValueError(f"noise must not be negative, got {self.noise}")

    @property
    def experts(self) -> int:
        found: int = self.config.experts
        return found

    @property
    def k(self) -> int:
        found: int = self.config.k
        return found

    def fill(self, whole: FeedForward, gate_up_E2WD: Tensor, down_EDW: Tensor) -> None:
        gate_up_E2WD.copy_(torch.cat([whole.gate_WD, whole.up_WD]).expand_as(gate_up_E2WD))
        down_EDW.copy_(whole.down_DW.expand_as(down_EDW))
        if self.config.noise:
            for weights in (gate_up_E2WD, down_EDW):
                spread = self.config.noise * weights[0].std()
                weights.add_(torch.randn(weights.shape) * spread)


class Slices(Upcycle):
    """The hidden units are cut into k slices, and all slices copied (arXiv 2507.17436).

    Slices of one copy share their router row, so that a token chooses a whole copy at first: the
    outputs are those of the dense model. Each slice's output map is k times the dense one's, as
    the k weights of a token add up to 1.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Upcycle.Config):
        """Number of copies, and of slices of each."""

        kind: str = "slices"
        copies: int = 4
        """Copies of the whole feed-forward; experts = copies x k."""
        k: int = 2
        """Slices of each copy = experts that a token runs through; must divide W."""

        def __post_init__(self) -> None:
            _check(self.copies * self.k, self.k)

    @property
    def experts(self) -> int:
        found: int = self.config.copies * self.config.k
        return found

    @property
    def k(self) -> int:
        found: int = self.config.k
        return found

    def width(self, dense: int) -> int:
        if dense % self.k:
            raise InputError(
                f"upcycle slices: the feed-forward has {dense} hidden units, which k = {self.k} "
                "does not divide; choose another k"
            )
        return dense // self.k

    def fill(self, whole: FeedForward, gate_up_E2WD: Tensor, down_EDW: Tensor) -> None:
        for expert in range(self.experts):
            part = expert % self.k
            gate, up = (m.chunk(self.k, 0)[part] for m in (whole.gate_WD, whole.up_WD))
            gate_up_E2WD[expert].copy_(torch.cat([gate, up]))
            down_EDW[expert].copy_(whole.down_DW.chunk(self.k, 1)[part] * self.k)

    def rows(self, inputs: int) -> Tensor:
        drawn = torch.randn(self.config.copies, inputs) * ROUTER_SPREAD
        return drawn.repeat_interleave(self.k, 0)


UPCYCLES: dict[str, type] = {"none": NoUpcycle, "copies": Copies, "slices": Slices}
"""Ways from a dense model to a mixture, by name."""


def mixture_config(dense: Any, upcycle: Upcycle) -> Any:
    """Config of the mixture that a dense model of this config becomes.

    Raises InputError where no family of mixtures has the dense one's attention.
    """
    family = FAMILIES.get(dense.model_type)
    if family is None:
        raise InputError(
            f"upcycle: no family of mixtures is known for a model of type {dense.model_type!r}; "
            f"known: {', '.join(sorted(FAMILIES))}"
        )
    own = dense.to_dict()
    for name in ("model_type", "architectures", "dtype", "transformers_version", "head_dim"):
        own.pop(name, None)
    width = upcycle.width(dense.intermediate_size)
    head = getattr(dense, "head_dim", None) or dense.hidden_size // dense.num_attention_heads
    more = {
        "head_dim": head,
        "intermediate_size": width,
        "moe_intermediate_size": width,
        "num_experts": upcycle.experts,
        "num_local_experts": upcycle.experts,
        "num_experts_per_tok": upcycle.k,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    own = {"sliding_window": None} | own
    known = transformers().AutoConfig.for_model(family).to_dict()
    return transformers().AutoConfig.for_model(
        family, **{name: value for name, value in (own | more).items() if name in known}
    )


def upcycled(
    dense: nn.Module, upcycle: Upcycle, make: Callable[[Any], nn.Module], seed: int
) -> nn.Module:
    """The mixture of a dense model; ``make`` builds a stock model from a config.

    Everything but the feed-forward is taken over as it is.
    """
    source: Any = dense
    mixture: Any = make(mixture_config(source.config, upcycle))
    kept = source.state_dict()
    state = {name: kept[name] for name in mixture.state_dict() if name in kept}
    absent, _ = mixture.load_state_dict(state, strict=False)
    own = ("mlp.gate.weight", "experts.gate_up_proj", "experts.down_proj")
    strange = [name for name in absent if not name.endswith(own)]
    strange += [name for name in kept if name not in state and not name.endswith(FEED_FORWARD)]
    if strange:
        raise InputError(
            f"upcycle: a mixture of type {mixture.config.model_type!r} has no place for "
            f"{strange[0]}"
            + (f" and {len(strange) - 1} more" if len(strange) > 1 else "")
            + " of the dense model; take one without"
        )
    with torch.no_grad():
        for number, (old, new) in enumerate(
            zip(source.model.layers, mixture.model.layers, strict=True)
        ):
            whole = FeedForward(
                old.mlp.gate_proj.weight, old.mlp.up_proj.weight, old.mlp.down_proj.weight
            )
            with seeded(derive_seed(seed, "upcycle", number)):
                experts = new.mlp.experts
                upcycle.fill(whole, experts.gate_up_proj, experts.down_proj)
                new.mlp.gate.weight.copy_(upcycle.rows(whole.gate_WD.shape[1]))
    return mixture


def _check(experts: int, k: int) -> None:
    if not 1 <= k <= experts or experts < 2:
        raise ValueError(f"need at least 2 experts and 1 <= k <= experts, got {experts} and {k}")
