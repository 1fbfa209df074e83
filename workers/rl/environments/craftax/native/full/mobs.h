// What moves by itself: creatures and projectiles.
#pragma once

#include "full/rules.h"

namespace craftax::full {

void move_mobs(State& state, const Draws& draws, const Params& params);
void spawn_mobs(State& state, const Draws& draws, const Params& params);

}  // namespace craftax::full
