// What the agent sees: 9 x 11 tiles around the player and 51 numbers.
#pragma once

#include "full/state.h"

namespace craftax::full {

constexpr int kRows = 9, kColumns = 11, kTiles = kRows * kColumns;
constexpr int kChannels = 83, kOnes = kTiles * kChannels, kScalars = 51;
constexpr int kDense = kOnes + kScalars;
constexpr int kMobs = kMelee + kPassive + kRanged + 2 * kProjectiles;
constexpr int kSlots = 2 * kTiles + kMobs, kCompact = kSlots + 2 * kScalars;

// Craftax's own observation [kDense]. `is_new`: of a world that has just been made, whose health,
// food, drink, energy and mana XLA knows when it compiles: it divides them by ten exactly.
void observe_dense(const State& state, bool is_new, float* numbers);

// The compact form [kCompact] of workers.rl.environments.craftax.compact.FULL.
void observe_compact(const State& state, bool is_new, int16_t* codes);

}  // namespace craftax::full
