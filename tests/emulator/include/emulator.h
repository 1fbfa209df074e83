// Runs CUDA kernels on the CPU, one block at a time and each thread as a fiber of its own, so that
// barriers, warp exchanges and shared memory mean what they mean on a device. x86-64 only.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
using cudaStream_t = void*;
using cudaError_t = int;
inline cudaError_t cudaGetLastError() { return 0; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

// Of the fiber that runs now.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__ static

namespace emulator {

extern unsigned char* dynamic_shared;

void run(dim3 grid, dim3 block, size_t shared, const std::function<void()>& thread);
void block_barrier();
// Waits for all 32 lanes of the warp; a lane that has left is an error.
void warp_barrier();
// 32 places of 16 bytes for the warp of the running fiber.
unsigned char* exchange();

struct Launch {
  dim3 grid, block;
  size_t shared = 0;
  cudaStream_t stream = nullptr;

  template <class Kernel, class... Values>
  void operator()(const Kernel& kernel, Values... values) const {
    run(grid, block, shared, [&] { kernel(values...); });
  }
};

inline unsigned lane() { return threadIdx.x % 32; }

template <class T>
T from_lane(T value, unsigned source) {
  static_assert(sizeof(T) <= 16);
  std::memcpy(exchange() + 16 * lane(), &value, sizeof value);
  warp_barrier();
  T other;
  std::memcpy(&other, exchange() + 16 * source, sizeof other);
  warp_barrier();
  return other;
}

}  // namespace emulator

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp() { emulator::warp_barrier(); }
int __syncthreads_or(int value);

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::from_lane(value, emulator::lane() ^ static_cast<unsigned>(mask));
}
template <class T>
T __shfl_up_sync(unsigned, T value, int step) {
  const unsigned lane = emulator::lane(), by = static_cast<unsigned>(step);
  return emulator::from_lane(value, lane >= by ? lane - by : lane);
}
inline unsigned __match_any_sync(unsigned, int value) {
  unsigned same = 0;
  for (unsigned source = 0; source < 32; ++source)
    if (emulator::from_lane(value, source) == value) same |= 1u << source;
  return same;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T, class U>
T atomicAdd(T* at, U value) {
  const T before = *at;
  *at += value;
  return before;
}

template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
