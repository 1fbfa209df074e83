// Random numbers eight at a time: of as many keys, or of as many places of one array.
#pragma once

#include <bit>
#include <cstring>

#include "random.h"

namespace craftax::full {

constexpr int kLanes = 8;
using Lanes = uint32_t __attribute__((vector_size(4 * kLanes)));
using LaneKey = BasicKey<Lanes>;

// jax.random.uniform(key, shape) at 2 * kLanes places from `first` on.
inline void uniforms(Key key, uint32_t first, float* out) {
  using Numbers = float __attribute__((vector_size(4 * kLanes)));
  const LaneKey wide = {Lanes{} + key.high, Lanes{} + key.low};
  Lanes places = Lanes{0, 1, 2, 3, 4, 5, 6, 7} + first;
  for (int half = 0; half < 2; ++half, places += kLanes) {
    const Lanes mantissas = bits<Lanes>(wide, places) >> 9 | 0x3F800000u;
    const Numbers numbers = std::bit_cast<Numbers>(mantissas) - 1.0f;
    std::memcpy(out + half * kLanes, &numbers, sizeof numbers);
  }
}

}  // namespace craftax::full
