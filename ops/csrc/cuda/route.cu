// CUDA kernels of `route`: one warp for each token, the order of scores shared with the CPU.
#include "device.cuh"

namespace growstage::cuda {
namespace {

template <class C>
struct Candidate {
  C value;
  int expert;
};

// A token's scores as one warp sees them.
template <class T>
struct Scores {
  using C = Compute<T>;
  const T* logits;
  const C* noise;
  const bool* allowed;
  C temperature;
  int experts;

  __device__ Scores(const Route& a, int64_t token)
      : logits(static_cast<const T*>(a.logits) + token * a.experts),
        noise(a.noise == nullptr ? nullptr : static_cast<const C*>(a.noise) + token * a.experts),
        allowed(a.allowed == nullptr ? nullptr : a.allowed + token * a.experts),
        temperature(static_cast<C>(a.temperature)),
        experts(static_cast<int>(a.experts)) {}

  __device__ C operator()(int expert) const {
    if (allowed != nullptr && !allowed[expert]) return -static_cast<C>(INFINITY);
    const C logit = load(logits[expert]);
    return (noise != nullptr ? logit + noise[expert] : logit) / temperature;
  }

  // The best expert of those that come after `last` (all of them if last.expert < 0).
  __device__ Candidate<C> next(Candidate<C> last) const {
    const int lane = threadIdx.x % kLanes;
    Candidate<C> best{-static_cast<C>(INFINITY), experts};
    for (int e = lane; e < experts; e += kLanes) {
      const C value = (*this)(e);
      const bool open = last.expert < 0 || before(last.value, last.expert, value, e);
      if (open && before(value, e, best.value, best.expert)) best = {value, e};
    }
    for (int step = kLanes / 2; step > 0; step /= 2) {
      const Candidate<C> other{__shfl_xor_sync(kWarp, best.value, step),
                               __shfl_xor_sync(kWarp, best.expert, step)};
      if (before(other.value, other.expert, best.value, best.expert)) best = other;
    }
    return best;
  }

  // Sum of exp(score - largest) over all experts.
  __device__ C mass(C largest) const {
    C sum = 0;
    for (int e = threadIdx.x % kLanes; e < experts; e += kLanes) sum += exp((*this)(e)-largest);
    return warp_sum(sum);
  }

  // See cpu::percentile.
  __device__ C percentile(C level) const {
    int live = 0;
    for (int e = threadIdx.x % kLanes; e < experts; e += kLanes)
      live += (*this)(e) != -static_cast<C>(INFINITY);
    live = warp_sum(live);
    if (live == 0) return static_cast<C>(INFINITY);
    const double place = static_cast<double>(level) * static_cast<double>(live - 1);
    const int low = static_cast<int>(place), high = min(low + 1, live - 1);
    Candidate<C> at{0, -1};
    C above = 0;
    for (int rank = 0; rank <= live - 1 - low; ++rank) {
      at = next(at);
      if (rank == live - 1 - high) above = at.value;
    }
    return at.value + static_cast<C>(place - low) * (above - at.value);
  }
};

// Softmax over the used slots of one token, by one warp.
template <class T>
__device__ void weigh(const int64_t* selected, const Compute<T>* chosen, int slots, T* weights) {
  using C = Compute<T>;
  const int lane = threadIdx.x % kLanes;
  C largest = -static_cast<C>(INFINITY), total = 0;
  for (int k = lane; k < slots; k += kLanes)
    if (selected[k] >= 0 && !(chosen[k] <= largest)) largest = chosen[k];
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const C other = __shfl_xor_sync(kWarp, largest, step);
    if (!(other <= largest)) largest = other;
  }
  for (int k = lane; k < slots; k += kLanes)
    if (selected[k] >= 0) total += exp(chosen[k] - largest);
  total = warp_sum(total);
  for (int k = lane; k < slots; k += kLanes)
    weights[k] = store<T>(selected[k] >= 0 ? exp(chosen[k] - largest) / total : C{0});
}

// Integer sums in shared memory first: the order of additions cannot change them.
__device__ void add_counts(const int* local, int64_t experts, int64_t* counts) {
  for (int e = threadIdx.x; e < experts; e += blockDim.x)
    if (local[e] > 0)
      atomicAdd(reinterpret_cast<unsigned long long*>(counts + e),
                static_cast<unsigned long long>(local[e]));
}

template <class T>
__device__ void choose(const Route& a, int64_t token, Compute<T>* chosen, int64_t* selected) {
  using C = Compute<T>;
  const Scores<T> scores(a, token);
  const int lane = threadIdx.x % kLanes, slots = static_cast<int>(a.slots);
  const C none = -static_cast<C>(INFINITY);
  if (a.selector == Selector::kDense) {
    for (int e = lane; e < slots; e += kLanes) {
      chosen[e] = scores(e);
      selected[e] = chosen[e] != none ? e : -1;
    }
    return;
  }
  const bool bounded =
      a.selector == Selector::kPercentile || a.selector == Selector::kThreshold;
  C least = none, passed = 0, enough = 0, first = 0;
  if (a.selector == Selector::kPercentile) least = scores.percentile(static_cast<C>(a.level));
  if (a.selector == Selector::kThreshold) least = *static_cast<const C*>(a.threshold);
  Candidate<C> at{0, -1};
  for (int slot = 0; slot < slots; ++slot) {
    at = scores.next(at);
    bool used = at.value != none && (slot == 0 || !bounded || at.value >= least);
    if (a.selector == Selector::kTopP) {
      if (slot == 0) {
        first = at.value;
        enough = scores.mass(first) * static_cast<C>(a.level);
      }
      used = used && (slot == 0 || passed <= enough);
      passed += exp(at.value - first);
    }
    if (lane == 0) {
      chosen[slot] = used ? at.value : none;
      selected[slot] = used ? at.expert : -1;
    }
  }
}

template <class T>
__global__ void choose_and_weigh(Route a) {
  extern __shared__ int local[];
  for (int e = threadIdx.x; e < a.experts; e += blockDim.x) local[e] = 0;
  __syncthreads();
  const int64_t token = int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (token < a.tokens) {  // the same for all lanes of a warp
    auto* chosen = static_cast<Compute<T>*>(a.chosen) + token * a.slots;
    int64_t* selected = a.selected + token * a.slots;
    choose<T>(a, token, chosen, selected);
    __syncwarp();
    if (a.capacity == 0) {
      weigh(selected, chosen, static_cast<int>(a.slots),
            static_cast<T*>(a.weights) + token * a.slots);
      for (int k = threadIdx.x % kLanes; k < a.slots; k += kLanes)
        if (selected[k] >= 0) atomicAdd(local + selected[k], 1);
    }
  }
  __syncthreads();
  if (a.capacity == 0) add_counts(local, a.experts, a.counts);
}

template <class T>
__global__ void limit_and_weigh(Route a, const int64_t* position, const int64_t* offsets) {
  const int64_t token = int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (blockIdx.x == 0)
    for (int64_t e = threadIdx.x; e < a.experts; e += blockDim.x)
      a.counts[e] = min(offsets[e + 1] - offsets[e], a.capacity);
  if (token >= a.tokens) return;
  const int64_t base = token * a.slots;
  for (int64_t slot = base + threadIdx.x % kLanes; slot < base + a.slots; slot += kLanes) {
    const int64_t expert = a.selected[slot];
    if (expert >= 0 && position[slot] - offsets[expert] >= a.capacity) a.selected[slot] = -1;
  }
  __syncwarp();
  weigh(a.selected + base, static_cast<const Compute<T>*>(a.chosen) + base,
        static_cast<int>(a.slots), static_cast<T*>(a.weights) + base);
}

template <class T>
__global__ void softmax_backward(const T* grad, const int64_t* selected, const T* weights,
                                 int64_t tokens, int64_t slots, int64_t experts,
                                 Compute<T> temperature, T* grad_logits) {
  using C = Compute<T>;
  const int64_t token = int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (token >= tokens) return;
  const int lane = threadIdx.x % kLanes;
  T* out = grad_logits + token * experts;
  for (int64_t e = lane; e < experts; e += kLanes) out[e] = store<T>(C{0});
  C inner = 0;
  const int64_t base = token * slots;
  for (int64_t k = base + lane; k < base + slots; k += kLanes)
    if (selected[k] >= 0) inner += load(weights[k]) * load(grad[k]);
  inner = warp_sum(inner);
  __syncwarp();
  for (int64_t k = base + lane; k < base + slots; k += kLanes)
    if (selected[k] >= 0)
      out[selected[k]] = store<T>(load(weights[k]) * (load(grad[k]) - inner) / temperature);
}

}  // namespace

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

int route(const Route& call, void* stream) {
  if (call.tokens == 0) return 0;
  const size_t shared = static_cast<size_t>(call.experts) * sizeof(int);
  on_type(call.type, [&](auto zero) {
    choose_and_weigh<decltype(zero)>
        <<<blocks(call.tokens, kWarps), kThreads, shared, static_cast<cudaStream_t>(stream)>>>(
            call);
  });
  return launched();
}

int limit(const Route& call, const int64_t* position, const int64_t* offsets, void* stream) {
  if (call.tokens == 0) return 0;
  on_type(call.type, [&](auto zero) {
    limit_and_weigh<decltype(zero)>
        <<<blocks(call.tokens, kWarps), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            call, position, offsets);
  });
  return launched();
}

int route_backward(Type type, const void* grad, const int64_t* selected, const void* weights,
                   int64_t tokens, int64_t slots, int64_t experts, double temperature,
                   void* grad_logits, void* stream) {
  if (tokens == 0) return 0;
  on_type(type, [&](auto zero) {
    using T = decltype(zero);
    softmax_backward<T>
        <<<blocks(tokens, kWarps), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            static_cast<const T*>(grad), selected, static_cast<const T*>(weights), tokens, slots,
            experts, static_cast<Compute<T>>(temperature), static_cast<T*>(grad_logits));
  });
  return launched();
}

}  // namespace growstage::cuda
