// Craftax-Classic from states drawn wider than play reaches: players and mobs at and beyond the edges,
// any block, plants and arrows anywhere.
#include "classic/api.cpp"
#include "fuzz.h"

namespace {

struct Classic {
  using State = craftax::classic::State;
  using Task = craftax::classic::Task;
  static constexpr int kActions = craftax::classic::kActions;
  static constexpr int kAchievements = craftax::classic::kAchievements;
  static constexpr int kDense = 1345, kCompact = 120;
  static constexpr auto renew = craftax_classic_renew;
  static constexpr auto step = craftax_classic_step;
  static constexpr auto complete = craftax_classic_complete;
  static constexpr auto observe = craftax_classic_observe;

  static Task task(Dice& dice) {
    Task task{};
    task.params = {dice.between(1, 10000), 300, 1, 5, 3, 3, 14, 0.1f, 0.02f, 0.1f, 0.05f};
    task.rewards.health = 0.1f;
    return task;
  }

  static void scramble(State& state, Dice& dice) {
    state.player = {dice.between(-1, kSize), dice.between(-1, kSize)};
    for (int32_t row = -9; row <= 9; ++row) {
      for (int32_t column = -9; column <= 9; ++column) {
        const Position at = state.player + Position{row, column};
        state.map.set(at, static_cast<uint8_t>(dice.between(0, kBlocks - 1)));
        state.mob_map.set(at, dice.between(0, 3) == 0);
      }
    }
    state.direction = dice.between(1, 4);
    for (int32_t* need : {&state.health, &state.food, &state.drink, &state.energy}) {
      *need = dice.between(0, 9);
    }
    state.recover = static_cast<float>(dice.between(-16, 26));
    state.hunger = state.thirst = static_cast<float>(dice.between(0, 26));
    state.fatigue = static_cast<float>(dice.between(-11, 31));
    for (int32_t& count : state.inventory) count = dice.between(0, 9);
    scramble(state.zombies, state, dice);
    scramble(state.cows, state, dice);
    scramble(state.skeletons, state, dice);
    scramble(state.arrows, state, dice);
    for (Position& way : state.arrow_directions) way = {dice.between(-1, 1), dice.between(-1, 1)};
    for (int i = 0; i < kPlants; ++i) {
      state.plants[i] = near(state, dice);
      state.plant_age[i] = dice.between(0, 700);
      state.plant_grows[i] = static_cast<uint8_t>(dice.between(0, 1));
    }
    state.is_sleeping = dice.between(0, 4) == 0;
    state.timestep = dice.between(0, 10000);
  }

 private:
  static Position near(const State& state, Dice& dice) {
    return state.player + Position{dice.between(-9, 9), dice.between(-9, 9)};
  }

  template <int N>
  static void scramble(Mobs<N>& mobs, const State& state, Dice& dice) {
    for (int i = 0; i < N; ++i) {
      mobs.position[i] = near(state, dice);
      mobs.health[i] = dice.between(-1, 6);
      mobs.cooldown[i] = dice.between(-3, 5);
      mobs.alive[i] = static_cast<uint8_t>(dice.between(0, 1));
    }
  }
};

}  // namespace

int main(int count, char** arguments) { return fuzz<Classic>(count, arguments); }
