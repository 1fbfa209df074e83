// New worlds: six floors of hills and caves made from noise, three dungeons of rooms and corridors.
#pragma once

#include "full/rules.h"

namespace craftax::full {

// One floor under construction, in place in the state.
struct Floor {
  uint8_t (&map)[kSide][kSide];
  uint8_t (&items)[kSide][kSide];
  float (&light)[kSide][kSide];
  Position &down, &up;

  Floor(State& state, int floor)
      : map(state.map[floor].cells), items(state.item_map[floor].cells), light(state.light_map[floor]),
        down(state.down_ladders[floor]), up(state.up_ladders[floor]) {}

  // A cell of this block by a drawn uniform number, each weighing one over their number, as
  // Craftax draws most things; the first cell of the floor where there is none.
  Position any(uint8_t block, float drawn) const;
  // The same, each weighing one, as Craftax draws most ladders: it rounds differently.
  Position counted(uint8_t block, float drawn) const;
};

// generate_world: the state becomes a new world with the player in the middle of its surface. Only
// the surface is made; few games ever see another floor.
void generate(State& state, Key key, const Params& params);

// Makes a floor, unless it is there; whoever looks at one that the player is not on asks first.
void make_floor(State& state, int floor);

void generate_landscape(const Floor& floor, int landscape, Key key, bool always_diamond);
void generate_dungeon(const Floor& floor, int dungeon, Key key);

}  // namespace craftax::full
