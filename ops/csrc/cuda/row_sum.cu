// CUDA kernels of `row_sum`: sums of rows named by lists, each in a fixed order. Atomics only count;
// no sum of floats depends on which thread came first.
#include "device.cuh"

namespace growstage::cuda {
namespace {

constexpr int kColumns = 4;  // of one lane in the forward pass
constexpr int kStrip = kLanes * kColumns;

__device__ bool is_one(const Observed& x, int64_t p) { return p >= 0 && p < x.ones; }

// table[j] = the two signed rows of derived code j; its last row: bias + the rows of `usual`.
template <class T>
__global__ void prepare(const T* weight, const T* bias, Observed x, int64_t width,
                        Compute<T>* table) {
  const int64_t row = blockIdx.x, column = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (column >= width) return;
  Compute<T> sum = 0;
  if (row < x.derived_count) {
    for (int64_t d = 2 * row; d < 2 * row + 2; ++d) {
      const int64_t p = place(x.derived[d]);
      const Compute<T> value = is_one(x, p) ? load(weight[p * width + column]) : Compute<T>{0};
      sum += x.derived[d] >= 0 ? value : -value;
    }
  } else {
    sum = load(bias[column]);
    for (int64_t u = 0; u < x.usual_count; ++u)
      if (is_one(x, x.usual[u])) sum += load(weight[x.usual[u] * width + column]);
  }
  table[row * width + column] = sum;
}

// One warp for each observation and strip of columns, in the order of the CPU: plain codes, derived
// ones, scalars.
template <class T>
__global__ void add_up(const T* weight, Observed x, int64_t width, const Compute<T>* table, T* y) {
  using C = Compute<T>;
  const int64_t sample = int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (sample >= x.batch) return;
  const int64_t first = int64_t{blockIdx.y} * kStrip + threadIdx.x % kLanes;
  C sums[kColumns] = {};
  const auto add = [&](const auto* row, C factor) {
#pragma unroll
    for (int v = 0; v < kColumns; ++v)
      if (first + v * kLanes < width) sums[v] += factor * load(row[first + v * kLanes]);
  };
  add(table + x.derived_count * width, C{1});
  const int16_t* codes = x.entries + sample * x.entry_width;
  for (int64_t k = 0; k < x.slots; ++k)
    if (is_one(x, codes[k])) add(weight + codes[k] * width, C{1});
  for (int64_t k = 0; k < x.slots; ++k) {
    const int64_t pair = codes[k] - x.ones;
    if (pair >= 0 && pair < x.derived_count) add(table + pair * width, C{1});
  }
  for (int64_t s = 0; s < x.scalars; ++s) {
    const auto factor = static_cast<C>(scalar(x, sample, s));
    if (factor != C{0}) add(weight + (x.ones + s) * width, factor);
  }
#pragma unroll
  for (int v = 0; v < kColumns; ++v)
    if (first + v * kLanes < width) y[sample * width + first + v * kLanes] = store<T>(sums[v]);
}

struct Chunk {
  int64_t begin, end;  // samples
};

__device__ Chunk chunk_of(const Observed& x, int64_t size) {
  const int64_t begin = int64_t{blockIdx.x} * size;
  return {begin, begin + size < x.batch ? begin + size : x.batch};
}

__device__ bool is_code(const Observed& x, int code) {
  return code >= 0 && code < x.ones + x.derived_count;
}

// One block for each chunk of samples: how often each code occurs in it.
__global__ void count_codes(Observed x, int64_t size, int32_t* counts) {
  const Chunk chunk = chunk_of(x, size);
  int32_t* mine = counts + int64_t{blockIdx.x} * (x.ones + x.derived_count);
  for (int64_t i = threadIdx.x; i < (chunk.end - chunk.begin) * x.slots; i += kSortBlock) {
    const int code = x.entries[(chunk.begin + i / x.slots) * x.entry_width + i % x.slots];
    if (is_code(x, code)) atomicAdd(mine + code, 1);
  }
}

// Counts of the chunks become what came in earlier chunks.
__global__ void scan_chunks(int32_t* counts, int64_t chunks, int64_t codes, int32_t* totals) {
  const int64_t code = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (code >= codes) return;
  int carried = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int value = counts[chunk * codes + code];
    counts[chunk * codes + code] = carried;
    carried += value;
  }
  totals[code] = carried;
}

// One block: totals[c] become where the list of c begins, totals[codes] where the last one ends.
__global__ void scan_codes(int32_t* totals, int64_t codes) {
  int carried = 0;
  for (int64_t start = 0; start < codes; start += kSortBlock) {
    const int64_t code = start + threadIdx.x;
    int total;
    const int earlier = block_scan(code < codes ? totals[code] : 0, total);
    if (code < codes) totals[code] = carried + earlier;
    carried += total;
  }
  if (threadIdx.x == 0) totals[codes] = carried;
}

// Every sample into the lists of its codes. A block takes its samples one after the other, so lists
// are in their order; a code that occurs twice in a sample makes two equal entries.
__global__ void fill_lists(Observed x, int64_t size, int32_t* counts, const int32_t* starts,
                           int32_t* samples) {
  const Chunk chunk = chunk_of(x, size);
  int32_t* mine = counts + int64_t{blockIdx.x} * (x.ones + x.derived_count);
  for (int64_t sample = chunk.begin; sample < chunk.end; ++sample) {
    for (int64_t k = threadIdx.x; k < x.slots; k += kSortBlock) {
      const int code = x.entries[sample * x.entry_width + k];
      if (is_code(x, code))
        samples[starts[code] + atomicAdd(mine + code, 1)] = static_cast<int32_t>(sample);
    }
    __syncthreads();
  }
}

// Sum of term(i) for i below count: each warp adds up its part, the parts are added in order. Lanes
// are columns; all threads of the block must call it.
template <class C, class Term>
__device__ C sum_terms(int64_t count, const Term& term) {
  __shared__ C parts[kWarps][kLanes];
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int64_t part = (count + kWarps - 1) / kWarps, begin = warp * part;
  const int64_t end = begin + part < count ? begin + part : count;
  C sum = 0;
  for (int64_t i = begin; i < end; ++i) sum += term(i);
  parts[warp][lane] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += parts[w][lane];
  return sum;
}

template <class T>
__device__ Compute<T> sum_list(const T* grad, const int32_t* starts, const int32_t* samples,
                               int64_t code, int64_t width, int64_t column) {
  const int32_t* list = samples + starts[code];
  return sum_terms<Compute<T>>(starts[code + 1] - starts[code], [&](int64_t i) {
    return column < width ? load(grad[list[i] * width + column]) : Compute<T>{0};
  });
}

// Gradients of the derived rows and, in the last row, of the bias.
template <class T>
__global__ void sum_derived(const T* grad, Observed x, int64_t width, const int32_t* starts,
                            const int32_t* samples, Compute<T>* table, T* grad_bias) {
  using C = Compute<T>;
  const int64_t row = blockIdx.x, column = int64_t{blockIdx.y} * kLanes + threadIdx.x % kLanes;
  const bool is_bias = row == x.derived_count;
  const C sum = is_bias ? sum_terms<C>(x.batch,
                                       [&](int64_t b) {
                                         return column < width ? load(grad[b * width + column])
                                                               : C{0};
                                       })
                        : sum_list(grad, starts, samples, x.ones + row, width, column);
  if (threadIdx.x >= kLanes || column >= width) return;
  table[row * width + column] = sum;
  if (is_bias) grad_bias[column] = store<T>(sum);
}

// Gradient of one row of the weight: its own samples, then what `usual` and `derived` add to it.
template <class T>
__global__ void sum_weight(const T* grad, Observed x, int64_t width, const int32_t* starts,
                           const int32_t* samples, const Compute<T>* table, T* grad_weight) {
  using C = Compute<T>;
  const int64_t row = blockIdx.x, column = int64_t{blockIdx.y} * kLanes + threadIdx.x % kLanes;
  const int64_t derived = 2 * x.derived_count;
  C sum;
  if (row >= x.ones) {
    sum = sum_terms<C>(x.batch, [&](int64_t b) {
      const auto factor = static_cast<C>(scalar(x, b, row - x.ones));
      return column < width && factor != C{0} ? factor * load(grad[b * width + column]) : C{0};
    });
  } else {
    sum = sum_list(grad, starts, samples, row, width, column);
    bool named = false;
    for (int64_t u = threadIdx.x; u < x.usual_count; u += kThreads) named |= x.usual[u] == row;
    for (int64_t d = threadIdx.x; d < derived; d += kThreads) named |= place(x.derived[d]) == row;
    if (__syncthreads_or(named) && threadIdx.x < kLanes && column < width) {
      for (int64_t u = 0; u < x.usual_count; ++u)
        if (x.usual[u] == row) sum += table[x.derived_count * width + column];
      for (int64_t d = 0; d < derived; ++d)
        if (place(x.derived[d]) == row) {
          const C value = table[d / 2 * width + column];
          sum += x.derived[d] >= 0 ? value : -value;
        }
    }
  }
  if (threadIdx.x < kLanes && column < width) grad_weight[row * width + column] = store<T>(sum);
}

unsigned strips(int64_t width, int64_t strip) {
  return static_cast<unsigned>((width + strip - 1) / strip);
}

}  // namespace

int row_sum(Type type, const void* weight, const void* bias, const Observed& x, int64_t width,
            void* table, void* y, void* stream) {
  if (x.batch == 0 || width == 0) return 0;
  const auto queue = static_cast<cudaStream_t>(stream);
  const dim3 rows(static_cast<unsigned>(x.derived_count + 1), strips(width, kThreads));
  const dim3 samples(blocks(x.batch, kWarps).x, strips(width, kStrip));
  on_type(type, [&](auto zero) {
    using T = decltype(zero);
    const auto* w = static_cast<const T*>(weight);
    auto* between = static_cast<Compute<T>*>(table);
    prepare<T><<<rows, kThreads, 0, queue>>>(w, static_cast<const T*>(bias), x, width, between);
    add_up<T><<<samples, kThreads, 0, queue>>>(w, x, width, between, static_cast<T*>(y));
  });
  return launched();
}

int row_sum_backward(Type type, const void* grad, const Observed& x, int64_t width,
                     const Lists& lists, void* table, void* grad_weight, void* grad_bias,
                     void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const int64_t codes = x.ones + x.derived_count;
  const auto chunks = static_cast<unsigned>((x.batch + lists.chunk - 1) / lists.chunk);
  if (width == 0) return 0;
  if (chunks > 0) count_codes<<<chunks, kSortBlock, 0, queue>>>(x, lists.chunk, lists.counts);
  if (codes > 0)
    scan_chunks<<<blocks(codes, kThreads), kThreads, 0, queue>>>(lists.counts, chunks, codes,
                                                                 lists.starts);
  scan_codes<<<1, kSortBlock, 0, queue>>>(lists.starts, codes);
  if (chunks > 0)
    fill_lists<<<chunks, kSortBlock, 0, queue>>>(x, lists.chunk, lists.counts, lists.starts,
                                                 lists.samples);
  const dim3 derived(static_cast<unsigned>(x.derived_count + 1), strips(width, kLanes));
  const dim3 weights(static_cast<unsigned>(x.ones + x.scalars), strips(width, kLanes));
  on_type(type, [&](auto zero) {
    using T = decltype(zero);
    const auto* incoming = static_cast<const T*>(grad);
    auto* between = static_cast<Compute<T>*>(table);
    sum_derived<T><<<derived, kThreads, 0, queue>>>(incoming, x, width, lists.starts, lists.samples,
                                                    between, static_cast<T*>(grad_bias));
    if (weights.x > 0)
      sum_weight<T><<<weights, kThreads, 0, queue>>>(incoming, x, width, lists.starts,
                                                     lists.samples, between,
                                                     static_cast<T*>(grad_weight));
  });
  return launched();
}

}  // namespace growstage::cuda
