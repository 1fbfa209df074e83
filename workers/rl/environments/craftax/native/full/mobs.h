// What moves by itself: creatures and projectiles.
#pragma once

#include "rules.h"

namespace craftax::full {

void move_mobs(State& state, Key key, const Params& params);
void spawn_mobs(State& state, Key key, const Params& params);

}  // namespace craftax::full
