// Rules that several parts of the game share: places in the grid, limits, who can stand where.
#pragma once

#include <algorithm>
#include <cmath>

#include "full/tables.h"

namespace craftax::full {

inline bool in_bounds(Position place) { return Map::contains(place); }

inline uint8_t block_at(const State& state, Position place) {
  return state.map[state.player_level][place];
}

inline bool is_solid(const State& state, Position place) {
  return holds(kSolid, block_at(state, place));
}

// Whether a creature or the player is there.
inline bool is_in_mob(const State& state, Position place) {
  return state.mob_map[state.player_level][place] || state.player_position == place;
}

inline bool can_stand(const State& state, Position place, Collision collision) {
  if (!in_bounds(place) || is_in_mob(state, place)) return false;
  const uint8_t block = state.map[state.player_level][place];
  if (holds(kSolid, block)) return false;
  if (block == kWater) return !collision.water;
  if (block == kLava) return !collision.lava;
  return !collision.ground;
}

inline bool is_near(const State& state, Block block) {
  constexpr Position around[] = {{0, -1}, {0, 1}, {-1, 0}, {1, 0}, {-1, -1}, {-1, 1}, {1, -1}, {1, 1}};
  return std::any_of(std::begin(around), std::end(around), [&](Position step) {
    const Position place = state.player_position + step;
    return in_bounds(place) && block_at(state, place) == block;
  });
}

inline bool is_fighting_boss(const State& state) { return state.player_level == kBossFloor; }

inline bool is_boss_vulnerable(const State& state) {
  return state.melee_mobs[state.player_level].alive() == 0 &&
         state.ranged_mobs[state.player_level].alive() == 0 &&
         state.boss_timesteps_to_spawn_this_round <= 0;
}

inline bool has_beaten_boss(const State& state) { return state.boss_progress >= kFloors - 1; }

inline int32_t max_health(const State& state) { return 8 + state.player_strength; }
inline int32_t max_food(const State& state) { return 7 + 2 * state.player_dexterity; }
inline int32_t max_drink(const State& state) { return max_food(state); }
inline int32_t max_energy(const State& state) { return max_food(state); }
inline int32_t max_mana(const State& state) { return 6 + 3 * state.player_intelligence; }

// Puts a projectile into the first free slot; the caller has seen that there is one.
inline void launch(Mobs<kProjectiles>& projectiles, Position (&directions)[kFloors][kProjectiles],
                   int floor, Position from, Position towards, int32_t kind) {
  const int slot = projectiles[floor].free_slot();
  projectiles[floor].position[slot] = from;
  projectiles[floor].mask[slot] = true;
  projectiles[floor].type_id[slot] = kind;
  directions[floor][slot] = towards;
}

}  // namespace craftax::full
