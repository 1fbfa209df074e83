// JAX's random numbers (threefry2x32, "partitionable" counters), to the bit.
// Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; jax.random of JAX 0.10.
//
// A draw depends on its key and on its place in the array drawn, so a number can be had without
// those before it: what a game does not look at is never computed. T is uint32_t, or a vector of
// them (Lanes), with which one instruction draws for several environments.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <utility>

namespace craftax {

// A key of jax.random: its two words.
template <class T>
struct BasicKey {
  T high, low;
};
using Key = BasicKey<uint32_t>;

template <class T, int Distance>
inline T rotated(T x) {
  return (x << Distance) | (x >> (32 - Distance));
}

template <class T, int A, int B, int C, int D>
inline void four_rounds(T& x, T& y) {
  x += y, y = rotated<T, A>(y) ^ x;
  x += y, y = rotated<T, B>(y) ^ x;
  x += y, y = rotated<T, C>(y) ^ x;
  x += y, y = rotated<T, D>(y) ^ x;
}

// The hash: 20 rounds over the counter (high, low) under a key.
template <class T>
inline BasicKey<T> threefry(BasicKey<T> key, T high, T low) {
  const T third = key.high ^ key.low ^ 0x1BD11BDAu;
  T x = high + key.high, y = low + key.low;
  four_rounds<T, 13, 15, 26, 6>(x, y);
  x += key.low, y += third + 1u;
  four_rounds<T, 17, 29, 16, 24>(x, y);
  x += third, y += key.high + 2u;
  four_rounds<T, 13, 15, 26, 6>(x, y);
  x += key.high, y += key.low + 3u;
  four_rounds<T, 17, 29, 16, 24>(x, y);
  x += key.low, y += third + 4u;
  four_rounds<T, 13, 15, 26, 6>(x, y);
  x += third, y += key.high + 5u;
  return {x, y};
}

// jax.random.split(key, n)[index] for any n > index, and jax.random.fold_in(key, index).
template <class T>
inline BasicKey<T> child(BasicKey<T> key, T index) {
  return threefry<T>(key, T{}, index);
}

// `key, drawn = jax.random.split(key)`: key moves on, drawn is returned.
template <class T>
inline BasicKey<T> split(BasicKey<T>& key) {
  const BasicKey<T> drawn = child<T>(key, T{} + 1u);
  key = child<T>(key, T{});
  return drawn;
}

// `key, _ = jax.random.split(key)` where nobody looks at what was drawn.
template <class T>
inline void skip(BasicKey<T>& key) {
  key = child<T>(key, T{});
}

// jax.random.bits(key, shape), at one place of the (flattened) array.
template <class T>
inline T bits(BasicKey<T> key, T place) {
  const BasicKey<T> hash = threefry<T>(key, T{}, place);
  return hash.high ^ hash.low;
}

// The uniform number in [0, 1) that JAX makes of 32 bits: the top 23 become the mantissa.
inline float unit_interval(uint32_t random) {
  return std::bit_cast<float>((random >> 9) | 0x3F800000u) - 1.0f;
}

// jax.random.uniform(key, shape), at one place.
inline float uniform(Key key, uint32_t place = 0) { return unit_interval(bits(key, place)); }

// jax.random.randint(key, shape, least, end), at one place; `least` where the range is empty.
inline int32_t randint(Key key, int32_t least, int32_t end, uint32_t place = 0) {
  const uint32_t span = end <= least ? 1u : static_cast<uint32_t>(end - least);
  const uint32_t root = 65536u % span;
  const uint32_t multiplier = root * root % span;
  // Of 64 random bits the upper 32 count only where the range is no power of two.
  const uint32_t upper = multiplier ? bits(child(key, 0u), place) % span * multiplier : 0u;
  const uint32_t lower = bits(child(key, 1u), place) % span;
  return least + static_cast<int32_t>((upper + lower) % span);
}

// jax.random.permutation(key, n) for n of the array's length, which must be at least 1.
template <size_t N>
inline std::array<int32_t, N> permutation(Key key) {
  std::array<int32_t, N> order, before;
  for (size_t i = 0; i < N; ++i) order[i] = static_cast<int32_t>(i);
  const int rounds = static_cast<int>(std::ceil(3 * std::log(double(N)) / std::log(4294967295.0)));
  for (int round = 0; round < rounds; ++round) {
    const Key drawn = split(key);
    // Pairs of a draw and a place, all different: their order is that of a stable sort by draws.
    std::array<std::pair<uint32_t, uint32_t>, N> tags;
    for (uint32_t i = 0; i < N; ++i) tags[i] = {bits(drawn, i), i};
    std::sort(tags.begin(), tags.end());
    before = order;
    for (size_t i = 0; i < N; ++i) order[i] = before[tags[i].second];
  }
  return order;
}

}  // namespace craftax
