// `row_sum` on the CPU: torch's side of cpu/row_sum.h.
#include "cpu/row_sum.h"

#include "binding.h"

namespace growstage {
namespace {

// Checks the layout, and every code: a wrong one would read past the weight.
cpu::Observed observed(const Tensor& entries, const Tensor& usual, const Tensor& derived,
                       int64_t slots, int64_t inputs) {
  STD_TORCH_CHECK(entries.dim() == 2 && entries.scalar_type() == ScalarType::Short &&
                      entries.is_contiguous(),
                  "row_sum takes contiguous int16 observations [batch, entries]");
  STD_TORCH_CHECK(usual.dim() == 1 && usual.scalar_type() == ScalarType::Long &&
                      usual.is_contiguous() && derived.dim() == 2 && derived.size(1) == 2 &&
                      derived.scalar_type() == ScalarType::Long && derived.is_contiguous(),
                  "row_sum takes usual int64 [places] and derived int64 [codes, 2]");
  const int64_t width = entries.size(1), scalars = (width - slots) / 2;
  STD_TORCH_CHECK(slots >= 0 && slots <= width && (width - slots) % 2 == 0 && scalars <= inputs,
                  "row_sum: ", width, " entries do not hold ", slots, " slots and scalars for ",
                  inputs, " inputs");
  const cpu::Observed x{data<int16_t>(entries), entries.size(0), width, slots, inputs - scalars,
                        scalars, data<int64_t>(usual), usual.size(0), data<int64_t>(derived),
                        derived.size(0)};
  const int64_t codes = x.ones + x.derived_count;
  bool inside = true;
  for (int64_t b = 0; b < x.batch; ++b)
    for (int64_t k = 0; k < slots; ++k)
      inside &= x.codes(b)[k] >= -1 && x.codes(b)[k] < codes;
  for (int64_t u = 0; u < x.usual_count; ++u)
    inside &= x.usual[u] >= 0 && x.usual[u] < x.ones;
  for (int64_t d = 0; d < 2 * x.derived_count; ++d) inside &= cpu::place(x.derived[d]) < x.ones;
  STD_TORCH_CHECK(inside, "row_sum: a code lies outside -1..", codes - 1);
  return x;
}

Tensor row_sum(const Tensor& weight, const Tensor& bias, const Tensor& entries,
               const Tensor& usual, const Tensor& derived, int64_t slots) {
  check_floating(weight, "weight");
  STD_TORCH_CHECK(weight.dim() == 2 && bias.dim() == 1 && bias.size(0) == weight.size(1) &&
                      bias.scalar_type() == weight.scalar_type(),
                  "row_sum takes weight [inputs, width] and bias [width] of one type");
  const auto type = compute_type(weight);
  const Tensor rows = as(weight, type), offset = as(bias, type);
  const auto x = observed(entries, usual, derived, slots, weight.size(0));
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
  check_floating(grad, "grad");
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == entries.size(0),
                  "row_sum: grad must be [batch, width]");
  const auto type = compute_type(grad);
  const Tensor incoming = as(grad, type);
  const auto x = observed(entries, usual, derived, slots, inputs);
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
