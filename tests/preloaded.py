"""Imported once by the process that test workers are forked from: what is slow to import."""

from __future__ import annotations

import torch

import workers.supervised.trainer  # noqa: F401

torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # the first one imports the compiler
