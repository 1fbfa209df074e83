// Small device helpers of all CUDA kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "launch.h"

namespace growstage::cuda {

constexpr unsigned kWarp = 0xffffffffu;
constexpr int kLanes = 32, kWarps = 8, kThreads = kLanes * kWarps;

// The type in which values of a stored type are computed.
template <class T>
struct Computing {
  using type = float;
};
template <>
struct Computing<double> {
  using type = double;
};
template <class T>
using Compute = typename Computing<T>::type;

template <class T>
__device__ __forceinline__ Compute<T> load(T x) {
  return static_cast<Compute<T>>(x);
}
template <class T>
__device__ __forceinline__ T store(Compute<T> x) {
  return static_cast<T>(x);
}

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kWarp, x, step);
  return x;
}

// Exclusive sum of one value per thread of a block of kSortBlock threads, all of which call it.
__device__ inline int block_scan(int value, int& total) {
  __shared__ int warps[kSortBlock / kLanes];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  int sum = value;
  for (int step = 1; step < kLanes; step *= 2) {
    const int left = __shfl_up_sync(kWarp, sum, step);
    if (lane >= step) sum += left;
  }
  __syncthreads();  // `warps` of an earlier call has been read
  if (lane == kLanes - 1) warps[warp] = sum;
  __syncthreads();
  int before_warp = 0;
  total = 0;
  for (int w = 0; w < kSortBlock / kLanes; ++w) {
    if (w < warp) before_warp += warps[w];
    total += warps[w];
  }
  return before_warp + sum - value;
}

// V neighbouring values, moved in one access.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T values[V];
};

inline dim3 blocks(int64_t items, int64_t per_block) {
  return dim3(static_cast<unsigned>((items + per_block - 1) / per_block));
}

inline bool aligned(const void* pointer, uintptr_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

inline int launched() { return static_cast<int>(cudaGetLastError()); }

// Calls f with a value of the stored type.
template <class F>
void on_type(Type type, const F& f) {
  switch (type) {
    case Type::kFloat:
      return f(float{});
    case Type::kDouble:
      return f(double{});
    case Type::kHalf:
      return f(__half{});
    default:
      return f(__nv_bfloat16{});
  }
}

}  // namespace growstage::cuda
