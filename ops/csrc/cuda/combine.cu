// CUDA kernels of `combine`: one warp for each token, sums in slot order, no atomics.
#include "device.cuh"

namespace growstage::cuda {
namespace {

template <class T, class W, int V>
__global__ void weighted_sum(const T* rows, const int64_t* position, const W* weights,
                             int64_t tokens, int64_t per_token, int64_t width, T* y) {
  using Vector = Pack<T, V>;
  const int64_t token = int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (token >= tokens) return;
  for (int64_t j = threadIdx.x % kLanes * V; j < width; j += kLanes * V) {
    Compute<T> sums[V] = {};
    for (int64_t slot = token * per_token; slot < (token + 1) * per_token; ++slot) {
      if (position[slot] < 0) continue;
      const auto row = *reinterpret_cast<const Vector*>(rows + position[slot] * width + j);
      const Compute<T> weight = load(weights[slot]);
      for (int v = 0; v < V; ++v) sums[v] += weight * load(row.values[v]);
    }
    Vector out;
    for (int v = 0; v < V; ++v) out.values[v] = store<T>(sums[v]);
    *reinterpret_cast<Vector*>(y + token * width + j) = out;
  }
}

template <class T, class W, int V>
__global__ void weighted_sum_backward(const T* grad, const T* rows, const int64_t* position,
                                      const W* weights, int64_t tokens, int64_t per_token,
                                      int64_t width, T* grad_rows, W* grad_weights) {
  using Vector = Pack<T, V>;
  const int64_t token = int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (token >= tokens) return;
  const int lane = threadIdx.x % kLanes;
  for (int64_t slot = token * per_token; slot < (token + 1) * per_token; ++slot) {
    const int64_t row = position[slot];
    Compute<T> dot = 0;
    if (row >= 0) {
      const Compute<T> weight = load(weights[slot]);
      for (int64_t j = lane * V; j < width; j += kLanes * V) {
        const auto incoming = *reinterpret_cast<const Vector*>(grad + token * width + j);
        const auto value = *reinterpret_cast<const Vector*>(rows + row * width + j);
        Vector out;
        for (int v = 0; v < V; ++v) {
          const Compute<T> g = load(incoming.values[v]);
          dot += g * load(value.values[v]);
          out.values[v] = store<T>(weight * g);
        }
        *reinterpret_cast<Vector*>(grad_rows + row * width + j) = out;
      }
    }
    dot = warp_sum(dot);
    if (lane == 0) grad_weights[slot] = static_cast<W>(dot);
  }
}

// Calls f(stored value of rows, of weights, how many values to move at a time): 16 bytes of them
// where rows and pointers allow it.
template <class F>
void on_types(Type type, bool wide, int64_t width, bool fits, const F& f) {
  on_type(type, [&](auto zero) {
    using T = decltype(zero);
    constexpr int most = 16 / sizeof(T);
    const auto with_weights = [&](auto weight) {
      if (fits && width % most == 0)
        f(zero, weight, std::integral_constant<int, most>{});
      else
        f(zero, weight, std::integral_constant<int, 1>{});
    };
    if (wide)
      with_weights(Compute<T>{});
    else
      with_weights(zero);
  });
}

}  // namespace

int combine(Type type, bool wide, const void* rows, const int64_t* position, const void* weights,
            int64_t tokens, int64_t per_token, int64_t width, void* y, void* stream) {
  if (tokens == 0) return 0;
  on_types(type, wide, width, aligned(rows) && aligned(y), [&](auto zero, auto weight, auto v) {
    using T = decltype(zero);
    using W = decltype(weight);
    weighted_sum<T, W, decltype(v)::value>
        <<<blocks(tokens, kWarps), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            static_cast<const T*>(rows), position, static_cast<const W*>(weights), tokens,
            per_token, width, static_cast<T*>(y));
  });
  return launched();
}

int combine_backward(Type type, bool wide, const void* grad, const void* rows,
                     const int64_t* position, const void* weights, int64_t tokens,
                     int64_t per_token, int64_t width, void* grad_rows, void* grad_weights,
                     void* stream) {
  if (tokens == 0) return 0;
  const bool fits = aligned(grad) && aligned(rows) && aligned(grad_rows);
  on_types(type, wide, width, fits, [&](auto zero, auto weight, auto v) {
    using T = decltype(zero);
    using W = decltype(weight);
    weighted_sum_backward<T, W, decltype(v)::value>
        <<<blocks(tokens, kWarps), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            static_cast<const T*>(grad), static_cast<const T*>(rows), position,
            static_cast<const W*>(weights), tokens, per_token, width, static_cast<T*>(grad_rows),
            static_cast<W*>(grad_weights));
  });
  return launched();
}

}  // namespace growstage::cuda
