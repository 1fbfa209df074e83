// Argument checks that the CPU and CUDA kernels of an op share, and the sizes they work with.
#pragma once

#include <algorithm>
#include <string>

#include "binding.h"

namespace growstage {

struct RouteSizes {
  int64_t tokens, experts, slots;
};

inline RouteSizes check_route(const Tensor& logits, const OptionalTensor& noise,
                              const OptionalTensor& allowed, const OptionalTensor& threshold,
                              int64_t selector, int64_t k, int64_t capacity) {
  STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) >= 1, "logits must be [tokens, experts]");
  check_floating(logits, "logits");
  const auto same = [&](const OptionalTensor& x) {
    return !x || (x->dim() == 2 && x->size(0) == logits.size(0) && x->size(1) == logits.size(1));
  };
  STD_TORCH_CHECK(same(noise) && same(allowed), "noise and allowed must be shaped like logits");
  STD_TORCH_CHECK(!allowed || allowed->scalar_type() == ScalarType::Bool, "allowed must be bool");
  const auto last = static_cast<int64_t>(Selector::kThreshold);
  STD_TORCH_CHECK(selector >= 0 && selector <= last && k >= 1 && capacity >= 0,
                  "selector, k or capacity out of range");
  STD_TORCH_CHECK(selector != last || (threshold && threshold->numel() == 1),
                  "this selector needs a threshold of one value");
  const int64_t experts = logits.size(1);
  const bool dense = selector == static_cast<int64_t>(Selector::kDense);
  const RouteSizes n{logits.size(0), experts, dense ? experts : std::min(k, experts)};
  STD_TORCH_CHECK(n.tokens <= kMaxSlots / n.slots, "route: ", n.tokens, " x ", n.slots,
                  " slots; at most 2^31 - 1 are supported: use smaller batches");
  return n;
}

struct CombineSizes {
  int64_t tokens, per_token, rows, width;
};

inline CombineSizes check_combine(const Tensor& rows, const Tensor& position,
                                  const Tensor& weights) {
  check_floating(rows, "rows");
  STD_TORCH_CHECK(rows.dim() == 2 && position.dim() == 2 && weights.dim() == 2 &&
                      position.size(0) == weights.size(0) && position.size(1) == weights.size(1),
                  "combine takes rows [rows, width], position and weights [tokens, slots]");
  return {position.size(0), position.size(1), rows.size(0), rows.size(1)};
}

struct ExpertSizes {
  int64_t rows, inputs, outputs, experts, stride;
  std::vector<int64_t> hidden;  // rows of up; of gated experts twice the hidden units
};

inline void check_weight(const Tensor& w, int64_t rows, int64_t columns, const Tensor& like,
                         const char* name) {
  STD_TORCH_CHECK(w.dim() == 2 && w.size(0) == rows && w.size(1) == columns, name,
                  " must be [", rows, ", ", columns, "] here");
  STD_TORCH_CHECK(w.scalar_type() == like.scalar_type(), name, " must have the type of rows");
}

inline ExpertSizes check_experts(const Tensor& rows, const Tensor& offsets,
                                 const std::vector<Tensor>& up, const std::vector<Tensor>& down,
                                 int64_t activation, bool gated) {
  check_floating(rows, "rows");
  const auto experts = static_cast<int64_t>(up.size());
  STD_TORCH_CHECK(rows.dim() == 2 && experts >= 1 && (down.empty() || down.size() == up.size()),
                  "expert_mlp takes rows [rows, inputs] and one up (and one down) for each expert");
  STD_TORCH_CHECK(offsets.numel() == experts + 1 && offsets.scalar_type() == ScalarType::Long,
                  "offsets must be int64 [experts + 1]");
  STD_TORCH_CHECK(rows.size(0) <= kMaxSlots, "expert_mlp: at most 2^31 - 1 rows are supported");
  STD_TORCH_CHECK(activation >= 0 && activation <= static_cast<int64_t>(Activation::kSilu),
                  "activation out of range");
  STD_TORCH_CHECK(!gated || !down.empty(), "gated experts need a down for each up");
  ExpertSizes n{rows.size(0), rows.size(1), down.empty() ? up[0].size(0) : down[0].size(0),
                experts, 0, {}};
  for (int64_t e = 0; e < experts; ++e) {
    n.hidden.push_back(up[e].size(0));
    check_weight(up[e], down.empty() ? n.outputs : n.hidden[e], n.inputs, rows, "up");
    if (!down.empty()) {
      const int64_t maps = gated ? 2 : 1;
      STD_TORCH_CHECK(n.hidden[e] % maps == 0, "up of a gated expert needs an even number of rows");
      check_weight(down[e], n.outputs, n.hidden[e] / maps, rows, "down");
      n.stride = std::max(n.stride, n.hidden[e]);
    }
  }
  return n;
}

inline void check_biases(const ExpertSizes& n, const std::vector<Tensor>& up_bias,
                         const std::vector<Tensor>& down, const std::vector<Tensor>& down_bias,
                         const Tensor& rows) {
  if (up_bias.empty() && down_bias.empty()) return;
  STD_TORCH_CHECK(static_cast<int64_t>(up_bias.size()) == n.experts &&
                      down_bias.size() == down.size(),
                  "expert_mlp needs one bias for each weight, or none at all");
  for (int64_t e = 0; e < n.experts; ++e) {
    const bool fits = up_bias[e].numel() == n.hidden[e] &&
                      (down.empty() || down_bias[e].numel() == n.outputs) &&
                      up_bias[e].scalar_type() == rows.scalar_type();
    STD_TORCH_CHECK(fits, "a bias must have one value for each row of its weight");
  }
}

// The layout of compact observations; what the codes are is not looked at.
inline Observed observed(const Tensor& entries, const Tensor& usual, const Tensor& derived,
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
  return {data<int16_t>(entries), entries.size(0), width,           slots,
          inputs - scalars,       scalars,         data<int64_t>(usual), usual.size(0),
          data<int64_t>(derived), derived.size(0)};
}

inline void check_linear(const Tensor& weight, const Tensor& bias) {
  check_floating(weight, "weight");
  STD_TORCH_CHECK(weight.dim() == 2 && bias.dim() == 1 && bias.size(0) == weight.size(1) &&
                      bias.scalar_type() == weight.scalar_type(),
                  "row_sum takes weight [inputs, width] and bias [width] of one type");
}

inline void check_row_grad(const Tensor& grad, const Tensor& entries) {
  check_floating(grad, "grad");
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == entries.size(0),
                  "row_sum: grad must be [batch, width]");
}

}  // namespace growstage
