// jax.random.choice with probabilities, to the bit: a cumulative sum, a uniform number scaled by its
// last entry, a binary search. XLA sums in rows of 16, and rows of rows, each from left to right;
// the rounding of that order decides ties, so it is repeated here.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "random.h"

namespace craftax {

// jnp.searchsorted(cumulative, target): what JAX finds by halving [0, size), where rounding may
// leave cumulative(place) not quite in order.
template <class Cumulative>
inline int32_t search(int32_t size, float target, Cumulative cumulative) {
  uint32_t low = 0, high = static_cast<uint32_t>(size);
  for (int level = std::bit_width(high); level > 0; --level) {
    const uint32_t middle = low + (high - low) / 2;
    const float sum = cumulative(middle);
    if (target <= sum || std::isnan(sum)) {
      high = middle;
    } else {
      low = middle;
    }
  }
  return static_cast<int32_t>(high);
}

// jax.random.choice(key, N, p=weights) for a drawn uniform number and at most 16 weights.
template <int N>
inline int32_t weighted_choice(const float (&weights)[N], float drawn) {
  static_assert(N <= 16);
  float cumulative[N];
  float sum = 0.0f;
  for (int i = 0; i < N; ++i) cumulative[i] = sum += weights[i];
  return search(N, sum * (1.0f - drawn), [&](uint32_t place) { return cumulative[place]; });
}

// jax.random.choice(key, Size, p=mask / mask.sum()): a place of a mask, each as likely.
template <int32_t Size>
class EqualChoice {
  static constexpr int32_t kRows = Size / 16, kGroups = (kRows + 15) / 16;
  static_assert(Size % 16 == 0 && kGroups <= 16);

 public:
  // Places are added in rising order.
  void add(int32_t place) {
    const int32_t row = place / 16;
    if (count_ == 0) first_ = row;
    last_ = row;
    members_[row] |= static_cast<uint16_t>(1u << place % 16);
    ++count_;
  }
  // The places of a row of 16, a bit for each; rows are added in rising order too.
  void add_row(int32_t row, uint32_t members) {
    if (members == 0) return;
    if (count_ == 0) first_ = row;
    last_ = row;
    members_[row] = static_cast<uint16_t>(members);
    count_ += std::popcount(members);
  }
  bool empty() const { return count_ == 0; }

  // The place that a drawn uniform number chooses; 0 where there is none.
  int32_t pick(float drawn) const {
    if (count_ == 0) return 0;
    float of[17];  // the sum of so many equal shares
    of[0] = 0.0f;
    const float share = 1.0f / static_cast<float>(count_);
    for (int i = 1; i <= 16; ++i) of[i] = of[i - 1] + share;

    // Before the first row with a member all sums are 0, and behind the last they stay.
    float before[kRows];  // the sum of all earlier rows
    float groups = 0.0f, rows = 0.0f;
    for (int32_t row = first_; row <= last_; ++row) {
      if (row % 16 == 0) groups += rows, rows = 0.0f;
      before[row] = rows + groups;
      rows += of[std::popcount(members_[row])];
    }
    const float total = rows + groups;
    const auto cumulative = [&](uint32_t place) {
      const int32_t row = static_cast<int32_t>(place / 16);
      if (row < first_) return 0.0f;
      if (row > last_) return total;
      const uint32_t here = members_[row] & ((2u << place % 16) - 1);
      return of[std::popcount(here)] + before[row];
    };
    return search(Size, cumulative(Size - 1) * (1.0f - drawn), cumulative);
  }

 private:
  uint16_t members_[kRows] = {};  // a bit for each place
  int32_t count_ = 0, first_ = 0, last_ = 0;
};

}  // namespace craftax
