// bfloat16 as stored on a device, rounded to the nearest even.
#pragma once

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float x) {
    uint32_t whole;
    std::memcpy(&whole, &x, sizeof whole);
    bits = x != x ? uint16_t{0x7fc0}
                  : static_cast<uint16_t>((whole + 0x7fffu + (whole >> 16 & 1u)) >> 16);
  }
  explicit operator float() const {
    const uint32_t whole = uint32_t{bits} << 16;
    float x;
    std::memcpy(&x, &whole, sizeof x);
    return x;
  }
};
