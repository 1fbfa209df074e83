// Fetches of what a step will read. States of many games do not fit the caches; their memory is
// asked for while random numbers are drawn, so that a step does not wait for each line in turn.
#pragma once

#include "classic/state.h"

namespace craftax::classic {

constexpr int kLine = 64;  // bytes

// Everything but the maps: what fetch_places reads.
inline void fetch_fields(const State& state) {
  const char* begin = reinterpret_cast<const char*>(&state.player);
  const char* end = reinterpret_cast<const char*>(&state + 1);
  for (const char* line = begin; line < end; line += kLine) __builtin_prefetch(line);
}

inline void fetch(const State& state, Position at) {
  if (!state.map.contains(at)) return;
  __builtin_prefetch(&state.map.cells[at.row][at.column]);
  __builtin_prefetch(&state.mob_map.rows[at.row]);
}

template <int N>
inline void fetch(const State& state, const Mobs<N>& mobs) {
  for (const Position& at : mobs.position) fetch(state, at);
}

// The maps in view of the player and around mobs.
inline void fetch_places(const State& state) {
  for (int32_t row = -4; row <= 4; ++row) fetch(state, state.player + Position{row, 0});
  fetch(state, state.zombies);
  fetch(state, state.cows);
  fetch(state, state.skeletons);
}

}  // namespace craftax::classic
