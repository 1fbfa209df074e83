// CPU kernel of `row_sum`: a linear map of compact observations as sums of rows, and its gradient.
// Both directions add up rows named by a list, so both read the large matrix and never write to it
// more than once; columns are taken in strips whose accumulators stay in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../shared.h"

namespace growstage::cpu {

// Bytes of one register: compilers keep wider vectors in memory.
#ifdef __AVX512F__
constexpr int64_t kRegister = 64;
#elif defined(__AVX__)
constexpr int64_t kRegister = 32;
#else
constexpr int64_t kRegister = 16;
#endif

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(kRegister)));
  static constexpr int64_t lanes = kRegister / sizeof(T);
};

constexpr int kVectors = 8;

template <class T>
constexpr int64_t kStrip = kVectors* Vector<T>::lanes;

template <class T>
inline typename Vector<T>::type load(const T* from) {
  typename Vector<T>::type value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// to[0..width) = from[0..width) + sum over the list of factor * rows[list[i]][0..width); without
// factors, of rows.
template <class T>
inline void add_rows(const T* rows, int64_t stride, const int32_t* list, const T* factors,
                     int64_t count, int64_t width, const T* from, T* to) {
  if (width < kStrip<T>) {
    if (from != to) std::copy_n(from, width, to);
    for (int64_t i = 0; i < count; ++i) {
      const T* row = rows + list[i] * stride;
      const T factor = factors == nullptr ? T{1} : factors[i];
      for (int64_t j = 0; j < width; ++j) to[j] += factor * row[j];
    }
    return;
  }
  constexpr int64_t lanes = Vector<T>::lanes;
  typename Vector<T>::type sum[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sum[v] = load(from + v * lanes);
  for (int64_t i = 0; i < count; ++i) {
    const T* row = rows + list[i] * stride;
    if (factors == nullptr) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[v] += load(row + v * lanes);
    } else {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[v] += factors[i] * load(row + v * lanes);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) std::memcpy(to + v * lanes, &sum[v], sizeof sum[v]);
}

inline const int16_t* codes_of(const Observed& x, int64_t sample) {
  return x.entries + sample * x.entry_width;
}

// Lists one behind the other; the i-th begins at ends[i].
template <class T>
struct Lists {
  std::vector<int32_t> places;
  std::vector<T> factors;
  std::vector<int64_t> ends{0};

  Lists(int64_t most, bool with_factors) : places(most), factors(with_factors ? most : 0) {}
  int64_t size(int64_t list) const { return ends[list + 1] - ends[list]; }
  const int32_t* of(int64_t list) const { return places.data() + ends[list]; }
};

template <class T, class Parallel>
void row_sum(const Parallel& parallel, const T* weight, const T* bias, const Observed& x,
             int64_t width, T* y) {
  std::vector<T> start(bias, bias + width), pairs(x.derived_count * width, T{0});
  for (int64_t u = 0; u < x.usual_count; ++u)
    for (int64_t j = 0; j < width; ++j) start[j] += weight[x.usual[u] * width + j];
  for (int64_t d = 0; d < 2 * x.derived_count; ++d) {
    const T* row = weight + place(x.derived[d]) * width;
    const T sign = x.derived[d] >= 0 ? T{1} : T{-1};
    for (int64_t j = 0; j < width; ++j) pairs[(d / 2) * width + j] += sign * row[j];
  }
  parallel(x.batch, 16, [&](int64_t begin, int64_t end) {
    constexpr int64_t block = 256;  // samples whose lists are kept while the strips pass
    for (int64_t first = begin; first < end; first += block) {
      const int64_t last = std::min(first + block, end);
      // One more than they hold: every code is written where the next one belongs, then counted.
      const int64_t most = (last - first) * x.slots + 1, reals = (last - first) * x.scalars + 1;
      Lists<T> plain(most, false), paired(most, false), real(reals, true);
      int64_t plains = 0, paireds = 0, scalars = 0;
      for (int64_t b = first; b < last; ++b) {
        const int16_t* codes = codes_of(x, b);
        for (int64_t k = 0; k < x.slots; ++k) {
          const int32_t code = codes[k];
          plain.places[plains] = code;
          paired.places[paireds] = code - static_cast<int32_t>(x.ones);
          plains += code >= 0 && code < x.ones;
          paireds += code >= x.ones;
        }
        for (int64_t s = 0; s < x.scalars; ++s) {
          real.places[scalars] = static_cast<int32_t>(x.ones + s);
          real.factors[scalars] = scalar(x, b, s);
          scalars += real.factors[scalars] != T{0};
        }
        plain.ends.push_back(plains);
        paired.ends.push_back(paireds);
        real.ends.push_back(scalars);
      }
      for (int64_t column = 0; column < width; column += kStrip<T>) {
        const int64_t strip = std::min(kStrip<T>, width - column);
        for (int64_t b = first; b < last; ++b) {
          const int64_t i = b - first;
          T* target = y + b * width + column;
          const T* none = nullptr;
          add_rows(weight + column, width, plain.of(i), none, plain.size(i), strip,
                   start.data() + column, target);
          add_rows(pairs.data() + column, width, paired.of(i), none, paired.size(i), strip, target,
                   target);
          add_rows(weight + column, width, real.of(i), real.factors.data() + real.ends[i],
                   real.size(i), strip, target, target);
        }
      }
    }
  });
}

// Every sample is in the list of each code it has: grad_weight[code] = sum of grad over its list.
template <class T, class Parallel>
void row_sum_backward(const Parallel& parallel, const T* grad, const Observed& x, int64_t width,
                      T* grad_weight, T* grad_bias) {
  const int64_t codes = x.ones + x.derived_count;
  std::vector<int32_t> ends(codes + 1, 0);
  for (int64_t b = 0; b < x.batch; ++b)
    for (int64_t k = 0; k < x.slots; ++k) ends[codes_of(x, b)[k] + 1] += 1;  // unused slots: place 0
  ends[0] = 0;
  for (int64_t c = 0; c < codes; ++c) ends[c + 1] += ends[c];
  std::vector<int32_t> samples(ends[codes] + 1);
  for (int64_t b = x.batch - 1; b >= 0; --b)
    for (int64_t k = x.slots - 1; k >= 0; --k) {
      const int16_t code = codes_of(x, b)[k];
      if (code >= 0) samples[--ends[code + 1]] = static_cast<int32_t>(b);
    }
  // ends[c + 1] is now where the list of c begins, and ends[c + 2] where it stops
  ends.push_back(static_cast<int32_t>(samples.size() - 1));
  const auto list = [&](int64_t code) { return samples.data() + ends[code + 1]; };
  const auto size = [&](int64_t code) { return int64_t{ends[code + 2]} - ends[code + 1]; };

  std::fill_n(grad_bias, width, T{0});
  for (int64_t b = 0; b < x.batch; ++b)
    for (int64_t j = 0; j < width; ++j) grad_bias[j] += grad[b * width + j];

  std::vector<T> pairs(x.derived_count * width, T{0});
  const T* none = nullptr;
  parallel(codes, 256, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      if (c < x.ones) std::fill_n(grad_weight + c * width, width, T{0});
    for (int64_t column = 0; column < width; column += kStrip<T>) {
      const int64_t strip = std::min(kStrip<T>, width - column);
      for (int64_t c = begin; c < end; ++c) {
        T* target = c < x.ones ? grad_weight + c * width : pairs.data() + (c - x.ones) * width;
        if (size(c) > 0)
          add_rows(grad + column, width, list(c), none, size(c), strip, target + column,
                   target + column);
      }
    }
  });
  parallel(x.scalars, 8, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> seen(x.batch);
    std::vector<T> factors(x.batch);
    for (int64_t s = begin; s < end; ++s) {
      int64_t count = 0;
      for (int64_t b = 0; b < x.batch; ++b) {
        factors[count] = scalar(x, b, s);
        seen[count] = static_cast<int32_t>(b);
        count += factors[count] != T{0};
      }
      T* row = grad_weight + (x.ones + s) * width;
      std::fill_n(row, width, T{0});
      for (int64_t column = 0; column < width; column += kStrip<T>)
        add_rows(grad + column, width, seen.data(), factors.data(), count,
                 std::min(kStrip<T>, width - column), row + column, row + column);
    }
  });
  for (int64_t u = 0; u < x.usual_count; ++u)
    for (int64_t j = 0; j < width; ++j) grad_weight[x.usual[u] * width + j] += grad_bias[j];
  for (int64_t d = 0; d < 2 * x.derived_count; ++d) {
    T* row = grad_weight + place(x.derived[d]) * width;
    const T sign = x.derived[d] >= 0 ? T{1} : T{-1};
    const T* from = pairs.data() + (d / 2) * width;
    if (size(x.ones + d / 2) > 0)
      for (int64_t j = 0; j < width; ++j) row[j] += sign * from[j];
  }
}

}  // namespace growstage::cpu
