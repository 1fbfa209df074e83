// Torch's side of the CUDA kernels. Links no symbol of libtorch_cuda, so that the library also
// loads where torch has no CUDA; nothing here waits for the device.
#include <dlfcn.h>

#include <functional>

#include "../checks.h"
#include "launch.h"

namespace growstage {
namespace {

using Tensors = std::vector<Tensor>;

// The stream that torch would use; its getter lives in libtorch_cuda and is looked up once.
void* stream_of(const Tensor& tensor) {
  using Getter = int32_t (*)(int32_t, void**);
  static const auto getter = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    void* symbol =
        library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream");
    return reinterpret_cast<Getter>(symbol);
  }();
  void* stream = nullptr;
  STD_TORCH_CHECK(getter != nullptr && getter(tensor.get_device_index(), &stream) == 0,
                  "this torch gives no CUDA stream");
  return stream;
}

void check(int error) {
  STD_TORCH_CHECK(error == 0, "CUDA kernel not launched: ", cuda::error_text(error));
}

cuda::Type type_of(const Tensor& x) {
  check_floating(x, "a tensor");
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return cuda::Type::kDouble;
    case ScalarType::Half:
      return cuda::Type::kHalf;
    case ScalarType::BFloat16:
      return cuda::Type::kBFloat16;
    default:
      return cuda::Type::kFloat;
  }
}

void check_expert_count(int64_t experts) {
  STD_TORCH_CHECK(experts <= cuda::kMaxExperts, "the CUDA kernels take at most ",
                  cuda::kMaxExperts, " experts, got ", experts);
}

void* raw(const Tensor& tensor) { return tensor.data_ptr(); }

void* raw(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->data_ptr() : nullptr;
}

// A pointer of another device, or of the host, must never reach a kernel.
const Tensor& beside(const Tensor& x, const Tensor& like) {
  STD_TORCH_CHECK(x.is_cuda() && like.is_cuda() &&
                      x.get_device_index() == like.get_device_index(),
                  "all tensors must be on the same device");
  return x;
}

// Contiguous, on the device of `like` and of the given type, by default that of `like`.
Tensor same(const Tensor& x, const Tensor& like, ScalarType type) {
  return as(beside(x, like), type);
}

Tensor same(const Tensor& x, const Tensor& like) { return same(x, like, like.scalar_type()); }

OptionalTensor same(const OptionalTensor& x, const Tensor& like, ScalarType type) {
  return x.has_value() ? OptionalTensor(same(*x, like, type)) : std::nullopt;
}

Tensor zeros(const Tensor& like, std::vector<int64_t> shape, ScalarType type) {
  return torch::stable::new_zeros(like, shape, type);
}

struct Sorted {
  Tensor position, offsets, slot_of;
};

Sorted sort(const Tensor& selected, int64_t experts) {
  const int64_t count = selected.numel();
  const int64_t blocks = (count + cuda::kSortBlock - 1) / cuda::kSortBlock;
  const Tensor position = buffer(selected, {selected.size(0), selected.size(1)});
  const Tensor offsets = buffer(selected, {experts + 1});
  const Tensor slot_of = buffer(selected, {count}, ScalarType::Int);
  const Tensor work = buffer(selected, {(blocks + 1) * experts}, ScalarType::Int);
  auto* space = data<int32_t>(work);
  check(cuda::sort_slots({data<int64_t>(selected), count, experts, space,
                          space + blocks * experts, data<int32_t>(slot_of),
                          data<int64_t>(position), data<int64_t>(offsets)},
                         stream_of(selected)));
  return {position, offsets, slot_of};
}

std::tuple<Tensor, Tensor, Tensor> route(const Tensor& logits, const OptionalTensor& noise,
                                         const OptionalTensor& allowed,
                                         const OptionalTensor& threshold, int64_t selector,
                                         int64_t k, double temperature, double level,
                                         int64_t capacity) {
  const auto n = check_route(logits, noise, allowed, threshold, selector, k, capacity);
  check_expert_count(n.experts);
  const Tensor scores = same(logits, logits);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const OptionalTensor added = same(noise, logits, compute_type(logits));
  const OptionalTensor mask = same(allowed, logits, ScalarType::Bool);
  const OptionalTensor least = same(threshold, logits, compute_type(logits));
  const Tensor weights = buffer(scores, {n.tokens, n.slots});
  const Tensor chosen = buffer(scores, {n.tokens, n.slots}, compute_type(logits));
  const Tensor selected = buffer(scores, {n.tokens, n.slots}, ScalarType::Long);
  const Tensor counts = zeros(scores, {n.experts}, ScalarType::Long);
  const cuda::Route call{raw(scores),
                         raw(added),
                         raw(least),
                         data<bool>(mask),
                         weights.data_ptr(),
                         chosen.data_ptr(),
                         data<int64_t>(selected),
                         data<int64_t>(counts),
                         n.tokens,
                         n.experts,
                         n.slots,
                         capacity,
                         static_cast<Selector>(selector),
                         temperature,
                         level,
                         type_of(logits)};
  check(cuda::route(call, stream_of(logits)));
  if (capacity > 0) {
    const auto sorted = sort(selected, n.experts);
    check(cuda::limit(call, data<int64_t>(sorted.position), data<int64_t>(sorted.offsets),
                      stream_of(logits)));
  }
  return {weights, selected, counts};
}

Tensor route_backward(const Tensor& grad, const Tensor& selected, const Tensor& weights,
                      int64_t experts, double temperature) {
  const Tensor kept = same(weights, weights), incoming = same(grad, weights);
  const torch::stable::accelerator::DeviceGuard guard(weights.get_device_index());
  const Tensor chosen = slots(beside(selected, weights), "selected");
  const Tensor out = buffer(kept, {kept.size(0), experts});
  check(cuda::route_backward(type_of(kept), incoming.data_ptr(), data<int64_t>(chosen),
                             kept.data_ptr(), kept.size(0), kept.size(1), experts, temperature,
                             out.data_ptr(), stream_of(kept)));
  return out;
}

std::tuple<Tensor, Tensor, Tensor> permute(const Tensor& x, const Tensor& selected,
                                           int64_t experts, int64_t row_count) {
  const Tensor chosen = slots(beside(selected, x), "selected");
  STD_TORCH_CHECK(row_count >= 0 && row_count <= chosen.numel(),
                  "permute: at most one row for each slot");
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) == chosen.size(0) && experts >= 1,
                  "permute takes x [tokens, features] and selected [tokens, slots]");
  check_expert_count(experts);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor source = torch::stable::contiguous(x);
  const Tensor rows = buffer(source, {row_count, x.size(1)});
  const auto sorted = sort(chosen, experts);
  check(cuda::gather_rows(source.data_ptr(), data<int32_t>(sorted.slot_of),
                          data<int64_t>(sorted.offsets), row_count, chosen.size(1), experts,
                          x.size(1) * static_cast<int64_t>(x.element_size()), rows.data_ptr(),
                          stream_of(x)));
  return {rows, sorted.position, sorted.offsets};
}

Tensor permute_backward(const Tensor& grad, const Tensor& position) {
  const Tensor incoming = same(grad, grad), place = slots(beside(position, grad), "position");
  const torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
  const Tensor out = buffer(incoming, {place.size(0), grad.size(1)});
  check(cuda::permute_backward(type_of(grad), incoming.data_ptr(), data<int64_t>(place),
                               place.size(0), place.size(1), grad.size(1), out.data_ptr(),
                               stream_of(grad)));
  return out;
}

// Weights of another type than that of the rows are not rounded to it.
ScalarType weight_type(const Tensor& rows, const Tensor& weights) {
  return weights.scalar_type() == rows.scalar_type() ? rows.scalar_type() : compute_type(rows);
}

Tensor combine(const Tensor& rows, const Tensor& position, const Tensor& weights) {
  const auto n = check_combine(rows, position, weights);
  const Tensor source = same(rows, rows), place = slots(beside(position, rows), "position");
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  const Tensor factors = same(weights, rows, weight_type(rows, weights));
  const Tensor out = buffer(source, {n.tokens, n.width});
  check(cuda::combine(type_of(rows), factors.scalar_type() != rows.scalar_type(),
                      source.data_ptr(), data<int64_t>(place), factors.data_ptr(),
                      n.tokens, n.per_token, n.width, out.data_ptr(), stream_of(rows)));
  return out;
}

std::tuple<Tensor, Tensor> combine_backward(const Tensor& grad, const Tensor& rows,
                                            const Tensor& position, const Tensor& weights) {
  const auto n = check_combine(rows, position, weights);
  const Tensor source = same(rows, rows), place = slots(beside(position, rows), "position");
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  const Tensor incoming = same(grad, rows);
  const Tensor factors = same(weights, rows, weight_type(rows, weights));
  const Tensor grad_rows = zeros(source, {n.rows, n.width}, rows.scalar_type());
  const Tensor grad_weights = buffer(factors, {n.tokens, n.per_token});
  check(cuda::combine_backward(type_of(rows), factors.scalar_type() != rows.scalar_type(),
                               incoming.data_ptr(), source.data_ptr(),
                               data<int64_t>(place), factors.data_ptr(), n.tokens, n.per_token,
                               n.width, grad_rows.data_ptr(), grad_weights.data_ptr(),
                               stream_of(rows)));
  return {grad_rows, as(grad_weights, weights.scalar_type())};
}

Tensor usage(const Tensor& selected, const Tensor& domain, int64_t experts, int64_t domains) {
  const Tensor chosen = slots(selected, "selected");
  STD_TORCH_CHECK(domain.dim() == 1 && domain.size(0) == chosen.size(0) &&
                      domain.scalar_type() == ScalarType::Long && experts >= 1 && domains >= 1,
                  "usage takes selected [tokens, slots] and domain int64 [tokens]");
  const torch::stable::accelerator::DeviceGuard guard(selected.get_device_index());
  const Tensor label = same(domain, selected);
  const Tensor table = zeros(chosen, {experts, domains}, ScalarType::Long);
  check(cuda::usage(data<int64_t>(chosen), data<int64_t>(label), chosen.size(0), chosen.size(1),
                    experts, domains, data<int64_t>(table), stream_of(selected)));
  return table;
}

Tensor row_sum(const Tensor& weight, const Tensor& bias, const Tensor& entries,
               const Tensor& usual, const Tensor& derived, int64_t slots) {
  check_linear(weight, bias);
  const Tensor rows = same(weight, weight), offset = same(bias, weight);
  const torch::stable::accelerator::DeviceGuard guard(weight.get_device_index());
  const auto x = observed(beside(entries, weight), beside(usual, weight), beside(derived, weight),
                          slots, weight.size(0));
  const int64_t width = weight.size(1);
  const Tensor table = buffer(rows, {x.derived_count + 1, width}, compute_type(weight));
  const Tensor out = buffer(rows, {x.batch, width});
  check(cuda::row_sum(type_of(weight), rows.data_ptr(), offset.data_ptr(), x, width,
                      table.data_ptr(), out.data_ptr(), stream_of(weight)));
  return out;
}

std::tuple<Tensor, Tensor> row_sum_backward(const Tensor& grad, const Tensor& entries,
                                            const Tensor& usual, const Tensor& derived,
                                            int64_t slots, int64_t inputs) {
  check_row_grad(grad, entries);
  const Tensor incoming = same(grad, grad);
  const torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
  const auto x = observed(beside(entries, grad), beside(usual, grad), beside(derived, grad), slots,
                          inputs);
  STD_TORCH_CHECK(x.batch == 0 || slots <= kMaxSlots / x.batch,
                  "row_sum: at most 2^31 - 1 slots are supported: use smaller batches");
  constexpr int64_t least = 32, most_chunks = 256;  // 4 bytes of workspace a chunk and code
  const int64_t chunk = std::max(least, (x.batch + most_chunks - 1) / most_chunks);
  const int64_t chunks = (x.batch + chunk - 1) / chunk, codes = x.ones + x.derived_count;
  const int64_t width = grad.size(1);
  const Tensor counts = zeros(entries, {chunks, codes}, ScalarType::Int);
  const Tensor starts = buffer(entries, {codes + 1}, ScalarType::Int);
  const Tensor samples = buffer(entries, {x.batch * slots}, ScalarType::Int);
  const Tensor table = buffer(incoming, {x.derived_count + 1, width}, compute_type(grad));
  const Tensor rows = buffer(incoming, {inputs, width}), bias = buffer(incoming, {width});
  check(cuda::row_sum_backward(
      type_of(grad), incoming.data_ptr(), x, width,
      {chunk, data<int32_t>(counts), data<int32_t>(starts), data<int32_t>(samples)},
      table.data_ptr(), rows.data_ptr(), bias.data_ptr(), stream_of(grad)));
  return {rows, bias};
}

// Experts first, first + 1, ... of one product, as many as fit; `keep` leaves experts out.
template <class Member>
void in_groups(int64_t experts, const std::vector<bool>& keep, const Member& member,
               const std::function<void(const cuda::Group&)>& launch) {
  cuda::Group group{};
  for (int64_t e = 0; e < experts; ++e) {
    if (!keep.empty() && !keep[e]) continue;
    const int i = group.count++;
    group.expert[i] = static_cast<int>(e);
    member(e, i, group);
    if (group.count < cuda::kGroup) continue;
    launch(group);
    group = {};
  }
  if (group.count > 0) launch(group);
}

Tensors same_all(const Tensors& tensors, const Tensor& like) {
  Tensors out;
  for (const auto& tensor : tensors) out.push_back(same(tensor, like));
  return out;
}

// rows [S, k] times each expert's matrix; `weights` are [n, k] if transposed, else [k, n].
// `keep` leaves experts out, whose rows of the result then mean nothing.
void multiply(cuda::RowsProduct call, const Tensors& weights, const Tensors* biases,
              const std::vector<bool>& keep, void* stream) {
  in_groups(static_cast<int64_t>(weights.size()), keep,
            [&](int64_t e, int i, cuda::Group& group) {
              const auto first = static_cast<int>(weights[e].size(0));
              const auto second = static_cast<int>(weights[e].size(1));
              group.weight[i] = weights[e].data_ptr();
              const bool biased = biases != nullptr && !biases->empty();
              group.bias[i] = biased ? (*biases)[e].data_ptr() : nullptr;
              group.n[i] = call.transposed ? first : second;
              group.k[i] = call.transposed ? second : first;
            },
            [&](const cuda::Group& group) { check(cuda::rows_product(call, group, stream)); });
}

bool ragged(const ExpertSizes& n) {
  return std::any_of(n.hidden.begin(), n.hidden.end(),
                     [&](int64_t width) { return width != n.stride; });
}

std::tuple<Tensor, Tensor> expert_mlp(const Tensor& rows, const Tensor& offsets, const Tensors& up,
                                      const Tensors& up_bias, const Tensors& down,
                                      const Tensors& down_bias, const OptionalTensor& /*learning*/,
                                      int64_t activation, bool tf32, bool gated) {
  const auto n = check_experts(rows, offsets, up, down, activation, gated);
  check_biases(n, up_bias, down, down_bias, rows);
  const Tensor x = same(rows, rows), bounds = same(offsets, rows, ScalarType::Long);
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  const auto kind = static_cast<Activation>(activation);
  const bool relu = kind == Activation::kRelu && !gated, two = !down.empty();
  const Tensors u = same_all(up, rows), ub = same_all(up_bias, rows);
  const Tensors d = same_all(down, rows), db = same_all(down_bias, rows);
  const Tensor y = buffer(x, {n.rows, n.outputs});
  const Tensor hidden = two && ragged(n) ? zeros(x, {n.rows, n.stride}, rows.scalar_type())
                                         : buffer(x, {n.rows, n.stride});
  void* stream = stream_of(rows);
  cuda::RowsProduct call{x.data_ptr(), two ? hidden.data_ptr() : y.data_ptr(), nullptr,
                         data<int64_t>(bounds), n.rows, n.inputs, two ? n.stride : n.outputs, 0,
                         true, false, Activation::kNone, two && relu ? kind : Activation::kNone,
                         Activation::kNone, tf32, type_of(rows)};
  multiply(call, u, &ub, {}, stream);
  if (two) {
    call.a = hidden.data_ptr();
    call.result = y.data_ptr();
    call.lda = n.stride;
    call.ldc = n.outputs;
    call.gated = gated;
    call.on_load = relu ? Activation::kNone : kind;
    call.on_store = Activation::kNone;
    multiply(call, d, &db, {}, stream);
    check(cuda::zero_tail(call.type, hidden.data_ptr(), call.offsets, n.experts, n.rows, n.stride,
                          stream));
  }
  check(cuda::zero_tail(call.type, y.data_ptr(), call.offsets, n.experts, n.rows, n.outputs,
                        stream));
  return {y, hidden};
}

struct Gradients {
  Tensors weights, biases;
};

// out_e = a_e^T b_e and its bias, if there are biases, for the trainable experts; zero-sized for
// the others.
Gradients parameters(const cuda::ParameterProduct& call, const Tensors& like,
                     const std::vector<bool>& trainable, bool biased, const Tensor& rows,
                     void* stream) {
  Gradients out;
  for (size_t e = 0; e < like.size(); ++e) {
    const int64_t height = trainable[e] ? like[e].size(0) : 0;
    out.weights.push_back(buffer(rows, {height, trainable[e] ? like[e].size(1) : 0}));
    if (biased) out.biases.push_back(buffer(rows, {height}));
  }
  in_groups(static_cast<int64_t>(like.size()), trainable,
            [&](int64_t e, int i, cuda::Group& group) {
              group.out[i] = out.weights[e].data_ptr();
              group.out_bias[i] = biased ? out.biases[e].data_ptr() : nullptr;
              group.k[i] = static_cast<int>(like[e].size(0));
              group.n[i] = static_cast<int>(like[e].size(1));
            },
            [&](const cuda::Group& group) { check(cuda::parameter_product(call, group, stream)); });
  return out;
}

std::tuple<Tensor, Tensors, Tensors, Tensors, Tensors> expert_mlp_backward(
    const Tensor& grad, const Tensor& rows, const Tensor& hidden, const Tensor& offsets,
    const Tensors& up, const Tensors& down, const OptionalTensor& learning,
    std::vector<bool> trainable, bool rows_wanted, int64_t activation, bool tf32, bool gated,
    bool biased) {
  const auto n = check_experts(rows, offsets, up, down, activation, gated);
  STD_TORCH_CHECK(static_cast<int64_t>(trainable.size()) == n.experts &&
                      (!learning || learning->numel() == n.rows),
                  "trainable needs one flag for each expert, learning one for each row");
  const Tensor x = same(rows, rows), bounds = same(offsets, rows, ScalarType::Long);
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  const auto kind = static_cast<Activation>(activation);
  const bool relu = kind == Activation::kRelu && !gated, two = !down.empty();
  const Tensor g = same(grad, rows), kept = same(hidden, rows);
  const OptionalTensor mask = same(learning, rows, ScalarType::Bool);
  const Tensors u = same_all(up, rows), d = same_all(down, rows);
  const Tensor inner = two ? buffer(x, {n.rows, n.stride}) : g;
  const Tensor grad_rows = buffer(x, {rows_wanted ? n.rows : 0, n.inputs});
  void* stream = stream_of(rows);
  cuda::RowsProduct call{g.data_ptr(), inner.data_ptr(), kept.data_ptr(), data<int64_t>(bounds),
                         n.rows, n.outputs, n.stride, n.stride, false, gated, Activation::kNone,
                         Activation::kNone, kind, tf32, type_of(rows)};
  // without a gradient of the rows, the hidden units of frozen experts need none either
  if (two) multiply(call, d, nullptr, rows_wanted ? std::vector<bool>{} : trainable, stream);
  const int64_t inner_width = two ? n.stride : n.outputs;
  if (rows_wanted) {
    call.a = inner.data_ptr();
    call.result = grad_rows.data_ptr();
    call.kept = nullptr;
    call.gated = false;
    call.lda = inner_width;
    call.ldc = n.inputs;
    multiply(call, u, nullptr, {}, stream);
    check(cuda::zero_tail(call.type, grad_rows.data_ptr(), call.offsets, n.experts, n.rows,
                          n.inputs, stream));
  }
  cuda::ParameterProduct sums{inner.data_ptr(), x.data_ptr(), data<bool>(mask), call.offsets,
                              inner_width, n.inputs, false, Activation::kNone, tf32, call.type};
  const auto upper = parameters(sums, u, trainable, biased, x, stream);
  sums.a = g.data_ptr();
  sums.b = kept.data_ptr();
  sums.lda = n.outputs;
  sums.ldb = n.stride;
  sums.gated = gated;
  sums.on_load_b = relu ? Activation::kNone : kind;
  const auto lower = parameters(sums, d, trainable, biased, x, stream);
  return {grad_rows, upper.weights, upper.biases, lower.weights, lower.biases};
}

}  // namespace
}  // namespace growstage

STABLE_TORCH_LIBRARY_IMPL(growstage, CUDA, library) {
  library.impl("route", TORCH_BOX(&growstage::route));
  library.impl("route_backward", TORCH_BOX(&growstage::route_backward));
  library.impl("permute", TORCH_BOX(&growstage::permute));
  library.impl("permute_backward", TORCH_BOX(&growstage::permute_backward));
  library.impl("combine", TORCH_BOX(&growstage::combine));
  library.impl("combine_backward", TORCH_BOX(&growstage::combine_backward));
  library.impl("expert_mlp", TORCH_BOX(&growstage::expert_mlp));
  library.impl("expert_mlp_backward", TORCH_BOX(&growstage::expert_mlp_backward));
  library.impl("usage", TORCH_BOX(&growstage::usage));
  library.impl("row_sum", TORCH_BOX(&growstage::row_sum));
  library.impl("row_sum_backward", TORCH_BOX(&growstage::row_sum_backward));
}
