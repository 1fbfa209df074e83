#include "classic/state.h"
#include "noise.h"
#include "choice.h"
namespace craftax::classic {
float light_level(int32_t t, int32_t d) { return 0; }
void generate(State& s, Key key, const Params&) { PerlinNoise<64,4,4> n(key); s.fatigue = n[3]; }
}
