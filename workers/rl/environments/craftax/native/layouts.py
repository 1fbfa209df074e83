"""The layouts of both games."""

from __future__ import annotations

from workers.rl.environments.craftax.native.classic import CLASSIC
from workers.rl.environments.craftax.native.full import FULL
from workers.rl.environments.craftax.native.game import Game

GAMES: dict[int, Game] = {1: CLASSIC, 9: FULL}
"""By the number of floors."""
