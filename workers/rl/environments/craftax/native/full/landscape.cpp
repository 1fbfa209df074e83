#include "noise.h"
#include "generate.h"
#include "light.h"

namespace craftax::full {

namespace {

// A bit for each cell, by rows.
using Cells = std::array<uint64_t, kSide>;

struct Ore {
  Block inside, ore;
  float chance;
};

struct Landscape {
  Block ground, sea, coast, mountain, tunnel, cave;
  Ore ores[5];
  Block tree_ground, tree, lava, spawn, ladder_ground;
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

// Everything noise decides; returns where lava is.
Cells shape(const Floor& floor, const Landscape& land, Key& key) {
  static const Distances distances;
  const PerlinNoise<kSide, 3, 3> water_noise(split(key));
  skip(key);
  const PerlinNoise<kSide, 3, 3> mountain_noise(split(key));
  const PerlinNoise<kSide, 6, 24> path_noise(split(key));
  skip(key);
  const PerlinNoise<kSide, 12, 12> tree_noise(split(key));
  const Key tree_key = key;

  Cells lava{};
  for (int row = 0; row < kSide; ++row) {
    for (int column = 0; column < kSide; ++column) {
      const int cell = row * kSide + column;
      const float away = distances.from_middle[row][column];
      const float near_water = std::clamp(away / kWaterDistance, 0.0f, 1.0f);
      const float near_mountain = std::clamp(away / land.mountain_distance, 0.0f, land.mountain_most);
      const float water = std::fma(water_noise.above_least(cell), water_noise.scale(), near_water) - 1.0f;
      const float mountain =
          std::fma(mountain_noise.above_least(cell), mountain_noise.scale(), 0.05f) + near_mountain - 1.0f;

      Block block = land.ground;
      if (water > land.water_level) block = land.sea;
      if (water > land.sand_level && block != land.sea) block = land.coast;
      const bool is_mountain = mountain > kMountainLevel;
      if (is_mountain) {
        block = land.mountain;
        if (path_noise[cell] > 0.8f || path_noise[column * kSide + row] > 0.8f) block = land.tunnel;
      }
      const bool is_deep = mountain > kCaveLevel;
      if (is_deep && water > 0.4f) block = land.cave;
      const float trees = tree_noise[cell];
      if (block == land.tree_ground && trees > land.tree_level &&
          uniform(tree_key, static_cast<uint32_t>(cell)) > land.tree_chance)
        block = land.tree;
      floor.map[row][column] = block;
      lava[row] |= uint64_t{is_deep && trees > 0.7f} << column;
    }
  }
  return lava;
}

void add_ores(const Floor& floor, const Landscape& land, Key key) {
  uint8_t* cells = &floor.map[0][0];
  for (const Ore& ore : land.ores) {
    const Key drawn = split(key);
    if (ore.chance == 0.0f) continue;
    for (uint32_t cell = 0; cell < kCells; ++cell)
      if (cells[cell] == ore.inside && uniform(drawn, cell) < ore.chance) cells[cell] = ore.ore;
  }
}

void add_diamond(const Floor& floor, Block block, Key key) {
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

void light_lava(const Floor& floor, const Cells& lava) {
  constexpr float glow[3][3] = {{0.2f, 0.7f, 0.2f}, {0.7f, 1, 0.7f}, {0.2f, 0.7f, 0.2f}};
  for (int row = 0; row < kSide; ++row) {
    for (int column = 0; column < kSide; ++column) {
      float sum = 0;
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
          const Position from = {row + i - 1, column + j - 1};
          if (in_bounds(from) && lava[from.row] >> from.column & 1) sum += glow[i][j];
        }
      }
      float& value = floor.light[row][column];
      value = std::clamp(value + sum, 0.0f, 1.0f);
    }
  }
}

}  // namespace

void generate_landscape(const Floor& floor, int landscape, Key key, const Params& params) {
  const Landscape& land = kLandscapes[landscape];
  const Cells lava = shape(floor, land, key);
  add_ores(floor, land, split(key));
  for (int row = 0; row < kSide; ++row)
    for (int column = 0; column < kSide; ++column)
      if (lava[row] >> column & 1) floor.map[row][column] = land.lava;
  const bool adds = land.ground == kGrass && params.always_diamond;
  add_diamond(floor, adds ? kDiamond : kStone, split(key));
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
