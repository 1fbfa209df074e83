#include "full/player.h"

#include "full/chest.h"
#include "choice.h"
#include "full/combat.h"
#include "full/generate.h"
#include "full/light.h"

namespace craftax::full {

void change_floor(State& state, int32_t action, const Params& params) {
  const int floor = state.player_level;
  const uint8_t item = state.item_map[floor][state.player_position];
  const bool cleared = state.monsters_killed[floor] >= kMonstersToClear;
  const bool may_descend = params.god_mode || (item == kLadderDown && cleared);
  const bool may_ascend = params.god_mode || item == kLadderUp;
  if (action == kDescend && may_descend && floor < kFloors - 1) {
    make_floor(state, floor + 1);
    state.player_level = floor + 1;
    state.player_position = state.up_ladders[floor + 1];
  } else if (action == kAscend && may_ascend && floor > 0) {
    make_floor(state, floor - 1);
    state.player_level = floor - 1;
    state.player_position = state.down_ladders[floor - 1];
  }
  if (state.player_level == 0) return;
  bool& entered = state.achievements[kEntering[state.player_level]];
  state.player_xp += !entered;
  entered = true;
}

namespace {

void make_tool(State& state, const ToolRecipe& recipe) {
  Inventory& own = state.inventory;
  const bool can = own.wood >= recipe.wood && own.stone >= recipe.stone &&
                   own.coal >= recipe.coal && own.iron >= recipe.iron &&
                   own.diamond >= recipe.diamond && own.*recipe.tool < recipe.level &&
                   is_near(state, kCraftingTable) &&
                   (!recipe.furnace || is_near(state, kFurnace));
  if (!can) return;
  own.wood -= recipe.wood;
  own.stone -= recipe.stone;
  own.coal -= recipe.coal;
  own.iron -= recipe.iron;
  own.diamond -= recipe.diamond;
  own.*recipe.tool = recipe.level;
}

void make_pieces(State& state, const PieceRecipe& recipe) {
  Inventory& own = state.inventory;
  if (own.wood < 1 || own.*recipe.material < 1 || own.*recipe.piece >= 99) return;
  if (!is_near(state, kCraftingTable)) return;
  own.wood -= 1;
  own.*recipe.material -= 1;
  own.*recipe.piece += recipe.number;
}

// Puts a better plate where the first worse one is.
bool improve_armour(Inventory& own, int32_t level) {
  for (int32_t& piece : own.armour) {
    if (piece < level) {
      piece = level;
      return true;
    }
  }
  return false;
}

void make_iron_armour(State& state) {
  Inventory& own = state.inventory;
  if (own.iron < 3 || own.coal < 3) return;
  if (!is_near(state, kCraftingTable) || !is_near(state, kFurnace)) return;
  if (!improve_armour(own, 1)) return;
  own.iron -= 3;
  own.coal -= 3;
  state.achievements[kMadeIronArmour] = true;
}

void make_diamond_armour(State& state) {
  Inventory& own = state.inventory;
  if (own.diamond < 3 || !is_near(state, kCraftingTable)) return;
  if (!improve_armour(own, 2)) return;
  own.diamond -= 3;
  state.achievements[kMadeDiamondArmour] = true;
}

}  // namespace

void craft(State& state, int32_t action) {
  switch (action) {
    case kMakeIronArmour: return make_iron_armour(state);
    case kMakeDiamondArmour: return make_diamond_armour(state);
    case kMakeArrow: return make_pieces(state, kArrowRecipe);
    case kMakeTorch: return make_pieces(state, kTorchRecipe);
    default:
      if (kTools[action].tool) make_tool(state, kTools[action]);
  }
}

namespace {

void drink(State& state) {
  state.player_drink = std::min(max_drink(state), state.player_drink + 1);
  state.player_thirst = 0;
  state.achievements[kCollectDrink] = true;
}

void eat_plant(State& state, Position place) {
  state.map[state.player_level].cells[place.row][place.column] = kPlant;
  state.player_food = std::min(max_food(state), state.player_food + 4);
  state.player_hunger = 0;
  state.achievements[kEatPlant] = true;
  const auto* begin = state.growing_plants_positions;
  const auto* found = std::find(begin, begin + kPlants, place);
  state.growing_plants_age[found == begin + kPlants ? 0 : found - begin] = 0;
}

void mine(State& state, Position place, uint8_t block) {
  const Mining& mining = kMining[block];
  if (mining.left == kInvalid || state.inventory.pickaxe < mining.pickaxe) return;
  state.map[state.player_level].cells[place.row][place.column] = mining.left;
  if (mining.gain) state.inventory.*mining.gain += 1;
}

}  // namespace

void interact(State& state, Key key) {
  const Position front = state.player_position + direction(state.player_direction);
  const bool attacked = attack(state, front, player_damage(state), true);
  const int floor = state.player_level;
  const uint8_t block = block_at(state, front);
  const bool was_opened = state.chests_opened[floor];
  const bool hurts_boss =
      block == kNecromancer && is_fighting_boss(state) && is_boss_vulnerable(state);
  // These two happen even where a creature stands in the way or the world ends, as in Craftax.
  state.chests_opened[floor] |= block == kChest;
  if (hurts_boss) {
    state.boss_progress += 1;
    state.boss_timesteps_to_spawn_this_round = kBossSpawnTurns;
  }
  if (attacked || !in_bounds(front)) return;

  const Key sapling_key = split(key);
  switch (block) {
    case kGrass:
      state.inventory.sapling += uniform(sapling_key) < 0.1f;
      break;
    case kWater:
    case kFountain:
      drink(state);
      break;
    case kRipePlant:
      eat_plant(state, front);
      break;
    case kChest:
      state.map[floor].cells[front.row][front.column] = kPath;
      loot(state, split(key), was_opened);
      state.achievements[kOpenChest] = true;
      break;
    case kNecromancer:
      state.achievements[kDamageNecromancer] |= hurts_boss;
      break;
    default:
      mine(state, front, block);
  }
}

namespace {

void place_plant(State& state, Position place) {
  state.map[state.player_level].cells[place.row][place.column] = kPlant;
  state.inventory.sapling -= 1;
  state.achievements[kPlacedPlant] = true;
  bool* begin = state.growing_plants_mask;
  const auto slot = std::find(begin, begin + kPlants, false) - begin;
  if (slot == kPlants) return;
  state.growing_plants_positions[slot] = place;
  state.growing_plants_age[slot] = 0;
  state.growing_plants_mask[slot] = true;
}

void place_block(State& state, Position place, Block block, int32_t& stock, int32_t price,
                 Achievement achievement) {
  state.map[state.player_level].cells[place.row][place.column] = block;
  stock -= price;
  state.achievements[achievement] = true;
}

}  // namespace

void place(State& state, int32_t action) {
  const Position front = state.player_position + direction(state.player_direction);
  if (!in_bounds(front) || is_in_mob(state, front)) return;
  const int floor = state.player_level;
  Inventory& own = state.inventory;
  const uint8_t block = state.map[floor].cells[front.row][front.column];
  uint8_t& item = state.item_map[floor].cells[front.row][front.column];
  const bool is_free = !holds(kSolid, block) && item == kNothing;
  switch (action) {
    case kPlaceTable:
      if (is_free && own.wood >= 2)
        place_block(state, front, kCraftingTable, own.wood, 2, kPlacedTable);
      break;
    case kPlaceFurnace:
      if (is_free && own.stone > 0)
        place_block(state, front, kFurnace, own.stone, 1, kPlacedFurnace);
      break;
    case kPlaceStone:
      if ((is_free || block == kWater) && own.stone > 0)
        place_block(state, front, kStone, own.stone, 1, kPlacedStone);
      break;
    case kPlacePlant:
      if (block == kGrass && item == kNothing && own.sapling > 0) place_plant(state, front);
      break;
    case kPlaceTorch:
      if (holds(kHoldsItem, block) && item == kNothing && own.torches > 0) {
        item = kTorch;
        own.torches -= 1;
        shine(state.light_map[floor], front);
        state.achievements[kPlacedTorch] = true;
      }
      break;
    default:
      break;
  }
}

namespace {

void fire(State& state, int32_t kind) {
  launch(state.player_projectiles, state.player_projectile_directions, state.player_level,
         state.player_position, direction(state.player_direction), kind);
}

bool can_fire(const State& state) {
  return state.player_projectiles[state.player_level].alive() < kProjectiles;
}

void shoot_arrow(State& state) {
  if (state.inventory.bow < 1 || state.inventory.arrows < 1 || !can_fire(state)) return;
  fire(state, kArrow2);
  state.inventory.arrows -= 1;
  state.achievements[kFireBow] = true;
}

void cast(State& state, int spell, Projectile kind, Achievement achievement) {
  if (state.player_mana < 2 || !state.learned_spells[spell] || !can_fire(state)) return;
  fire(state, kind);
  state.player_mana -= 2;
  state.achievements[achievement] = true;
}

void drink_potion(State& state, int potion) {
  if (state.inventory.potions[potion] <= 0) return;
  state.inventory.potions[potion] -= 1;
  state.achievements[kDrinkPotion] = true;
  const int32_t effect = state.potion_mapping[potion];
  const int32_t change = effect % 2 == 0 ? 8 : -3;
  if (effect < 2) state.player_health += static_cast<float>(change);
  else if (effect < 4) state.player_mana += change;
  else state.player_energy += change;
}

void read_book(State& state, Key key) {
  if (state.inventory.books <= 0) return;
  state.inventory.books -= 1;
  // With one spell left it is that one; with none left Craftax draws from 0 / 0 and finds the first.
  const bool both = !state.learned_spells[0] && !state.learned_spells[1];
  int spell = state.learned_spells[0] && !state.learned_spells[1];
  if (both) spell = 1.0f - uniform(split(key)) > 0.5f;
  state.learned_spells[spell] = true;
  state.achievements[spell ? kLearnIceball : kLearnFireball] = true;
}

// Which piece of armour is enchanted: one without, else one of the other kind, else the first.
int armour_to_enchant(const State& state, int32_t enchantment, Key key) {
  float weights[4];
  bool any = false;
  for (const int32_t own : state.armour_enchantments) any |= own == 0;
  for (int piece = 0; piece < 4; ++piece) {
    const int32_t own = state.armour_enchantments[piece];
    weights[piece] = any ? own == 0 : own != enchantment;
  }
  return weighted_choice(weights, uniform(split(key)));
}

void enchant(State& state, int32_t action, Key key) {
  const Position front = state.player_position + direction(state.player_direction);
  const uint8_t table = block_at(state, front);
  if (table != kEnchantmentTableFire && table != kEnchantmentTableIce) return;
  Inventory& own = state.inventory;
  const bool fire = table == kEnchantmentTableFire;
  const int32_t enchantment = fire ? 1 : 2;
  int32_t& gems = fire ? own.ruby : own.sapphire;
  if (state.player_mana < 9 || gems < 1) return;
  if (action == kEnchantSword) {
    if (own.sword <= 0) return;
    state.sword_enchantment = enchantment;
    state.achievements[kEnchantedSword] = true;
  } else if (action == kEnchantBow) {
    if (own.bow <= 0) return;
    state.bow_enchantment = enchantment;
  } else {
    if (own.armour[0] + own.armour[1] + own.armour[2] + own.armour[3] <= 0) return;
    state.armour_enchantments[armour_to_enchant(state, enchantment, key)] = enchantment;
    state.achievements[kEnchantedArmour] = true;
  }
  gems -= 1;
  state.player_mana -= 9;
}

}  // namespace

void use(State& state, int32_t action, const Draws& draws) {
  switch (action) {
    case kShootArrow: return shoot_arrow(state);
    case kCastFireball: return cast(state, 0, kFireball, kCastedFireball);
    case kCastIceball: return cast(state, 1, kIceball, kCastedIceball);
    case kReadBook: return read_book(state, draws.book);
    case kEnchantSword:
    case kEnchantArmour:
    case kEnchantBow: return enchant(state, action, draws.enchant);
    default:
      if (action >= kDrinkRed && action <= kDrinkYellow) drink_potion(state, action - kDrinkRed);
  }
}

void level_up(State& state, int32_t action, const Params& params) {
  if (action < kLevelUpDexterity || action > kLevelUpIntelligence || state.player_xp < 1) return;
  constexpr int32_t State::*attributes[] = {&State::player_dexterity, &State::player_strength,
                                            &State::player_intelligence};
  int32_t& attribute = state.*attributes[action - kLevelUpDexterity];
  if (attribute >= params.max_attribute) return;
  attribute += 1;
  state.player_xp -= 1;
}

void move_player(State& state, int32_t action, const Params& params) {
  if (action < kLeft || action > kDown) return;
  const Position next = state.player_position + direction(action);
  if (params.god_mode || can_stand(state, next, kLand)) state.player_position = next;
  state.player_direction = action;
}

}  // namespace craftax::full
