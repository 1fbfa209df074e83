// Batches of Craftax-Classic games, as workers/rl/environments/craftax/native/engine.py calls them.
#include "api.h"

#include <algorithm>

#include "classic/prefetch.h"
#include "classic/state.h"

namespace craftax::classic {
namespace {

constexpr int kDense = 1345, kCompact = 120;

// All of a task: craftax.native.classic.TASK of the Python side.
struct Task {
  Params params;
  Rewards rewards;
};

void observe(const State& state, int64_t index, float* dense, int16_t* compact) {
  if (dense != nullptr) observe_dense(state, dense + index * kDense);
  if (compact != nullptr) observe_compact(state, compact + index * kCompact);
}

float reward(const State& state, const uint8_t* before, int32_t health, const Rewards& rewards) {
  float earned = 0.0f;
  for (int i = 0; i < kAchievements; ++i) {
    earned += static_cast<float>(state.achievements[i] - before[i]) * rewards.weights[i];
  }
  return std::fma(rewards.health, static_cast<float>(state.health - health), earned);
}

}  // namespace
}  // namespace craftax::classic

using namespace craftax;
using namespace craftax::classic;

CRAFTAX_API int64_t craftax_classic_state_size() { return sizeof(State); }
CRAFTAX_API int64_t craftax_classic_task_size() { return sizeof(Task); }

// New worlds for the games of these indices; the i-th is made of the key folded with
// first + 2 * i.
CRAFTAX_API void craftax_classic_renew(State* states, const int32_t* indices, int64_t count,
                                       const Key* key, uint32_t first, const Task* task,
                                       float* dense, int16_t* compact) {
  for (int64_t i = 0; i < count; ++i) {
    State& state = states[indices[i]];
    generate(state, child(*key, first + 2 * static_cast<uint32_t>(i)), task->params);
    observe(state, indices[i], dense, compact);
  }
}

// One step of all games under the key folded with `at`. A game that ends begins anew where
// `renews`; `unlocked` has what it had achieved. Returns -1, or, before anything has moved, the
// first game with an action that there is not.
CRAFTAX_API int64_t craftax_classic_step(State* states, int64_t count, const Key* key, uint32_t at,
                                         const int32_t* actions, const Task* task, int32_t renews,
                                         float* rewards, uint8_t* done, uint8_t* unlocked,
                                         float* dense, int16_t* compact) {
  for (int64_t game = 0; game < count; ++game) {
    if (actions[game] < 0 || actions[game] >= kActions) return game;
  }
  const Key step_key = child(*key, at);
  Key keys[kTogether];
  Draws draws[kTogether];
  uint8_t before[kAchievements];
  for (int64_t start = 0; start < count; start += kTogether) {
    const int filled = static_cast<int>(std::min<int64_t>(kTogether, count - start));
    for (int64_t next = start; next < std::min(count, start + kTogether); ++next) {
      fetch_places(states[next]);
      fetch_fields(states[std::min(next + kTogether, count - 1)]);
    }
    for (int i = 0; i < kTogether; ++i) keys[i] = child(step_key, static_cast<uint32_t>(start + i));
    draw(keys, filled, draws);
    for (int i = 0; i < filled; ++i) {
      const int64_t game = start + i;
      State& state = states[game];
      std::copy_n(state.achievements, kAchievements, before);
      const int32_t health = state.health;
      step(state, actions[game], draws[i], task->params);
      rewards[game] = reward(state, before, health, task->rewards);
      done[game] = is_over(state, task->params);
      std::copy_n(state.achievements, kAchievements, unlocked + game * kAchievements);
      if (renews && done[game]) generate(state, child(keys[i], 1u), task->params);
      observe(state, game, dense, compact);
    }
  }
  return -1;
}

// All of a classic world is made at once.
CRAFTAX_API void craftax_classic_complete(State*, int64_t) {}

// What the games look like now, without a step.
CRAFTAX_API void craftax_classic_observe(const State* states, int64_t count, float* dense,
                                         int16_t* compact) {
  for (int64_t i = 0; i < count; ++i) observe(states[i], i, dense, compact);
}
