// One step of one game.
#pragma once

#include "full/state.h"

namespace craftax::full {

// craftax_step: the state moves on by one action (0 <= action < kActions).
void step(State& state, int32_t action, const Draws& draws, const Params& params);

// Asks for the memory that a step and an observation of this game will read.
void prefetch(const State& state);

bool is_over(const State& state, const Params& params);

}  // namespace craftax::full
