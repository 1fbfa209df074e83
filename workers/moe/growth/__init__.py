"""How a model changes its shape: growable parts, surgery, initialisers, budgets, schedules."""
