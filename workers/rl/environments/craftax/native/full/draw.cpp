// Draws the random numbers of steps, eight games at a time.
//
// The chain of splits is that of craftax_step: interact, book, enchant, mobs, spawn, state; in it a
// melee creature splits four times and hands on what it drew, a passive one once, a ranged one
// three times.
#include "full/lanes.h"
#include "full/state.h"

namespace craftax::full {
namespace {

// jax.random.randint(key, (), 0, n) for n a power of two is the lowest of these bits.
inline Lanes integer_bits(const LaneKey& key) {
  return bits<Lanes>(child<Lanes>(key, Lanes{} + 1u), Lanes{});
}

inline Lanes bits_of(const LaneKey& key) { return bits<Lanes>(key, Lanes{}); }

struct LaneHunter {
  Lanes direction, axis, choice;
};

inline void draw_hunter(LaneKey& key, LaneHunter& out) {
  out.direction = integer_bits(split(key));
  out.axis = bits_of(split(key));
  out.choice = bits_of(split(key));
}

struct LaneDraws {
  LaneKey interact, book, enchant, state;
  LaneHunter melee[kMelee];
  Lanes passive[kPassive];
  LaneHunter ranged[kRanged];
  struct {
    Lanes chance, place;
  } spawns[3];
};

void draw_mobs(LaneKey key, LaneDraws& out) {
  skip(key);
#pragma GCC unroll 1
  for (auto& mob : out.melee) {
    draw_hunter(key, mob);
    key = child<Lanes>(key, Lanes{} + 1u);
  }
  skip(key);
#pragma GCC unroll 1
  for (auto& mob : out.passive) mob = integer_bits(split(key));
  skip(key);
#pragma GCC unroll 1
  for (auto& mob : out.ranged) draw_hunter(key, mob);
}

void draw_spawns(LaneKey key, LaneDraws& out) {
#pragma GCC unroll 1
  for (auto& spawn : out.spawns) {
    spawn.chance = bits_of(split(key));
    spawn.place = bits_of(split(key));
  }
}

void draw_lanes(LaneKey key, LaneDraws& out) {
  out.interact = split(key);
  out.book = split(key);
  out.enchant = split(key);
  draw_mobs(split(key), out);
  draw_spawns(split(key), out);
  out.state = split(key);
}

Key lane_of(const LaneKey& key, int lane) { return {key.high[lane], key.low[lane]}; }

Draws::Hunter lane_of(const LaneHunter& hunter, int lane) {
  return {hunter.direction[lane], hunter.axis[lane], hunter.choice[lane]};
}

Draws lane_of(const LaneDraws& lanes, int lane) {
  Draws out;
  out.interact = lane_of(lanes.interact, lane);
  out.book = lane_of(lanes.book, lane);
  out.enchant = lane_of(lanes.enchant, lane);
  out.state = lane_of(lanes.state, lane);
  for (int i = 0; i < kMelee; ++i) out.melee[i] = lane_of(lanes.melee[i], lane);
  for (int i = 0; i < kPassive; ++i) out.passive[i] = lanes.passive[i][lane];
  for (int i = 0; i < kRanged; ++i) out.ranged[i] = lane_of(lanes.ranged[i], lane);
  for (int i = 0; i < 3; ++i)
    out.spawns[i] = {lanes.spawns[i].chance[lane], lanes.spawns[i].place[lane]};
  return out;
}

}  // namespace

void draw(const Key* keys, int count, Draws* draws) {
  for (int start = 0; start < count; start += kLanes) {
    const int filled = std::min(kLanes, count - start);
    LaneKey key{};
    for (int lane = 0; lane < filled; ++lane) {
      key.high[lane] = keys[start + lane].high;
      key.low[lane] = keys[start + lane].low;
    }
    LaneDraws lanes;
    draw_lanes(key, lanes);
    for (int lane = 0; lane < filled; ++lane) draws[start + lane] = lane_of(lanes, lane);
  }
}

}  // namespace craftax::full
