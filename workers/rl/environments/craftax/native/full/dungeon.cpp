#include "choice.h"
#include "full/generate.h"
#include "full/lanes.h"

namespace craftax::full {

namespace {

struct Dungeon {
  Block special, fountain, rare_path;
};
constexpr Dungeon kDungeons[] = {{kPath, kFountain, kPath},
                                 {kEnchantmentTableIce, kWater, kWater},
                                 {kEnchantmentTableFire, kFountain, kPath}};

constexpr int kRooms = 8, kChunk = 16, kChunks = 9, kSmallest = 5, kLargest = 10;

// The floor with a margin, into which rooms may reach.
constexpr int kMargin = kLargest, kPadded = kSide + 2 * kMargin;
struct Draft {
  uint8_t map[kPadded][kPadded], items[kPadded][kPadded];
  Position rooms[kRooms];
};

// Two coordinates, each drawn from its own range.
Position draw_place(Key key, Position least, Position end) {
  return {randint(key, least.row, end.row, 0), randint(key, least.column, end.column, 1)};
}

void add_room(Draft& draft, int room, Position extent, float (&vacant)[kChunks],
              const Dungeon& dungeon, Key& key) {
  const int chunk = weighted_choice(vacant, uniform(split(key)));
  vacant[chunk] = 0;
  constexpr int wide = kSide / kChunk;
  const Position corner = Position{chunk % wide * kChunk + kMargin, chunk / wide * kChunk + kMargin} +
                          draw_place(split(key), {0, 0}, {kChunk - kSmallest, kChunk - kSmallest});
  draft.rooms[room] = corner;
  for (int row = 0; row < extent.row; ++row)
    std::fill_n(&draft.map[corner.row + row][corner.column], extent.column, uint8_t{kPath});
  for (const int row : {0, extent.row - 1})
    for (const int column : {0, extent.column - 1})
      draft.items[corner.row + row][corner.column + column] = kTorch;

  const Position end = extent - Position{1, 1};
  const Position chest = corner + draw_place(split(key), {1, 1}, end);
  draft.map[chest.row][chest.column] = kChest;
  const Key fountain_key = child(key, 1u), has_key = child(key, 2u);
  skip(key);
  const Position fountain = corner + draw_place(fountain_key, {1, 1}, end);
  if (uniform(has_key) > 0.5f) draft.map[fountain.row][fountain.column] = dungeon.fountain;
}

// A corridor: along the source's row to the sink's column, then along that column.
void add_corridor(Draft& draft, Position source, Position sink) {
  const auto dig = [&](int row, int column) {
    uint8_t& block = draft.map[row][column];
    if (block == kWall) block = kPath;
  };
  if (source.column != sink.column) {
    const auto [first, last] = std::minmax(source.column, sink.column);
    for (int column = first; column <= last; ++column) dig(source.row, column);
  }
  if (source.row != sink.row) {
    const auto [first, last] = std::minmax(source.row, sink.row);
    for (int row = first; row <= last; ++row) dig(row, sink.column);
  }
}

void add_corridors(Draft& draft, Key key) {
  float joined[kRooms] = {};
  joined[kRooms - 1] = 1;
  for (int room = 0; room < kRooms; ++room) {
    add_corridor(draft, draft.rooms[room], draft.rooms[weighted_choice(joined, uniform(split(key)))]);
    joined[room] = 1;
    key = child(key, 1u);
  }
}

// Copies the floor out of its margin: walls only where they are seen, some of them mossy.
void finish(const Floor& floor, const Draft& draft, const Dungeon& dungeon, Key key) {
  // A frame of walls stands for what is outside the floor, of which nothing is seen.
  uint8_t is_open[kSide + 2][kSide + 2] = {};
  for (int row = 0; row < kSide; ++row)
    for (int column = 0; column < kSide; ++column)
      is_open[row + 1][column + 1] = draft.map[row + kMargin][column + kMargin] != kWall;
  for (int row = 0; row < kSide; ++row) {
    const uint8_t* blocks = &draft.map[row + kMargin][kMargin];
    const uint8_t* items = &draft.items[row + kMargin][kMargin];
    float draws[kSide];
    for (int column = 0; column < kSide; column += 2 * kLanes)
      uniforms(key, static_cast<uint32_t>(row * kSide + column), draws + column);
    for (int column = 0; column < kSide; ++column) {
      const uint8_t block = blocks[column], item = items[column];
      const bool is_seen = is_open[row + 1][column + 1] | is_open[row][column + 1] |
                           is_open[row + 2][column + 1] | is_open[row + 1][column] |
                           is_open[row + 1][column + 2];
      const bool is_rare = 1.0f - draws[column] > 0.9f;
      const uint8_t wall = is_rare ? kWallMoss : kWall;
      const uint8_t path = is_rare & (item == kNothing) ? dungeon.rare_path : kPath;
      const uint8_t open = block == kPath ? path : block;
      const uint8_t seen = block == kWall ? wall : open;
      floor.items[row][column] = item;
      floor.map[row][column] = is_seen ? seen : uint8_t{kDarkness};
    }
  }
}

}  // namespace

void generate_dungeon(const Floor& floor, int dungeon, Key key) {
  const Dungeon& plan = kDungeons[dungeon];
  const Key sizes_key = child(key, 2u);
  skip(key);
  Draft draft{};
  for (int row = 0; row < kSide; ++row)
    std::fill_n(&draft.map[row + kMargin][kMargin], kSide, uint8_t{kWall});

  Key rooms_key = split(key);
  float vacant[kChunks];
  std::fill_n(vacant, kChunks, 1.0f);
  for (int room = 0; room < kRooms; ++room) {
    const auto place = static_cast<uint32_t>(2 * room);
    const Position extent = {randint(sizes_key, kSmallest, kLargest, place),
                             randint(sizes_key, kSmallest, kLargest, place + 1)};
    add_room(draft, room, extent, vacant, plan, rooms_key);
  }
  add_corridors(draft, split(key));
  draft.map[draft.rooms[0].row + 2][draft.rooms[0].column + 2] = plan.special;
  finish(floor, draft, plan, split(key));

  std::fill_n(&floor.light[0][0], kCells, 1.0f);
  floor.down = floor.any(kPath, uniform(split(key)));
  floor.up = floor.counted(kPath, uniform(split(key)));
  floor.items[floor.down.row][floor.down.column] = kLadderDown;
  floor.items[floor.up.row][floor.up.column] = kLadderUp;
}

}  // namespace craftax::full
