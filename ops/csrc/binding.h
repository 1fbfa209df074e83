// Between torch's stable ABI and the kernels: checks, buffers, dispatch over element types.
// Needs nothing newer than torch 2.11 and no symbol of libtorch_cuda.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>
#include <vector>

#include "shared.h"

namespace growstage {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// What the CPU kernels take as `parallel`: calls f(begin, end) on parts of 0..total.
struct Threads {
  template <class F>
  void operator()(int64_t total, int64_t grain, const F& f) const {
    if (total > 0) torch::stable::parallel_for(0, total, grain, f);
  }
};

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <class T>
T* data(const OptionalTensor& tensor) {
  return tensor.has_value() ? data<T>(*tensor) : nullptr;
}

inline Tensor buffer(const Tensor& like, std::vector<int64_t> shape, ScalarType type) {
  return torch::stable::new_empty(like, shape, type);
}

inline Tensor buffer(const Tensor& like, std::vector<int64_t> shape) {
  return buffer(like, std::move(shape), like.scalar_type());
}

inline bool is_half(ScalarType type) {
  return type == ScalarType::Half || type == ScalarType::BFloat16;
}

inline void check_floating(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double ||
                      is_half(x.scalar_type()),
                  name, " must be float32, float64, float16 or bfloat16");
}

// The type in which the CPU computes: float32 for half types.
inline ScalarType compute_type(const Tensor& x) {
  return is_half(x.scalar_type()) ? ScalarType::Float : x.scalar_type();
}

inline Tensor as(const Tensor& x, ScalarType type) {
  return torch::stable::contiguous(x.scalar_type() == type ? x : torch::stable::to(x, type));
}

inline OptionalTensor as(const OptionalTensor& x, ScalarType type) {
  return x.has_value() ? OptionalTensor(as(*x, type)) : std::nullopt;
}

// Contiguous int64 matrix of T tokens and K slots; refuses what int32 cannot number.
inline Tensor slots(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 2, name, " must be [tokens, slots]");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Long, name, " must be int64");
  STD_TORCH_CHECK(x.size(0) == 0 || x.size(1) <= kMaxSlots / x.size(0), name, " has ", x.size(0),
                  " x ", x.size(1), " slots; at most 2^31 - 1 are supported: use smaller batches");
  return torch::stable::contiguous(x);
}

// Calls f with a value of the element type: float or double.
template <class F>
void on_real(ScalarType type, const F& f) {
  if (type == ScalarType::Double)
    f(double{});
  else
    f(float{});
}

}  // namespace growstage
