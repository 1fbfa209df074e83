#include <cstring>

#include "choice.h"
#include "full/mobs.h"

namespace craftax::full {

namespace {

// Where creatures of one class may come: on which of four kinds of ground, how far from the player
// (squared, at least and at most).
struct Ground {
  std::array<uint8_t, 4> blocks;
  int64_t least, most;
};
constexpr std::array<uint8_t, 4> kOpenGround = {kGrass, kPath, kFireGrass, kIceGrass},
                                 kGraves = {kGrave, kGrave2, kGrave3, kGrave},
                                 kDeepWater = {kWater, kWater, kWater, kWater};

// The columns at most so far from one, a bit each; `reach` is squared, and negative for none.
uint64_t columns_around(int32_t column, int64_t reach) {
  if (reach < 0) return 0;
  const int64_t away = static_cast<int64_t>(std::sqrt(static_cast<double>(reach)));
  const int64_t first = std::max<int64_t>(0, column - away);
  const int64_t last = std::min<int64_t>(kSide - 1, column + away);
  if (first > last) return 0;
  return ((uint64_t{2} << last) - 1) & ~((uint64_t{1} << first) - 1);
}

// The columns of a row with fitting ground and no creature, a bit each.
uint64_t fitting_columns(const uint8_t* row, const uint8_t* taken, const Ground& ground) {
  const auto [a, b, c, d] = ground.blocks;
  uint8_t fits[kSide];
  for (int column = 0; column < kSide; ++column) {
    const uint8_t block = row[column];
    fits[column] = ((block == a) | (block == b) | (block == c) | (block == d)) & !taken[column];
  }
  uint64_t bits = 0;
  for (int column = 0; column < kSide; column += 8) {
    uint64_t bytes;
    std::memcpy(&bytes, fits + column, sizeof bytes);
    bits |= bytes * 0x0102040810204080u >> 56 << column;  // gathers the lowest bits of the bytes
  }
  return bits;
}

// Cells of the player's floor that fit.
EqualChoice<kCells> fitting(const State& state, const Ground& ground) {
  EqualChoice<kCells> cells;
  const Position own = state.player_position;
  for (int row = 0; row < kSide; ++row) {
    const int64_t rows = int64_t{row - own.row} * (row - own.row);
    const uint64_t ring = columns_around(own.column, ground.most - rows) &
                          ~columns_around(own.column, ground.least - 1 - rows);
    if (ring == 0) continue;
    const uint64_t found = ring & fitting_columns(state.map[state.player_level].cells[row],
                                                  state.mob_map[state.player_level].cells[row],
                                                  ground);
    for (int part = 0; part < kSide / 16; ++part)
      cells.add_row(row * (kSide / 16) + part, found >> 16 * part & 0xFFFFu);
  }
  return cells;
}

// Lets a creature come to a free slot if there is ground for it. A slot that none comes to takes
// over the kind all the same, and marks its place if it lives, as in Craftax.
template <int Slots>
void spawn(State& state, Mobs<Slots>& mobs, MobClass group, int32_t kind, bool comes, uint32_t place,
           const Ground& ground) {
  const int floor = state.player_level;
  const int slot = mobs[floor].free_slot();
  mobs[floor].type_id[slot] = kind;
  if (comes) {
    const EqualChoice<kCells> cells = fitting(state, ground);
    if (!cells.empty()) {
      const int32_t found = cells.pick(unit_interval(place));
      mobs[floor].position[slot] = {found / kSide, found % kSide};
      mobs[floor].health[slot] = kHealth[group][kind];
      mobs[floor].mask[slot] = true;
    }
  }
  if (mobs[floor].mask[slot]) state.mob_map[floor].set(mobs[floor].position[slot], true);
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
  const bool passive_comes = !boss && state.passive_mobs[floor].alive() < kPassive &&
                             unit_interval(passive.chance) < chances[0];
  spawn(state, state.passive_mobs, kPassiveClass, kFloorKinds[floor][kPassiveClass], passive_comes,
        passive.place, {kOpenGround, 10, farthest});

  const Draws::Spawn& melee = draws.spawns[1];
  const float dark = 1.0f - state.light_level;
  const float melee_chance = std::fma(chances[3], dark * dark, chances[1]) * rate;
  const bool melee_comes =
      state.melee_mobs[floor].alive() < kMelee && unit_interval(melee.chance) < melee_chance;
  const Ground ground = boss ? Ground{kGraves, 0, boss_farthest} : Ground{kOpenGround, 82, farthest};
  spawn(state, state.melee_mobs, kMeleeClass, kinds[kMeleeClass], melee_comes, melee.place, ground);

  const Draws::Spawn& ranged = draws.spawns[2];
  const bool ranged_comes =
      state.ranged_mobs[floor].alive() < kRanged && unit_interval(ranged.chance) < chances[2] * rate;
  // Deep things come out of the water.
  const bool in_water = !boss && kinds[kRangedClass] == 5;
  const Ground ranged_ground =
      in_water ? Ground{kDeepWater, ground.least, ground.most} : ground;
  spawn(state, state.ranged_mobs, kRangedClass, kinds[kRangedClass], ranged_comes, ranged.place,
        ranged_ground);
}

}  // namespace craftax::full
