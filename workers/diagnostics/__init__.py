"""Measures of models: routing and plasticity."""
