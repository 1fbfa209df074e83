// CUDA kernels of `permute`: a stable counting sort in three launches, then one copy of rows.
#include "device.cuh"

namespace growstage::cuda {
namespace {

__device__ bool is_expert(int64_t e, int experts) { return e >= 0 && e < experts; }

__global__ void histogram(const int64_t* selected, int64_t slots, int experts, int32_t* out) {
  extern __shared__ int32_t local[];
  for (int e = threadIdx.x; e < experts; e += kSortBlock) local[e] = 0;
  __syncthreads();
  const int64_t slot = int64_t{blockIdx.x} * kSortBlock + threadIdx.x;
  if (slot < slots && is_expert(selected[slot], experts)) atomicAdd(local + selected[slot], 1);
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += kSortBlock)
    out[int64_t{blockIdx.x} * experts + e] = local[e];
}

// One block for each expert: counts of the blocks become what came in earlier blocks.
__global__ void scan(int32_t* counts, int block_count, int experts, int32_t* totals) {
  const int expert = static_cast<int>(blockIdx.x);
  int carried = 0;
  for (int start = 0; start < block_count; start += kSortBlock) {
    const int block = start + static_cast<int>(threadIdx.x);
    int32_t* at = counts + int64_t{block} * experts + expert;
    const int value = block < block_count ? *at : 0;
    int total;
    const int earlier = block_scan(value, total);
    if (block < block_count) *at = carried + earlier;
    carried += total;
  }
  if (threadIdx.x == 0) totals[expert] = carried;
}

// starts[e] = rows of experts before e, for all blocks of place(); block 0 writes them out.
__device__ void offsets_of(const int32_t* totals, int experts, int32_t* starts, int64_t* out) {
  int carried = 0;
  for (int start = 0; start < experts; start += kSortBlock) {
    const int e = start + static_cast<int>(threadIdx.x);
    int total;
    const int earlier = block_scan(e < experts ? totals[e] : 0, total);
    if (e < experts) {
      starts[e] = carried + earlier;
      if (blockIdx.x == 0) out[e] = carried + earlier;
    }
    carried += total;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) out[experts] = carried;
}

__global__ void place(Sort a) {
  extern __shared__ int32_t shared[];
  const int experts = static_cast<int>(a.experts);
  int32_t *starts = shared, *in_warp = shared + experts;  // in_warp: [warps, experts]
  constexpr int warps = kSortBlock / kLanes;
  for (int i = threadIdx.x; i < warps * experts; i += kSortBlock) in_warp[i] = 0;
  offsets_of(a.totals, experts, starts, a.offsets);
  __syncthreads();
  const int64_t slot = int64_t{blockIdx.x} * kSortBlock + threadIdx.x;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  int expert = -1;
  if (slot < a.slots && is_expert(a.selected[slot], experts))
    expert = static_cast<int>(a.selected[slot]);
  const unsigned same = __match_any_sync(kWarp, expert);
  const int rank = __popc(same & ((1u << lane) - 1u));
  if (expert >= 0 && rank == 0) in_warp[warp * experts + expert] = __popc(same);
  __syncthreads();
  if (slot >= a.slots) return;
  if (expert < 0) {
    a.position[slot] = -1;
    return;
  }
  int row = starts[expert] + a.blocks[int64_t{blockIdx.x} * experts + expert] + rank;
  for (int w = 0; w < warp; ++w) row += in_warp[w * experts + expert];
  a.position[slot] = row;
  a.slot_of[row] = static_cast<int32_t>(slot);
}

// One warp for each row; Word is the widest type that divides a row.
template <class Word>
__global__ void copy_rows(const Word* x, const int32_t* slot_of, const int64_t* used, int64_t row_count,
                          int64_t per_token, int64_t words, Word* rows) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (row >= row_count) return;
  Word* target = rows + row * words;
  const int lane = threadIdx.x % kLanes;
  if (row >= *used) {
    for (int64_t j = lane; j < words; j += kLanes) target[j] = Word{};
    return;
  }
  const Word* source = x + slot_of[row] / per_token * words;
  for (int64_t j = lane; j < words; j += kLanes) target[j] = source[j];
}

template <class T>
__global__ void add_rows(const T* grad, const int64_t* position, int64_t tokens, int64_t per_token,
                         int64_t width, T* grad_x) {
  const int64_t token = int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (token >= tokens) return;
  for (int64_t j = threadIdx.x % kLanes; j < width; j += kLanes) {
    Compute<T> sum = 0;
    for (int64_t k = 0; k < per_token; ++k) {
      const int64_t row = position[token * per_token + k];
      if (row >= 0) sum += load(grad[row * width + j]);
    }
    grad_x[token * width + j] = store<T>(sum);
  }
}

}  // namespace

int sort_slots(const Sort& call, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const int experts = static_cast<int>(call.experts);
  const int count = static_cast<int>((call.slots + kSortBlock - 1) / kSortBlock);
  const size_t one = sizeof(int32_t) * static_cast<size_t>(experts);
  if (count > 0)
    histogram<<<count, kSortBlock, one, queue>>>(call.selected, call.slots, experts, call.blocks);
  scan<<<experts, kSortBlock, 0, queue>>>(call.blocks, count, experts, call.totals);
  // with no slot at all one block still writes the offsets
  place<<<count > 0 ? count : 1, kSortBlock, one * (1 + kSortBlock / kLanes), queue>>>(call);
  return launched();
}

int gather_rows(const void* x, const int32_t* slot_of, const int64_t* offsets, int64_t row_count,
                int64_t per_token, int64_t experts, int64_t row_bytes, void* rows, void* stream) {
  if (row_count == 0 || row_bytes == 0) return 0;
  const auto launch = [&](auto word) {
    using Word = decltype(word);
    copy_rows<<<blocks(row_count, kWarps), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const Word*>(x), slot_of, offsets + experts, row_count, per_token,
        row_bytes / static_cast<int64_t>(sizeof(Word)), static_cast<Word*>(rows));
  };
  // a view may begin at any element of its storage
  const auto fits = [&](int64_t bytes) {
    const auto unit = static_cast<uintptr_t>(bytes);
    return row_bytes % bytes == 0 && aligned(x, unit) && aligned(rows, unit);
  };
  if (fits(16))
    launch(uint4{});
  else if (fits(4))
    launch(uint32_t{});
  else if (fits(2))
    launch(uint16_t{});
  else
    launch(uint8_t{});
  return launched();
}

int permute_backward(Type type, const void* grad, const int64_t* position, int64_t tokens,
                     int64_t per_token, int64_t width, void* grad_x, void* stream) {
  if (tokens == 0) return 0;
  on_type(type, [&](auto zero) {
    using T = decltype(zero);
    add_rows<<<blocks(tokens, kWarps), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<const T*>(grad), position, tokens, per_token, width, static_cast<T*>(grad_x));
  });
  return launched();
}

}  // namespace growstage::cuda
