// The scalars of Craftax's observations, which it makes in half precision.
#pragma once

#include <cstdint>

namespace craftax {

// A float rounded to the 11 significant bits of a half, to nearest and even. For values that a half
// holds as a normal number; Veltkamp 1968.
inline float to_half(float value) {
  const float spread = value * 8193.0f;  // 2^13 + 1
  return spread - (spread - value);
}

// `jnp.float16(count) / 10`, which XLA turns into a product with the half nearest to 0.1.
inline float tenth(int32_t count) { return to_half(static_cast<float>(count) * 0.0999755859375f); }

}  // namespace craftax
