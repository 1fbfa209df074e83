#include "choice.h"
#include "generate.h"

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
  for (int row = 0; row < kSide; ++row) {
    for (int column = 0; column < kSide; ++column) {
      const auto is_open = [&](int i, int j) {
        return in_bounds({i, j}) && draft.map[i + kMargin][j + kMargin] != kWall;
      };
      uint8_t block = draft.map[row + kMargin][column + kMargin];
      const uint8_t item = draft.items[row + kMargin][column + kMargin];
      floor.items[row][column] = item;
      const bool is_seen = is_open(row, column) || is_open(row - 1, column) ||
                           is_open(row + 1, column) || is_open(row, column - 1) ||
                           is_open(row, column + 1);
      const bool varies = block == kWall || (block == kPath && item == kNothing);
      if (!is_seen) {
        block = kDarkness;
      } else if (varies) {
        const auto cell = static_cast<uint32_t>(row * kSide + column);
        const bool is_rare = 1.0f - uniform(key, cell) > 0.9f;
        if (is_rare) block = block == kWall ? kWallMoss : dungeon.rare_path;
      }
      floor.map[row][column] = block;
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
