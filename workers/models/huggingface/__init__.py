"""Causal language models of transformers whose mixtures grow, are masked and resume like ours.

``convention`` finds a model's mixtures, ``layer`` puts ours in their place, ``model`` is the entry
of MODELS, ``loading`` and ``upcycling`` make stock models, ``export`` gives one back. transformers
is imported where it is needed only: naming the model in a table costs nothing.
"""

from workers.models.huggingface.model import HuggingFace

__all__ = ["HuggingFace"]
