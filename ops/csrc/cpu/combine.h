// CPU kernel of `combine`: weighted gather of expert rows back to their tokens, and its gradient.
#pragma once

#include <algorithm>
#include <vector>

#include "../shared.h"

namespace growstage::cpu {

template <class T, class Parallel>
void combine(const Parallel& parallel, const T* rows, const int64_t* position, const T* weights,
             int64_t tokens, int64_t per_token, int64_t width, T* y) {
  parallel(tokens, 64, [&](int64_t begin, int64_t end) {
    std::fill(y + begin * width, y + end * width, T{0});
    for (int64_t t = begin; t < end; ++t)
      for (int64_t slot = t * per_token; slot < (t + 1) * per_token; ++slot) {
        if (position[slot] < 0) continue;
        const T* source = rows + position[slot] * width;
        const T weight = weights[slot];
        T* target = y + t * width;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) target[j] += weight * source[j];
      }
  });
}

// Rows that no slot points to get gradient 0; unused slots get weight gradient 0.
template <class T, class Parallel>
void combine_backward(const Parallel& parallel, const T* grad, const T* rows,
                      const int64_t* position, const T* weights, int64_t tokens,
                      int64_t per_token, int64_t width, int64_t row_count, T* grad_rows,
                      T* grad_weights) {
  std::vector<char> reached(row_count, 0);
  for (int64_t slot = 0; slot < tokens * per_token; ++slot)
    if (position[slot] >= 0) reached[position[slot]] = 1;
  for (int64_t row = 0; row < row_count; ++row)
    if (!reached[row]) std::fill_n(grad_rows + row * width, width, T{0});
  parallel(tokens, 64, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t slot = t * per_token; slot < (t + 1) * per_token; ++slot) {
        grad_weights[slot] = 0;
        if (position[slot] < 0) continue;
        const T* source = rows + position[slot] * width;
        const T* incoming = grad + t * width;
        const T weight = weights[slot];
        T* target = grad_rows + position[slot] * width;
        T dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < width; ++j) {
          dot += incoming[j] * source[j];
          target[j] = weight * incoming[j];
        }
        grad_weights[slot] = dot;
      }
  });
}

}  // namespace growstage::cpu
