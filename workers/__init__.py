"""How one stage is trained and evaluated on one machine."""
