#include "full/light.h"

namespace craftax::full {

namespace {

struct TorchTable {
  TorchLight light;
  TorchTable() {
    for (int row = -kShine; row <= kShine; ++row) {
      for (int column = -kShine; column <= kShine; ++column) {
        const float away = std::sqrt(static_cast<float>(row * row + column * column));
        light[row + kShine][column + kShine] = std::clamp(1.0f - away / 5.0f, 0.0f, 1.0f);
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
  const float day = static_cast<float>(timestep) / static_cast<float>(day_length);
  const float progress = std::fmod(day, 1.0f) + 0.3f;
  const float height = std::fabs(std::cos(3.14159274101257324f * progress));
  return 1.0f - height * (height * height);
}

}  // namespace craftax::full
