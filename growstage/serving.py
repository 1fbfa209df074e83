"""What MLflow loads an exported model with: the folder's ``MLmodel`` names this module.

``mlflow models serve -m FOLDER --env-manager local`` answers with it, and so does
``mlflow.pyfunc.load_model(FOLDER)``. Knows nothing of MLflow.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from workers.supervised.predicting import Predictor


class Served:
    """An exported model as MLflow asks it."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(
        self, inputs: np.ndarray[Any, Any], params: dict[str, Any] | None = None
    ) -> pd.DataFrame | np.ndarray[Any, Any]:
        """Classes by name with their probabilities, a row a sample; else outputs [B, ...].

        ``inputs`` [B, ...] as the model takes them, of the type that the signature names;
        ``params`` are not used. Raises InputError where the shape is another.
        """
        import torch

        said, told = self._predictor.predict(torch.as_tensor(np.asarray(inputs)))
        names = self._predictor.names
        if names is None or told.dim() != 2:
            return told.numpy()
        import pandas as pd

        shares = pd.DataFrame(told.numpy(), columns=[f"p({name})" for name in names])
        shares.insert(0, "prediction", said)
        return shares


def _load_pyfunc(path: str) -> Served:
    """MLflow's name for it: the model in the folder at ``path``."""
    from workers.supervised.exporting import load_exported

    return Served(load_exported(Path(path)))
