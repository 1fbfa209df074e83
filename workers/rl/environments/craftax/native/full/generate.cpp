#include "full/generate.h"

#include <cstddef>
#include <cstring>

#include "choice.h"
#include "full/light.h"

namespace craftax::full {

namespace {

struct Plan {
  bool dungeon;
  int index;  // among landscapes or dungeons
};
constexpr Plan kPlans[kFloors] = {{false, 0}, {true, 0},  {false, 1}, {true, 1}, {true, 2},
                                  {false, 2}, {false, 3}, {false, 4}, {false, 5}};
constexpr uint32_t kLandscapes = 6;

template <int Slots>
void clear(Mobs<Slots>& mobs) {
  for (auto& floor : mobs)
    for (float& health : floor.health) health = 1;
}

void clear(Position (&directions)[kFloors][kProjectiles]) {
  for (auto& floor : directions)
    for (Position& way : floor) way = {1, 1};
}

constexpr Inventory kEverything = {99, 99, 99, 99, 99, 99, 4,  4,  1,
                                   99, {2, 2, 2, 2}, 99, 99, 99, {99, 99, 99, 99, 99, 99}, 99};

}  // namespace

Position Floor::any(uint8_t block, float drawn) const {
  const uint8_t* cells = &map[0][0];
  EqualChoice<kCells> choice;
  for (int32_t cell = 0; cell < kCells; ++cell)
    if (cells[cell] == block) choice.add(cell);
  const int32_t found = choice.pick(drawn);
  return {found / kSide, found % kSide};
}

Position Floor::counted(uint8_t block, float drawn) const {
  int in_row[kSide], number = 0;
  for (int row = 0; row < kSide; ++row)
    number += in_row[row] = static_cast<int>(std::count(map[row], map[row] + kSide, block));
  // Sums of ones are exact, so the place is that of the first whole number that reaches the draw.
  auto left = static_cast<int>(std::ceil(static_cast<float>(number) * (1.0f - drawn)));
  for (int row = 0; row < kSide && number > 0; ++row) {
    if (left > in_row[row]) {
      left -= in_row[row];
      continue;
    }
    for (int column = 0; column < kSide; ++column)
      if (map[row][column] == block && --left == 0) return {row, column};
  }
  return {0, 0};
}

void make_floor(State& state, int floor) {
  Unmade& unmade = state.unmade;
  if (!(unmade.floors >> floor & 1)) return;
  state.item_map[floor] = state.mob_map[floor] = {};
  const Plan plan = kPlans[floor];
  Key parent = unmade.key;
  if (plan.dungeon) skip(parent);
  const Key key = child(parent, static_cast<uint32_t>(plan.index) + 1);
  if (plan.dungeon) generate_dungeon(Floor(state, floor), plan.index, key);
  else generate_landscape(Floor(state, floor), plan.index, key, unmade.always_diamond);
  unmade.floors &= ~(1u << floor);
  if (unmade.floors == 0) unmade = {};
}

void generate(State& state, Key key, const Params& params) {
  std::memset(&state, 0, offsetof(State, map));
  state.unmade = {(1u << kFloors) - 1, key, params.always_diamond};
  make_floor(state, 0);
  skip(key);  // landscapes
  skip(key);  // dungeons
  const auto potions = permutation<6>(split(key));
  std::copy(potions.begin(), potions.end(), state.potion_mapping);
  const Key own = split(key);
  state.state_rng[0] = own.high;
  state.state_rng[1] = own.low;

  state.player_position = {kSide / 2, kSide / 2};
  state.player_direction = kUp;
  state.player_health = 9;
  state.player_food = state.player_drink = state.player_energy = state.player_mana = 9;
  state.player_dexterity = state.player_strength = state.player_intelligence = 1;
  if (params.god_mode) state.inventory = kEverything;
  state.monsters_killed[0] = 10;  // the first ladder is open
  state.boss_timesteps_to_spawn_this_round = kBossSpawnTurns;
  state.light_level = daylight(0, params.day_length);
  clear(state.melee_mobs);
  clear(state.passive_mobs);
  clear(state.ranged_mobs);
  clear(state.mob_projectiles);
  clear(state.player_projectiles);
  clear(state.mob_projectile_directions);
  clear(state.player_projectile_directions);
}

}  // namespace craftax::full
