"""An acting model as an RLModule whose state says what shape it has.

A module built from an old config becomes the grown one by ``set_state`` alone, so a restarted or
late runner needs nothing but the weights.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.torch_utils import convert_to_torch_tensor
from torch import Tensor

from workers.contract import RunError
from workers.models.acting import ActingModel
from workers.models.cores import Past
from workers.moe.growth import surgery
from workers.rl.building import build_model, frozen_names, set_frozen

ARCHITECTURE = "__architecture__"
FROZEN = "__frozen__"
BEGINS = "begins"
"""Column: which steps of a sequence are the first of an episode [B, T]."""


class GrowableModule(TorchRLModule, ValueFunctionAPI, InferenceOnlyAPI):
    """RLlib's module around any ``ActingModel``, which is the attribute ``net``.

    ``model_config`` holds ``model``, ``seed``, ``distributed`` and the ``layout`` of observations.
    Parameter names inside ``net`` are the model's own.
    """

    observation_space: Any
    action_space: Any
    model_config: Any
    net: ActingModel

    def setup(self) -> None:
        """Build the model; all runners and learners draw the same weights from the same seed."""
        config = self.model_config
        shape = tuple(self.observation_space.shape)
        actions = int(self.action_space.n)
        self.net = build_model(config["model"], shape, actions, config["seed"], config["layout"])
        if self.inference_only:
            for part in self.net.not_acting:
                delattr(self.net, part)  # RLlib itself can only drop attributes that are not nested

    def get_non_inference_attributes(self) -> list[str]:
        """Parts of the model that are not needed where only actions are drawn."""
        return [f"net.{part}" for part in self.net.not_acting]

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        inference_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Weights, and the architecture with the frozen set they belong to."""
        state: dict[str, Any] = super().get_state(
            components, not_components=not_components, inference_only=inference_only, **kwargs
        )
        # Arrays that share memory with the live weights would change under the receiver.
        state = {name: np.array(value) for name, value in state.items()}
        return {**state, ARCHITECTURE: surgery.arch(self.net), FROZEN: frozen_names(self.net)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take the shape the state has, then its weights.

        Raises RunError on missing or foreign names.
        """
        weights = dict(state)
        surgery.ensure_arch(self.net, weights.pop(ARCHITECTURE))
        set_frozen(self.net, weights.pop(FROZEN))
        missing, unexpected = self.load_state_dict(convert_to_torch_tensor(weights), strict=False)
        dropped = tuple(f"{name}." for name in self.get_non_inference_attributes())
        if self.inference_only:
            unexpected = [name for name in unexpected if not name.startswith(dropped)]
        if missing or unexpected:
            raise RunError(f"weights do not fit the model: {missing=}, {unexpected=}")

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """Value of each observation: [N], of sequences [N, T]."""
        return self.net.value(batch[Columns.OBS], embeddings, past_of(batch))

    def forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """As the base's, which walks over every part twice to switch its mode and back; in
        evaluation mode, in which a runner keeps it, there is nothing to switch."""
        if self.training:
            found: dict[str, Tensor] = super().forward_exploration(batch, **kwargs)
            return found
        return self._forward_exploration(batch, **kwargs)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Logits [N, A] of one step of all environments, and the model's state after it [N, S]."""
        logits, state = self.net.step(batch[Columns.OBS], batch[Columns.STATE_IN])
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.STATE_OUT: state}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Logits [B, A], and values [B] in the critic's own units; steps of sequences in a row."""
        past = past_of(batch)
        logits, values = self.net.answer(batch[Columns.OBS], past)
        if past is not None:
            logits, values = logits.flatten(0, 1), values.flatten()
        if self.model_config["distributed"]:
            # An expert without samples would have no gradient, which data-parallel reduction
            # waits for in vain; a zero that touches every parameter gives it one.
            touch = torch.stack([p.sum() for p in self.net.parameters() if p.requires_grad])
            values = values + 0.0 * touch.sum()
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.VF_PREDS: values}


def past_of(batch: dict[str, Any]) -> Past | None:
    """Recurrent state [B, S] before the batch's sequences, and the steps that begin an episode.

    None where the batch holds single steps (a model without memory).
    """
    return Past(batch[Columns.STATE_IN], batch[BEGINS]) if BEGINS in batch else None
