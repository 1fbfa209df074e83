// `route` on the CPU: torch's side of cpu/route.h.
#include "checks.h"
#include "cpu/route.h"

namespace growstage {
namespace {

std::tuple<Tensor, Tensor, Tensor> route(const Tensor& logits, const OptionalTensor& noise,
                                         const OptionalTensor& allowed,
                                         const OptionalTensor& threshold, int64_t selector,
                                         int64_t k, double temperature, double level,
                                         int64_t capacity) {
  const auto n = check_route(logits, noise, allowed, threshold, selector, k, capacity);
  const auto type = compute_type(logits);
  const Tensor scores = as(logits, type);
  const OptionalTensor added = as(noise, type), least = as(threshold, type);
  const OptionalTensor mask = as(allowed, ScalarType::Bool);
  const Tensor weights = buffer(scores, {n.tokens, n.slots});
  const Tensor selected = buffer(scores, {n.tokens, n.slots}, ScalarType::Long);
  const Tensor counts = buffer(scores, {n.experts}, ScalarType::Long);
  on_real(type, [&](auto zero) {
    using T = decltype(zero);
    const cpu::Route<T> a{data<T>(scores),
                          data<T>(added),
                          data<bool>(mask),
                          data<T>(least),
                          n.tokens,
                          n.experts,
                          n.slots,
                          capacity,
                          static_cast<Selector>(selector),
                          static_cast<T>(temperature),
                          static_cast<T>(level)};
    cpu::route(Threads{}, a, data<T>(weights), data<int64_t>(selected), data<int64_t>(counts));
  });
  return {as(weights, logits.scalar_type()), selected, counts};
}

Tensor route_backward(const Tensor& grad, const Tensor& selected, const Tensor& weights,
                      int64_t experts, double temperature) {
  const auto type = compute_type(weights);
  const Tensor incoming = as(grad, type), chosen = slots(selected, "selected");
  const Tensor kept = as(weights, type);
  const Tensor out = buffer(kept, {kept.size(0), experts});
  on_real(type, [&](auto zero) {
    using T = decltype(zero);
    cpu::route_backward(Threads{}, data<T>(incoming), data<int64_t>(chosen), data<T>(kept),
                        kept.size(0), kept.size(1), experts, static_cast<T>(temperature),
                        data<T>(out));
  });
  return as(out, weights.scalar_type());
}

}  // namespace
}  // namespace growstage

STABLE_TORCH_LIBRARY_IMPL(growstage, CPU, library) {
  library.impl("route", TORCH_BOX(&growstage::route));
  library.impl("route_backward", TORCH_BOX(&growstage::route_backward));
}
