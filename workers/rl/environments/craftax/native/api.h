// The library's C functions are plain: memory of the caller in, memory of the caller out.
#pragma once

#define CRAFTAX_API extern "C" __attribute__((visibility("default")))
