// One step of one game.
#pragma once

#include "state.h"

namespace craftax::full {

// craftax_step: the state moves on by one action (0 <= action < kActions).
void step(State& state, Key key, int32_t action, const Params& params);

bool is_over(const State& state, const Params& params);

}  // namespace craftax::full
