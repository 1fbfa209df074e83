// The state of one full Craftax game, as plain memory: every leaf of Craftax's EnvState by its name.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "grid.h"
#include "random.h"

namespace craftax::full {

constexpr int kFloors = 9, kSide = 48, kCells = kSide * kSide;
constexpr int kBossFloor = kFloors - 1;
constexpr int kAchievements = 67, kActions = 43, kPlants = 10;
constexpr int kMelee = 3, kPassive = 3, kRanged = 2, kProjectiles = 3;

using Map = Grid<kSide>;

struct Inventory {
  int32_t wood, stone, coal, iron, diamond, sapling, pickaxe, sword, bow, arrows;
  int32_t armour[4];
  int32_t torches, ruby, sapphire;
  int32_t potions[6];
  int32_t books;
};

// Creatures of one class on every floor; a slot whose mask is off holds a dead one, which still has
// a place (and walks).
template <int Slots>
struct Mobs {
  static constexpr int kSlots = Slots;
  Position position[kFloors][Slots];
  float health[kFloors][Slots];
  bool mask[kFloors][Slots];
  int32_t attack_cooldown[kFloors][Slots];
  int32_t type_id[kFloors][Slots];

  int alive(int floor) const {
    int count = 0;
    for (int slot = 0; slot < Slots; ++slot) count += mask[floor][slot];
    return count;
  }
  // The first slot without a living creature; 0 where all live.
  int free_slot(int floor) const {
    for (int slot = 0; slot < Slots; ++slot)
      if (!mask[floor][slot]) return slot;
    return 0;
  }
};

struct State {
  Position player_position;
  int32_t player_level, player_direction;
  float player_health;
  int32_t player_food, player_drink, player_energy, player_mana;
  bool is_sleeping, is_resting;
  float player_recover, player_hunger, player_thirst, player_fatigue, player_recover_mana;
  int32_t player_xp, player_dexterity, player_strength, player_intelligence;
  Inventory inventory;
  int32_t sword_enchantment, bow_enchantment, armour_enchantments[4];
  int32_t potion_mapping[6];
  bool learned_spells[2];
  int32_t boss_progress, boss_timesteps_to_spawn_this_round;
  float light_level;
  int32_t timestep;
  uint32_t state_rng[2];
  bool achievements[kAchievements];
  bool chests_opened[kFloors];
  int32_t monsters_killed[kFloors];
  Position down_ladders[kFloors], up_ladders[kFloors];

  Mobs<kMelee> melee_mobs;
  Mobs<kPassive> passive_mobs;
  Mobs<kRanged> ranged_mobs;
  Mobs<kProjectiles> mob_projectiles;
  Position mob_projectile_directions[kFloors][kProjectiles];
  Mobs<kProjectiles> player_projectiles;
  Position player_projectile_directions[kFloors][kProjectiles];

  Position growing_plants_positions[kPlants];
  int32_t growing_plants_age[kPlants];
  bool growing_plants_mask[kPlants];

  Map map[kFloors], item_map[kFloors], mob_map[kFloors];
  float light_map[kFloors][kSide][kSide];
};
static_assert(std::is_trivially_copyable_v<State>);

// Parameters that a task may set.
struct Params {
  int32_t max_timesteps, day_length, always_diamond, mob_despawn_distance, max_attribute, god_mode;
};

// One leaf of the state: where it lies, and as what.
struct Field {
  const char* name;
  const char* type;  // numpy's, such as "i4"
  int dimensions;
  int32_t shape[3];
  size_t offset;
};

namespace detail {

template <class T>
constexpr const char* type_name() {
  if constexpr (std::is_same_v<T, float>) return "f4";
  if constexpr (std::is_same_v<T, bool>) return "?";
  if constexpr (std::is_same_v<T, Map>) return "u1";
  if constexpr (std::is_same_v<T, uint32_t>) return "u4";
  return "i4";
}

template <class Array>
constexpr Field field(const char* name, size_t offset) {
  using Item = std::remove_all_extents_t<Array>;
  Field made{name, type_name<Item>(), std::rank_v<Array>, {1, 1, 1}, offset};
  if constexpr (std::rank_v<Array> > 0) made.shape[0] = std::extent_v<Array, 0>;
  if constexpr (std::rank_v<Array> > 1) made.shape[1] = std::extent_v<Array, 1>;
  if constexpr (std::rank_v<Array> > 2) made.shape[2] = std::extent_v<Array, 2>;
  if constexpr (std::is_same_v<Item, Position>) made.shape[made.dimensions++] = 2;
  if constexpr (std::is_same_v<Item, Map>) {
    made.shape[made.dimensions++] = kSide;
    made.shape[made.dimensions++] = kSide;
  }
  return made;
}

}  // namespace detail

#define LEAF(member) \
  detail::field<decltype(static_cast<State*>(nullptr)->member)>(#member, offsetof(State, member))
#define MOBS(group)                                                              \
  LEAF(group.position), LEAF(group.health), LEAF(group.mask), LEAF(group.attack_cooldown), \
      LEAF(group.type_id)

inline constexpr std::array kFields = {
    LEAF(map), LEAF(item_map), LEAF(mob_map), LEAF(light_map), LEAF(down_ladders),
    LEAF(up_ladders), LEAF(chests_opened), LEAF(monsters_killed), LEAF(player_position),
    LEAF(player_level), LEAF(player_direction), LEAF(player_health), LEAF(player_food),
    LEAF(player_drink), LEAF(player_energy), LEAF(player_mana), LEAF(is_sleeping),
    LEAF(is_resting), LEAF(player_recover), LEAF(player_hunger), LEAF(player_thirst),
    LEAF(player_fatigue), LEAF(player_recover_mana), LEAF(player_xp), LEAF(player_dexterity),
    LEAF(player_strength), LEAF(player_intelligence), LEAF(inventory.wood),
    LEAF(inventory.stone), LEAF(inventory.coal), LEAF(inventory.iron), LEAF(inventory.diamond),
    LEAF(inventory.sapling), LEAF(inventory.pickaxe), LEAF(inventory.sword), LEAF(inventory.bow),
    LEAF(inventory.arrows), LEAF(inventory.armour), LEAF(inventory.torches), LEAF(inventory.ruby),
    LEAF(inventory.sapphire), LEAF(inventory.potions), LEAF(inventory.books), MOBS(melee_mobs),
    MOBS(passive_mobs), MOBS(ranged_mobs), MOBS(mob_projectiles),
    LEAF(mob_projectile_directions), MOBS(player_projectiles),
    LEAF(player_projectile_directions), LEAF(growing_plants_positions), LEAF(growing_plants_age),
    LEAF(growing_plants_mask), LEAF(potion_mapping), LEAF(learned_spells),
    LEAF(sword_enchantment), LEAF(bow_enchantment), LEAF(armour_enchantments),
    LEAF(boss_progress), LEAF(boss_timesteps_to_spawn_this_round), LEAF(light_level),
    LEAF(achievements), LEAF(state_rng), LEAF(timestep),
};
#undef LEAF
#undef MOBS

}  // namespace craftax::full
