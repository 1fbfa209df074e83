#include "full/chest.h"

#include "choice.h"

namespace craftax::full {

namespace {

constexpr float kOreWeights[] = {0.3f, 0.3f, 0.15f, 0.125f, 0.125f};
constexpr float kToolWeights[] = {0.4f, 0.3f, 0.2f, 0.1f};

struct Ore {
  int32_t Inventory::*ore;
  int32_t end;
};
constexpr Ore kOres[] = {{&Inventory::coal, 4}, {&Inventory::iron, 3}, {&Inventory::diamond, 2},
                         {&Inventory::sapphire, 2}, {&Inventory::ruby, 2}};

}  // namespace

void loot(State& state, Key key, bool was_opened) {
  Inventory& own = state.inventory;
  // Each draw has its own key, in this order, whether it is looked at or not.
  const Key torch = split(key), torches = split(key);
  if (uniform(torch) < 0.6f) own.torches += randint(torches, 4, 8);

  const Key ore = split(key), which_ore = split(key), ores = split(key);
  if (uniform(ore) < 0.6f) {
    const Ore& found = kOres[weighted_choice(kOreWeights, uniform(which_ore))];
    own.*found.ore += randint(ores, 1, found.end);
  }

  const Key potion = split(key), which_potion = split(key), potions = split(key);
  if (uniform(potion) < 0.5f) own.potions[randint(which_potion, 0, 6)] += randint(potions, 1, 3);

  const Key arrow = split(key), arrows = split(key);
  if (uniform(arrow) < 0.25f) own.arrows += randint(arrows, 1, 5);

  const Key tool = split(key), which_tool = split(key), pickaxe = split(key), sword = split(key);
  if (uniform(tool) < 0.2f) {
    const bool is_sword = randint(which_tool, 0, 2) == 1;
    int32_t& level = is_sword ? own.sword : own.pickaxe;
    const float drawn = uniform(is_sword ? sword : pickaxe);
    level = std::max(level, 1 + weighted_choice(kToolWeights, drawn));
  }

  if (state.player_level == 1 && !was_opened) own.bow = 1;
  if ((state.player_level == 3 || state.player_level == 4) && !was_opened) own.books += 1;
}

}  // namespace craftax::full
