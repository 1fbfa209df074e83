// Makes the world of a Craftax-Classic game.
//
// Comparisons of floats decide blocks, so sums are those of XLA's CPU code: a noise's last product
// and the sum that follows it are one fused operation.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "choice.h"
#include "classic/state.h"
#include "noise.h"

namespace craftax::classic {
namespace {

using Coarse = PerlinNoise<kSize, 4, 4>;
using Fine = PerlinNoise<kSize, 16, 16>;
using Winding = PerlinNoise<kSize, 8, 32>;
constexpr int kChunk = 32;  // places that are drawn for together

// The keys of what is drawn, in Craftax's order.
struct Keys {
  Key water, mountain, path, coal, iron, diamond, tree, tree_noise, treasure, state;

  explicit Keys(Key key) {
    water = split(key);
    skip(key);  // sand
    mountain = split(key);
    path = split(key);
    skip(key);  // caves
    coal = split(key);
    iron = split(key);
    diamond = split(key);
    tree_noise = split(key);
    tree = key;
    treasure = split(key);
    state = split(key);
  }
};

// Water and stone are kept away from the middle, where the player begins.
struct Heights {
  float water[kSize * kSize], mountain[kSize * kSize];

  Heights(const Coarse& water_noise, const Coarse& mountain_noise) {
    for (int row = 0; row < kSize; ++row) {
      for (int column = 0; column < kSize; ++column) {
        const int place = row * kSize + column;
        const int away = std::abs(row - kSize / 2) + std::abs(column - kSize / 2);
        const float near = std::min(static_cast<float>(away) * 0.2f, 1.0f);
        water[place] =
            std::fma(water_noise.above_least(place), water_noise.scale(), near) - 1.0f;
        mountain[place] =
            std::fma(mountain_noise.above_least(place), mountain_noise.scale(), 0.05f) + near -
            1.0f;
      }
    }
  }
};

// Paths and caves in the mountains, a byte for each place.
void dig(uint8_t* hollow, const Heights& heights, const Winding& winding) {
  uint8_t is_path[kSize * kSize];
  for (int place = 0; place < kSize * kSize; ++place) is_path[place] = winding[place] > 0.8f;
  for (int place = 0; place < kSize * kSize; ++place) {
    const bool is_cave = (heights.mountain[place] > 0.85f) & (heights.water[place] > 0.4f);
    hollow[place] = is_path[place] | is_cave;
  }
  // The same paths mirrored; they are few.
  for (int row = 0; row < kSize; ++row) {
    const uint8_t* path = is_path + row * kSize;
    for (const uint8_t *next = path, *end = path + kSize; next < end; ++next) {
      next = static_cast<const uint8_t*>(std::memchr(next, 1, static_cast<size_t>(end - next)));
      if (next == nullptr) break;
      hollow[(next - path) * kSize + row] = 1;
    }
  }
}

void lay_ground(uint8_t* map, const Heights& heights, const Winding& winding) {
  uint8_t hollow[kSize * kSize], high[kSize * kSize];
  dig(hollow, heights, winding);
  for (int place = 0; place < kSize * kSize; ++place) {
    const float water = heights.water[place];
    map[place] = water > 0.7f ? kWater : water > 0.6f ? kSand : kGrass;
  }
  for (int place = 0; place < kSize * kSize; ++place) high[place] = heights.mountain[place] > 0.7f;
  for (int place = 0; place < kSize * kSize; ++place) {
    const uint8_t rock = hollow[place] ? kPath : kStone;
    map[place] = high[place] ? rock : map[place];
  }
}

// Where blocks are `from`, `where(place)` holds and the draw is in range, they become `to`. Chunks
// without such a place are not drawn for.
template <class Where>
void sprinkle(uint8_t* map, Key key, uint8_t from, uint8_t to, float above, float below,
              Where where) {
  uint8_t may[kChunk], drawn[kChunk];
  for (uint32_t first = 0; first < kSize * kSize; first += kChunk) {
    uint8_t* blocks = map + first;
    uint32_t any = 0;
    for (uint32_t i = 0; i < kChunk; ++i) may[i] = where(first + i);
    for (uint32_t i = 0; i < kChunk; ++i) {
      may[i] &= blocks[i] == from;
      any |= may[i];
    }
    if (any == 0) continue;
    for (uint32_t i = 0; i < kChunk; ++i) {
      const float draw = uniform(key, first + i);
      drawn[i] = (draw > above) & (draw < below);
    }
    for (uint32_t i = 0; i < kChunk; ++i) blocks[i] = may[i] & drawn[i] ? to : blocks[i];
  }
}

// Stone becomes treasure at one place, or stays.
void hide_treasure(uint8_t* map, Key key, bool is_diamond) {
  EqualChoice<kSize * kSize> stones;
  for (int row = 0; row < kSize * kSize / 16; ++row) {
    uint32_t members = 0;
    for (int i = 0; i < 16; ++i) members |= uint32_t{map[row * 16 + i] == kStone} << i;
    stones.add_row(row, members);
  }
  map[stones.pick(uniform(key))] = is_diamond ? kDiamond : kStone;
}

void make_map(uint8_t* map, const Keys& keys, const Params& params) {
  const Heights heights(Coarse(keys.water), Coarse(keys.mountain));
  lay_ground(map, heights, Winding(keys.path));
  const auto anywhere = [](uint32_t) { return true; };
  sprinkle(map, keys.coal, kStone, kCoal, -1.0f, 0.04f, anywhere);
  sprinkle(map, keys.iron, kStone, kIron, -1.0f, 0.03f, anywhere);
  sprinkle(map, keys.diamond, kStone, kDiamond, -1.0f, 0.005f,
           [&](uint32_t place) { return heights.mountain[place] > 0.8f; });
  const Fine woods(keys.tree_noise);
  sprinkle(map, keys.tree, kGrass, kTree, 0.8f, 2.0f,
           [&](uint32_t place) { return woods[place] > 0.5f; });
  uint8_t is_lava[kSize * kSize];
  for (int place = 0; place < kSize * kSize; ++place) {
    is_lava[place] = (heights.mountain[place] > 0.85f) & (woods[place] > 0.7f);
  }
  for (int place = 0; place < kSize * kSize; ++place) {
    map[place] = is_lava[place] ? uint8_t{kLava} : map[place];
  }
  map[kSize / 2 * kSize + kSize / 2] = kGrass;
  hide_treasure(map, keys.treasure, params.always_diamond);
}

}  // namespace

float light_level(int32_t timestep, int32_t day_length) {
  // One over the length is the same for all games of a batch: XLA divides once and multiplies.
  const float days = static_cast<float>(timestep) * (1.0f / static_cast<float>(day_length));
  float time = std::fmod(days, 1.0f);
  if (time < 0.0f) time += 1.0f;
  const float height = std::cos((time + 0.3f) * 3.14159274f);
  return std::fma(-(height * height), std::abs(height), 1.0f);
}

void generate(State& state, Key key, const Params& params) {
  const Keys keys(key);
  std::memset(&state, 0, sizeof state);
  make_map(&state.map.cells[0][0], keys, params);
  state.player = {kSize / 2, kSize / 2};
  state.direction = kUp;
  state.health = state.food = state.drink = state.energy = 9;
  std::fill(std::begin(state.zombies.health), std::end(state.zombies.health), 1);
  std::fill(std::begin(state.cows.health), std::end(state.cows.health), params.cow_health);
  for (Position& way : state.arrow_directions) way = {1, 1};
  state.light_level = light_level(0, params.day_length);
  state.state_key = keys.state;
}

}  // namespace craftax::classic
