// One step of one game.
#pragma once

#include "full/state.h"

namespace craftax::full {

// craftax_step: the state moves on by one action (0 <= action < kActions).
void step(State& state, int32_t action, const Draws& draws, const Params& params);

// Ask for the memory that a step and an observation of this game will read: what belongs to the
// player; once that is there, what is around him, and the floor's creatures; then where these are,
// dead ones too.
void prefetch_player(const State& state);
void prefetch_around(const State& state);
void prefetch_creatures(const State& state);

bool is_over(const State& state, const Params& params);

}  // namespace craftax::full
