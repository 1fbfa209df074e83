// CUDA kernels of `expert_mlp`: two grouped products over ragged rows and widths. Which tile a
// block computes is found on the device, so the host never waits for the offsets.
//
// 64 x 64 tiles, four warps. Half types and TF32 use the tensor cores (wmma, sm_80 and later);
// float32 and float64 are computed exactly, by fused multiply-adds in order of depth.
#include <mma.h>

#include "device.cuh"

namespace growstage::cuda {
namespace {

namespace wmma = nvcuda::wmma;

constexpr int kTile = 64, kBlock = 128, kFragment = 16;

template <class T, bool kTensor>
struct Plan {
  static constexpr int depth = kTensor ? 32 : 16;
  static constexpr int pad = kTensor ? 16 / static_cast<int>(sizeof(T)) : 1;
  static constexpr int ld_a = depth + pad, ld_b = kTile + (kTensor ? pad : 4);
  static constexpr int ld_c = kTile + 4;
  using C = Compute<T>;
  static constexpr size_t tiles = sizeof(T) * (kTile * ld_a + depth * ld_b);
  static constexpr size_t result = sizeof(C) * kTile * ld_c;
  static constexpr size_t bytes = tiles > result ? tiles : result;
};

// C[64, 64] += A[64, depth] B[depth, 64] from shared memory, held in registers between steps.
template <class T, bool kTensor>
class Accumulator;

// Exact: each thread owns 8 x 4 values.
template <class T>
class Accumulator<T, false> {
  using P = Plan<T, false>;
  using C = typename P::C;

 public:
  __device__ void step(const T* a, const T* b) {
    const int row = threadIdx.x / 16 * 8, column = threadIdx.x % 16 * 4;
    for (int p = 0; p < P::depth; ++p) {
      C right[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) right[j] = load(b[p * P::ld_b + column + j]);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const C left = load(a[(row + i) * P::ld_a + p]);
#pragma unroll
        for (int j = 0; j < 4; ++j) sums_[i][j] += left * right[j];
      }
    }
  }

  __device__ void write(C* c) const {
    const int row = threadIdx.x / 16 * 8, column = threadIdx.x % 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) c[(row + i) * P::ld_c + column + j] = sums_[i][j];
  }

 private:
  C sums_[8][4] = {};
};

template <class T>
struct Operand {
  using type = T;
  static constexpr int depth = 16;
};
template <>
struct Operand<float> {
  using type = wmma::precision::tf32;
  static constexpr int depth = 8;
};

// Tensor cores: each warp owns 32 x 32 values as 2 x 2 fragments.
template <class T>
class Accumulator<T, true> {
  using P = Plan<T, true>;
  using O = Operand<T>;
  using A = wmma::fragment<wmma::matrix_a, kFragment, kFragment, O::depth, typename O::type,
                           wmma::row_major>;
  using B = wmma::fragment<wmma::matrix_b, kFragment, kFragment, O::depth, typename O::type,
                           wmma::row_major>;

 public:
  __device__ Accumulator() {
    for (auto& line : sums_)
      for (auto& sum : line) wmma::fill_fragment(sum, 0.0f);
  }

  __device__ void step(const T* a, const T* b) {
    const int row = corner_row(), column = corner_column();
    for (int p = 0; p < P::depth; p += O::depth) {
      A left[2];
      B right[2];
      for (int i = 0; i < 2; ++i) {
        wmma::load_matrix_sync(left[i], a + (row + i * kFragment) * P::ld_a + p, P::ld_a);
        wmma::load_matrix_sync(right[i], b + p * P::ld_b + column + i * kFragment, P::ld_b);
        round(left[i]);
        round(right[i]);
      }
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j)
          wmma::mma_sync(sums_[i][j], left[i], right[j], sums_[i][j]);
    }
  }

  __device__ void write(float* c) const {
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j)
        wmma::store_matrix_sync(
            c + (corner_row() + i * kFragment) * P::ld_c + corner_column() + j * kFragment,
            sums_[i][j], P::ld_c, wmma::mem_row_major);
  }

 private:
  __device__ static int corner_row() { return static_cast<int>(threadIdx.x) / kLanes / 2 * 32; }
  __device__ static int corner_column() { return static_cast<int>(threadIdx.x) / kLanes % 2 * 32; }
  template <class F>
  __device__ static void round(F& fragment) {
    if constexpr (std::is_same_v<T, float>)
      for (int i = 0; i < fragment.num_elements; ++i)
        fragment.x[i] = wmma::__float_to_tf32(fragment.x[i]);
  }

  wmma::fragment<wmma::accumulator, kFragment, kFragment, O::depth, float> sums_[2][2];
};

// Fills a [rows, columns] tile of shared memory from `at(row, column)`. Neighbouring threads take
// neighbouring columns, or rows where those are neighbours in global memory.
template <int kRows, int kColumns, bool kRowsFirst, class T, class F>
__device__ void fill(T* tile, int stride, const F& at) {
  for (int i = threadIdx.x; i < kRows * kColumns; i += kBlock) {
    const int row = kRowsFirst ? i % kRows : i / kColumns;
    const int column = kRowsFirst ? i / kRows : i % kColumns;
    tile[row * stride + column] = at(row, column);
  }
}

// What a product reads at `from`; of gated experts the unit whose value is `units` further on.
template <class T>
__device__ T activated(const T* from, Activation kind, bool gated, int64_t units) {
  if (gated) return store<T>(activate(load(*from), kind) * load(from[units]));
  return kind == Activation::kNone ? *from : store<T>(activate(load(*from), kind));
}

struct Segment {
  int member;      // place in the group, -1 = this block has nothing to do
  int64_t begin, end;
};

// The expert and the rows of row tile `tile`.
__device__ Segment find_rows(const Group& group, const int64_t* offsets, int64_t tile) {
  for (int i = 0; i < group.count; ++i) {
    const int64_t first = offsets[group.expert[i]], last = offsets[group.expert[i] + 1];
    const int64_t tiles = (last - first + kTile - 1) / kTile;
    if (tile < tiles) {
      const int64_t begin = first + tile * kTile;
      return {i, begin, begin + kTile < last ? begin + kTile : last};
    }
    tile -= tiles;
  }
  return {-1, 0, 0};
}

// Turns the gradient of hidden unit `column` of a row into those of its gate and of its value.
template <class T>
__device__ void write_gated(const RowsProduct& call, int64_t row, int column, int units,
                            Compute<T> grad) {
  const T* kept = static_cast<const T*>(call.kept) + row * call.ld_kept + column;
  T* result = static_cast<T*>(call.result) + row * call.ldc + column;
  const Compute<T> gate = load(kept[0]), to_gate = grad * load(kept[units]);
  const bool closed = call.slope == Activation::kRelu && gate <= Compute<T>{0};
  result[0] = store<T>(closed ? Compute<T>{0} : to_gate * slope(gate, call.slope));
  result[units] = store<T>(grad * activate(gate, call.slope));
}

template <class T, bool kTensor, bool kTransposed>
__global__ void __launch_bounds__(kBlock) rows_kernel(RowsProduct call, Group group) {
  using P = Plan<T, kTensor>;
  using C = typename P::C;
  alignas(32) __shared__ unsigned char memory[P::bytes];
  const Segment here = find_rows(group, call.offsets, blockIdx.x);
  if (here.member < 0) return;
  const int n = group.n[here.member], depth = group.k[here.member];
  const int first_column = static_cast<int>(blockIdx.y) * kTile;
  if (first_column >= n) return;
  const int rows = static_cast<int>(here.end - here.begin);
  const T* a = static_cast<const T*>(call.a) + here.begin * call.lda;
  const T* w = static_cast<const T*>(group.weight[here.member]);
  T* tile_a = reinterpret_cast<T*>(memory);
  T* tile_b = tile_a + kTile * P::ld_a;
  const T zero = store<T>(C{0});
  const bool gated_input = call.gated && call.kept == nullptr;
  Accumulator<T, kTensor> sums;
  for (int p0 = 0; p0 < depth; p0 += P::depth) {
    fill<kTile, P::depth, false>(tile_a, P::ld_a, [&](int r, int p) {
      if (r >= rows || p0 + p >= depth) return zero;
      return activated(a + r * call.lda + p0 + p, call.on_load, gated_input, depth);
    });
    fill<P::depth, kTile, kTransposed>(tile_b, P::ld_b, [&](int p, int j) {
      if (p0 + p >= depth || first_column + j >= n) return zero;
      const int64_t row = p0 + p, column = first_column + j;
      return w[kTransposed ? column * depth + row : row * n + column];
    });
    __syncthreads();
    sums.step(tile_a, tile_b);
    __syncthreads();
  }
  C* result = reinterpret_cast<C*>(memory);
  sums.write(result);
  __syncthreads();
  const T* bias = static_cast<const T*>(group.bias[here.member]);
  for (int i = threadIdx.x; i < kTile * kTile; i += kBlock) {
    const int r = i / kTile, j = i % kTile, column = first_column + j;
    if (r >= rows || column >= n) continue;
    C value = result[r * P::ld_c + j];
    if (bias != nullptr) value += load(bias[column]);
    value = activate(value, call.on_store);
    const int64_t row = here.begin + r;
    if (call.gated && call.kept != nullptr) {
      write_gated<T>(call, row, column, n, value);
      continue;
    }
    if (call.kept != nullptr) {
      const C kept = load(static_cast<const T*>(call.kept)[row * call.ld_kept + column]);
      // not a product with 0 for ReLU: the gradient of a closed unit is 0 whatever came in
      if (call.slope == Activation::kRelu)
        value = kept <= C{0} ? C{0} : value;
      else
        value *= slope(kept, call.slope);
    }
    static_cast<T*>(call.result)[row * call.ldc + column] = store<T>(value);
  }
}

template <class T, bool kTensor>
__global__ void __launch_bounds__(kBlock) parameter_kernel(ParameterProduct call, Group group) {
  using P = Plan<T, kTensor>;
  using C = typename P::C;
  alignas(32) __shared__ unsigned char memory[P::bytes];
  __shared__ C bias_sums[kTile];
  const int member = static_cast<int>(blockIdx.z);
  const int m = group.k[member], n = group.n[member];
  const int first_row = static_cast<int>(blockIdx.x) * kTile;
  const int first_column = static_cast<int>(blockIdx.y) * kTile;
  // also where there is no column
  const bool bias = blockIdx.y == 0 && group.out_bias[member] != nullptr;
  if (first_row >= m || (first_column >= n && !bias)) return;
  const int64_t begin = call.offsets[group.expert[member]];
  const int64_t end = call.offsets[group.expert[member] + 1];
  const T *a = static_cast<const T*>(call.a), *b = static_cast<const T*>(call.b);
  T* tile_a = reinterpret_cast<T*>(memory);
  T* tile_b = tile_a + kTile * P::ld_a;
  const T zero = store<T>(C{0});
  if (threadIdx.x < kTile) bias_sums[threadIdx.x] = 0;
  const auto counts = [&](int64_t row) {
    return row < end && (call.learning == nullptr || call.learning[row]);
  };
  Accumulator<T, kTensor> sums;
  for (int64_t row = begin; row < end; row += P::depth) {
    fill<kTile, P::depth, true>(tile_a, P::ld_a, [&](int i, int p) {
      if (first_row + i >= m || !counts(row + p)) return zero;
      return a[(row + p) * call.lda + first_row + i];
    });
    fill<P::depth, kTile, false>(tile_b, P::ld_b, [&](int p, int j) {
      if (first_column + j >= n || !counts(row + p)) return zero;
      return activated(b + (row + p) * call.ldb + first_column + j, call.on_load_b, call.gated, n);
    });
    __syncthreads();
    if (bias && threadIdx.x < kTile)
      for (int p = 0; p < P::depth; ++p)
        bias_sums[threadIdx.x] += load(tile_a[threadIdx.x * P::ld_a + p]);
    sums.step(tile_a, tile_b);
    __syncthreads();
  }
  C* result = reinterpret_cast<C*>(memory);
  sums.write(result);
  __syncthreads();
  T* out = static_cast<T*>(group.out[member]);
  for (int i = threadIdx.x; i < kTile * kTile; i += kBlock) {
    const int r = i / kTile, j = i % kTile;
    if (first_row + r < m && first_column + j < n)
      out[int64_t{first_row + r} * n + first_column + j] = store<T>(result[r * P::ld_c + j]);
  }
  if (bias && threadIdx.x < kTile && first_row + static_cast<int>(threadIdx.x) < m)
    static_cast<T*>(group.out_bias[member])[first_row + threadIdx.x] =
        store<T>(bias_sums[threadIdx.x]);
}

template <class T>
__global__ void zero_rows(T* matrix, const int64_t* used, int64_t rows, int64_t width) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = *used * width + int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rows * width;
       i += stride)
    matrix[i] = store<T>(Compute<T>{0});
}

int largest(const int* values, int count) {
  int most = 0;
  for (int i = 0; i < count; ++i) most = values[i] > most ? values[i] : most;
  return most;
}

unsigned tiles(int64_t size) { return static_cast<unsigned>((size + kTile - 1) / kTile); }

// Calls f(stored value, std::bool_constant<tensor cores>).
template <class F>
void on_math(Type type, bool tf32, const F& f) {
  switch (type) {
    case Type::kFloat:
      return tf32 ? f(float{}, std::true_type{}) : f(float{}, std::false_type{});
    case Type::kDouble:
      return f(double{}, std::false_type{});
    case Type::kHalf:
      return f(__half{}, std::true_type{});
    default:
      return f(__nv_bfloat16{}, std::true_type{});
  }
}

}  // namespace

int rows_product(const RowsProduct& call, const Group& group, void* stream) {
  const int columns = largest(group.n, group.count);
  if (call.rows == 0 || columns == 0) return 0;
  // every expert may end in a part of a tile; blocks beyond the last tile leave at once
  const dim3 grid(tiles(call.rows) + static_cast<unsigned>(group.count), tiles(columns));
  const auto queue = static_cast<cudaStream_t>(stream);
  on_math(call.type, call.tf32, [&](auto zero, auto tensor) {
    using T = decltype(zero);
    constexpr bool cores = decltype(tensor)::value;
    if (call.transposed)
      rows_kernel<T, cores, true><<<grid, kBlock, 0, queue>>>(call, group);
    else
      rows_kernel<T, cores, false><<<grid, kBlock, 0, queue>>>(call, group);
  });
  return launched();
}

int parameter_product(const ParameterProduct& call, const Group& group, void* stream) {
  if (group.count == 0) return 0;
  const unsigned columns = tiles(largest(group.n, group.count));
  const dim3 grid(tiles(largest(group.k, group.count)), columns > 0 ? columns : 1,
                  static_cast<unsigned>(group.count));
  if (grid.x == 0) return 0;
  on_math(call.type, call.tf32, [&](auto zero, auto tensor) {
    using T = decltype(zero);
    parameter_kernel<T, decltype(tensor)::value>
        <<<grid, kBlock, 0, static_cast<cudaStream_t>(stream)>>>(call, group);
  });
  return launched();
}

int zero_tail(Type type, void* matrix, const int64_t* offsets, int64_t experts, int64_t rows,
              int64_t width, void* stream) {
  if (rows == 0 || width == 0) return 0;
  on_type(type, [&](auto zero) {
    using T = decltype(zero);
    zero_rows<<<128, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<T*>(matrix), offsets + experts, rows, width);
  });
  return launched();
}

}  // namespace growstage::cuda
