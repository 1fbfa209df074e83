#include "noise.h"
#include "full/generate.h"
#include "full/lanes.h"
#include "full/light.h"

namespace craftax::full {

namespace {

struct Ore {
  uint8_t inside, ore;
  float chance;
};

struct Landscape {
  uint8_t ground, sea, coast, mountain, tunnel, cave;
  Ore ores[5];
  uint8_t tree_ground, tree, lava, spawn, ladder_ground;
  bool has_up, has_down;
  float mountain_distance, mountain_most;
  bool is_lit;
  float water_level, sand_level, tree_chance, tree_level;
};

constexpr Landscape kLandscapes[] = {
    {kGrass, kWater, kSand, kStone, kPath, kPath,
     {{kStone, kCoal, 0.03f}, {kStone, kIron, 0.02f}, {kStone, kDiamond, 0.001f}},
     kGrass, kTree, kLava, kGrass, kPath, false, true, 5, 1, true, 0.7f, 0.6f, 0.8f, 0.5f},
    {kPath, kWater, kPath, kStone, kStone, kStone,
     {{kStone, kCoal, 0.04f}, {kStone, kIron, 0.02f}, {kStone, kDiamond, 0.005f},
      {kStone, kSapphire, 0.0025f}, {kStone, kRuby, 0.0025f}},
     kPath, kStalagmite, kLava, kPath, kPath, true, true, 17, 1.5f, false, 0.7f, 0.6f, 0.8f, 0.5f},
    {kPath, kWater, kPath, kStone, kStone, kStone,
     {{kStone, kCoal, 0.04f}, {kStone, kIron, 0.03f}, {kStone, kDiamond, 0.01f},
      {kStone, kSapphire, 0.01f}, {kStone, kRuby, 0.01f}},
     kPath, kStalagmite, kLava, kPath, kPath, true, true, 17, 1.5f, false, 0.7f, 0.6f, 0.8f, 0.5f},
    {kFireGrass, kLava, kSand, kStone, kStone, kStone,
     {{kStone, kCoal, 0.05f}, {kStone, kIron, 0}, {kStone, kDiamond, 0}, {kStone, kSapphire, 0},
      {kStone, kRuby, 0.025f}},
     kFireGrass, kFireTree, kLava, kFireGrass, kFireGrass, true, true, 5, 1, true, 0.5f, 0.6f, 0.8f,
     0.5f},
    {kIceGrass, kWater, kIceGrass, kStone, kStone, kStone,
     {{kStone, kCoal, 0}, {kStone, kIron, 0}, {kStone, kDiamond, 0.005f},
      {kStone, kSapphire, 0.02f}, {kStone, kRuby, 0}},
     kIceGrass, kIceShrub, kWater, kIceGrass, kIceGrass, true, true, 17, 1.5f, false, 0.5f, 0.6f,
     0.4f, 0.5f},
    {kPath, kPath, kPath, kWall, kWall, kWall,
     {{kWall, kWallMoss, 0.1f}, {kGrave, kGrave2, 0.333f}, {kGrave, kGrave3, 0.5f}},
     kPath, kGrave, kWall, kNecromancer, kPath, false, false, 10, 10, false, 0.7f, 0.6f, 0.95f,
     -1.0f}};

constexpr float kWaterDistance = 5, kMountainLevel = 0.7f, kCaveLevel = 0.85f;

// Distance of each cell from the middle, where the player starts.
struct Distances {
  float from_middle[kSide][kSide];
  Distances() {
    for (int row = 0; row < kSide; ++row) {
      for (int column = 0; column < kSide; ++column) {
        const int down = row - kSide / 2, right = column - kSide / 2;
        from_middle[row][column] = std::sqrt(static_cast<float>(down * down + right * right));
      }
    }
  }
};

using Coarse = PerlinNoise<kSide, 3, 3>;
using Winding = PerlinNoise<kSide, 6, 24>;
using Fine = PerlinNoise<kSide, 12, 12>;
constexpr int kChunk = 2 * kLanes;  // cells that are drawn for together

// Water and mountains are kept away from the middle, where the player begins.
struct Heights {
  float water[kCells], mountain[kCells];

  Heights(const Coarse& water_noise, const Coarse& mountain_noise, const Landscape& land) {
    static const Distances distances;
    const float* away = &distances.from_middle[0][0];
    const float per_distance = 1.0f / land.mountain_distance, most = land.mountain_most;
#pragma omp simd
    for (int cell = 0; cell < kCells; ++cell) {
      const float share = away[cell] * (1.0f / kWaterDistance);
      const float near_water = share < 1.0f ? share : 1.0f;
      const float mountain_share = away[cell] * per_distance;
      const float near_mountain = mountain_share < most ? mountain_share : most;
      water[cell] = std::fma(water_noise.above_least(cell), water_noise.scale(), near_water) - 1.0f;
      mountain[cell] = std::fma(mountain_noise.above_least(cell), mountain_noise.scale(), 0.05f) +
                       near_mountain - 1.0f;
    }
  }
};

// Everywhere the same few operations without branches, so that many cells are done at once; `land`
// is a copy because a written block might be part of it, for all the compiler knows.
void lay_ground(uint8_t* map, const Landscape land, const Heights& heights,
                const Winding& winding) {
  uint8_t is_path[kSide][kSide], is_mirrored[kSide][kSide];
#pragma omp simd
  for (int cell = 0; cell < kCells; ++cell) (&is_path[0][0])[cell] = winding[cell] > 0.8f;
  for (int row = 0; row < kSide; ++row)
    for (int column = 0; column < kSide; ++column) is_mirrored[row][column] = is_path[column][row];
  const bool has_coast = land.sand_level < land.water_level;
  const uint8_t shallow = has_coast ? land.coast : land.ground;
  const float shallow_level = has_coast ? land.sand_level : land.water_level;
#pragma omp simd
  for (int cell = 0; cell < kCells; ++cell) {
    const float water = heights.water[cell], mountain = heights.mountain[cell];
    const bool is_tunnel = (&is_path[0][0])[cell] | (&is_mirrored[0][0])[cell];
    const bool is_cave = (mountain > kCaveLevel) & (water > 0.4f);
    const uint8_t low = water > shallow_level ? shallow : land.ground;
    const uint8_t flat = water > land.water_level ? land.sea : low;
    const uint8_t rock = is_tunnel ? land.tunnel : land.mountain;
    const uint8_t high = is_cave ? land.cave : rock;
    map[cell] = mountain > kMountainLevel ? high : flat;
  }
}

// Whether one of kChunk blocks is of this kind.
bool any_of(const uint8_t* blocks, uint8_t kind) {
  using Bytes = uint8_t __attribute__((vector_size(kChunk)));
  static_assert(sizeof(Bytes) == 16);
  Bytes some;
  std::memcpy(&some, blocks, sizeof some);
  const Bytes equal = some == Bytes{} + kind;
  const auto halves = std::bit_cast<std::array<uint64_t, 2>>(equal);
  return (halves[0] | halves[1]) != 0;
}

// Where blocks are `from` and `fits(cell, draw)`, they become `to`.
template <class Fits>
void sprinkle(uint8_t* map, Key key, uint8_t from, uint8_t to, Fits fits) {
  float draws[kChunk];
  for (int first = 0; first < kCells; first += kChunk) {
    uint8_t* blocks = map + first;
    if (!any_of(blocks, from)) continue;
    uniforms(key, static_cast<uint32_t>(first), draws);
#pragma omp simd
    for (int i = 0; i < kChunk; ++i) {
      const bool chosen = (blocks[i] == from) & fits(first + i, draws[i]);
      blocks[i] = chosen ? to : blocks[i];
    }
  }
}

void add_ores(uint8_t* map, const Landscape& land, Key key) {
  for (const Ore& ore : land.ores) {
    const Key drawn = split(key);
    if (ore.chance == 0.0f) continue;
    sprinkle(map, drawn, ore.inside, ore.ore,
             [chance = ore.chance](int, float draw) { return draw < chance; });
  }
}

using Lava = Map;  // 1 where there is some

Lava add_lava(uint8_t* map, uint8_t block, const Heights& heights, const Fine& woods) {
  Lava lava;
  uint8_t* found = &lava.cells[0][0];
#pragma omp simd
  for (int cell = 0; cell < kCells; ++cell) {
    const bool here = (heights.mountain[cell] > kCaveLevel) & (woods[cell] > 0.7f);
    found[cell] = here;
    map[cell] = here ? block : map[cell];
  }
  return lava;
}

void add_diamond(const Floor& floor, uint8_t block, Key key) {
  const Position place = floor.any(kStone, uniform(key));
  floor.map[place.row][place.column] = block;
}

void light_ladder(const Floor& floor) {
  // A patch that would begin before the first row (or column) is taken to begin at the far end,
  // and then moved back inside.
  const auto start = [](int32_t place) {
    const int32_t first = place - kShine;
    return std::clamp(first < 0 ? first + kSide : first, 0, kSide - 2 * kShine - 1);
  };
  const TorchLight& torch = torch_light();
  const int row = start(floor.up.row), column = start(floor.up.column);
  for (int i = 0; i <= 2 * kShine; ++i)
    std::copy(torch[i], torch[i] + 2 * kShine + 1, &floor.light[row + i][column]);
}

void light_lava(const Floor& floor, const Lava& lava) {
  constexpr float glow[3][3] = {{0.2f, 0.7f, 0.2f}, {0.7f, 1, 0.7f}, {0.2f, 0.7f, 0.2f}};
  float framed[kSide + 2][kSide + 2] = {};  // nothing shines in from outside
  for (int row = 0; row < kSide; ++row)
    for (int column = 0; column < kSide; ++column)
      framed[row + 1][column + 1] = lava.cells[row][column];
  for (int row = 0; row < kSide; ++row) {
    float sums[kSide] = {};
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j)
        for (int column = 0; column < kSide; ++column)
          sums[column] += glow[i][j] * framed[row + i][column + j];
    for (int column = 0; column < kSide; ++column) {
      float& value = floor.light[row][column];
      value = std::clamp(value + sums[column], 0.0f, 1.0f);
    }
  }
}

}  // namespace

void generate_landscape(const Floor& floor, int landscape, Key key, bool always_diamond) {
  const Landscape& land = kLandscapes[landscape];
  const Coarse water(split(key));
  skip(key);
  const Heights heights(water, Coarse(split(key)), land);
  uint8_t* map = &floor.map[0][0];
  lay_ground(map, land, heights, Winding(split(key)));
  skip(key);
  const Fine woods(split(key));
  sprinkle(map, key, land.tree_ground, land.tree,
           [&woods, level = land.tree_level, chance = land.tree_chance](int cell, float draw) {
             return (woods[cell] > level) & (draw > chance);
           });
  add_ores(map, land, split(key));
  const Lava lava = add_lava(map, land.lava, heights, woods);
  const bool adds = land.ground == kGrass && always_diamond;
  add_diamond(floor, uint8_t{adds ? kDiamond : kStone}, split(key));
  floor.map[kSide / 2][kSide / 2] = land.spawn;

  floor.down = floor.counted(land.ladder_ground, uniform(split(key)));
  floor.up = floor.counted(land.ladder_ground, uniform(split(key)));
  if (land.has_down) floor.items[floor.down.row][floor.down.column] = kLadderDown;
  if (land.has_up) floor.items[floor.up.row][floor.up.column] = kLadderUp;

  std::fill_n(&floor.light[0][0], kCells, land.is_lit ? 1.0f : 0.0f);
  if (land.is_lit) return;
  light_ladder(floor);
  if (land.lava == kLava) light_lava(floor, lava);
}

}  // namespace craftax::full
