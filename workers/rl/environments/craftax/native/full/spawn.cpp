#include "choice.h"
#include "full/mobs.h"

namespace craftax::full {

namespace {

// Where creatures of one class may come: on which ground, how far from the player (squared).
struct Ground {
  BlockSet blocks;
  int64_t least, most;
};

// Cells of the player's floor that fit and hold no creature.
EqualChoice<kCells> fitting(const State& state, const Ground& ground) {
  EqualChoice<kCells> cells;
  const auto& map = state.map[state.player_level].cells;
  const auto& taken = state.mob_map[state.player_level].cells;
  const int64_t reach = std::min<int64_t>(static_cast<int64_t>(std::sqrt(ground.most)) + 1, 2 * kSide);
  const Position own = state.player_position;
  const int first_row = std::max<int64_t>(0, own.row - reach);
  const int last_row = std::min<int64_t>(kSide - 1, own.row + reach);
  const int first = std::max<int64_t>(0, own.column - reach);
  const int last = std::min<int64_t>(kSide - 1, own.column + reach);
  for (int row = first_row; row <= last_row; ++row) {
    const int64_t rows = int64_t{row - own.row} * (row - own.row);
    for (int column = first; column <= last; ++column) {
      const int64_t away = rows + int64_t{column - own.column} * (column - own.column);
      const bool fits = away >= ground.least && away <= ground.most &&
                        holds(ground.blocks, map[row][column]) && !taken[row][column];
      if (fits) cells.add(row * kSide + column);
    }
  }
  return cells;
}

// Lets a creature come to a free slot if there is ground for it. A slot that none comes to takes
// over the kind all the same, and marks its place if it lives, as in Craftax.
template <int Slots>
void spawn(State& state, Mobs<Slots>& mobs, MobClass group, int32_t kind, bool comes, uint32_t place,
           const Ground& ground) {
  const int floor = state.player_level;
  const int slot = mobs.free_slot(floor);
  mobs.type_id[floor][slot] = kind;
  if (comes) {
    const EqualChoice<kCells> cells = fitting(state, ground);
    if (!cells.empty()) {
      const int32_t found = cells.pick(unit_interval(place));
      mobs.position[floor][slot] = {found / kSide, found % kSide};
      mobs.health[floor][slot] = kHealth[group][kind];
      mobs.mask[floor][slot] = true;
    }
  }
  if (mobs.mask[floor][slot]) state.mob_map[floor].set(mobs.position[floor][slot], true);
}

}  // namespace

void spawn_mobs(State& state, const Draws& draws, const Params& params) {
  const int floor = state.player_level;
  const bool boss = is_fighting_boss(state);
  const auto& chances = kSpawnChance[floor];
  const int32_t progress = std::clamp(state.boss_progress, 0, kFloors - 1);
  const auto& kinds = kFloorKinds[boss ? progress : floor];

  const bool wave = state.boss_timesteps_to_spawn_this_round >= 1;
  const int32_t uncleared = state.monsters_killed[floor] < kMonstersToClear ? 3 : 1;
  const float rate = static_cast<float>(uncleared * (boss ? wave * 1000 : 1));

  // farthest: the largest squared distance below the one at which creatures vanish
  const int64_t vanishing = std::max<int64_t>(params.mob_despawn_distance, 0);
  const int64_t farthest = vanishing * vanishing - 1;
  const int64_t boss_farthest = std::min<int64_t>(36, farthest);

  const Draws::Spawn& passive = draws.spawns[0];
  const bool passive_comes = !boss && state.passive_mobs.alive(floor) < kPassive &&
                             unit_interval(passive.chance) < chances[0];
  spawn(state, state.passive_mobs, kPassiveClass, kFloorKinds[floor][kPassiveClass], passive_comes,
        passive.place, {kSpawnGround, 10, farthest});

  const Draws::Spawn& melee = draws.spawns[1];
  const float dark = 1.0f - state.light_level;
  const float melee_chance = std::fma(chances[3], dark * dark, chances[1]) * rate;
  const bool melee_comes =
      state.melee_mobs.alive(floor) < kMelee && unit_interval(melee.chance) < melee_chance;
  const Ground ground = boss ? Ground{kGraves, 0, boss_farthest} : Ground{kSpawnGround, 82, farthest};
  spawn(state, state.melee_mobs, kMeleeClass, kinds[kMeleeClass], melee_comes, melee.place, ground);

  const Draws::Spawn& ranged = draws.spawns[2];
  const bool ranged_comes =
      state.ranged_mobs.alive(floor) < kRanged && unit_interval(ranged.chance) < chances[2] * rate;
  // Deep things come out of the water.
  const bool in_water = !boss && kinds[kRangedClass] == 5;
  const Ground ranged_ground =
      in_water ? Ground{block_set({kWater}), ground.least, ground.most} : ground;
  spawn(state, state.ranged_mobs, kRangedClass, kinds[kRangedClass], ranged_comes, ranged.place,
        ranged_ground);
}

}  // namespace craftax::full
