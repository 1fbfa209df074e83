// `combine` on the CPU: torch's side of cpu/combine.h.
#include "cpu/combine.h"

#include "checks.h"

namespace growstage {
namespace {

void check_positions(const Tensor& position, int64_t rows) {
  const auto* at = data<int64_t>(position);
  const int64_t count = position.numel();
  const bool inside = std::all_of(at, at + count, [rows](int64_t p) { return p < rows; });
  STD_TORCH_CHECK(inside, "combine: a position points past the ", rows, " rows");
}

Tensor combine(const Tensor& rows, const Tensor& position, const Tensor& weights) {
  const auto n = check_combine(rows, position, weights);
  const auto type = compute_type(rows);
  const Tensor source = as(rows, type), place = slots(position, "position");
  const Tensor factors = as(weights, type);
  check_positions(place, n.rows);
  const Tensor out = buffer(source, {n.tokens, n.width});
  on_real(type, [&](auto zero) {
    using T = decltype(zero);
    cpu::combine(Threads{}, data<T>(source), data<int64_t>(place), data<T>(factors), n.tokens,
                 n.per_token, n.width, data<T>(out));
  });
  return as(out, rows.scalar_type());
}

std::tuple<Tensor, Tensor> combine_backward(const Tensor& grad, const Tensor& rows,
                                            const Tensor& position, const Tensor& weights) {
  const auto n = check_combine(rows, position, weights);
  const auto type = compute_type(rows);
  const Tensor incoming = as(grad, type), source = as(rows, type);
  const Tensor place = slots(position, "position"), factors = as(weights, type);
  check_positions(place, n.rows);
  const Tensor grad_rows = buffer(source, {n.rows, n.width});
  const Tensor grad_weights = buffer(source, {n.tokens, n.per_token});
  on_real(type, [&](auto zero) {
    using T = decltype(zero);
    cpu::combine_backward(Threads{}, data<T>(incoming), data<T>(source), data<int64_t>(place),
                          data<T>(factors), n.tokens, n.per_token, n.width, n.rows,
                          data<T>(grad_rows), data<T>(grad_weights));
  });
  return {as(grad_rows, rows.scalar_type()), as(grad_weights, weights.scalar_type())};
}

}  // namespace
}  // namespace growstage

STABLE_TORCH_LIBRARY_IMPL(growstage, CPU, library) {
  library.impl("combine", TORCH_BOX(&growstage::combine));
  library.impl("combine_backward", TORCH_BOX(&growstage::combine_backward));
}
