// Tensor-core fragments: every lane holds the whole fragment, so all lanes compute the same.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
enum layout_t { mem_row_major };
namespace precision {
struct tf32;
}

template <class Use, int M, int N, int K>
struct Extent;
template <int M, int N, int K>
struct Extent<matrix_a, M, N, K> {
  static constexpr int rows = M, columns = K;
};
template <int M, int N, int K>
struct Extent<matrix_b, M, N, K> {
  static constexpr int rows = K, columns = N;
};
template <int M, int N, int K>
struct Extent<accumulator, M, N, K> {
  static constexpr int rows = M, columns = N;
};

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment : Extent<Use, M, N, K> {
  using E = Extent<Use, M, N, K>;
  static constexpr int num_elements = E::rows * E::columns;
  float x[num_elements];
};

inline float __float_to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x == x) bits = (bits + 0x1000u) & ~0x1fffu;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// What the hardware demands of pointers and row lengths.
template <class S>
void check(const S* at, unsigned stride) {
  if (reinterpret_cast<uintptr_t>(at) % 32 == 0 && stride * sizeof(S) % 16 == 0) return;
  std::fputs("a wmma pointer or row length is not aligned\n", stderr);
  std::abort();
}

template <class F>
void fill_fragment(F& f, float value) {
  for (float& x : f.x) x = value;
}

template <class F, class S>
void load_matrix_sync(F& f, const S* from, unsigned stride) {
  check(from, stride);
  for (int i = 0; i < F::num_elements; ++i)
    f.x[i] = static_cast<float>(from[i / F::columns * stride + i % F::columns]);
}

template <class F>
void store_matrix_sync(float* to, const F& f, unsigned stride, layout_t) {
  check(to, stride);
  for (int i = 0; i < F::num_elements; ++i) to[i / F::columns * stride + i % F::columns] = f.x[i];
}

template <class D, class A, class B>
void mma_sync(D& d, const A& a, const B& b, const D& c) {
  D sum = c;
  for (int i = 0; i < D::rows; ++i)
    for (int p = 0; p < A::columns; ++p)
      for (int j = 0; j < D::columns; ++j)
        sum.x[i * D::columns + j] += a.x[i * A::columns + p] * b.x[p * B::columns + j];
  d = sum;
}

}  // namespace nvcuda::wmma
