#include "full/observe.h"

#include <cstring>

#include "full/rules.h"

namespace craftax::full {

namespace {

constexpr float kDim = 0.05f;  // what is not lighter than this is not seen
constexpr int kItemChannel = kBlocks, kMobChannel = int{kBlocks} + kItems, kLightChannel = kChannels - 1;
constexpr int16_t kUnused = -1;

// A creature as it is written into the picture: later ones overwrite those before, dead ones with
// nothing, and places above or left of the view count from its other end.
struct Sight {
  int tile;     // where it writes; -1 = outside
  int channel;  // of kKinds * 5
  bool visible; // alive and in view
};

template <int Slots>
Sight* look(const State& state, const Mobs<Slots>& mobs, int group, Sight* sights) {
  const int floor = state.player_level;
  for (int slot = 0; slot < Slots; ++slot) {
    Position local = mobs[floor].position[slot] - state.player_position +
                     Position{kRows / 2, kColumns / 2};
    const bool inside = local.row >= 0 && local.row < kRows && local.column >= 0 && local.column < kColumns;
    if (local.row < 0) local.row += kRows;
    if (local.column < 0) local.column += kColumns;
    const bool writes = local.row >= 0 && local.row < kRows && local.column >= 0 && local.column < kColumns;
    *sights++ = {writes ? local.row * kColumns + local.column : -1,
                 group * kKinds + mobs[floor].type_id[slot], inside && mobs[floor].mask[slot]};
  }
  return sights;
}

struct Sights {
  Sight all[kMobs];
  explicit Sights(const State& state) {
    Sight* end = look(state, state.melee_mobs, 0, all);
    end = look(state, state.passive_mobs, 1, end);
    end = look(state, state.ranged_mobs, 2, end);
    end = look(state, state.mob_projectiles, 3, end);
    look(state, state.player_projectiles, 4, end);
  }
  bool seen(int index) const {
    const Sight& own = all[index];
    if (!own.visible) return false;
    for (int later = index + 1; later < kMobs; ++later)
      if (all[later].tile == own.tile && all[later].channel == own.channel) return false;
    return true;
  }
};

// XLA multiplies by one over a constant instead of dividing by it.
float root(int32_t stock) { return std::sqrt(static_cast<float>(stock)) * 0.1f; }
float share(int32_t value, float whole) { return static_cast<float>(value) * (1.0f / whole); }

void scalars(const State& state, bool is_new, float* out) {
  const Inventory& own = state.inventory;
  for (const int32_t stock : {own.wood, own.stone, own.coal, own.iron, own.diamond, own.sapphire,
                              own.ruby, own.sapling, own.torches, own.arrows})
    *out++ = root(stock);
  *out++ = share(own.books, 2);
  *out++ = share(own.pickaxe, 4);
  *out++ = share(own.sword, 4);
  *out++ = static_cast<float>(state.sword_enchantment);
  *out++ = static_cast<float>(state.bow_enchantment);
  *out++ = static_cast<float>(own.bow);
  for (const int32_t potion : own.potions) *out++ = root(potion);
  for (const float vital : {state.player_health, static_cast<float>(state.player_food),
                            static_cast<float>(state.player_drink),
                            static_cast<float>(state.player_energy),
                            static_cast<float>(state.player_mana)})
    *out++ = is_new ? vital / 10.0f : vital * 0.1f;
  for (const int32_t value : {state.player_xp, state.player_dexterity, state.player_strength,
                              state.player_intelligence})
    *out++ = share(value, 10);
  for (int way = 1; way <= 4; ++way) *out++ = state.player_direction == way;
  for (const int32_t piece : own.armour) *out++ = share(piece, 2);
  for (const int32_t enchantment : state.armour_enchantments)
    *out++ = static_cast<float>(enchantment);
  *out++ = state.light_level;
  *out++ = state.is_sleeping;
  *out++ = state.is_resting;
  *out++ = state.learned_spells[0];
  *out++ = state.learned_spells[1];
  *out++ = share(state.player_level, 10);
  *out++ = state.monsters_killed[state.player_level] >= kMonstersToClear;
  *out++ = is_boss_vulnerable(state);
}

// First row (or column) of the view: Craftax cuts it out of a map padded on each side, and a view
// that leaves even that (in god mode) is moved back inside.
int view_start(int32_t player, int extent) {
  constexpr int padding = 13, padded = kSide + 2 * padding;
  int32_t start = player - extent / 2 + padding;
  if (start < 0) start += padded;
  return std::clamp(start, 0, padded - extent) - padding;
}

}  // namespace

void observe_dense(const State& state, bool is_new, float* numbers) {
  std::memset(numbers, 0, sizeof(float) * kOnes);
  const int floor = state.player_level;
  const Position corner = {view_start(state.player_position.row, kRows),
                           view_start(state.player_position.column, kColumns)};
  bool lit[kTiles];
  for (int tile = 0; tile < kTiles; ++tile) {
    const Position place = corner + Position{tile / kColumns, tile % kColumns};
    lit[tile] = in_bounds(place) && state.light_map[floor][place.row][place.column] > kDim;
    if (!lit[tile]) continue;
    float* channels = numbers + tile * kChannels;
    channels[state.map[floor].cells[place.row][place.column]] = 1;
    channels[kItemChannel + state.item_map[floor].cells[place.row][place.column]] = 1;
    channels[kLightChannel] = 1;
  }
  const Sights sights(state);
  for (int index = 0; index < kMobs; ++index) {
    const Sight& sight = sights.all[index];
    if (sight.tile < 0 || !lit[sight.tile]) continue;
    numbers[sight.tile * kChannels + kMobChannel + sight.channel] = sight.visible;
  }
  scalars(state, is_new, numbers + kOnes);
}

void observe_compact(const State& state, bool is_new, int16_t* codes) {
  const int floor = state.player_level;
  const Position corner = state.player_position - Position{kRows / 2, kColumns / 2};
  const int first = std::max(0, -corner.column), last = std::min(kColumns, kSide - corner.column);
  // What is seen of each tile, gathered first so that the codes are made many at a time.
  uint8_t blocks[kTiles] = {}, items[kTiles] = {}, lit[kTiles] = {};
  for (int row = 0; row < kRows; ++row) {
    const int from = corner.row + row, tile = row * kColumns;
    if (from < 0 || from >= kSide || first >= last) continue;
    const int place = corner.column + first;
    const auto number = static_cast<size_t>(last - first);
    std::memcpy(blocks + tile + first, &state.map[floor].cells[from][place], number);
    std::memcpy(items + tile + first, &state.item_map[floor].cells[from][place], number);
    const float* light = &state.light_map[floor][from][place];
    for (size_t i = 0; i < number; ++i) lit[tile + first + i] = light[i] > kDim;
  }
  int16_t picture[kSlots];
  for (int tile = 0; tile < kTiles; ++tile) {
    const int block = tile * kChannels + blocks[tile], dark = kOnes + tile;
    const int item = kOnes + kTiles - 1 + tile * (kItems - 1) + items[tile];
    const bool has_item = lit[tile] & (items[tile] != kNothing);
    picture[tile] = static_cast<int16_t>(lit[tile] ? block : dark);
    picture[kTiles + tile] = static_cast<int16_t>(has_item ? item : kUnused);
  }
  const Sights sights(state);
  for (int index = 0; index < kMobs; ++index) {
    const Sight& sight = sights.all[index];
    const bool seen = sights.seen(index) && lit[sight.tile];
    picture[2 * kTiles + index] =
        seen ? static_cast<int16_t>(sight.tile * kChannels + kMobChannel + sight.channel) : kUnused;
  }
  float numbers[kScalars];
  scalars(state, is_new, numbers);
  std::memcpy(codes, picture, sizeof picture);
  std::memcpy(codes + kSlots, numbers, sizeof numbers);
}

}  // namespace craftax::full
