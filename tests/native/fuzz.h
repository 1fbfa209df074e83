// Plays batches of games from random states through the functions that Python calls, to be compiled
// with sanitizers: PROGRAM STEPS SEED. Some actions are none; they must be refused before a game moves.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "random.h"

class Dice {
 public:
  explicit Dice(uint32_t seed) : random_(seed) {}

  int32_t between(int32_t least, int32_t most) {
    return std::uniform_int_distribution<int32_t>(least, most)(random_);
  }
  bool once_in(int32_t times) { return between(1, times) == 1; }
  uint32_t word() { return static_cast<uint32_t>(random_()); }

 private:
  std::mt19937 random_;
};

// Game: State, Task, kActions, kDense, kCompact, task(dice), scramble(state, dice), and the C
// functions renew, step, complete and observe.
template <class Game>
int fuzz(int count, char** arguments) {
  using State = typename Game::State;
  constexpr int kGames = 19;  // no multiple of those that are drawn for together
  const long steps = count > 1 ? std::atol(arguments[1]) : 100000;
  Dice dice(count > 2 ? static_cast<uint32_t>(std::atol(arguments[2])) : 1);
  // On the heap and of the very size, so that a step beyond is seen.
  std::vector<State> states(kGames), before;
  std::vector<float> rewards(kGames), dense(kGames * Game::kDense);
  std::vector<int16_t> compact(kGames * Game::kCompact);
  std::vector<uint8_t> done(kGames), unlocked(kGames * Game::kAchievements);
  std::vector<int32_t> indices(kGames), actions(kGames);
  for (int i = 0; i < kGames; ++i) indices[i] = i;
  auto task = Game::task(dice);
  const auto begin = [&](int64_t number, const craftax::Key& key) {
    Game::renew(states.data(), indices.data(), number, &key, dice.word(), &task, dense.data(),
                compact.data());
  };
  begin(kGames, {dice.word(), dice.word()});
  long over = 0, refused = 0;
  for (long played = 0; played < steps; played += kGames) {
    const craftax::Key key = {dice.word(), dice.word()};
    if (dice.once_in(2000)) task = Game::task(dice);
    if (dice.once_in(40)) Game::complete(states.data(), kGames);
    for (State& state : states)
      if (dice.once_in(4)) Game::scramble(state, dice);
    for (int32_t& action : actions) action = dice.between(0, Game::kActions - 1);
    if (dice.once_in(10)) {
      const int wrong = dice.between(0, kGames - 1);
      actions[wrong] = dice.once_in(2) ? dice.between(INT32_MIN, -1)
                                       : dice.between(Game::kActions, INT32_MAX);
      before = states;
    }
    const int64_t told = Game::step(states.data(), kGames, &key, dice.word(), actions.data(), &task,
                                    dice.once_in(2), rewards.data(), done.data(), unlocked.data(),
                                    dense.data(), compact.data());
    if (told >= 0) {
      ++refused;
      const bool moved = std::memcmp(before.data(), states.data(), kGames * sizeof(State)) != 0;
      if (moved || (actions[told] >= 0 && actions[told] < Game::kActions)) std::abort();
      continue;
    }
    for (const uint8_t ended : done) over += ended;
    Game::observe(states.data(), kGames, dense.data(), compact.data());
    if (dice.once_in(50)) begin(dice.between(0, kGames), key);
  }
  std::printf("%ld steps, %ld games over, %ld refused\n", steps, over, refused);
  return 0;
}
