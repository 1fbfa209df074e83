// Hidden units of gated experts, act(gate) * value, and their gradients: one pass over a tile.
#pragma once

#include <algorithm>
#include <bit>
#include <type_traits>

#include "../shared.h"

namespace growstage::cpu {

// exp(x) for float without branch or call, so that loops over it become vector code: 2^n times a
// polynomial in the rest of x, |rest| <= ln(2) / 2, whose first term left out is below 6e-9.
// Infinite from x = 88.4 on (3e38 is the largest float), 0 below -87; NaN stays NaN.
inline float vector_exp(float x) {
  constexpr float per_ln2 = 1.44269504f, ln2_high = 0x1.62e4p-1f, ln2_low = 1.42860677e-6f;
  constexpr float shift = 0x1.8p23f;  // adding it rounds to a whole number in the lowest bits
  const bool vanishes = x < -87.0f;
  x = vanishes ? 0.0f : x;
  x = x > 88.8f ? 88.8f : x;
  const float shifted = x * per_ln2 + shift, n = shifted - shift;
  const float r = x - n * ln2_high - n * ln2_low;
  float sum = 1.0f / 5040;
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const int32_t bits = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(shift);
  return vanishes ? 0.0f : sum * std::bit_cast<float>((bits + 127) << 23);
}

template <class T>
T sigmoid(T x) {
  if constexpr (std::is_same_v<T, float>)
    return 1.0f / (1.0f + vector_exp(-x));
  else
    return T{1} / (T{1} + std::exp(-x));
}

// What GELU needs of the normal distribution: the probability below x and the density at x. The
// probability is right to 1e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26).
struct Normal {
  float below, density;
};

inline Normal normal(float x) {
  constexpr float root_half = 0.70710678f, inverse_root_two_pi = 0.39894228f;
  const float z = (x < 0.0f ? -x : x) * root_half, t = 1.0f / (1.0f + 0.3275911f * z);
  const float bell = vector_exp(-z * z);
  float sum = 1.061405429f;
  sum = sum * t - 1.453152027f;
  sum = sum * t + 1.421413741f;
  sum = sum * t - 0.284496736f;
  sum = sum * t + 0.254829592f;
  const float tail = 0.5f * sum * t * bell;
  return {x < 0.0f ? tail : 1.0f - tail, inverse_root_two_pi * bell};
}

// act(gate) and its derivative times `grad`.
template <class T>
struct Opened {
  T value, grad;
};

template <Activation kind, class T>
Opened<T> opened(T gate, T grad) {
  if constexpr (kind == Activation::kSilu) {
    const T share = sigmoid(gate);
    return {gate * share, grad * (share * (T{1} + gate * (T{1} - share)))};
  } else if constexpr (kind == Activation::kRelu) {
    // not a product with 0: the gradient of a closed unit is 0 whatever came in
    return {activate(gate, kind), gate <= T{0} ? T{0} : grad};
  } else if constexpr (std::is_same_v<T, float>) {
    const Normal at = normal(gate);
    return {gate * at.below, grad * (at.below + gate * at.density)};
  } else {
    return {activate(gate, kind), grad * slope(gate, kind)};
  }
}

// Calls f(std::integral_constant) of the activation, so that no loop over units has a branch on it.
template <class F>
void on_activation(Activation kind, const F& f) {
  switch (kind) {
    case Activation::kRelu:
      return f(std::integral_constant<Activation, Activation::kRelu>{});
    case Activation::kGelu:
      return f(std::integral_constant<Activation, Activation::kGelu>{});
    default:
      return f(std::integral_constant<Activation, Activation::kSilu>{});
  }
}

// active [rows, units] from `kept`, whose rows hold units gates, then units values.
template <class T>
void gate_units(const T* kept, int64_t stride, int64_t rows, int64_t units, Activation activation,
                T* active) {
  on_activation(activation, [&](auto kind) {
    for (int64_t r = 0; r < rows; ++r, kept += stride, active += units) {
      const T *gate = kept, *value = kept + units;
#pragma omp simd
      for (int64_t j = 0; j < units; ++j)
        active[j] = opened<kind.value>(gate[j], T{0}).value * value[j];
    }
  });
}

// From grad [rows, units] of the hidden units: inner [rows, 2 units], the gradient of gates and
// values, and the units themselves once more in `active` (null = not wanted).
template <class T>
void gate_gradient(const T* kept, int64_t stride, int64_t rows, int64_t units,
                   Activation activation, const T* grad, T* inner, T* active) {
  on_activation(activation, [&](auto kind) {
    for (int64_t r = 0; r < rows; ++r, kept += stride, grad += units, inner += 2 * units) {
      const T *gate = kept, *value = kept + units;
      T *to_gate = inner, *to_value = inner + units;
      if (active == nullptr) {
#pragma omp simd
        for (int64_t j = 0; j < units; ++j) {
          const auto unit = opened<kind.value>(gate[j], grad[j] * value[j]);
          to_gate[j] = unit.grad, to_value[j] = grad[j] * unit.value;
        }
        continue;
      }
#pragma omp simd
      for (int64_t j = 0; j < units; ++j) {
        const auto unit = opened<kind.value>(gate[j], grad[j] * value[j]);
        to_gate[j] = unit.grad, to_value[j] = grad[j] * unit.value;
        active[j] = unit.value * value[j];
      }
      active += units;
    }
  });
}

}  // namespace growstage::cpu
