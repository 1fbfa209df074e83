// CPU kernel of `route`: choose experts in fixed slots, softmax over the used ones, count them.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "../shared.h"

namespace growstage::cpu {

template <class T>
struct Route {
  const T* logits;
  const T* noise;        // may be null
  const bool* allowed;   // may be null
  const T* threshold;    // one value; only read by Selector::kThreshold
  int64_t tokens, experts, slots, capacity;  // capacity 0 = no limit
  Selector selector;
  T temperature, level;
};

// Sort the first `count` experts of a token into `order`.
template <class T>
void rank(const T* scores, int64_t experts, int64_t count, int32_t* order) {
  if (count > 8) {
    std::iota(order, order + experts, 0);
    std::partial_sort(order, order + count, order + experts, [scores](int32_t i, int32_t j) {
      return before(scores[i], i, scores[j], j);
    });
    return;
  }
  int64_t filled = 0;
  for (int64_t e = 0; e < experts; ++e) {
    const T value = scores[e];
    if (filled == count && !before(value, e, scores[order[count - 1]], int64_t{order[count - 1]}))
      continue;
    int64_t place = filled < count ? filled++ : count - 1;
    for (; place > 0 && before(value, e, scores[order[place - 1]], int64_t{order[place - 1]});
         --place)
      order[place] = order[place - 1];
    order[place] = static_cast<int32_t>(e);
  }
}

// Whether all but the best expert of a token must reach a score.
inline bool bounded(Selector selector) {
  return selector == Selector::kThreshold || selector == Selector::kPercentile;
}

// How many first experts of a token hold all that reach `least`: those and the NaN, which come before
// all; at least the best, which is always used.
template <class T>
int64_t reaching(const Route<T>& a, const T* scores, T least) {
  int64_t count = 0;
  for (int64_t e = 0; e < a.experts; ++e) count += !(scores[e] < least);
  return std::clamp(count, int64_t{1}, a.slots);
}

// Order statistic with linear interpolation over the allowed scores of one token; sorts the experts
// above it into `order` and says how many those are.
template <class T>
T percentile(const Route<T>& a, const T* scores, int32_t* order, int64_t& ranked) {
  const int64_t live =
      a.experts - std::count(scores, scores + a.experts, -static_cast<T>(INFINITY));
  if (live == 0) return static_cast<T>(INFINITY);
  const double place = static_cast<double>(a.level) * static_cast<double>(live - 1);
  const auto low = static_cast<int64_t>(place);
  const int64_t high = std::min(low + 1, live - 1);
  ranked = live - low;
  rank(scores, a.experts, ranked, order);
  const T below = scores[order[live - 1 - low]], above = scores[order[live - 1 - high]];
  return below + static_cast<T>(place - static_cast<double>(low)) * (above - below);
}

// Sort as many experts of one token as may be used into `order`; their number, and in `least` the
// score that all but the best must reach.
template <class T>
int64_t rank_used(const Route<T>& a, const T* scores, int32_t* order, T& least) {
  int64_t ranked = 0, wanted = a.slots;
  if (a.selector == Selector::kDense) {
    std::iota(order, order + a.experts, 0);
    return a.experts;
  }
  if (a.selector == Selector::kThreshold) least = *a.threshold;
  if (a.selector == Selector::kPercentile) least = percentile(a, scores, order, ranked);
  if (bounded(a.selector)) wanted = reaching(a, scores, least);
  if (ranked < wanted) rank(scores, a.experts, wanted, order);
  return wanted;
}

// Experts of one token into selected[slots] (-1 = unused) and their scores into chosen[slots].
template <class T>
void choose(const Route<T>& a, int64_t token, T* scores, int32_t* order, T* chosen,
            int64_t* selected) {
  const T none = -static_cast<T>(INFINITY);
  const int64_t base = token * a.experts;
  for (int64_t e = 0; e < a.experts; ++e)
    scores[e] = score(a.logits[base + e], a.noise, a.allowed, base + e, a.temperature);
  T least = none;
  const int64_t ranked = rank_used(a, scores, order, least);
  T passed = 0, enough = 0;
  if (a.selector == Selector::kTopP) {
    for (int64_t e = 0; e < a.experts; ++e) enough += std::exp(scores[e] - scores[order[0]]);
    enough *= a.level;
  }
  for (int64_t slot = 0; slot < ranked; ++slot) {
    const T value = scores[order[slot]];
    bool used = value != none && (slot == 0 || !bounded(a.selector) || value >= least);
    if (a.selector == Selector::kTopP) {
      used = used && (slot == 0 || passed <= enough);
      passed += std::exp(value - scores[order[0]]);
    }
    chosen[slot] = used ? value : none;
    selected[slot] = used ? order[slot] : -1;
  }
  std::fill(chosen + ranked, chosen + a.slots, none);
  std::fill(selected + ranked, selected + a.slots, int64_t{-1});
}

// Softmax over the used slots of one token; 0 in unused ones.
template <class T>
void weigh(const int64_t* selected, int64_t slots, T* chosen) {
  T largest = -static_cast<T>(INFINITY), total = 0;
  for (int64_t k = 0; k < slots; ++k)
    if (selected[k] >= 0 && !(chosen[k] <= largest)) largest = chosen[k];
  for (int64_t k = 0; k < slots; ++k) {
    chosen[k] = selected[k] >= 0 ? std::exp(chosen[k] - largest) : T{0};
    total += chosen[k];
  }
  for (int64_t k = 0; k < slots; ++k)
    chosen[k] = selected[k] >= 0 ? chosen[k] / total : T{0};
}

// `weights` serves as the buffer of the chosen scores until the softmax.
template <class T, class Parallel>
void route(const Parallel& parallel, const Route<T>& a, T* weights, int64_t* selected,
           int64_t* counts) {
  constexpr int64_t grain = 256;
  parallel(a.tokens, grain, [&](int64_t begin, int64_t end) {
    std::vector<T> scores(a.experts);
    std::vector<int32_t> order(a.experts);
    for (int64_t t = begin; t < end; ++t) {
      const int64_t at = t * a.slots;
      choose(a, t, scores.data(), order.data(), weights + at, selected + at);
      if (a.capacity == 0) weigh(selected + at, a.slots, weights + at);
    }
  });
  std::fill_n(counts, a.experts, int64_t{0});
  for (int64_t slot = 0; slot < a.tokens * a.slots; ++slot) {
    const int64_t expert = selected[slot];
    if (expert < 0) continue;
    if (a.capacity > 0 && counts[expert] >= a.capacity)
      selected[slot] = -1;
    else
      ++counts[expert];
  }
  if (a.capacity == 0) return;
  parallel(a.tokens, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      weigh(selected + t * a.slots, a.slots, weights + t * a.slots);
  });
}

// Jacobian of the softmax over the used slots, scattered to the logits.
template <class T, class Parallel>
void route_backward(const Parallel& parallel, const T* grad, const int64_t* selected,
                    const T* weights, int64_t tokens, int64_t slots, int64_t experts,
                    T temperature, T* grad_logits) {
  parallel(tokens, 256, [&](int64_t begin, int64_t end) {
    std::fill(grad_logits + begin * experts, grad_logits + end * experts, T{0});
    for (int64_t t = begin; t < end; ++t) {
      const int64_t at = t * slots;
      T inner = 0;
      for (int64_t k = 0; k < slots; ++k)
        if (selected[at + k] >= 0) inner += weights[at + k] * grad[at + k];
      for (int64_t k = 0; k < slots; ++k)
        if (selected[at + k] >= 0)
          grad_logits[t * experts + selected[at + k]] =
              weights[at + k] * (grad[at + k] - inner) / temperature;
    }
  });
}

}  // namespace growstage::cpu
