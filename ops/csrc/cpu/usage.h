// CPU kernel of `usage`: how often each expert was chosen for tokens of each domain.
#pragma once

#include <algorithm>

#include "../shared.h"

namespace growstage::cpu {

// Slots whose expert or domain is out of range are not counted.
inline void usage(const int64_t* selected, const int64_t* domain, int64_t tokens,
                  int64_t per_token, int64_t experts, int64_t domains, int64_t* table) {
  std::fill_n(table, experts * domains, int64_t{0});
  for (int64_t t = 0; t < tokens; ++t) {
    if (domain[t] < 0 || domain[t] >= domains) continue;
    for (int64_t slot = t * per_token; slot < (t + 1) * per_token; ++slot)
      if (selected[slot] >= 0 && selected[slot] < experts)
        ++table[selected[slot] * domains + domain[t]];
  }
}

}  // namespace growstage::cpu
