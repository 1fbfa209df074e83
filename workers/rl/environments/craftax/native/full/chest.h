// What is found in a chest.
#pragma once

#include "full/rules.h"

namespace craftax::full {

// Adds the loot of a chest on the player's floor, of which `was_opened` says if it is not the first.
void loot(State& state, Key key, bool was_opened);

}  // namespace craftax::full
