// Craftax's Perlin noise of one octave, to the bit.
// Perlin 2002, "Improving noise"; craftax.util.noise.
//
// On the CPU, XLA leaves products and sums of the noise unfused, takes cosine and sine from the C
// library, and multiplies by one over the range instead of dividing by the range.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "random.h"

namespace craftax {

// Noise on Size x Size points over a lattice of Rows x Columns cells.
template <int Size, int Rows, int Columns>
class PerlinNoise {
  static constexpr int kHigh = Size / Rows, kWide = Size / Columns;  // a cell, in points
  // Points lie at binary fractions of a cell, so their places and weights are exact in floats.
  static_assert((kHigh & (kHigh - 1)) == 0 && kHigh <= 16);
  static_assert((kWide & (kWide - 1)) == 0 && kWide <= 16);

 public:
  // The noise that generate_fractal_noise_2d makes with this key.
  explicit PerlinNoise(Key key) {
    draw_gradients(child(child(key, 1u), 1u));
    for (int row = 0; row < Size; ++row) fill(row);
    float least = values_[0], most = values_[0];
    for (float value : values_) {
      least = std::min(least, value);
      most = std::max(most, value);
    }
    least_ = least;
    scale_ = 1.0f / (most - least);
  }

  // Between 0 and 1, at a point counted along the rows.
  float operator[](int point) const { return above_least(point) * scale_; }

  // The two factors of the noise, for sums that XLA fuses with it.
  float above_least(int point) const { return values_[point] - least_; }
  float scale() const { return scale_; }

 private:
  void draw_gradients(Key key) {
    for (uint32_t node = 0; node < (Rows + 1) * (Columns + 1); ++node) {
      const float angle = uniform(key, node) * 6.28318548f;
      cosine_[node] = std::cos(angle);
      sine_[node] = std::sin(angle);
    }
  }

  static float fade(float t) { return t * t * t * (t * (t * 6.0f - 15.0f) + 10.0f); }

  static float between(float a, float b, float weight) { return a * (1.0f - weight) + weight * b; }

  void fill(int row) {
    const float x = static_cast<float>(row % kHigh) / kHigh, far_x = x - 1.0f, weight_x = fade(x);
    for (int cell = 0; cell < Columns; ++cell) {
      const int near = row / kHigh * (Columns + 1) + cell, far = near + Columns + 1;
      for (int column = 0; column < kWide; ++column) {
        const float y = static_cast<float>(column) / kWide, far_y = y - 1.0f;
        const float n00 = x * cosine_[near] + y * sine_[near];
        const float n10 = far_x * cosine_[far] + y * sine_[far];
        const float n01 = x * cosine_[near + 1] + far_y * sine_[near + 1];
        const float n11 = far_x * cosine_[far + 1] + far_y * sine_[far + 1];
        const float low = between(n00, n10, weight_x), high = between(n01, n11, weight_x);
        const float noise = between(low, high, fade(y));
        values_[row * Size + cell * kWide + column] = noise * 1.41421354f;
      }
    }
  }

  float cosine_[(Rows + 1) * (Columns + 1)], sine_[(Rows + 1) * (Columns + 1)];
  float values_[Size * Size];
  float least_, scale_;
};

}  // namespace craftax
