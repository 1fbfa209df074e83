// How mobs of Craftax-Classic move, attack and appear.
#pragma once

#include "classic/state.h"

namespace craftax::classic {

// Is a mob or the player there?
inline bool is_occupied(const State& state, Position at) {
  return state.mob_map[at] || state.player == at;
}

// Can a mob or the player go there and live?
inline bool is_free(const State& state, Position at) {
  if (!state.map.contains(at)) return false;
  const uint8_t block = state.map[at];
  return !is_solid(block) && block != kLava && !is_occupied(state, at);
}

// Zombies, cows, skeletons and arrows, each in turn.
void move_mobs(State& state, const Draws& draws, const Params& params);

// A cow, a zombie and a skeleton, where there is room, chance and a place.
void spawn_mobs(State& state, const Draws& draws, const Params& params);

}  // namespace craftax::classic
