// One step of Craftax-Classic: crafting, acting, placing, moving, mobs, spawning, plants, needs.
#include <cmath>

#include "classic/mobs.h"
#include "classic/state.h"

namespace craftax::classic {
namespace {

constexpr int32_t kMost = 9;  // of any item and of any need

void unlock(State& state, Achievement achievement) { state.achievements[achievement] = 1; }

// What an action makes of what, and where.
struct Recipe {
  Item product;
  Achievement achievement;
  bool at_furnace;
  int32_t wood, stone, coal, iron;
};

constexpr Recipe kRecipes[] = {
    {kWoodPickaxe, kMadeWoodPickaxe, false, 1, 0, 0, 0},
    {kStonePickaxe, kMadeStonePickaxe, false, 1, 1, 0, 0},
    {kIronPickaxe, kMadeIronPickaxe, true, 1, 1, 1, 1},
    {kWoodSword, kMadeWoodSword, false, 1, 0, 0, 0},
    {kStoneSword, kMadeStoneSword, false, 1, 1, 0, 0},
    {kIronSword, kMadeIronSword, true, 1, 1, 1, 1},
};

bool is_near(const State& state, Block block) {
  for (int32_t row = -1; row <= 1; ++row) {
    for (int32_t column = -1; column <= 1; ++column) {
      const Position at = state.player + Position{row, column};
      const bool here = row == 0 && column == 0;
      if (!here && state.map.contains(at) && state.map[at] == block) return true;
    }
  }
  return false;
}

void craft(State& state, int32_t action) {
  if (action < kMakeWoodPickaxe) return;
  const Recipe& recipe = kRecipes[action - kMakeWoodPickaxe];
  int32_t* items = state.inventory;
  const bool affordable = items[kWoodItem] >= recipe.wood && items[kStoneItem] >= recipe.stone &&
                          items[kCoalItem] >= recipe.coal && items[kIronItem] >= recipe.iron;
  if (!affordable || !is_near(state, kTable)) return;
  if (recipe.at_furnace && !is_near(state, kFurnace)) return;
  items[kWoodItem] -= recipe.wood;
  items[kStoneItem] -= recipe.stone;
  items[kCoalItem] -= recipe.coal;
  items[kIronItem] -= recipe.iron;
  items[recipe.product] += 1;
  unlock(state, recipe.achievement);
}

struct Blow {
  bool hit, kill;
};

// Strike the first living mob there. After a blow every mob with health is alive again, the
// despawned ones too: so does Craftax.
template <int N>
Blow strike(Mobs<N>& mobs, Position at, int32_t damage) {
  int target = 0;
  bool hit = false;
  for (int i = N - 1; i >= 0; --i) {
    if (mobs.alive[i] && mobs.position[i] == at) target = i, hit = true;
  }
  const bool was_alive = mobs.alive[target];
  if (hit) mobs.health[target] -= damage;
  for (int i = 0; i < N; ++i) mobs.alive[i] = mobs.health[i] > 0;
  return {hit, was_alive && !mobs.alive[target]};
}

void eat(State& state, int32_t food) {
  state.food = std::min(kMost, state.food + food);
  state.hunger = 0.0f;
}

// Returns whether anything was struck.
bool fight(State& state, Position at) {
  const int32_t* items = state.inventory;
  const int32_t damage = std::max(std::max(1, 2 * items[kWoodSword]),
                                  std::max(3 * items[kStoneSword], 5 * items[kIronSword]));
  const Blow zombie = strike(state.zombies, at, damage);
  if (zombie.kill) unlock(state, kDefeatZombie);
  const Blow cow = strike(state.cows, at, damage);
  if (cow.kill) {
    unlock(state, kEatCow);
    eat(state, 6);
  }
  const Blow skeleton = strike(state.skeletons, at, damage);
  if (skeleton.kill) unlock(state, kDefeatSkeleton);
  if (zombie.kill || cow.kill || skeleton.kill) state.mob_map.set(at, 0);
  return zombie.hit || cow.hit || skeleton.hit;
}

// What is mined with what, and what is left of the block.
struct Ore {
  Item item;
  Achievement achievement;
  int tool;  // an Item, or kItems for bare hands
  Block left;
};

constexpr Ore kNoOre{kWoodItem, kCollectWood, -1, kGrass};

constexpr Ore ore_of(uint8_t block) {
  switch (block) {
    case kTree: return {kWoodItem, kCollectWood, kItems, kGrass};
    case kStone: return {kStoneItem, kCollectStone, kWoodPickaxe, kPath};
    case kCoal: return {kCoalItem, kCollectCoal, kWoodPickaxe, kPath};
    case kIron: return {kIronItem, kCollectIron, kStonePickaxe, kPath};
    case kDiamond: return {kDiamondItem, kCollectDiamond, kIronPickaxe, kPath};
    default: return kNoOre;
  }
}

void eat_plant(State& state, Position at) {
  state.map.set(at, kPlant);
  eat(state, 4);
  unlock(state, kEatPlant);
  int eaten = 0;
  for (int i = kPlants - 1; i >= 0; --i) {
    if (state.plants[i] == at) eaten = i;
  }
  state.plant_age[eaten] = 0;
}

void gather(State& state, Position at, uint32_t draw) {
  const uint8_t block = state.map[at];
  if (block == kGrass) {
    if (unit_interval(draw) < 0.1f) {
      state.inventory[kSapling] += 1;
      unlock(state, kCollectSapling);
    }
  } else if (block == kWater) {
    state.drink = std::min(kMost, state.drink + 1);
    state.thirst = 0.0f;
    unlock(state, kCollectDrink);
  } else if (block == kRipePlant) {
    eat_plant(state, at);
  } else {
    const Ore ore = ore_of(block);
    const bool able = ore.tool == kItems || (ore.tool >= 0 && state.inventory[ore.tool] != 0);
    if (!able) return;
    state.map.set(at, ore.left);
    state.inventory[ore.item] += 1;
    unlock(state, ore.achievement);
  }
}

void act(State& state, uint32_t draw) {
  const Position at = state.player + step_of(state.direction);
  const bool struck = fight(state, at);
  if (state.map.contains(at) && !struck) gather(state, at, draw);
}

struct Building {
  Block block;
  Item material;
  int32_t cost;
  Achievement achievement;
};

constexpr Building kBuildings[] = {
    {kStone, kStoneItem, 1, kPlaceStoneDone},
    {kTable, kWoodItem, 2, kPlaceTableDone},
    {kFurnace, kStoneItem, 1, kPlaceFurnaceDone},
    {kPlant, kSapling, 1, kPlacePlantDone},
};

bool can_stand(Block building, uint8_t ground) {
  if (building == kPlant) return ground == kGrass;
  return !is_solid(ground) || (building == kStone && ground == kWater);
}

void place(State& state, int32_t action) {
  if (action < kPlaceStone || action > kPlacePlant) return;
  const Building& building = kBuildings[action - kPlaceStone];
  const Position at = state.player + step_of(state.direction);
  if (!state.map.contains(at) || is_occupied(state, at)) return;
  if (state.inventory[building.material] < building.cost) return;
  if (!can_stand(building.block, state.map[at])) return;
  state.map.set(at, building.block);
  state.inventory[building.material] -= building.cost;
  unlock(state, building.achievement);
  if (building.block != kPlant) return;
  for (int i = 0; i < kPlants; ++i) {
    if (state.plant_grows[i]) continue;
    state.plants[i] = at;
    state.plant_age[i] = 0;
    state.plant_grows[i] = 1;
    return;
  }
}

void move(State& state, int32_t action) {
  const Position way = step_of(action);
  if (way == Position{0, 0}) return;
  const Position to = state.player + way;
  if (is_free(state, to) || state.map[to] == kLava) state.player = to;
  state.direction = action;
}

void grow_plants(State& state) {
  for (int i = 0; i < kPlants; ++i) {
    state.plant_age[i] = state.plant_grows[i] ? state.plant_age[i] + 1 : 0;
    if (state.plant_age[i] >= 600) state.map.set(state.plants[i], kRipePlant);
  }
}

void sleep_or_wake(State& state, int32_t action) {
  if (action == kSleep && state.energy < kMost) state.is_sleeping = 1;
  if (state.is_sleeping && state.energy >= kMost) {
    state.is_sleeping = 0;
    unlock(state, kWakeUp);
  }
}

// A need grows; past its limit it takes one of what stills it.
void need(float& need, int32_t& store, float limit, bool is_sleeping) {
  need += is_sleeping ? 0.5f : 1.0f;
  if (need > limit) {
    need = 0.0f;
    store = std::max(store - 1, 0);
  }
}

void tire(State& state) {
  state.fatigue = state.is_sleeping ? std::min(state.fatigue - 1.0f, 0.0f) : state.fatigue + 1.0f;
  if (state.fatigue > 30.0f) {
    state.fatigue = 0.0f;
    state.energy = std::max(state.energy - 1, 0);
  }
  if (state.fatigue < -10.0f) {
    state.fatigue = 0.0f;
    state.energy = std::min(state.energy + 1, kMost);
  }
}

void recover(State& state) {
  const bool asleep = state.is_sleeping;
  const bool well = state.food > 0 && state.drink > 0 && (state.energy > 0 || asleep);
  state.recover += well ? (asleep ? 2.0f : 1.0f) : (asleep ? -0.5f : -1.0f);
  if (state.recover > 25.0f) {
    state.recover = 0.0f;
    state.health = std::min(state.health + 1, kMost);
  } else if (state.recover < -15.0f) {
    state.recover = 0.0f;
    state.health -= 1;
  }
}

}  // namespace

bool is_over(const State& state, const Params& params) {
  return state.timestep >= params.max_timesteps || state.map[state.player] == kLava ||
         state.health <= 0;
}

void step(State& state, int32_t action, const Draws& draws, const Params& params) {
  if (state.is_sleeping) action = kNoop;
  craft(state, action);
  if (action == kDo) act(state, draws.sapling);
  place(state, action);
  move(state, action);
  move_mobs(state, draws, params);
  spawn_mobs(state, draws, params);
  grow_plants(state);
  sleep_or_wake(state, action);
  need(state.hunger, state.food, 25.0f, state.is_sleeping);
  need(state.thirst, state.drink, 20.0f, state.is_sleeping);
  tire(state);
  recover(state);
  for (int32_t& count : state.inventory) count = std::min(count, kMost);
  if (state.map[state.player] == kLava) state.health = 0;
  state.health = std::max(state.health, 0);
  state.timestep += 1;
  state.light_level = light_level(state.timestep, params.day_length);
  state.state_key = draws.state_key;
}

}  // namespace craftax::classic
