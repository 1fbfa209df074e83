// CUDA kernel of `usage`: integer counts, first in shared memory where the table fits.
#include "device.cuh"

namespace growstage::cuda {
namespace {

constexpr int64_t kSharedCells = 8192;

__global__ void count(const int64_t* selected, const int64_t* domain, int64_t tokens,
                      int64_t per_token, int64_t experts, int64_t domains, bool use_shared,
                      int64_t* table) {
  extern __shared__ int local[];
  const int64_t cells = experts * domains, stride = int64_t{gridDim.x} * blockDim.x;
  auto* total = reinterpret_cast<unsigned long long*>(table);
  if (use_shared)
    for (int64_t c = threadIdx.x; c < cells; c += blockDim.x) local[c] = 0;
  __syncthreads();
  for (int64_t slot = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; slot < tokens * per_token;
       slot += stride) {
    const int64_t expert = selected[slot], label = domain[slot / per_token];
    if (expert < 0 || expert >= experts || label < 0 || label >= domains) continue;
    if (use_shared)
      atomicAdd(local + expert * domains + label, 1);
    else
      atomicAdd(total + expert * domains + label, 1ull);
  }
  __syncthreads();
  if (!use_shared) return;
  for (int64_t c = threadIdx.x; c < cells; c += blockDim.x)
    if (local[c] > 0) atomicAdd(total + c, static_cast<unsigned long long>(local[c]));
}

}  // namespace

int usage(const int64_t* selected, const int64_t* domain, int64_t tokens, int64_t per_token,
          int64_t experts, int64_t domains, int64_t* table, void* stream) {
  const int64_t slots = tokens * per_token, cells = experts * domains;
  if (slots == 0) return 0;
  const bool use_shared = cells <= kSharedCells;
  const int64_t grid = (slots + kThreads - 1) / kThreads;
  count<<<static_cast<unsigned>(grid < 256 ? grid : 256), kThreads,
          use_shared ? static_cast<size_t>(cells) * sizeof(int) : 0,
          static_cast<cudaStream_t>(stream)>>>(selected, domain, tokens, per_token, experts,
                                               domains, use_shared, table);
  return launched();
}

}  // namespace growstage::cuda
