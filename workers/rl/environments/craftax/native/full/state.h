// The state of one full Craftax game, its parameters and its constants.
//
// States live in memory of the caller, one after the other, with Craftax's own names;
// workers/rl/environments/craftax/native/full.py describes the same bytes to numpy.
#pragma once

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

// Creatures of one class on one floor; a slot whose mask is off holds a dead one, which still has a
// place (and walks). Those of a floor lie together, in a line or two of the cache.
template <int Slots>
struct FloorMobs {
  Position position[Slots];
  float health[Slots];
  bool mask[Slots];
  int32_t attack_cooldown[Slots];
  int32_t type_id[Slots];

  int alive() const {
    int count = 0;
    for (const bool lives : mask) count += lives;
    return count;
  }
  // The first slot without a living creature; 0 where all live.
  int free_slot() const {
    for (int slot = 0; slot < Slots; ++slot)
      if (!mask[slot]) return slot;
    return 0;
  }
};
template <int Slots>
using Mobs = FloorMobs<Slots>[kFloors];

// Floors still to be made, a bit for each, and what they are made of; zeros when all are there.
struct Unmade {
  uint32_t floors;
  Key key;
  int32_t always_diamond;
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
  Unmade unmade;
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

// The random numbers of one step, which do not depend on the state, and the keys of those that few
// steps look at.
struct Draws {
  struct Hunter {  // a melee or ranged creature
    uint32_t direction, axis, choice;
  };
  struct Spawn {
    uint32_t chance, place;
  };
  Key interact, book, enchant, state;
  Hunter melee[kMelee];
  uint32_t passive[kPassive];
  Hunter ranged[kRanged];
  Spawn spawns[3];  // passive, melee, ranged
};

// The draws of one step under each of `count` keys.
void draw(const Key* keys, int count, Draws* draws);

// What a task sets: the game's parameters, what is rewarded, and where the agent begins.
struct Task {
  Params params;
  float weights[kAchievements];  // of each achievement
  float health;                  // of one point of health
  int32_t floor;
  bool unlocked[kAchievements];  // achievements it begins with
};

}  // namespace craftax::full
