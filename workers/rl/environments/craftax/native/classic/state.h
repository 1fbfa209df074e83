// The state of one Craftax-Classic game, its parameters and its constants.
//
// States live in memory of the caller, one after the other; workers/rl/environments/craftax/native/
// classic.py describes the same bytes to numpy.
#pragma once

#include <cstdint>

#include "grid.h"
#include "random.h"

namespace craftax::classic {

constexpr int32_t kSize = 64;  // of the world, both ways
constexpr int kZombies = 3, kCows = 3, kSkeletons = 2, kArrows = 3, kPlants = 10;

enum Block : uint8_t {
  kInvalid, kOutOfBounds, kGrass, kWater, kStone, kTree, kWood, kPath, kCoal, kIron, kDiamond,
  kTable, kFurnace, kSand, kLava, kPlant, kRipePlant, kBlocks
};

enum Action : int32_t {
  kNoop, kLeft, kRight, kUp, kDown, kDo, kSleep, kPlaceStone, kPlaceTable, kPlaceFurnace,
  kPlacePlant, kMakeWoodPickaxe, kMakeStonePickaxe, kMakeIronPickaxe, kMakeWoodSword,
  kMakeStoneSword, kMakeIronSword, kActions
};

enum Item : int {
  kWoodItem, kStoneItem, kCoalItem, kIronItem, kDiamondItem, kSapling, kWoodPickaxe, kStonePickaxe,
  kIronPickaxe, kWoodSword, kStoneSword, kIronSword, kItems
};

enum Achievement : int {
  kCollectWood, kPlaceTableDone, kEatCow, kCollectSapling, kCollectDrink, kMadeWoodPickaxe,
  kMadeWoodSword, kPlacePlantDone, kDefeatZombie, kCollectStone, kPlaceStoneDone, kEatPlant,
  kDefeatSkeleton, kMadeStonePickaxe, kMadeStoneSword, kWakeUp, kPlaceFurnaceDone, kCollectCoal,
  kCollectIron, kCollectDiamond, kMadeIronPickaxe, kMadeIronSword, kAchievements
};

// By action and by direction; what is no move is a step of nothing.
constexpr Position kSteps[] = {{0, 0}, {0, -1}, {0, 1}, {-1, 0}, {1, 0}};

constexpr Position step_of(int32_t action) {
  return action >= kLeft && action <= kDown ? kSteps[action] : kSteps[0];
}

constexpr uint32_t kSolid = 1u << kWater | 1u << kStone | 1u << kTree | 1u << kCoal | 1u << kIron |
                            1u << kDiamond | 1u << kTable | 1u << kFurnace | 1u << kPlant |
                            1u << kRipePlant;

constexpr bool is_solid(uint8_t block) { return kSolid >> block & 1; }

template <int N>
struct Mobs {
  Position position[N];
  int32_t health[N];
  int32_t cooldown[N];
  uint8_t alive[N];
};

struct State {
  Grid<kSize> map;
  FlagGrid mob_map;
  Position player;
  int32_t direction;
  int32_t health, food, drink, energy;
  float recover, hunger, thirst, fatigue;
  int32_t inventory[kItems];
  Mobs<kZombies> zombies;
  Mobs<kCows> cows;
  Mobs<kSkeletons> skeletons;
  Mobs<kArrows> arrows;
  Position arrow_directions[kArrows];
  Position plants[kPlants];
  int32_t plant_age[kPlants];
  uint8_t plant_grows[kPlants];
  uint8_t achievements[kAchievements];
  uint8_t is_sleeping;
  float light_level;
  int32_t timestep;
  Key state_key;
};

// craftax.craftax_classic.envs.craftax_state.EnvParams.
struct Params {
  int32_t max_timesteps, day_length, always_diamond, zombie_health, cow_health, skeleton_health,
      mob_despawn_distance;
  float spawn_cow_chance, spawn_zombie_base_chance, spawn_zombie_night_chance,
      spawn_skeleton_chance;
};

// What is rewarded: a weight for each achievement and for a point of health.
struct Rewards {
  float weights[kAchievements];
  float health;
};

// All random numbers of one step. They do not depend on the state, so they are drawn beforehand.
struct Draws {
  struct Hunter {  // a zombie or a skeleton
    uint32_t direction, axis, choice;
  };
  struct Spawn {
    uint32_t chance, place;
  };
  uint32_t sapling;
  Hunter zombies[kZombies];
  uint32_t cows[kCows];
  Hunter skeletons[kSkeletons];
  Spawn spawns[3];
  Key state_key;
};

// Light at a time of the day, in [0, 1].
float light_level(int32_t timestep, int32_t day_length);

// A new world, as craftax makes it from this key.
void generate(State& state, Key key, const Params& params);

constexpr int kTogether = 16;  // games that are drawn for with one instruction, or two

// The draws of one step under each of `count` keys.
void draw(const Key* keys, int count, Draws* draws);

// One step of a game; `action` is in [0, kActions).
void step(State& state, int32_t action, const Draws& draws, const Params& params);

bool is_over(const State& state, const Params& params);

// What the agent sees: 1345 numbers, or the same in 120 entries (see compact.py).
void observe_dense(const State& state, float* out);
void observe_compact(const State& state, int16_t* out);

}  // namespace craftax::classic
