// CPU kernel of `expert_mlp`: each expert's layer(s) on its rows, tile by tile so that hidden units
// stay in cache between the products. Work is cut into pieces that depend on the rows alone, so
// the bits are the same under any number of threads.
#pragma once

#include <algorithm>
#include <vector>

#include "../shared.h"
#include "gemm.h"

namespace growstage::cpu {

// Weights as torch's Linear stores them: up[e] is [hidden[e], inputs], down[e] [outputs, hidden[e]].
// No `down` = one linear layer (hidden[e] = outputs, no activation).
template <class T>
struct Experts {
  std::vector<const T*> up, up_bias, down, down_bias;
  std::vector<int64_t> hidden;
  int64_t inputs, outputs, stride;  // stride: row length of the buffer of hidden units
  const int64_t* offsets;
  Activation activation;

  int64_t count() const { return static_cast<int64_t>(up.size()); }
  bool two_layers() const { return !down.empty(); }
};

template <class T>
struct Gradients {
  T* rows;  // null = not wanted
  std::vector<T*> up, up_bias, down, down_bias;
  std::vector<char> trainable;
};

struct Piece {
  int64_t expert, begin, end, part;  // part: number of the piece within its expert
};

// Rows of a tile: all that one tile touches, weights aside, fits in a megabyte or so.
template <class T>
int64_t tile_rows(const Experts<T>& a, int64_t hidden) {
  constexpr int64_t bytes = 1280 * 1024, least = 128, most = 2048;
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

template <class T>
void add_bias(T* y, const T* bias, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r, y += width)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) y[j] += bias[j];
}

// kept = x + bias (before GELU and SiLU) or relu(x + bias); the activated values go to `active`,
// which is `kept` itself for ReLU. The tail up to `stride` is set to 0.
template <class T>
void bias_and_activate(T* kept, const T* bias, int64_t rows, int64_t width, int64_t stride,
                       Activation kind, T* active) {
  for (int64_t r = 0; r < rows; ++r, kept += stride) {
    if (kind == Activation::kRelu) {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const T x = kept[j] + bias[j];
        kept[j] = x < T{0} ? T{0} : x;
      }
    } else {
      for (int64_t j = 0; j < width; ++j) {
        kept[j] += bias[j];
        active[r * width + j] = activate(kept[j], kind);
      }
    }
    std::fill(kept + width, kept + stride, T{0});
  }
}

template <class T>
void forward_tile(const Experts<T>& a, int64_t e, int64_t begin, int64_t rows, const T* x, T* y,
                  T* hidden, std::vector<T>& scratch) {
  const int64_t d = a.inputs, h = a.hidden[e], o = a.outputs;
  x += begin * d, y += begin * o;
  if (!a.two_layers()) {
    gemm(false, true, rows, o, d, x, d, a.up[e], d, T{0}, y, o);
    return add_bias(y, a.up_bias[e], rows, o);
  }
  T* kept = hidden + begin * a.stride;
  const bool relu = a.activation == Activation::kRelu;
  if (!relu) scratch.resize(rows * h);
  gemm(false, true, rows, h, d, x, d, a.up[e], d, T{0}, kept, a.stride);
  bias_and_activate(kept, a.up_bias[e], rows, h, a.stride, a.activation, scratch.data());
  gemm(false, true, rows, o, h, relu ? kept : scratch.data(), relu ? a.stride : h, a.down[e], h,
       T{0}, y, o);
  add_bias(y, a.down_bias[e], rows, o);
}

template <class T, class Parallel>
void expert_mlp(const Parallel& parallel, const Experts<T>& a, const T* x, int64_t row_count, T* y,
                T* hidden) {
  const auto pieces = cut(a, 512, 64);
  parallel(static_cast<int64_t>(pieces.size()), 1, [&](int64_t first, int64_t last) {
    std::vector<T> scratch;
    for (int64_t i = first; i < last; ++i) {
      const auto& piece = pieces[i];
      const int64_t tile = tile_rows(a, a.hidden[piece.expert]);
      for (int64_t at = piece.begin; at < piece.end; at += tile)
        forward_tile(a, piece.expert, at, std::min(tile, piece.end - at), x, y, hidden, scratch);
    }
  });
  const int64_t used = a.offsets[a.count()];
  std::fill(y + used * a.outputs, y + row_count * a.outputs, T{0});
  if (a.two_layers()) std::fill(hidden + used * a.stride, hidden + row_count * a.stride, T{0});
}

template <class T>
struct Scratch {
  std::vector<T> slope, active, grad;
};

// Where one piece adds up the gradients of its expert's parameters.
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

// Rows from which no parameter may learn become 0 (also where they held NaN).
template <class T>
void mask_rows(T* x, const bool* learning, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r)
    if (!learning[r]) std::fill_n(x + r * width, width, T{0});
}

// Gradient of the output layer's parameters, then of the hidden units before the activation.
template <class T>
void hidden_gradient(const Experts<T>& a, int64_t e, const T* grad, const T* kept,
                     const bool* learning, int64_t rows, bool train, bool fresh, const Sums<T>& sums,
                     Scratch<T>& scratch) {
  const int64_t h = a.hidden[e], o = a.outputs;
  const bool relu = a.activation == Activation::kRelu;
  scratch.slope.resize(rows * h);
  T* slopes = scratch.slope.data();
  gemm(false, false, rows, h, o, grad, o, a.down[e], h, T{0}, slopes, h);
  if (!relu && train) scratch.active.resize(rows * h);
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = kept + r * a.stride;
    T* out = slopes + r * h;
    if (relu) {
#pragma omp simd
      for (int64_t j = 0; j < h; ++j) out[j] = row[j] <= T{0} ? T{0} : out[j];
      continue;
    }
    for (int64_t j = 0; j < h; ++j) {
      if (train) scratch.active[r * h + j] = activate(row[j], a.activation);
      out[j] *= slope(row[j], a.activation);
    }
  }
  if (!train) return;
  if (learning != nullptr) {
    scratch.grad.assign(grad, grad + rows * o);
    mask_rows(scratch.grad.data(), learning, rows, o);
    grad = scratch.grad.data();
    if (relu) {  // 0 * NaN of a masked row must not reach the sums
      scratch.active.resize(rows * h);
      for (int64_t r = 0; r < rows; ++r)
        std::copy_n(kept + r * a.stride, h, scratch.active.data() + r * h);
    }
    mask_rows(scratch.active.data(), learning, rows, h);
  }
  const bool packed = !relu || learning != nullptr;
  gemm(true, false, o, h, rows, grad, o, packed ? scratch.active.data() : kept,
       packed ? h : a.stride, fresh ? T{0} : T{1}, sums.down, h);
  column_sums(grad, rows, o, fresh, sums.down_bias);
}

template <class T>
void backward_tile(const Experts<T>& a, int64_t e, int64_t begin, int64_t rows, const T* grad,
                   const T* x, const T* hidden, const bool* learning, const Gradients<T>& out,
                   bool fresh, const Sums<T>& sums, Scratch<T>& scratch) {
  const int64_t d = a.inputs, h = a.hidden[e], o = a.outputs;
  const bool train = out.trainable[e];
  grad += begin * o, x += begin * d;
  if (learning != nullptr) learning += begin;
  if (a.two_layers()) {
    hidden_gradient(a, e, grad, hidden + begin * a.stride, learning, rows, train, fresh, sums,
                    scratch);
    grad = scratch.slope.data();
  }
  if (out.rows != nullptr)
    gemm(false, false, rows, d, h, grad, h, a.up[e], d, T{0}, out.rows + begin * d, d);
  if (!train) return;
  if (learning != nullptr) {
    if (!a.two_layers()) scratch.slope.assign(grad, grad + rows * h);
    mask_rows(scratch.slope.data(), learning, rows, h);
    grad = scratch.slope.data();
    scratch.active.assign(x, x + rows * d);
    mask_rows(scratch.active.data(), learning, rows, d);
    x = scratch.active.data();
  }
  gemm(true, false, h, d, rows, grad, h, x, d, fresh ? T{0} : T{1}, sums.up, d);
  column_sums(grad, rows, h, fresh, sums.up_bias);
}

// Sizes of the four gradients of one expert, in the order of Sums.
template <class T>
std::vector<int64_t> sizes(const Experts<T>& a, int64_t e) {
  const int64_t down = a.two_layers() ? a.outputs : 0;
  return {a.hidden[e] * a.inputs, a.hidden[e], down * a.hidden[e], down};
}

template <class T>
Sums<T> own_sums(const Gradients<T>& out, int64_t e) {
  if (!out.trainable[e]) return {};
  if (out.down.empty()) return {out.up[e], out.up_bias[e], nullptr, nullptr};
  return {out.up[e], out.up_bias[e], out.down[e], out.down_bias[e]};
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
      const auto n = sizes(a, e);
      buffers_[i].resize(n[0] + n[1] + n[2] + n[3]);
      T* at = buffers_[i].data();
      sums_[i] = {at, at + n[0], at + n[0] + n[1], at + n[0] + n[1] + n[2]};
    }
  }

  const Sums<T>& sums(int64_t piece) const { return sums_[piece]; }

  void add(const Experts<T>& a, const Gradients<T>& out, const std::vector<Piece>& pieces) const {
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (buffers_[i].empty()) continue;
      const auto n = sizes(a, pieces[i].expert);
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
    const auto n = sizes(a, e);
    const auto sums = own_sums(out, e);
    T* to[] = {sums.up, sums.up_bias, sums.down, sums.down_bias};
    for (int g = 0; g < 4; ++g) std::fill_n(to[g], n[g], T{0});
  }
  parallel(static_cast<int64_t>(pieces.size()), 1, [&](int64_t first, int64_t last) {
    Scratch<T> scratch;
    for (int64_t i = first; i < last; ++i) {
      const auto& p = pieces[i];
      if (!out.trainable[p.expert] && out.rows == nullptr) continue;
      const int64_t tile = tile_rows(a, a.hidden[p.expert]);
      for (int64_t at = p.begin; at < p.end; at += tile)
        backward_tile(a, p.expert, at, std::min(tile, p.end - at), grad, x, hidden, learning, out,
                      at == p.begin, partials.sums(i), scratch);
    }
  });
  partials.add(a, out, pieces);
  if (out.rows != nullptr)
    std::fill(out.rows + a.offsets[a.count()] * a.inputs, out.rows + row_count * a.inputs, T{0});
}

}  // namespace growstage::cpu
