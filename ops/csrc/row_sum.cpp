// `row_sum` on the CPU: torch's side of cpu/row_sum.h.
#include "cpu/row_sum.h"

#include "checks.h"

namespace growstage {
namespace {

// Checks the layout, and every code: a wrong one would read past the weight.
Observed checked(const Tensor& entries, const Tensor& usual, const Tensor& derived, int64_t slots,
                 int64_t inputs) {
  const auto x = observed(entries, usual, derived, slots, inputs);
  const int64_t codes = x.ones + x.derived_count;
  bool inside = true;
  for (int64_t b = 0; b < x.batch; ++b)
    for (int64_t k = 0; k < slots; ++k)
      inside &= cpu::codes_of(x, b)[k] >= -1 && cpu::codes_of(x, b)[k] < codes;
  for (int64_t u = 0; u < x.usual_count; ++u)
    inside &= x.usual[u] >= 0 && x.usual[u] < x.ones;
  for (int64_t d = 0; d < 2 * x.derived_count; ++d) inside &= place(x.derived[d]) < x.ones;
  STD_TORCH_CHECK(inside, "row_sum: a code lies outside -1..", codes - 1);
  return x;
}

Tensor row_sum(const Tensor& weight, const Tensor& bias, const Tensor& entries,
               const Tensor& usual, const Tensor& derived, int64_t slots) {
  check_linear(weight, bias);
  const auto type = compute_type(weight);
  const Tensor rows = as(weight, type), offset = as(bias, type);
  const auto x = checked(entries, usual, derived, slots, weight.size(0));
  const Tensor out = buffer(rows, {x.batch, weight.size(1)});
  on_real(type, [&](auto zero) {
    using T = decltype(zero);
    cpu::row_sum(Threads{}, data<T>(rows), data<T>(offset), x, weight.size(1), data<T>(out));
  });
  return as(out, weight.scalar_type());
}

std::tuple<Tensor, Tensor> row_sum_backward(const Tensor& grad, const Tensor& entries,
                                            const Tensor& usual, const Tensor& derived,
                                            int64_t slots, int64_t inputs) {
  check_row_grad(grad, entries);
  const auto type = compute_type(grad);
  const Tensor incoming = as(grad, type);
  const auto x = checked(entries, usual, derived, slots, inputs);
  const Tensor rows = buffer(incoming, {inputs, grad.size(1)});
  const Tensor bias = buffer(incoming, {grad.size(1)});
  on_real(type, [&](auto zero) {
    using T = decltype(zero);
    cpu::row_sum_backward(Threads{}, data<T>(incoming), x, grad.size(1), data<T>(rows),
                          data<T>(bias));
  });
  return {as(rows, grad.scalar_type()), as(bias, grad.scalar_type())};
}

}  // namespace
}  // namespace growstage

STABLE_TORCH_LIBRARY_IMPL(growstage, CPU, library) {
  library.impl("row_sum", TORCH_BOX(&growstage::row_sum));
  library.impl("row_sum_backward", TORCH_BOX(&growstage::row_sum_backward));
}
