// Light: of the day, and of torches.
#pragma once

#include "full/rules.h"

namespace craftax::full {

constexpr int kShine = 4;  // how far a torch's light reaches, in rows and columns

using TorchLight = float[2 * kShine + 1][2 * kShine + 1];
const TorchLight& torch_light();

// Adds a torch's light around a place of a floor.
void shine(float (&light)[kSide][kSide], Position place);

// Light of the day at a step.
float daylight(int32_t timestep, int32_t day_length);

}  // namespace craftax::full
