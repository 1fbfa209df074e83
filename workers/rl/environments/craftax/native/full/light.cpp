#include "full/light.h"

namespace craftax::full {

namespace {

struct TorchTable {
  TorchLight light;
  TorchTable() {
    for (int row = -kShine; row <= kShine; ++row) {
      for (int column = -kShine; column <= kShine; ++column) {
        const float away = std::sqrt(static_cast<float>(row * row + column * column));
        light[row + kShine][column + kShine] = std::clamp(1.0f - away * 0.2f, 0.0f, 1.0f);
      }
    }
  }
};

}  // namespace

const TorchLight& torch_light() {
  static const TorchTable table;
  return table.light;
}

void shine(float (&light)[kSide][kSide], Position place) {
  const TorchLight& torch = torch_light();
  for (int row = -kShine; row <= kShine; ++row) {
    for (int column = -kShine; column <= kShine; ++column) {
      const Position lit = {place.row + row, place.column + column};
      if (!in_bounds(lit)) continue;
      float& value = light[lit.row][lit.column];
      value = std::clamp(torch[row + kShine][column + kShine] + value, 0.0f, 1.0f);
    }
  }
}

float daylight(int32_t timestep, int32_t day_length) {
  // XLA multiplies by one over what all games share instead of dividing by it.
  const float days = static_cast<float>(timestep) * (1.0f / static_cast<float>(day_length));
  float time = days - std::trunc(days);
  if (time < 0.0f) time += 1.0f;
  const float height = std::cos((time + 0.3f) * 3.14159274f);
  return std::fma(-(height * height), std::fabs(height), 1.0f);
}

}  // namespace craftax::full
