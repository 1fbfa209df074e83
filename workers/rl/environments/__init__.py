"""Environments as an RL lane sees them: batches stepped together."""
