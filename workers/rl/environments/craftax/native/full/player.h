// What the player does in one step, one function a kind of action.
#pragma once

#include "full/rules.h"

namespace craftax::full {

void change_floor(State& state, int32_t action, const Params& params);
void craft(State& state, int32_t action);
void interact(State& state, Key key);
void place(State& state, int32_t action);
void use(State& state, int32_t action, const Draws& draws);
void level_up(State& state, int32_t action, const Params& params);
void move_player(State& state, int32_t action, const Params& params);

}  // namespace craftax::full
