// `permute` on the CPU: torch's side of cpu/permute.h.
#include "cpu/permute.h"

#include "binding.h"

namespace growstage {
namespace {

std::tuple<Tensor, Tensor, Tensor> permute(const Tensor& x, const Tensor& selected,
                                           int64_t experts, int64_t row_count) {
  const Tensor chosen = slots(selected, "selected");
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) == chosen.size(0) && experts >= 1,
                  "permute takes x [tokens, features] and selected [tokens, slots]");
  const Tensor source = torch::stable::contiguous(x);
  const int64_t tokens = chosen.size(0), per_token = chosen.size(1);
  STD_TORCH_CHECK(row_count >= 0 && row_count <= tokens * per_token,
                  "permute: at most one row for each slot");
  const Tensor rows = buffer(source, {row_count, x.size(1)});
  const Tensor position = buffer(chosen, {tokens, per_token});
  const Tensor offsets = buffer(chosen, {experts + 1});
  const auto row_bytes = x.size(1) * static_cast<int64_t>(x.element_size());
  const bool fits =
      cpu::permute(Threads{}, data<char>(source), data<int64_t>(chosen), tokens, per_token,
                   experts, row_count, row_bytes, data<char>(rows), data<int64_t>(position),
                   data<int64_t>(offsets));
  STD_TORCH_CHECK(fits, "permute: ", row_count, " rows, and more slots are used");
  return {rows, position, offsets};
}

Tensor permute_backward(const Tensor& grad, const Tensor& position) {
  const auto type = compute_type(grad);
  const Tensor incoming = as(grad, type), place = slots(position, "position");
  const Tensor out = buffer(incoming, {place.size(0), grad.size(1)});
  on_real(type, [&](auto zero) {
    using T = decltype(zero);
    cpu::permute_backward(Threads{}, data<T>(incoming), data<int64_t>(place), place.size(0),
                          place.size(1), grad.size(1), data<T>(out));
  });
  return as(out, grad.scalar_type());
}

}  // namespace
}  // namespace growstage

STABLE_TORCH_LIBRARY_IMPL(growstage, CPU, library) {
  library.impl("permute", TORCH_BOX(&growstage::permute));
  library.impl("permute_backward", TORCH_BOX(&growstage::permute_backward));
}
