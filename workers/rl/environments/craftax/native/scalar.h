#pragma once
#include <cstdint>
namespace craftax { inline float tenth(int32_t c){ return c/10.0f; } }
