// Row-major matrix product for the CPU kernels: the BLAS inside libtorch, or a portable loop.
#pragma once

#include <cstdint>

namespace growstage::cpu {

// C[m, n] = op(A)[m, k] op(B)[k, n] + beta C, beta 0 or 1 (0 ignores what C held, NaN included).
// With k = 0 the product is 0. Leading dimensions are those of the matrices as stored.
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a,
          int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const double* a,
          int64_t lda, const double* b, int64_t ldb, double beta, double* c, int64_t ldc);

// Is the BLAS of libtorch in use? (No: it exports none, or GROWSTAGE_OPS_GEMM=portable is set.)
bool gemm_is_blas();

}  // namespace growstage::cpu
