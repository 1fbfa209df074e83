// Batches of full Craftax games, as workers/rl/environments/craftax/native/engine.py calls them.
#include "api.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "full/generate.h"
#include "full/observe.h"
#include "full/step.h"
#include "full/tables.h"

namespace craftax::full {
namespace {

constexpr int kBlock = 8;  // games whose random numbers are drawn together

void observe(const State& state, bool is_new, int64_t index, float* dense, int16_t* compact) {
  if (dense != nullptr) observe_dense(state, is_new, dense + index * kDense);
  if (compact != nullptr) observe_compact(state, is_new, compact + index * kCompact);
}

// A new world with the agent on the task's floor: at its up ladder, floors above entered and
// cleared, one point of experience for each.
void begin(State& state, Key key, const Task& task) {
  generate(state, child(key, 1u), task.params);
  make_floor(state, task.floor);
  state.player_level = task.floor;
  state.player_xp += task.floor;
  if (task.floor > 0) state.player_position = state.up_ladders[task.floor];
  for (int above = 0; above < task.floor; ++above)
    state.monsters_killed[above] = std::max(state.monsters_killed[above], kMonstersToClear);
  for (int i = 0; i < kAchievements; ++i) state.achievements[i] |= task.unlocked[i];
}

float reward(const State& state, const bool* before, float health, const Task& task) {
  float earned = 0.0f;
  const bool is_new = std::memcmp(state.achievements, before, kAchievements) != 0;
  for (int i = 0; is_new && i < kAchievements; ++i)
    earned += static_cast<float>(state.achievements[i] - before[i]) * task.weights[i];
  return std::fma(task.health, state.player_health - health, earned);
}

}  // namespace
}  // namespace craftax::full

using namespace craftax;
using namespace craftax::full;

CRAFTAX_API int64_t craftax_full_state_size() { return sizeof(State); }
CRAFTAX_API int64_t craftax_full_task_size() { return sizeof(Task); }

// New worlds for the games of these indices; the i-th is made of the key folded with
// first + 2 * i.
CRAFTAX_API void craftax_full_renew(State* states, const int32_t* indices, int64_t count,
                                    const Key* key, uint32_t first, const Task* task, float* dense,
                                    int16_t* compact) {
  for (int64_t i = 0; i < count; ++i) {
    State& state = states[indices[i]];
    begin(state, child(*key, first + 2 * static_cast<uint32_t>(i)), *task);
    observe(state, true, indices[i], dense, compact);
  }
}

// One step of all games under the key folded with `at`. A game that ends begins anew where
// `renews`; `unlocked` has what it had achieved. Returns the first game whose action there is not,
// before any has moved, or -1.
CRAFTAX_API int64_t craftax_full_step(State* states, int64_t count, const Key* key, uint32_t at,
                                      const int32_t* actions, const Task* task, int32_t renews,
                                      float* rewards, bool* done, bool* unlocked, float* dense,
                                      int16_t* compact) {
  const auto* wrong = std::find_if(actions, actions + count, [](int32_t action) {
    return action < 0 || action >= kActions;
  });
  if (wrong != actions + count) return wrong - actions;

  const Key step_key = child(*key, at);
  Key keys[kBlock];
  Draws draws[kBlock];
  bool before[kAchievements];
  for (int64_t start = 0; start < count; start += kBlock) {
    const int filled = static_cast<int>(std::min<int64_t>(kBlock, count - start));
    for (int i = 0; i < filled; ++i) keys[i] = child(step_key, static_cast<uint32_t>(start + i));
    draw(keys, filled, draws);
    const auto ask = [&](int blocks, auto prefetch) {
      const int64_t first = start + blocks * kBlock, end = std::min(first + kBlock, count);
      for (int64_t game = first; game < end; ++game) prefetch(states[game]);
    };
    ask(3, prefetch_player);
    ask(2, prefetch_around);
    ask(1, prefetch_creatures);
    for (int i = 0; i < filled; ++i) {
      const int64_t game = start + i;
      State& state = states[game];
      std::copy_n(state.achievements, kAchievements, before);
      const float health = state.player_health;
      step(state, actions[game], draws[i], task->params);
      rewards[game] = reward(state, before, health, *task);
      done[game] = is_over(state, task->params);
      std::copy_n(state.achievements, kAchievements, unlocked + game * kAchievements);
      if (renews && done[game]) begin(state, child(keys[i], 1u), *task);
      observe(state, false, game, dense, compact);
    }
  }
  return -1;
}

// Makes all floors that nobody has looked at yet.
CRAFTAX_API void craftax_full_complete(State* states, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    for (int floor = 0; floor < kFloors; ++floor) make_floor(states[i], floor);
}

// What the games look like now, without a step.
CRAFTAX_API void craftax_full_observe(const State* states, int64_t count, float* dense,
                                      int16_t* compact) {
  for (int64_t i = 0; i < count; ++i) observe(states[i], false, i, dense, compact);
}
