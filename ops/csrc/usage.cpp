// `usage` on the CPU: torch's side of cpu/usage.h.
#include "cpu/usage.h"

#include "binding.h"

namespace growstage {
namespace {

Tensor usage(const Tensor& selected, const Tensor& domain, int64_t experts, int64_t domains) {
  const Tensor chosen = slots(selected, "selected");
  STD_TORCH_CHECK(domain.dim() == 1 && domain.size(0) == chosen.size(0) &&
                      domain.scalar_type() == ScalarType::Long && experts >= 1 && domains >= 1,
                  "usage takes selected [tokens, slots] and domain int64 [tokens]");
  const Tensor label = torch::stable::contiguous(domain);
  const Tensor table = buffer(chosen, {experts, domains});
  cpu::usage(data<int64_t>(chosen), data<int64_t>(label), chosen.size(0), chosen.size(1), experts,
             domains, data<int64_t>(table));
  return table;
}

}  // namespace
}  // namespace growstage

STABLE_TORCH_LIBRARY_IMPL(growstage, CPU, library) {
  library.impl("usage", TORCH_BOX(&growstage::usage));
}
