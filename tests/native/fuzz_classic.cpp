// Steps Craftax-Classic from random states, to be compiled with sanitizers: fuzz_classic STEPS.
//
// States are drawn wider than play reaches: players and mobs at and beyond the edges, any block,
// plants and arrows anywhere.
#include <cstdio>
#include <cstdlib>
#include <random>

#include "classic/state.h"

using namespace craftax;
using namespace craftax::classic;

namespace {

class Fuzzer {
 public:
  explicit Fuzzer(uint32_t seed) : random_(seed) {}

  int32_t between(int32_t least, int32_t most) {
    return std::uniform_int_distribution<int32_t>(least, most)(random_);
  }

  uint32_t word() { return static_cast<uint32_t>(random_()); }

  void scramble(State& state) {
    state.player = {between(-1, kSize), between(-1, kSize)};
    for (int32_t row = -9; row <= 9; ++row) {
      for (int32_t column = -9; column <= 9; ++column) {
        const Position at = state.player + Position{row, column};
        state.map.set(at, static_cast<uint8_t>(between(0, kBlocks - 1)));
        state.mob_map.set(at, between(0, 3) == 0);
      }
    }
    state.direction = between(1, 4);
    for (int32_t* need : {&state.health, &state.food, &state.drink, &state.energy}) {
      *need = between(0, 9);
    }
    state.recover = static_cast<float>(between(-16, 26));
    state.hunger = state.thirst = static_cast<float>(between(0, 26));
    state.fatigue = static_cast<float>(between(-11, 31));
    for (int32_t& count : state.inventory) count = between(0, 9);
    scramble(state.zombies, state);
    scramble(state.cows, state);
    scramble(state.skeletons, state);
    scramble(state.arrows, state);
    for (Position& way : state.arrow_directions) way = {between(-1, 1), between(-1, 1)};
    for (int i = 0; i < kPlants; ++i) {
      state.plants[i] = near(state);
      state.plant_age[i] = between(0, 700);
      state.plant_grows[i] = static_cast<uint8_t>(between(0, 1));
    }
    state.is_sleeping = between(0, 4) == 0;
    state.timestep = between(0, 10000);
  }

 private:
  Position near(const State& state) {
    return state.player + Position{between(-9, 9), between(-9, 9)};
  }

  template <int N>
  void scramble(Mobs<N>& mobs, const State& state) {
    for (int i = 0; i < N; ++i) {
      mobs.position[i] = near(state);
      mobs.health[i] = between(-1, 6);
      mobs.cooldown[i] = between(-3, 5);
      mobs.alive[i] = static_cast<uint8_t>(between(0, 1));
    }
  }

  std::mt19937 random_;
};

}  // namespace

int main(int count, char** arguments) {
  const long steps = count > 1 ? std::atol(arguments[1]) : 100000;
  const Params params{10000, 300, 1, 5, 3, 3, 14, 0.1f, 0.02f, 0.1f, 0.05f};
  Fuzzer fuzzer(1);
  State states[kTogether];
  Key keys[kTogether];
  Draws draws[kTogether];
  float dense[1345];
  int16_t compact[120];
  for (State& state : states) generate(state, {fuzzer.word(), fuzzer.word()}, params);
  long over = 0;
  for (long done = 0; done < steps; done += kTogether) {
    for (Key& key : keys) key = {fuzzer.word(), fuzzer.word()};
    draw(keys, kTogether, draws);
    for (int i = 0; i < kTogether; ++i) {
      if (fuzzer.between(0, 3) == 0) fuzzer.scramble(states[i]);
      step(states[i], fuzzer.between(0, kActions - 1), draws[i], params);
      observe_dense(states[i], dense);
      observe_compact(states[i], compact);
      over += is_over(states[i], params);
      if (fuzzer.between(0, 999) == 0) generate(states[i], keys[i], params);
    }
  }
  std::printf("%ld steps, %ld games over\n", steps, over);
}
