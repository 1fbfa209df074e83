"""Supervised lanes: one torch loop, its evaluator and what both are set by. Knows no Ray."""
