// What an agent sees of Craftax-Classic: 7 x 9 tiles around it, mobs on them, 22 scalars.
#include <algorithm>
#include <cstring>

#include "classic/state.h"
#include "scalar.h"

namespace craftax::classic {
namespace {

constexpr int kRows = 7, kColumns = 9, kTiles = kRows * kColumns;
constexpr int kKinds = 4, kChannels = kBlocks + kKinds, kPicture = kTiles * kChannels;
constexpr int kScalars = 22, kSlots = 76;
constexpr int16_t kUnused = -1;

// The blocks in view, row by row.
void see_blocks(const State& state, uint8_t* blocks) {
  const Position corner = state.player - Position{kRows / 2, kColumns / 2};
  const Position end = corner + Position{kRows - 1, kColumns - 1};
  if (state.map.contains(corner) && state.map.contains(end)) {
    for (int row = 0; row < kRows; ++row) {
      std::memcpy(blocks + row * kColumns, &state.map.cells[corner.row + row][corner.column],
                  kColumns);
    }
    return;
  }
  for (int tile = 0; tile < kTiles; ++tile) {
    const Position at = corner + Position{tile / kColumns, tile % kColumns};
    blocks[tile] = state.map.contains(at) ? state.map[at] : uint8_t{kOutOfBounds};
  }
}

template <int N, class Visit>
void for_each_of(const Mobs<N>& mobs, const State& state, int kind, Visit visit) {
  for (int i = 0; i < N; ++i) {
    const Position local =
        mobs.position[i] - state.player + Position{kRows / 2, kColumns / 2};
    const bool inside = local.row >= 0 && local.row < kRows && local.column >= 0 &&
                        local.column < kColumns;
    // Craftax writes what is out of view too, as a zero, counting from the far edge.
    const Position place{wrapped(local.row, kRows), wrapped(local.column, kColumns)};
    const bool writes = place.row >= 0 && place.row < kRows && place.column >= 0 &&
                        place.column < kColumns;
    const int channel = (place.row * kColumns + place.column) * kChannels + kBlocks + kind;
    visit(writes ? channel : -1, inside && mobs.alive[i]);
  }
}

// Calls visit(place in the picture or -1, whether a one is written there), in Craftax's order.
template <class Visit>
void for_each_mob(const State& state, Visit visit) {
  for_each_of(state.zombies, state, 0, visit);
  for_each_of(state.cows, state, 1, visit);
  for_each_of(state.skeletons, state, 2, visit);
  for_each_of(state.arrows, state, 3, visit);
}

void scalars(const State& state, float* out) {
  for (int32_t count : state.inventory) *out++ = tenth(count);
  for (int32_t level : {state.health, state.food, state.drink, state.energy}) *out++ = tenth(level);
  for (int32_t way = kLeft; way <= kDown; ++way) *out++ = state.direction == way ? 1.0f : 0.0f;
  *out++ = state.light_level;
  *out++ = state.is_sleeping ? 1.0f : 0.0f;
}

}  // namespace

void observe_dense(const State& state, float* out) {
  std::fill_n(out, kPicture, 0.0f);
  uint8_t blocks[kTiles];
  see_blocks(state, blocks);
  for (int tile = 0; tile < kTiles; ++tile) out[tile * kChannels + blocks[tile]] = 1.0f;
  for_each_mob(state, [&](int place, bool seen) {
    if (place >= 0) out[place] = seen ? 1.0f : 0.0f;
  });
  scalars(state, out + kPicture);
}

void observe_compact(const State& state, int16_t* out) {
  std::fill_n(out + kTiles, kSlots - kTiles, kUnused);
  uint8_t blocks[kTiles];
  see_blocks(state, blocks);
  for (int tile = 0; tile < kTiles; ++tile) {
    out[tile] = static_cast<int16_t>(tile * kChannels + blocks[tile]);
  }
  int16_t* mobs = out + kTiles;
  int written[kZombies + kCows + kSkeletons + kArrows];
  int count = 0;
  for_each_mob(state, [&](int place, bool seen) {
    // A later mob hides an earlier one of its kind.
    for (int i = 0; i < count; ++i) {
      if (place >= 0 && written[i] == place) mobs[i] = kUnused;
    }
    if (seen) mobs[count] = static_cast<int16_t>(place);
    written[count++] = place;
  });
  float values[kScalars];
  scalars(state, values);
  std::memcpy(out + kSlots, values, sizeof values);
}

}  // namespace craftax::classic
