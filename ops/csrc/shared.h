// What CPU and CUDA kernels have in common: names of the choices, the order of scores, activations.
// Free of torch, so that the CUDA part compiles in seconds and against any torch.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define GROWSTAGE_BOTH __host__ __device__ __forceinline__
#else
#define GROWSTAGE_BOTH inline
#endif

namespace growstage {

// Slot and row numbers are int32 inside the kernels; element offsets are int64.
constexpr int64_t kMaxSlots = (int64_t{1} << 31) - 1;

enum class Selector : int { kDense, kTopK, kTopP, kPercentile, kThreshold };
enum class Activation : int { kRelu, kGelu, kSilu, kNone };

// Does score a (expert i) come before score b (expert j)? NaN first, then the larger score, then
// the lower expert: a strict total order, so every algorithm that sorts by it agrees to the bit.
template <class T>
GROWSTAGE_BOTH bool before(T a, int64_t i, T b, int64_t j) {
  const bool a_nan = a != a, b_nan = b != b;
  if (a_nan || b_nan) return a_nan && (!b_nan || i < j);
  return a > b || (a == b && i < j);
}

// The layout of compact observations, see ops/row_sum.py.
struct Observed {
  const int16_t* entries;
  int64_t batch, entry_width, slots, ones, scalars;
  const int64_t* usual;
  int64_t usual_count;
  const int64_t* derived;
  int64_t derived_count;
};

// Two entries hold the bits of a scalar.
GROWSTAGE_BOTH float scalar(const Observed& x, int64_t sample, int64_t index) {
  float value;
  memcpy(&value, x.entries + sample * x.entry_width + x.slots + 2 * index, sizeof value);
  return value;
}

// The place that a derived code adds, or, as ~place, subtracts.
GROWSTAGE_BOTH int64_t place(int64_t signed_place) {
  return signed_place >= 0 ? signed_place : ~signed_place;
}

// (logit + noise) / temperature, -inf where the expert is not allowed.
template <class T>
GROWSTAGE_BOTH T score(T logit, const T* noise, const bool* allowed, int64_t at, T temperature) {
  if (allowed != nullptr && !allowed[at]) return -static_cast<T>(INFINITY);
  return (noise != nullptr ? logit + noise[at] : logit) / temperature;
}

// Forward of the fused activation; NaN stays NaN.
template <class T>
GROWSTAGE_BOTH T activate(T x, Activation kind) {
  constexpr T half = 0.5, one = 1, root_half = 0.70710678118654752440;
  switch (kind) {
    case Activation::kRelu:
      return x < T{0} ? T{0} : x;
    case Activation::kGelu:
      return half * x * (one + erf(x * root_half));
    case Activation::kSilu:
      return x / (one + exp(-x));
    default:
      return x;
  }
}

// Derivative of the activation at `kept`: its output for ReLU, its input otherwise.
template <class T>
GROWSTAGE_BOTH T slope(T kept, Activation kind) {
  constexpr T half = 0.5, one = 1, root_half = 0.70710678118654752440;
  constexpr T inverse_root_two_pi = 0.39894228040143267794;
  switch (kind) {
    case Activation::kRelu:
      return kept <= T{0} ? T{0} : one;
    case Activation::kGelu:
      return half * (one + erf(kept * root_half)) +
             kept * inverse_root_two_pi * exp(-half * kept * kept);
    case Activation::kSilu: {
      const T sigmoid = one / (one + exp(-kept));
      return sigmoid * (one + kept * (one - sigmoid));
    }
    default:
      return one;
  }
}

}  // namespace growstage
