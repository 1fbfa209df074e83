// Craftax's Perlin noise of one octave, to the bit.
// Perlin 2002, "Improving noise"; craftax.util.noise.
//
// On the CPU, XLA takes cosine and sine from the C library and multiplies by one over the range
// instead of dividing by the range. One of its ready kernels (YNNPACK) makes the whole noise, with
// no product and sum fused. That is what the program does which makes one world. Craftax's own
// step, which makes worlds of all games in one program, fuses some; its worlds are not met.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "random.h"

namespace craftax {

// Noise on Size x Size points over a lattice of Rows x Columns cells.
template <int Size, int Rows, int Columns>
class PerlinNoise {
  static constexpr float kRoot = 1.41421354f;  // of two
  static constexpr int kHigh = Size / Rows, kWide = Size / Columns;  // a cell, in points
  // Points lie at binary fractions of a cell, so their places and weights are exact in floats.
  static_assert((kHigh & (kHigh - 1)) == 0 && kHigh <= 16);
  static_assert((kWide & (kWide - 1)) == 0 && kWide <= 16);

 public:
  // The noise that generate_fractal_noise_2d makes with this key.
  explicit PerlinNoise(Key key) {
    draw_gradients(child(child(key, 1u), 1u));
    for (int cell = 0; cell < Rows; ++cell) fill(cell);
    find_range();
  }

  // Between 0 and 1, at a point counted along the rows.
  float operator[](int point) const { return above_least(point) * scale_; }

  // The two factors of the noise, for sums that XLA fuses with their product.
  float above_least(int point) const { return values_[point] * kRoot - least_; }
  float scale() const { return scale_; }

 private:
  struct Gradients {  // at the nodes to the left and right of every point of a row
    float cosine[2][Size], sine[2][Size];
  };

  void draw_gradients(Key key) {
    constexpr uint32_t kNodes = (Rows + 1) * (Columns + 1);
    float angles[kNodes];
    for (uint32_t node = 0; node < kNodes; ++node) angles[node] = uniform(key, node) * 6.28318548f;
    for (uint32_t node = 0; node < kNodes; ++node) {
      cosine_[node] = std::cos(angles[node]);
      sine_[node] = std::sin(angles[node]);
    }
  }

  Gradients spread(int row_of_nodes) const {
    Gradients out;
    for (int side = 0; side < 2; ++side) {
      for (int column = 0; column < Size; ++column) {
        const int node = row_of_nodes * (Columns + 1) + column / kWide + side;
        out.cosine[side][column] = cosine_[node];
        out.sine[side][column] = sine_[node];
      }
    }
    return out;
  }

  static float fade(float t) { return t * t * t * (t * (t * 6.0f - 15.0f) + 10.0f); }

  static float between(float a, float b, float weight) { return a * (1.0f - weight) + weight * b; }

  // All points of a row of cells.
  void fill(int cell) {
    const Gradients near = spread(cell), far = spread(cell + 1);
    float left[Size], right[Size], fades[Size];  // the way from the nodes to either side
    for (int column = 0; column < Size; ++column) {
      left[column] = static_cast<float>(column % kWide) / kWide;
      right[column] = left[column] - 1.0f;
      fades[column] = fade(left[column]);
    }
    for (int row = 0; row < kHigh; ++row) {
      const float down = static_cast<float>(row) / kHigh, up = down - 1.0f, weight = fade(down);
      float* out = values_ + (cell * kHigh + row) * Size;
      for (int i = 0; i < Size; ++i) {
        const float n00 = down * near.cosine[0][i] + left[i] * near.sine[0][i];
        const float n10 = up * far.cosine[0][i] + left[i] * far.sine[0][i];
        const float n01 = down * near.cosine[1][i] + right[i] * near.sine[1][i];
        const float n11 = up * far.cosine[1][i] + right[i] * far.sine[1][i];
        const float low = between(n00, n10, weight), high = between(n01, n11, weight);
        out[i] = between(low, high, fades[i]);
      }
    }
  }

  // By columns first, since the order of a minimum is free.
  void find_range() {
    float least[Size], most[Size];
    std::copy_n(values_, Size, least);
    std::copy_n(values_, Size, most);
    for (int row = 1; row < Size; ++row) {
      for (int i = 0; i < Size; ++i) {
        const float value = values_[row * Size + i];
        least[i] = value < least[i] ? value : least[i];
        most[i] = value > most[i] ? value : most[i];
      }
    }
    least_ = *std::min_element(least, least + Size) * kRoot;
    scale_ = 1.0f / (*std::max_element(most, most + Size) * kRoot - least_);
  }

  float cosine_[(Rows + 1) * (Columns + 1)], sine_[(Rows + 1) * (Columns + 1)];
  float values_[Size * Size];
  float least_, scale_;
};

}  // namespace craftax
