// Row-major matrix products for the CPU kernels: a register-tiled kernel of our own, or the BLAS
// inside libtorch where that is the faster one (GROWSTAGE_OPS_GEMM=own|blas decides otherwise).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace growstage::cpu {

// Uninitialised memory that grows when asked for more, aligned to a cache line.
template <class T>
class Buffer {
 public:
  T* get(int64_t size) {
    if (size > size_) {
      const auto bytes = (static_cast<size_t>(size) * sizeof(T) + 63) / 64 * 64;
      memory_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
      if (!memory_) throw std::bad_alloc();
      size_ = size;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t size_ = 0;
};

// The right-hand matrix op(B)[k, n] of products, rearranged once for all of them. `b` must stay.
template <class T>
class Right {
 public:
  void set(bool transpose, int64_t k, int64_t n, const T* b, int64_t ldb);

 private:
  template <class U>
  friend class Product;
  bool transpose_ = false;
  int64_t k_ = 0, n_ = 0, ldb_ = 0;
  const T* b_ = nullptr;
  const T* panels_ = nullptr;
  Buffer<T> memory_;
};

// C[m, n] = act(op(A)[m, k] op(B)[k, n] + bias), or C += op(A) op(B). Leading dimensions are those
// of the matrices as stored. Without `add` what C held is ignored, NaN included; k = 0 gives 0.
// Every element is summed in an order that depends on k alone.
template <class T>
class Product {
 public:
  bool transpose_a = false, add = false, relu = false;
  const T* bias = nullptr;  // [n]; not together with `add`

  void operator()(int64_t m, const T* a, int64_t lda, const Right<T>& b, T* c, int64_t ldc) const;
};

}  // namespace growstage::cpu
