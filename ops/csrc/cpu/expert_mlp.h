// CPU kernel of `expert_mlp`: each expert's layer(s) on its rows, tile by tile so that hidden units
// stay in cache between the products. Work is cut into pieces that depend on the rows alone, so
// the bits are the same under any number of threads.
#pragma once

#include <algorithm>
#include <vector>

#include "../shared.h"
#include "gated.h"
#include "gemm.h"

namespace growstage::cpu {

// Weights as torch's Linear stores them: up[e] is [hidden[e], inputs], down[e] [outputs, hidden[e]].
// No `down` = one linear layer (hidden[e] = outputs, no activation). Gated experts have two rows of
// `up` for each hidden unit, gates first: down[e] is [outputs, hidden[e] / 2]. Biases may be empty.
template <class T>
struct Experts {
  std::vector<const T*> up, up_bias, down, down_bias;
  std::vector<int64_t> hidden;
  int64_t inputs, outputs, stride;  // stride: row length of the buffer of hidden units
  const int64_t* offsets;
  Activation activation;
  bool gated;

  int64_t count() const { return static_cast<int64_t>(up.size()); }
  bool two_layers() const { return !down.empty(); }
  int64_t units(int64_t e) const { return gated ? hidden[e] / 2 : hidden[e]; }
};

template <class T>
const T* at(const std::vector<const T*>& biases, int64_t e) {
  return biases.empty() ? nullptr : biases[e];
}

template <class T>
struct Gradients {
  T* rows;  // null = not wanted
  std::vector<T*> up, up_bias, down, down_bias;
  std::vector<char> trainable;
};

struct Piece {
  int64_t expert, begin, end, part;  // part: number of the piece within its expert
};

// Rows of a tile: all that one tile touches, weights aside, fits in half a megabyte. Gated experts
// take many at once: they are of the sizes of language models, for which the BLAS rearranges the
// weights anew in every product, and a gradient is read and written once more for every tile.
template <class T>
int64_t tile_rows(const Experts<T>& a, int64_t hidden) {
  constexpr int64_t bytes = 512 * 1024, least = 64, most = 2048;
  if (a.gated) return most;
  const int64_t row = static_cast<int64_t>(sizeof(T)) * (a.inputs + 2 * hidden + a.outputs);
  return std::clamp(bytes / row / 32 * 32, least, most);
}

// An expert's rows in at most `limit` pieces of at least `least` rows.
template <class T>
std::vector<Piece> cut(const Experts<T>& a, int64_t least, int64_t limit) {
  std::vector<Piece> pieces;
  for (int64_t e = 0; e < a.count(); ++e) {
    const int64_t first = a.offsets[e], rows = a.offsets[e + 1] - first;
    const int64_t step = std::max(least, (rows + limit - 1) / limit);
    for (int64_t done = 0, part = 0; done < rows; done += step, ++part)
      pieces.push_back({e, first + done, first + std::min(done + step, rows), part});
  }
  return pieces;
}

// What a thread keeps while it works on pieces; weights stay rearranged from tile to tile.
template <class T>
struct Workspace {
  int64_t expert = -1;
  Right<T> up, down, inputs;
  Buffer<T> slope, active, inner, grad, masked;
};

template <class T>
void forward_tile(const Experts<T>& a, int64_t e, int64_t begin, int64_t rows, const T* x, T* y,
                  T* hidden, Workspace<T>& work) {
  const int64_t d = a.inputs, h = a.hidden[e], o = a.outputs;
  x += begin * d, y += begin * o;
  Product<T> first, second;
  first.bias = at(a.up_bias, e);
  if (!a.two_layers()) return first(rows, x, d, work.up, y, o);
  T* kept = hidden + begin * a.stride;
  first.relu = a.activation == Activation::kRelu && !a.gated;
  first(rows, x, d, work.up, kept, a.stride);
  for (int64_t r = 0; r < rows && h < a.stride; ++r)
    std::fill(kept + r * a.stride + h, kept + (r + 1) * a.stride, T{0});
  second.bias = at(a.down_bias, e);
  if (first.relu) return second(rows, kept, a.stride, work.down, y, o);
  T* active = work.active.get(rows * a.units(e));
  if (a.gated) {
    gate_units(kept, a.stride, rows, a.units(e), a.activation, active);
    return second(rows, active, a.units(e), work.down, y, o);
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < h; ++j)
      active[r * h + j] = activate(kept[r * a.stride + j], a.activation);
  second(rows, active, h, work.down, y, o);
}

template <class T, class Parallel>
void expert_mlp(const Parallel& parallel, const Experts<T>& a, const T* x, int64_t row_count, T* y,
                T* hidden) {
  const auto pieces = cut(a, 512, 64);
  parallel(static_cast<int64_t>(pieces.size()), 1, [&](int64_t first, int64_t last) {
    Workspace<T> work;
    for (int64_t i = first; i < last; ++i) {
      const auto& p = pieces[i];
      const int64_t h = a.hidden[p.expert], tile = tile_rows(a, h);
      if (work.expert != p.expert) {
        work.up.set(true, a.inputs, h, a.up[p.expert], a.inputs);
        const int64_t units = a.units(p.expert);
        if (a.two_layers()) work.down.set(true, units, a.outputs, a.down[p.expert], units);
        work.expert = p.expert;
      }
      for (int64_t at = p.begin; at < p.end; at += tile)
        forward_tile(a, p.expert, at, std::min(tile, p.end - at), x, y, hidden, work);
    }
  });
  const int64_t used = a.offsets[a.count()];
  std::fill(y + used * a.outputs, y + row_count * a.outputs, T{0});
  if (a.two_layers()) std::fill(hidden + used * a.stride, hidden + row_count * a.stride, T{0});
}

// Where one piece adds up the gradients of its expert's parameters; null = there is none.
template <class T>
struct Sums {
  T *up, *up_bias, *down, *down_bias;
};

// out[j] (+)= sum over rows of x[:, j].
template <class T>
void column_sums(const T* x, int64_t rows, int64_t width, bool fresh, T* out) {
  if (fresh) std::fill_n(out, width, T{0});
  for (int64_t r = 0; r < rows; ++r, x += width)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) out[j] += x[j];
}

// A copy of the rows in which those that no parameter may learn from are 0 (even where NaN was).
template <class T>
const T* learning_rows(const T* x, int64_t stride, const bool* learning, int64_t rows,
                       int64_t width, Buffer<T>& memory) {
  T* out = memory.get(rows * width);
  for (int64_t r = 0; r < rows; ++r) {
    if (learning[r])
      std::copy_n(x + r * stride, width, out + r * width);
    else
      std::fill_n(out + r * width, width, T{0});
  }
  return out;
}

// Gradients of one linear map's weight [width, inputs] and bias from a tile of rows.
template <class T>
void parameter_gradient(const T* grad, int64_t width, const T* x, int64_t stride, int64_t inputs,
                        int64_t rows, bool fresh, T* weight, T* bias, Workspace<T>& work) {
  Product<T> product;
  product.transpose_a = true, product.add = !fresh;
  work.inputs.set(false, rows, inputs, x, stride);
  product(width, grad, width, work.inputs, weight, inputs);
  if (bias != nullptr) column_sums(grad, rows, width, fresh, bias);
}

// Gradient of the output layer's parameters, then of the hidden units before the activation.
template <class T>
const T* hidden_gradient(const Experts<T>& a, int64_t e, const T* grad, const T* kept,
                         const bool* learning, int64_t rows, bool train, bool fresh,
                         const Sums<T>& sums, Workspace<T>& work) {
  const int64_t h = a.units(e), o = a.outputs;
  const bool relu = a.activation == Activation::kRelu && !a.gated;
  T* slopes = work.slope.get(rows * h);
  T* active = relu || !train ? nullptr : work.active.get(rows * h);
  Product<T>{}(rows, grad, o, work.down, slopes, h);
  T* inner = a.gated ? work.inner.get(rows * 2 * h) : slopes;
  if (a.gated) gate_gradient(kept, a.stride, rows, h, a.activation, slopes, inner, active);
  for (int64_t r = 0; r < rows && !a.gated; ++r) {
    const T* row = kept + r * a.stride;
    T* out = slopes + r * h;
    if (relu) {
#pragma omp simd
      for (int64_t j = 0; j < h; ++j) out[j] = row[j] <= T{0} ? T{0} : out[j];
      continue;
    }
    for (int64_t j = 0; j < h; ++j) {
      if (train) active[r * h + j] = activate(row[j], a.activation);
      out[j] *= slope(row[j], a.activation);
    }
  }
  if (!train) return inner;
  const T* inputs = relu ? kept : active;
  int64_t stride = relu ? a.stride : h;
  if (learning != nullptr) {  // 0 * NaN of a masked row must not reach the sums
    grad = learning_rows(grad, o, learning, rows, o, work.grad);
    inputs = learning_rows(inputs, stride, learning, rows, h, work.masked);
    stride = h;
  }
  parameter_gradient(grad, o, inputs, stride, h, rows, fresh, sums.down, sums.down_bias, work);
  return inner;
}

template <class T>
void backward_tile(const Experts<T>& a, int64_t e, int64_t begin, int64_t rows, const T* grad,
                   const T* x, const T* hidden, const bool* learning, const Gradients<T>& out,
                   bool fresh, const Sums<T>& sums, Workspace<T>& work) {
  const int64_t d = a.inputs, h = a.hidden[e];
  const bool train = out.trainable[e];
  grad += begin * a.outputs, x += begin * d;
  if (learning != nullptr) learning += begin;
  if (a.two_layers())
    grad = hidden_gradient(a, e, grad, hidden + begin * a.stride, learning, rows, train, fresh,
                           sums, work);
  if (out.rows != nullptr) Product<T>{}(rows, grad, h, work.up, out.rows + begin * d, d);
  if (!train) return;
  if (learning != nullptr) {
    grad = learning_rows(grad, h, learning, rows, h, work.grad);
    x = learning_rows(x, d, learning, rows, d, work.masked);
  }
  parameter_gradient(grad, h, x, d, d, rows, fresh, sums.up, sums.up_bias, work);
}

// Sizes of the four gradients of one expert, in the order of Sums.
template <class T>
std::vector<int64_t> sizes(const Experts<T>& a, const Gradients<T>& out, int64_t e) {
  const int64_t down = a.two_layers() ? a.outputs : 0, biased = out.up_bias.empty() ? 0 : 1;
  return {a.hidden[e] * a.inputs, biased * a.hidden[e], down * a.units(e), biased * down};
}

template <class T>
Sums<T> own_sums(const Gradients<T>& out, int64_t e) {
  if (!out.trainable[e]) return {};
  const auto of = [e](const std::vector<T*>& group) { return group.empty() ? nullptr : group[e]; };
  return {out.up[e], of(out.up_bias), of(out.down), of(out.down_bias)};
}

// Sums of the later pieces of an expert, kept apart until they are added in the pieces' order.
template <class T>
class Partials {
 public:
  Partials(const Experts<T>& a, const Gradients<T>& out, const std::vector<Piece>& pieces)
      : buffers_(pieces.size()), sums_(pieces.size()) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      const int64_t e = pieces[i].expert;
      sums_[i] = own_sums(out, e);
      if (pieces[i].part == 0 || !out.trainable[e]) continue;
      const auto n = sizes(a, out, e);
      buffers_[i].resize(n[0] + n[1] + n[2] + n[3]);
      T* next = buffers_[i].data();
      T** parts[] = {&sums_[i].up, &sums_[i].up_bias, &sums_[i].down, &sums_[i].down_bias};
      for (int g = 0; g < 4; next += n[g++])
        if (*parts[g] != nullptr) *parts[g] = next;
    }
  }

  const Sums<T>& sums(int64_t piece) const { return sums_[piece]; }

  void add(const Experts<T>& a, const Gradients<T>& out, const std::vector<Piece>& pieces) const {
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (buffers_[i].empty()) continue;
      const auto n = sizes(a, out, pieces[i].expert);
      const auto total = own_sums(out, pieces[i].expert);
      const T* from[] = {sums_[i].up, sums_[i].up_bias, sums_[i].down, sums_[i].down_bias};
      T* to[] = {total.up, total.up_bias, total.down, total.down_bias};
      for (int g = 0; g < 4; ++g)
#pragma omp simd
        for (int64_t j = 0; j < n[g]; ++j) to[g][j] += from[g][j];
    }
  }

 private:
  std::vector<std::vector<T>> buffers_;
  std::vector<Sums<T>> sums_;
};

// Experts without rows get zero gradients; frozen ones cost no work on parameters.
template <class T, class Parallel>
void expert_mlp_backward(const Parallel& parallel, const Experts<T>& a, const T* grad, const T* x,
                         const T* hidden, const bool* learning, int64_t row_count,
                         const Gradients<T>& out) {
  const auto pieces = cut(a, 2048, 8);
  const Partials<T> partials(a, out, pieces);
  for (int64_t e = 0; e < a.count(); ++e) {
    if (!out.trainable[e] || a.offsets[e] != a.offsets[e + 1]) continue;
    const auto n = sizes(a, out, e);
    const auto sums = own_sums(out, e);
    T* to[] = {sums.up, sums.up_bias, sums.down, sums.down_bias};
    for (int g = 0; g < 4; ++g) std::fill_n(to[g], n[g], T{0});
  }
  parallel(static_cast<int64_t>(pieces.size()), 1, [&](int64_t first, int64_t last) {
    Workspace<T> work;
    for (int64_t i = first; i < last; ++i) {
      const auto& p = pieces[i];
      if (!out.trainable[p.expert] && out.rows == nullptr) continue;
      const int64_t h = a.hidden[p.expert], tile = tile_rows(a, h);
      if (work.expert != p.expert) {
        if (out.rows != nullptr) work.up.set(false, h, a.inputs, a.up[p.expert], a.inputs);
        const int64_t units = a.units(p.expert);
        if (a.two_layers()) work.down.set(false, a.outputs, units, a.down[p.expert], units);
        work.expert = p.expert;
      }
      for (int64_t at = p.begin; at < p.end; at += tile)
        backward_tile(a, p.expert, at, std::min(tile, p.end - at), grad, x, hidden, learning, out,
                      at == p.begin, partials.sums(i), work);
    }
  });
  partials.add(a, out, pieces);
  if (out.rows != nullptr)
    std::fill(out.rows + a.offsets[a.count()] * a.inputs, out.rows + row_count * a.inputs, T{0});
}

}  // namespace growstage::cpu
