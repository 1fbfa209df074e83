#include "gemm.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#define GROWSTAGE_BLAS(T)                                                                    \
  (const char*, const char*, const int*, const int*, const int*, const T*, const T*, const int*, \
   const T*, const int*, const T*, T*, const int*) __attribute__((weak))

// Not promised by torch, so bound weakly: null where libtorch exports no BLAS.
extern "C" {
void sgemm_ GROWSTAGE_BLAS(float);
void dgemm_ GROWSTAGE_BLAS(double);
}

namespace growstage::cpu {
namespace {

// The own kernel passes all of op(B) for every few rows of A, so it wants that near: larger ones go
// to the BLAS if there is one.
constexpr int64_t kMostBytes = int64_t{2} << 20;

// Sums of `rows` x two vectors stay in registers, beside two vectors of B and one factor of A.
#if defined(__AVX512F__)
constexpr int kBytes = 64, kRows = 14;
#elif defined(__AVX__)
constexpr int kBytes = 32, kRows = 6;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kRows = 12;
#else
constexpr int kBytes = 16, kRows = 6;
#endif

template <class T>
struct Lanes {
  static constexpr int count = kBytes / sizeof(T), panel = 2 * count;
  typedef T V __attribute__((vector_size(kBytes)));
  typedef T Loose __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
};

template <class T>
typename Lanes<T>::V load(const T* from) {
  return *reinterpret_cast<const typename Lanes<T>::Loose*>(from);
}

template <class T>
void store(T* to, typename Lanes<T>::V value) {
  *reinterpret_cast<typename Lanes<T>::Loose*>(to) = value;
}

// One exchange of a transposition: lanes of a and b trade places in blocks of `step`.
template <class T, int step, int... lane>
void exchange(typename Lanes<T>::V& a, typename Lanes<T>::V& b,
              std::integer_sequence<int, lane...>) {
  constexpr int n = Lanes<T>::count;
  using V = typename Lanes<T>::V;
  const V first = __builtin_shufflevector(a, b, ((lane & step) ? n + lane - step : lane)...);
  b = __builtin_shufflevector(a, b, ((lane & step) ? n + lane : lane + step)...);
  a = first;
}

template <class T, int step = 1>
void transpose(std::array<typename Lanes<T>::V, Lanes<T>::count>& block) {
  constexpr int n = Lanes<T>::count;
  if constexpr (step < n) {
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i)
      if (!(i & step))
        exchange<T, step>(block[i], block[i + step], std::make_integer_sequence<int, n>{});
    transpose<T, 2 * step>(block);
  }
}

// Up to `panel` columns of op(B), k-major, padded with zeros to one or two vectors.
template <class T>
void pack_panel(bool transposed, int64_t k, int64_t columns, const T* b, int64_t ldb, T* out) {
  constexpr int n = Lanes<T>::count;
  const int64_t width = columns <= n ? n : 2 * n;
  if (!transposed) {
    for (int64_t p = 0; p < k; ++p, b += ldb, out += width) {
      if (columns == 2 * n) {
        store(out, load(b)), store(out + n, load(b + n));
        continue;
      }
      std::copy_n(b, columns, out);
      std::fill(out + columns, out + width, T{0});
    }
    return;
  }
  for (int64_t j = 0; j < width; j += n) {
    int64_t p = 0;
    for (; j + n <= columns && p + n <= k; p += n) {
      std::array<typename Lanes<T>::V, n> block;
      for (int i = 0; i < n; ++i) block[i] = load(b + (j + i) * ldb + p);
      transpose<T>(block);
      for (int i = 0; i < n; ++i) store(out + (p + i) * width + j, block[i]);
    }
    for (; p < k; ++p)
      for (int64_t i = j; i < j + n; ++i) out[p * width + i] = i < columns ? b[i * ldb + p] : T{0};
  }
}

// What a tile reads and writes; element (i, p) of A is a[i * row + p * depth].
template <class T>
struct Tile {
  const T *a, *b, *bias;
  T* c;
  int64_t row, depth, k, columns, ldc;
  bool add, relu;
};

// The first values of the sums, for one row.
template <class T>
void begin(const Tile<T>& t, int row, int64_t width, T* out) {
  const T* from = t.add ? t.c + row * t.ldc : t.bias;
  std::fill_n(out, width, T{0});
  if (from != nullptr) std::copy_n(from, t.columns, out);
}

template <class T, int rows, int vectors>
void tile(const Tile<T>& t) {
  using V = typename Lanes<T>::V;
  constexpr int n = Lanes<T>::count, width = vectors * n;
  const bool whole = t.columns == width;
  alignas(kBytes) T edge[width];
  V sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
    const T* from = t.add ? t.c + i * t.ldc : t.bias;
    if (!whole) begin(t, i, width, edge), from = edge;
#pragma GCC unroll 2
    for (int j = 0; j < vectors; ++j) sum[i][j] = from == nullptr ? V{} : load(from + j * n);
  }
  const T *a = t.a, *b = t.b;
  for (int64_t p = 0; p < t.k; ++p, a += t.depth, b += width) {
    V factor[vectors];
#pragma GCC unroll 2
    for (int j = 0; j < vectors; ++j) factor[j] = load(b + j * n);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const T left = a[i * t.row];
#pragma GCC unroll 2
      for (int j = 0; j < vectors; ++j) sum[i][j] += left * factor[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
    T* to = whole ? t.c + i * t.ldc : edge;
#pragma GCC unroll 2
    for (int j = 0; j < vectors; ++j) {
      const V value = sum[i][j], zero{};
      store(to + j * n, t.relu ? (value < zero ? zero : value) : value);
    }
    if (!whole) std::copy_n(edge, t.columns, t.c + i * t.ldc);
  }
}

template <class T>
using Kernel = void (*)(const Tile<T>&);

// Kernels by number of rows (from 1) and of vectors (1 or 2).
template <class T, int... i>
constexpr std::array<std::array<Kernel<T>, 2>, kRows> kernels(std::integer_sequence<int, i...>) {
  return {{{tile<T, i + 1, 1>, tile<T, i + 1, 2>}...}};
}

template <class T>
void own(const Product<T>& how, int64_t m, int64_t k, int64_t n, const T* a, int64_t lda,
         const T* panels, T* c, int64_t ldc) {
  static constexpr auto table = kernels<T>(std::make_integer_sequence<int, kRows>{});
  Buffer<T> strip;
  int64_t left = (m + kRows - 1) / kRows;
  for (int64_t i = 0, rows; i < m; i += rows, --left) {
    rows = (m - i + left - 1) / left;
    Tile<T> t{a + i * lda, panels, how.bias, c + i * ldc, lda, 1, k, 0, ldc, how.add, how.relu};
    if (how.transpose_a) {
      T* packed = strip.get(k * kRows);
      for (int64_t p = 0; p < k; ++p)
        for (int64_t r = 0; r < rows; ++r) packed[p * rows + r] = a[p * lda + i + r];
      t.a = packed, t.row = 1, t.depth = rows;
    }
    for (int64_t j = 0; j < n; j += Lanes<T>::panel) {
      t.columns = std::min<int64_t>(n - j, Lanes<T>::panel);
      table[rows - 1][t.columns > Lanes<T>::count](t);
      t.b += k * Lanes<T>::panel, t.c += Lanes<T>::panel;
      if (t.bias != nullptr) t.bias += Lanes<T>::panel;
    }
  }
}

constexpr int64_t kMostDepth = 384;

// A row-major product is the column-major product of the swapped operands.
template <class T, class Blas>
void call(Blas* blas, const Product<T>& how, bool transpose_b, int64_t m, int64_t k, int64_t n,
          const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc) {
  const char first = transpose_b ? 'T' : 'N', second = how.transpose_a ? 'T' : 'N';
  const int rows = static_cast<int>(n), columns = static_cast<int>(m);
  const int stride_b = static_cast<int>(ldb), stride_a = static_cast<int>(lda);
  const int stride_c = static_cast<int>(ldc);
  const T one = 1;
  // A sum over more rows than this the library splits by how many threads there are.
  const int64_t most = how.transpose_a ? kMostDepth : k;
  for (int64_t at = 0; at < k; at += most) {
    const int part = static_cast<int>(std::min(most, k - at));
    const T beta = how.add || at > 0 ? T{1} : T{0};
    const T* left = a + at * (how.transpose_a ? lda : 1);
    const T* right = b + at * (transpose_b ? 1 : ldb);
    blas(&first, &second, &rows, &columns, &part, &one, right, &stride_b, left, &stride_a, &beta, c,
         &stride_c);
  }
  if (how.bias == nullptr && !how.relu) return;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const T x = c[i * ldc + j] + (how.bias == nullptr ? T{0} : how.bias[j]);
      c[i * ldc + j] = how.relu && x < T{0} ? T{0} : x;
    }
}

inline auto blas(float) { return sgemm_; }
inline auto blas(double) { return dgemm_; }

enum class Choice { kAuto, kOwn, kBlas };

// GROWSTAGE_OPS_GEMM=own|blas, else auto.
Choice choice() {
  static const Choice found = [] {
    const char* name = std::getenv("GROWSTAGE_OPS_GEMM");
    if (name != nullptr && std::strcmp(name, "own") == 0) return Choice::kOwn;
    return name != nullptr && std::strcmp(name, "blas") == 0 ? Choice::kBlas : Choice::kAuto;
  }();
  return found;
}

// Intel's library knows Intel's processors best; with short vectors the own kernel is unmeasured.
bool own_is_faster() {
#if defined(__AVX512F__)
  return !__builtin_cpu_is("intel");
#else
  return false;
#endif
}

bool use_blas(int64_t bytes) {
  static const bool exported = sgemm_ != nullptr && dgemm_ != nullptr, own = own_is_faster();
  if (!exported || choice() == Choice::kOwn) return false;
  return choice() == Choice::kBlas || !own || bytes > kMostBytes;
}

}  // namespace

template <class T>
void Right<T>::set(bool transpose, int64_t k, int64_t n, const T* b, int64_t ldb) {
  transpose_ = transpose, k_ = k, n_ = n, b_ = b, ldb_ = ldb, panels_ = nullptr;
  if (k == 0 || use_blas(k * n * static_cast<int64_t>(sizeof(T)))) return;
  constexpr int panel = Lanes<T>::panel;
  T* out = memory_.get(k * ((n + panel - 1) / panel) * panel);
  for (int64_t j = 0; j < n; j += panel)
    pack_panel(transpose, k, std::min<int64_t>(n - j, panel), transpose ? b + j * ldb : b + j, ldb,
               out + k * j);
  panels_ = out;
}

template <class T>
void Product<T>::operator()(int64_t m, const T* a, int64_t lda, const Right<T>& b, T* c,
                            int64_t ldc) const {
  if (m == 0 || b.n_ == 0) return;
  if (b.k_ == 0 || b.panels_ != nullptr)
    own(*this, m, b.k_, b.n_, a, lda, b.panels_, c, ldc);
  else
    call(blas(T{}), *this, b.transpose_, m, b.k_, b.n_, a, lda, b.b_, b.ldb_, c, ldc);
}

template class Right<float>;
template class Right<double>;
template class Product<float>;
template class Product<double>;

}  // namespace growstage::cpu
