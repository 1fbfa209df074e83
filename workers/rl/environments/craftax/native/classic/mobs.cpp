#include "classic/mobs.h"

#include "choice.h"

namespace craftax::classic {
namespace {

// Mobs that are dead or gone still wander about, unseen: Craftax moves them all.
template <int N>
void settle(State& state, Mobs<N>& mobs, int i, Position to, const Params& params) {
  const Position from = mobs.position[i];
  const bool stays = steps_between(from, state.player) < params.mob_despawn_distance;
  const Position at = is_free(state, to) ? to : from;
  if (mobs.alive[i]) state.mob_map.set(from, 0);
  mobs.alive[i] = mobs.alive[i] && stays;
  if (mobs.alive[i]) state.mob_map.set(at, 1);
  mobs.position[i] = at;
}

int32_t sign(int32_t x) { return (x > 0) - (x < 0); }

// One step along the longer way to the player; along either, by the draw, where both are as long.
Position towards_player(Position player, Position from, uint32_t draw) {
  const Position way = player - from;
  const int32_t rows = std::abs(way.row), columns = std::abs(way.column);
  const bool by_column = rows == columns ? rows != 0 && unit_interval(draw) < 0.5f : columns > rows;
  return by_column ? Position{0, sign(way.column)} : Position{sign(way.row), 0};
}

void move_zombie(State& state, int i, const Draws::Hunter& draw, const Params& params) {
  Mobs<kZombies>& zombies = state.zombies;
  const Position from = zombies.position[i];
  const int32_t distance = steps_between(from, state.player);
  const bool hunts = distance < 10 && unit_interval(draw.choice) < 0.75f;
  Position way = hunts ? towards_player(state.player, from, draw.axis)
                       : kSteps[1 + draw.direction % 4];
  const bool attacks = distance == 1 && zombies.cooldown[i] <= 0 && zombies.alive[i];
  if (attacks) {
    way = {0, 0};
    state.health -= state.is_sleeping ? 7 : 2;
    if (state.is_sleeping) state.achievements[kWakeUp] = 1;
    state.is_sleeping = 0;
  }
  zombies.cooldown[i] = attacks ? 5 : zombies.cooldown[i] - 1;
  settle(state, zombies, i, from + way, params);
}

void move_cow(State& state, int i, uint32_t draw, const Params& params) {
  const uint32_t direction = 1 + draw % 8;  // half of them are no move
  const Position way = direction <= 4 ? kSteps[direction] : kSteps[0];
  settle(state, state.cows, i, state.cows.position[i] + way, params);
}

// The first that is not alive, or 0.
template <int N>
int free_slot(const Mobs<N>& mobs) {
  for (int i = 0; i < N; ++i) {
    if (!mobs.alive[i]) return i;
  }
  return 0;
}

template <int N>
int count_alive(const Mobs<N>& mobs) {
  int count = 0;
  for (int i = 0; i < N; ++i) count += mobs.alive[i];
  return count;
}

void shoot(State& state, Position from, Position way) {
  if (count_alive(state.arrows) >= kArrows) return;
  const int slot = free_slot(state.arrows);
  state.arrows.position[slot] = from;
  state.arrows.alive[slot] = 1;
  state.arrow_directions[slot] = way;
}

void move_skeleton(State& state, int i, const Draws::Hunter& draw, const Params& params) {
  Mobs<kSkeletons>& skeletons = state.skeletons;
  const Position from = skeletons.position[i];
  const int32_t distance = steps_between(from, state.player);
  const Position hunt = towards_player(state.player, from, draw.axis);
  Position way = kSteps[1 + draw.direction % 4];
  const bool too_close = distance <= 3;
  if (unit_interval(draw.choice) > 0.85f) {
    if (distance >= 10) way = hunt;
    if (too_close) way = Position{0, 0} - hunt;
  }
  const bool in_range = distance >= 4 && distance <= 5;
  const bool cornered = too_close && !is_free(state, from + way);
  const bool attacks = (in_range || cornered) && skeletons.cooldown[i] <= 0 && skeletons.alive[i];
  if (attacks) {
    shoot(state, from, hunt);
    way = {0, 0};
  }
  skeletons.cooldown[i] = attacks ? 4 : skeletons.cooldown[i] - 1;
  settle(state, skeletons, i, from + way, params);
}

// An arrow flies on when it is spent, and over water.
void move_arrow(State& state, int i) {
  const bool flies = state.arrows.alive[i];
  const Position to = state.arrows.position[i] + state.arrow_directions[i];
  state.arrows.position[i] = to;
  if (!flies) return;
  const uint8_t block = state.map[to];
  const bool stopped = !state.map.contains(to) || (is_solid(block) && block != kWater) ||
                       is_occupied(state, to);
  if (stopped) state.arrows.alive[i] = 0;
  if (to == state.player) {
    state.health -= 2;
    state.is_sleeping = 0;
  }
  if (block == kFurnace || block == kTable) state.map.set(to, kPath);
}

constexpr uint32_t kOnGrass = 1u << kGrass, kOnPath = 1u << kPath;

// Where a mob may appear: on these blocks, further from the player than `nearest`, closer than
// `limit`, and where no other mob is.
template <class Visit>
void for_each_place(const State& state, uint32_t blocks, int32_t nearest, int32_t limit,
                    Visit visit) {
  limit = std::min(limit, 2 * kSize);
  const int32_t first = std::max(0, state.player.row - limit + 1);
  const int32_t last = std::min(kSize - 1, state.player.row + limit - 1);
  for (int32_t row = first; row <= last; ++row) {
    const int32_t away = std::abs(row - state.player.row);
    const int32_t reach = limit - 1 - away;
    const uint64_t mobs = state.mob_map.rows[row];
    const int32_t left = std::max(0, state.player.column - reach);
    const int32_t right = std::min(kSize - 1, state.player.column + reach);
    for (int32_t column = left; column <= right; ++column) {
      const bool far = away + std::abs(column - state.player.column) > nearest;
      const bool fits = blocks >> state.map.cells[row][column] & 1;
      if (far && fits && !(mobs >> column & 1)) visit(row * kSize + column);
    }
  }
}

template <int N>
void spawn(State& state, Mobs<N>& mobs, const Draws::Spawn& draw, float chance, int32_t health,
           uint32_t blocks, int32_t nearest, const Params& params) {
  const int slot = free_slot(mobs);
  if (count_alive(mobs) < N && unit_interval(draw.chance) < chance) {
    EqualChoice<kSize * kSize> choice;
    for_each_place(state, blocks, nearest, params.mob_despawn_distance,
                   [&](int32_t place) { choice.add(place); });
    if (!choice.empty()) {
      const int32_t place = choice.pick(unit_interval(draw.place));
      mobs.position[slot] = {place / kSize, place % kSize};
      mobs.health[slot] = health;
      mobs.alive[slot] = 1;
    }
  }
  if (mobs.alive[slot]) state.mob_map.set(mobs.position[slot], 1);
}

}  // namespace

void move_mobs(State& state, const Draws& draws, const Params& params) {
  for (int i = 0; i < kZombies; ++i) move_zombie(state, i, draws.zombies[i], params);
  for (int i = 0; i < kCows; ++i) move_cow(state, i, draws.cows[i], params);
  for (int i = 0; i < kSkeletons; ++i) move_skeleton(state, i, draws.skeletons[i], params);
  for (int i = 0; i < kArrows; ++i) move_arrow(state, i);
}

void spawn_mobs(State& state, const Draws& draws, const Params& params) {
  const float darkness = 1.0f - state.light_level;
  const float at_night = std::fma(params.spawn_zombie_night_chance, darkness * darkness,
                                  params.spawn_zombie_base_chance);
  spawn(state, state.cows, draws.spawns[0], params.spawn_cow_chance, params.cow_health, kOnGrass,
        3, params);
  spawn(state, state.zombies, draws.spawns[1], at_night, params.zombie_health, kOnGrass | kOnPath,
        9, params);
  spawn(state, state.skeletons, draws.spawns[2], params.spawn_skeleton_chance,
        params.skeleton_health, kOnPath, 9, params);
}

}  // namespace craftax::classic
