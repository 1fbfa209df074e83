"""Hidden units of models: what each reads by, is read by, and did in forward passes."""
