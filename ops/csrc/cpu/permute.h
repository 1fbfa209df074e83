// CPU kernel of `permute`: stable counting sort of slots by expert, then a copy of token rows.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "../shared.h"

namespace growstage::cpu {

// Writes position[slots] and offsets[experts + 1] and returns the slot of every used row.
// Entries of `selected` outside 0..experts-1 count as unused.
inline std::vector<int32_t> sort_slots(const int64_t* selected, int64_t slots, int64_t experts,
                                       int64_t* position, int64_t* offsets) {
  const auto used = [experts](int64_t e) { return e >= 0 && e < experts; };
  std::fill_n(offsets, experts + 1, int64_t{0});
  for (int64_t slot = 0; slot < slots; ++slot)
    if (used(selected[slot])) ++offsets[selected[slot] + 1];
  for (int64_t e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
  std::vector<int64_t> next(offsets, offsets + experts);
  std::vector<int32_t> slot_of(offsets[experts]);
  for (int64_t slot = 0; slot < slots; ++slot) {
    position[slot] = used(selected[slot]) ? next[selected[slot]]++ : -1;
    if (position[slot] >= 0) slot_of[position[slot]] = static_cast<int32_t>(slot);
  }
  return slot_of;
}

// Any element type: rows are copied as bytes. Rows past the used ones become 0. False without a row
// for each used slot.
template <class Parallel>
bool permute(const Parallel& parallel, const char* x, const int64_t* selected, int64_t tokens,
             int64_t per_token, int64_t experts, int64_t row_count, int64_t row_bytes, char* rows,
             int64_t* position, int64_t* offsets) {
  const auto slot_of = sort_slots(selected, tokens * per_token, experts, position, offsets);
  if (row_count < static_cast<int64_t>(slot_of.size())) return false;
  parallel(row_count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      char* target = rows + row * row_bytes;
      if (row < static_cast<int64_t>(slot_of.size()))
        std::memcpy(target, x + slot_of[row] / per_token * row_bytes, row_bytes);
      else
        std::memset(target, 0, row_bytes);
    }
  });
  return true;
}

// Each token adds up the gradients of its rows, in slot order.
template <class T, class Parallel>
void permute_backward(const Parallel& parallel, const T* grad, const int64_t* position,
                      int64_t tokens, int64_t per_token, int64_t width, T* grad_x) {
  parallel(tokens, 64, [&](int64_t begin, int64_t end) {
    std::fill(grad_x + begin * width, grad_x + end * width, T{0});
    for (int64_t t = begin; t < end; ++t)
      for (int64_t k = 0; k < per_token; ++k) {
        const int64_t row = position[t * per_token + k];
        if (row < 0) continue;
        const T* source = grad + row * width;
        T* target = grad_x + t * width;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) target[j] += source[j];
      }
  });
}

}  // namespace growstage::cpu
