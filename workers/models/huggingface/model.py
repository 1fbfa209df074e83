"""The model ``huggingface``: a causal language model of transformers with mixtures of ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from workers.contract import InputError, Json, LaneSettings, derive_seed, digest
from workers.models.base import Model, check_experts
from workers.models.huggingface import loading
from workers.models.huggingface.convention import mixtures
from workers.models.huggingface.exporting import export
from workers.models.huggingface.layer import StockLayer, replace_mixture
from workers.models.huggingface.likeness import alike
from workers.models.huggingface.upcycling import upcycled
from workers.moe.growth.growable import Growth
from workers.moe.growth.initialisers import Random
from workers.moe.losses import LOSSES
from workers.moe.routers import ROUTERS
from workers.moe.upcycles import UPCYCLES, Upcycle
from workers.tables import Problem, choice, choices, construct


class HuggingFace(Model):
    """A causal language model of transformers, from a folder or from settings with random weights.

    Every mixture that follows the library's convention (``convention``) becomes a routed layer:
    experts and router rows are parameters of their own, grow, are masked, frozen and saved like
    those of our models; attention, norms and shared experts stay the library's code. int64 [B, S]
    -> logits [B, S, V].
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"tokens"})
    has_blocks = True
    lm: Any
    """The library's model."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Where the model comes from, and what routes its tokens."""

        kind: str = "huggingface"
        path: str = ""
        """Folder that ``save_pretrained`` of transformers wrote, or the name of a fetched model
        (``model/smollm2-135m``)."""
        settings: dict[str, Json] = field(default_factory=dict)
        """Without a path: ``model_type`` and sizes of a model with random weights; its vocabulary
        is the stream's unless it says ``vocab_size``. With one: laid over its config.json."""
        experts: int = 0
        """Experts of each mixture at the start; 0 = as many as the model has. More are drawn at
        random."""
        max_experts: int | None = None
        """Final number of experts, as policies may bound it; sets no width here."""
        router: Any = choice(ROUTERS, "linear")
        """What scores the experts; starts as the model's own linear router. Whether it has biases
        is the model's choice."""
        losses: tuple[Any, ...] = choices(LOSSES)
        """What each mixture adds to the task's loss in training."""
        upcycle: Any = choice(UPCYCLES, "none")
        """How a dense model becomes a mixture."""
        contents: str = ""
        """Digest of the folder's files or of the settings, filled in when the config is read."""

        def __post_init__(self) -> None:
            if bool(self.path) == ("model_type" in self.settings):
                raise ValueError(
                    "give either path, or settings with a model_type "
                    f"(got path = {self.path!r}, settings = {self.settings})"
                )
            # Contents that are known were read before: the config comes from a journal or another.
            if not self.contents:
                self._read()
            check_experts(self.experts, self.max_experts)

        def _read(self) -> None:
            """Take the number of experts from the model, and remember which model it was."""
            try:
                has = self._mixture_of().experts or _count(self.path, self.settings)
                found = loading.fingerprint(self.path) if self.path else digest(self.settings)
            except InputError as error:
                raise ValueError(str(error)) from error
            if 0 < self.experts < has:
                raise ValueError(f"experts must be at least the model's {has}: {self.experts}")
            object.__setattr__(self, "contents", found)
            object.__setattr__(self, "experts", self.experts or has)

        @property
        def routes_to_all(self) -> bool:
            """See ``workers.contract.WithRoutedLayers``."""
            return False

        @property
        def fewest(self) -> int:
            """See ``workers.contract.WithRoutedLayers``."""
            made = self._mixture_of()
            if made.experts:
                return made.k
            config = loading.config_of(self.path, self.settings, None).get_text_config()
            return int(getattr(config, "num_experts_per_tok", 1))

        def _mixture_of(self) -> Upcycle:
            made: Upcycle = construct(UPCYCLES, self.upcycle)
            return made

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Windows no longer than the model's positions, tokens no more than its vocabulary."""
            found = []
            config = loading.config_of(self.path, self.settings, lane.outputs).get_text_config()
            positions = getattr(config, "max_position_embeddings", None)
            window = lane.input_shape[0]
            if positions is not None and window > positions:
                what = f"the model has {positions} positions, a window of the stream {window}"
                found.append(Problem("path", what, "lower stream.window"))
            if lane.outputs > config.vocab_size:
                what = f"the tokenizer has {lane.outputs} tokens, the model {config.vocab_size}"
                allowed = "use the model's own tokenizer: tokenizer.kind = 'huggingface'"
                found.append(Problem("path", what, allowed))
            return found

    def __init__(
        self, config: Config, input_shape: tuple[int, ...], outputs: int, seed: int
    ) -> None:
        super().__init__()
        self.config = config
        if config.path and loading.fingerprint(config.path) != config.contents:
            raise InputError(
                f"{config.path}: holds another model than when the run was planned; give a folder "
                "that stays as it is"
            )
        stock = loading.config_of(config.path, config.settings, outputs)
        vocabulary = stock.get_text_config().vocab_size
        if outputs > vocabulary:
            raise InputError(f"the tokenizer has {outputs} tokens, the model {vocabulary}")
        if "output_router_logits" in stock.to_dict():
            stock.output_router_logits = False  # a loss of the library's own on them
        self.lm = _stock(config, stock, seed)
        found = mixtures(self.lm, self.lm.config.model_type)
        with alike(self.lm, found):
            self._layers = {
                mixture.name: replace_mixture(mixture, config.router, config.losses)
                for mixture in found
            }
        self._grow(list(self._layers.values()), derive_seed(seed, "experts"))
        self.blocks = tuple(self.lm.get_decoder().layers)
        self._tied = _tied(self.lm)
        self.register_state_dict_post_hook(_without_tied)
        self.register_load_state_dict_pre_hook(_with_tied)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens int64 [B, S] -> logits [B, S, V] of the token after each."""
        # without data the library cannot look whether windows hold several documents; a mask says
        batch, window = x.shape
        mask = x.new_ones((batch, 1, window, window), dtype=torch.bool) if x.is_meta else None
        y: Tensor = self.lm(input_ids=x, attention_mask=mask, use_cache=False).logits
        return y

    def export(self, folder: Path) -> None:
        """Write a folder that ``from_pretrained`` of transformers loads to the same logits."""
        export(self.lm, self._layers, folder)

    def _grow(self, layers: list[StockLayer], seed: int) -> None:
        """Give each mixture the experts that the model lacks at the start."""
        for number, layer in enumerate(layers):
            growth = Growth(
                experts=self.config.experts,
                initialiser=Random(Random.Config()),
                seed=derive_seed(seed, number),
                stage=None,
            )
            if layer.live < self.config.experts:
                layer.check(growth)
                layer.grow(growth)


def _stock(config: HuggingFace.Config, stock: Any, seed: int) -> nn.Module:
    """The library's model, upcycled if that is wanted."""
    made = loading.stock_model(config.path, stock, derive_seed(seed, "stock"))
    upcycle: Upcycle = construct(UPCYCLES, config.upcycle)
    if not upcycle.experts:
        return made
    return upcycled(made, upcycle, lambda mixture: loading.stock_model("", mixture, seed=0), seed)


def _count(path: str, settings: dict[str, Json]) -> int:
    """Experts of each mixture, as the config says."""
    config = loading.config_of(path, settings, None).get_text_config()
    for name in loading.COUNTS:
        found = getattr(config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    raise InputError(
        f"model of type {config.model_type!r}: its config names no number of experts "
        f"({', '.join(loading.COUNTS)}); for a dense model set model.upcycle"
    )


def _tied(lm: nn.Module) -> dict[str, str]:
    """Parameters that are another one under a second name -> the first one's name."""
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in lm.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            tied[f"lm.{name}"] = f"lm.{first[id(parameter)]}"
        else:
            first[id(parameter)] = name
    return tied


def _without_tied(module: Any, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """A parameter with two names is saved once."""
    for name in module._tied:
        state.pop(prefix + name, None)


def _with_tied(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """And loaded into both."""
    for name, first in module._tied.items():
        if prefix + first in state:
            state[prefix + name] = state[prefix + first]
