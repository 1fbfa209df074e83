#include "gemm.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

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

// Blocked product that a compiler vectorises; two to ten times slower than a BLAS.
template <class T>
void portable(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const T* a,
              int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  constexpr int64_t inner = 128, columns = 256;
  std::vector<T> panel(inner * columns);
  if (beta == T{0})
    for (int64_t i = 0; i < m; ++i) std::fill_n(c + i * ldc, n, T{0});
  for (int64_t p0 = 0; p0 < k; p0 += inner)
    for (int64_t j0 = 0; j0 < n; j0 += columns) {
      const int64_t ps = std::min(inner, k - p0), js = std::min(columns, n - j0);
      for (int64_t p = 0; p < ps; ++p)
        for (int64_t j = 0; j < js; ++j)
          panel[p * columns + j] =
              transpose_b ? b[(j0 + j) * ldb + p0 + p] : b[(p0 + p) * ldb + j0 + j];
      for (int64_t i = 0; i < m; ++i) {
        T* row = c + i * ldc + j0;
        for (int64_t p = 0; p < ps; ++p) {
          const T factor = transpose_a ? a[(p0 + p) * lda + i] : a[i * lda + p0 + p];
          const T* source = panel.data() + p * columns;
#pragma omp simd
          for (int64_t j = 0; j < js; ++j) row[j] += factor * source[j];
        }
      }
    }
}

// A row-major product is the column-major product of the swapped operands.
template <class T, class Blas>
void product(Blas* blas, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
             const T* a, int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (!gemm_is_blas() || k == 0) {
    portable(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
    return;
  }
  const char first = transpose_b ? 'T' : 'N', second = transpose_a ? 'T' : 'N';
  const int rows = static_cast<int>(n), columns = static_cast<int>(m), depth = static_cast<int>(k);
  const int stride_b = static_cast<int>(ldb), stride_a = static_cast<int>(lda);
  const int stride_c = static_cast<int>(ldc);
  const T one = 1;
  blas(&first, &second, &rows, &columns, &depth, &one, b, &stride_b, a, &stride_a, &beta, c,
       &stride_c);
}

}  // namespace

bool gemm_is_blas() {
  static const bool wanted = [] {
    const char* choice = std::getenv("GROWSTAGE_OPS_GEMM");
    return choice == nullptr || std::strcmp(choice, "portable") != 0;
  }();
  return wanted && sgemm_ != nullptr && dgemm_ != nullptr;
}

void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a,
          int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  product(sgemm_, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
}

void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const double* a,
          int64_t lda, const double* b, int64_t ldb, double beta, double* c, int64_t ldc) {
  product(dgemm_, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
}

}  // namespace growstage::cpu
