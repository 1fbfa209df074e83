// Positions and grids with the meaning that JAX gives to indices outside an array: a negative index
// counts from the far end; a read beyond the end gives the last entry; a write there does nothing.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>

namespace craftax {

struct Position {
  int32_t row, column;

  friend constexpr Position operator+(Position a, Position b) {
    return {a.row + b.row, a.column + b.column};
  }
  friend constexpr Position operator-(Position a, Position b) {
    return {a.row - b.row, a.column - b.column};
  }
  friend constexpr bool operator==(Position, Position) = default;
};

// |rows| + |columns| between two positions.
inline int32_t steps_between(Position a, Position b) {
  return std::abs(a.row - b.row) + std::abs(a.column - b.column);
}

constexpr int32_t wrapped(int32_t index, int32_t size) { return index < 0 ? index + size : index; }

// A square map of bytes: blocks, items or flags.
template <int32_t Size>
struct Grid {
  uint8_t cells[Size][Size];

  static constexpr bool contains(Position at) {
    return static_cast<uint32_t>(at.row) < Size && static_cast<uint32_t>(at.column) < Size;
  }
  uint8_t operator[](Position at) const {
    return cells[clamped(at.row)][clamped(at.column)];
  }
  void set(Position at, uint8_t value) {
    const Position place{wrapped(at.row, Size), wrapped(at.column, Size)};
    if (contains(place)) cells[place.row][place.column] = value;
  }

 private:
  static constexpr int32_t clamped(int32_t index) {
    const int32_t place = wrapped(index, Size);
    return place < 0 ? 0 : place >= Size ? Size - 1 : place;
  }
};

// A map of 64 x 64 flags, a bit each; the lowest of a word is the first column.
struct FlagGrid {
  static constexpr int32_t kSize = 64;
  uint64_t rows[kSize];

  bool operator[](Position at) const {
    return rows[clamped(at.row)] >> clamped(at.column) & 1;
  }
  void set(Position at, bool value) {
    const int32_t row = wrapped(at.row, kSize), column = wrapped(at.column, kSize);
    if (row < 0 || row >= kSize || column < 0 || column >= kSize) return;
    const uint64_t bit = uint64_t{1} << column;
    rows[row] = value ? rows[row] | bit : rows[row] & ~bit;
  }

 private:
  static constexpr int32_t clamped(int32_t index) {
    const int32_t place = wrapped(index, kSize);
    return place < 0 ? 0 : place >= kSize ? kSize - 1 : place;
  }
};

}  // namespace craftax
