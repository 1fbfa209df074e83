// Entry points by which tests compare random numbers and choices with JAX's.
#include <algorithm>
#include <cstdint>

#include "api.h"
#include "choice.h"
#include "random.h"

using namespace craftax;

CRAFTAX_API void craftax_bits(const Key* key, int32_t count, uint32_t* out) {
  for (int32_t i = 0; i < count; ++i) out[i] = bits(*key, static_cast<uint32_t>(i));
}

CRAFTAX_API void craftax_split(const Key* key, int32_t count, Key* out) {
  for (int32_t i = 0; i < count; ++i) out[i] = child(*key, static_cast<uint32_t>(i));
}

CRAFTAX_API void craftax_uniform(const Key* key, int32_t count, float* out) {
  for (int32_t i = 0; i < count; ++i) out[i] = uniform(*key, static_cast<uint32_t>(i));
}

CRAFTAX_API void craftax_randint(const Key* key, int32_t least, int32_t end, int32_t count,
                                 int32_t* out) {
  for (int32_t i = 0; i < count; ++i) out[i] = randint(*key, least, end, static_cast<uint32_t>(i));
}

CRAFTAX_API void craftax_permutation_6(const Key* key, int32_t* out) {
  const auto order = permutation<6>(*key);
  std::copy(order.begin(), order.end(), out);
}

CRAFTAX_API int32_t craftax_choice_4(const Key* key, const float* weights) {
  const float own[4] = {weights[0], weights[1], weights[2], weights[3]};
  return weighted_choice(own, uniform(*key));
}

namespace {

template <int Size>
int32_t choose(const Key* key, const uint8_t* mask) {
  EqualChoice<Size> choice;
  for (int32_t i = 0; i < Size; ++i) {
    if (mask[i]) choice.add(i);
  }
  return choice.pick(uniform(*key));
}

}  // namespace

CRAFTAX_API int32_t craftax_choose_4096(const Key* key, const uint8_t* mask) {
  return choose<4096>(key, mask);
}

CRAFTAX_API int32_t craftax_choose_2304(const Key* key, const uint8_t* mask) {
  return choose<2304>(key, mask);
}
