#include "full/step.h"

#include <cstddef>

#include "full/light.h"
#include "full/mobs.h"
#include "full/player.h"

namespace craftax::full {

namespace {

void tell_boss(State& state) {
  state.achievements[kDefeatNecromancer] |= has_beaten_boss(state);
  state.boss_timesteps_to_spawn_this_round -= is_fighting_boss(state);
}

void grow_plants(State& state) {
  constexpr int32_t kRipeAge = 600;
  for (int plant = 0; plant < kPlants; ++plant) {
    int32_t& age = state.growing_plants_age[plant];
    age = state.growing_plants_mask[plant] ? age + 1 : 0;
    if (age >= kRipeAge)
      state.map[0].set(state.growing_plants_positions[plant], kRipePlant);
  }
}

void sleep_or_rest(State& state, int32_t action) {
  if (action == kSleep && state.player_energy < max_energy(state)) state.is_sleeping = true;
  if (state.is_sleeping && state.player_energy >= max_energy(state)) {
    state.is_sleeping = false;
    state.achievements[kWakeUp] = true;
  }
  const bool is_hurt = state.player_health < static_cast<float>(max_health(state));
  if (action == kRest && is_hurt) state.is_resting = true;
  if (!is_hurt || state.player_food <= 0 || state.player_drink <= 0) state.is_resting = false;
}

// Counts up to `limit`, then takes one from what is needed.
void wear(float& counter, float add, float limit, int32_t& need, int32_t loss) {
  counter += add;
  if (counter > limit) {
    counter = 0;
    need = std::max(need - loss, 0);
  }
}

void update_needs(State& state) {
  const int32_t loss = !is_fighting_boss(state);
  const float slowness = 1.0f - 0.125f * static_cast<float>(state.player_dexterity - 1);
  const float decay = (state.is_sleeping ? 0.5f : 1.0f) * slowness;
  wear(state.player_hunger, decay, 25, state.player_food, loss);
  wear(state.player_thirst, decay, 20, state.player_drink, loss);

  if (state.is_sleeping) state.player_fatigue = std::min(state.player_fatigue - 1.0f, 0.0f);
  else wear(state.player_fatigue, slowness, 30, state.player_energy, loss);
  if (state.player_fatigue < -10) {
    state.player_fatigue = 0;
    state.player_energy = std::min(state.player_energy + 1, max_energy(state));
  }
}

void recover(State& state) {
  const bool boss = is_fighting_boss(state);
  const bool provided = state.player_food > 0 && state.player_drink > 0 &&
                        (state.player_energy > 0 || state.is_sleeping);
  if (provided) state.player_recover += state.is_sleeping ? 2.0f : 1.0f;
  else if (!boss) state.player_recover -= state.is_sleeping ? 0.5f : 1.0f;
  if (state.player_recover > 25) {
    state.player_recover = 0;
    state.player_health =
        std::min(state.player_health + 1.0f, static_cast<float>(max_health(state)));
  } else if (state.player_recover < -15) {
    state.player_recover = 0;
    state.player_health -= 1.0f;
  }

  const float speed = 1.0f + 0.25f * static_cast<float>(state.player_intelligence - 1);
  state.player_recover_mana = (state.player_recover_mana + (state.is_sleeping ? 2.0f : 1.0f)) * speed;
  if (state.player_recover_mana > 30) {
    state.player_recover_mana = 0;
    state.player_mana += 1;
  }
}

void keep_within_limits(State& state, const Params& params) {
  Inventory& own = state.inventory;
  for (int32_t* stock : {&own.wood, &own.stone, &own.coal, &own.iron, &own.diamond, &own.sapling,
                         &own.pickaxe, &own.sword, &own.bow, &own.arrows, &own.torches, &own.ruby,
                         &own.sapphire, &own.books})
    *stock = std::min(*stock, 99);
  for (int32_t& piece : own.armour) piece = std::min(piece, 99);
  for (int32_t& potion : own.potions) potion = std::min(potion, 99);
  const float least = params.god_mode ? 9.0f : 0.0f;
  state.player_health = std::min(std::max(state.player_health, least), static_cast<float>(max_health(state)));
  state.player_food = std::min(std::max(state.player_food, 0), max_food(state));
  state.player_drink = std::min(std::max(state.player_drink, 0), max_drink(state));
  state.player_energy = std::min(std::max(state.player_energy, 0), max_energy(state));
  state.player_mana = std::min(std::max(state.player_mana, 0), max_mana(state));
}

}  // namespace

void step(State& state, int32_t action, const Draws& draws, const Params& params) {
  if (state.is_sleeping || state.is_resting) action = kNoop;
  change_floor(state, action, params);
  craft(state, action);
  if (action == kDo) interact(state, draws.interact);
  place(state, action);
  use(state, action, draws);
  tell_boss(state);
  level_up(state, action, params);
  move_player(state, action, params);
  move_mobs(state, draws, params);
  spawn_mobs(state, draws, params);
  grow_plants(state);
  sleep_or_rest(state, action);
  update_needs(state);
  recover(state);
  keep_within_limits(state, params);
  for (const Possession& have : kPossessions)
    state.achievements[have.achievement] |= state.inventory.*have.owned >= have.least;
  state.timestep += 1;
  state.light_level = daylight(state.timestep, params.day_length);
  state.state_rng[0] = draws.state.high;
  state.state_rng[1] = draws.state.low;
}

namespace {

constexpr int kLine = 64;

void ask(const void* memory) { __builtin_prefetch(memory, 1, 2); }

}  // namespace

void prefetch_player(const State& state) {
  const auto* head = reinterpret_cast<const char*>(&state);
  for (size_t at = 0; at < offsetof(State, melee_mobs); at += kLine) ask(head + at);
}

void prefetch_around(const State& state) {
  constexpr int reach = 5;
  const int floor = std::clamp(state.player_level, 0, kFloors - 1);
  const auto ask_mobs = [&](const auto& mobs) {
    ask(&mobs[floor]);
    ask(&mobs[floor + 1]);  // where these may end
  };
  ask_mobs(state.melee_mobs);
  ask_mobs(state.passive_mobs);
  ask_mobs(state.ranged_mobs);
  ask_mobs(state.mob_projectiles);
  ask_mobs(state.player_projectiles);
  const Position own = state.player_position;
  const int left = std::clamp(own.column - reach, 0, kSide - 1);
  const int right = std::clamp(own.column + reach, 0, kSide - 1);
  for (int row = own.row - reach; row <= own.row + reach; ++row) {
    if (row < 0 || row >= kSide) continue;
    ask(&state.map[floor].cells[row][left]);
    ask(&state.item_map[floor].cells[row][left]);
    ask(&state.mob_map[floor].cells[row][left]);
    ask(&state.light_map[floor][row][left]);
    ask(&state.light_map[floor][row][right]);
  }
}

void prefetch_creatures(const State& state) {
  const int floor = std::clamp(state.player_level, 0, kFloors - 1);
  const auto ask_places = [&](const auto& mobs) {
    for (const Position place : mobs[floor].position) {
      const int row = std::clamp(place.row, 0, kSide - 1);
      const int column = std::clamp(place.column, 0, kSide - 1);
      ask(&state.map[floor].cells[row][column]);
      ask(&state.mob_map[floor].cells[row][column]);
    }
  };
  ask_places(state.melee_mobs);
  ask_places(state.passive_mobs);
  ask_places(state.ranged_mobs);
}

bool is_over(const State& state, const Params& params) {
  return state.timestep >= params.max_timesteps || state.player_health <= 0 ||
         state.boss_progress >= kFloors - 1;
}

}  // namespace craftax::full
