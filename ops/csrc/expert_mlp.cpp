// `expert_mlp` on the CPU: torch's side of cpu/expert_mlp.h.
#include "cpu/expert_mlp.h"

#include "checks.h"

namespace growstage {
namespace {

using Tensors = std::vector<Tensor>;

Tensors as_all(const Tensors& tensors, ScalarType type) {
  Tensors out;
  for (const auto& tensor : tensors) out.push_back(as(tensor, type));
  return out;
}

template <class T>
std::vector<T*> pointers(const Tensors& tensors) {
  std::vector<T*> out;
  for (const auto& tensor : tensors) out.push_back(data<T>(tensor));
  return out;
}

template <class T>
std::vector<const T*> constants(const Tensors& tensors) {
  const auto found = pointers<T>(tensors);
  return {found.begin(), found.end()};
}

void check_offsets(const Tensor& offsets, int64_t rows) {
  const auto* at = data<int64_t>(offsets);
  const int64_t experts = offsets.numel() - 1;
  bool rising = at[0] == 0 && at[experts] <= rows;
  for (int64_t e = 0; e < experts; ++e) rising = rising && at[e] <= at[e + 1];
  STD_TORCH_CHECK(rising, "offsets must rise from 0 to at most the number of rows, ", rows);
}

std::tuple<Tensor, Tensor> expert_mlp(const Tensor& rows, const Tensor& offsets, const Tensors& up,
                                      const Tensors& up_bias, const Tensors& down,
                                      const Tensors& down_bias, const OptionalTensor& /*learning*/,
                                      int64_t activation, bool /*tf32*/, bool gated) {
  const auto n = check_experts(rows, offsets, up, down, activation, gated);
  check_biases(n, up_bias, down, down_bias, rows);
  const auto type = compute_type(rows);
  const Tensor x = as(rows, type), bounds = torch::stable::contiguous(offsets);
  check_offsets(bounds, n.rows);
  const Tensors u = as_all(up, type), ub = as_all(up_bias, type);
  const Tensors d = as_all(down, type), db = as_all(down_bias, type);
  const Tensor y = buffer(x, {n.rows, n.outputs}), hidden = buffer(x, {n.rows, n.stride});
  on_real(type, [&](auto zero) {
    using T = decltype(zero);
    const cpu::Experts<T> a{constants<T>(u),  constants<T>(ub), constants<T>(d),
                            constants<T>(db), n.hidden,         n.inputs,
                            n.outputs,        n.stride,         data<int64_t>(bounds),
                            static_cast<Activation>(activation), gated};
    cpu::expert_mlp(Threads{}, a, data<T>(x), n.rows, data<T>(y), data<T>(hidden));
  });
  return {as(y, rows.scalar_type()), as(hidden, rows.scalar_type())};
}

// Uninitialised gradients of weights and of their biases, if they have some; zero-sized where
// nothing is trained.
std::tuple<Tensors, Tensors> gradients(const Tensor& like, const Tensors& weights,
                                       const std::vector<bool>& trainable, bool biased) {
  Tensors first, second;
  for (size_t e = 0; e < weights.size(); ++e) {
    const int64_t rows = trainable[e] ? weights[e].size(0) : 0;
    first.push_back(buffer(like, {rows, trainable[e] ? weights[e].size(1) : 0}));
    if (biased) second.push_back(buffer(like, {rows}));
  }
  return {first, second};
}

std::tuple<Tensor, Tensors, Tensors, Tensors, Tensors> expert_mlp_backward(
    const Tensor& grad, const Tensor& rows, const Tensor& hidden, const Tensor& offsets,
    const Tensors& up, const Tensors& down, const OptionalTensor& learning,
    std::vector<bool> trainable, bool rows_wanted, int64_t activation, bool /*tf32*/,
    bool gated, bool biased) {
  const auto n = check_experts(rows, offsets, up, down, activation, gated);
  STD_TORCH_CHECK(static_cast<int64_t>(trainable.size()) == n.experts &&
                      (!learning || learning->numel() == n.rows),
                  "trainable needs one flag for each expert, learning one for each row");
  const auto type = compute_type(rows);
  const Tensor g = as(grad, type), x = as(rows, type), kept = as(hidden, type);
  const Tensor bounds = torch::stable::contiguous(offsets);
  check_offsets(bounds, n.rows);
  const OptionalTensor mask = as(learning, ScalarType::Bool);
  const Tensors u = as_all(up, type), d = as_all(down, type);
  const Tensor grad_rows = buffer(x, {rows_wanted ? n.rows : 0, n.inputs});
  const auto [du, dub] = gradients(x, u, trainable, biased);
  const auto [dd, ddb] = gradients(x, d, trainable, biased);
  const Tensors *gu = &du, *gub = &dub, *gd = &dd, *gdb = &ddb;
  on_real(type, [&](auto zero) {
    using T = decltype(zero);
    const cpu::Experts<T> a{constants<T>(u), {},        constants<T>(d), {},
                            n.hidden,        n.inputs,  n.outputs,       n.stride,
                            data<int64_t>(bounds),      static_cast<Activation>(activation),
                            gated};
    const cpu::Gradients<T> out{rows_wanted ? data<T>(grad_rows) : nullptr,
                                pointers<T>(*gu),
                                pointers<T>(*gub),
                                pointers<T>(*gd),
                                pointers<T>(*gdb),
                                {trainable.begin(), trainable.end()}};
    cpu::expert_mlp_backward(Threads{}, a, data<T>(g), data<T>(x), data<T>(kept),
                             data<bool>(mask), n.rows, out);
  });
  const auto back = rows.scalar_type();
  return {as(grad_rows, back), as_all(du, back), as_all(dub, back), as_all(dd, back),
          as_all(ddb, back)};
}

}  // namespace
}  // namespace growstage

STABLE_TORCH_LIBRARY_IMPL(growstage, CPU, library) {
  library.impl("expert_mlp", TORCH_BOX(&growstage::expert_mlp));
  library.impl("expert_mlp_backward", TORCH_BOX(&growstage::expert_mlp_backward));
}
