// Draws the random numbers of steps, sixteen games at a time.
//
// The chain of splits is that of craftax_step: do, mobs, spawn, state_rng; in it a zombie splits
// four times and hands on what it drew, a cow once, a skeleton three times.
#include "classic/state.h"

namespace craftax::classic {
namespace {

constexpr int kLanes = kTogether;
using Lanes = uint32_t __attribute__((vector_size(4 * kLanes)));
using LaneKey = BasicKey<Lanes>;

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
  Lanes sapling;
  LaneHunter zombies[kZombies];
  Lanes cows[kCows];
  LaneHunter skeletons[kSkeletons];
  struct {
    Lanes chance, place;
  } spawns[3];
  LaneKey state_key;
};

void draw_mobs(LaneKey key, LaneDraws& out) {
  skip(key);
#pragma GCC unroll 1
  for (auto& zombie : out.zombies) {
    draw_hunter(key, zombie);
    key = child<Lanes>(key, Lanes{} + 1u);
  }
  skip(key);
#pragma GCC unroll 1
  for (auto& cow : out.cows) cow = integer_bits(split(key));
  skip(key);
#pragma GCC unroll 1
  for (auto& skeleton : out.skeletons) draw_hunter(key, skeleton);
}

void draw_spawns(LaneKey key, LaneDraws& out) {
#pragma GCC unroll 1
  for (auto& spawn : out.spawns) {
    spawn.chance = bits_of(split(key));
    spawn.place = bits_of(split(key));
  }
}

void draw_lanes(LaneKey key, LaneDraws& out) {
  LaneKey doing = split(key);
  out.sapling = bits_of(split(doing));
  draw_mobs(split(key), out);
  draw_spawns(split(key), out);
  out.state_key = split(key);
}

Draws::Hunter lane_of(const LaneHunter& hunter, int lane) {
  return {hunter.direction[lane], hunter.axis[lane], hunter.choice[lane]};
}

Draws lane_of(const LaneDraws& lanes, int lane) {
  Draws out;
  out.sapling = lanes.sapling[lane];
  for (int i = 0; i < kZombies; ++i) out.zombies[i] = lane_of(lanes.zombies[i], lane);
  for (int i = 0; i < kCows; ++i) out.cows[i] = lanes.cows[i][lane];
  for (int i = 0; i < kSkeletons; ++i) out.skeletons[i] = lane_of(lanes.skeletons[i], lane);
  for (int i = 0; i < 3; ++i) {
    out.spawns[i] = {lanes.spawns[i].chance[lane], lanes.spawns[i].place[lane]};
  }
  out.state_key = {lanes.state_key.high[lane], lanes.state_key.low[lane]};
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

}  // namespace craftax::classic
