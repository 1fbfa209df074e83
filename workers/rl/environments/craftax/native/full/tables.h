// What the full game's blocks, items, actions, achievements and creatures are, as tables.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "full/state.h"

namespace craftax::full {

enum Block : uint8_t {
  kInvalid, kOutOfBounds, kGrass, kWater, kStone, kTree, kWood, kPath, kCoal, kIron, kDiamond,
  kCraftingTable, kFurnace, kSand, kLava, kPlant, kRipePlant, kWall, kDarkness, kWallMoss,
  kStalagmite, kSapphire, kRuby, kChest, kFountain, kFireGrass, kIceGrass, kGravel, kFireTree,
  kIceShrub, kEnchantmentTableFire, kEnchantmentTableIce, kNecromancer, kGrave, kGrave2, kGrave3,
  kNecromancerVulnerable, kBlocks
};

enum Item : uint8_t { kNothing, kTorch, kLadderDown, kLadderUp, kLadderDownBlocked, kItems };

enum Action : int32_t {
  kNoop, kLeft, kRight, kUp, kDown, kDo, kSleep, kPlaceStone, kPlaceTable, kPlaceFurnace,
  kPlacePlant, kMakeWoodPickaxe, kMakeStonePickaxe, kMakeIronPickaxe, kMakeWoodSword,
  kMakeStoneSword, kMakeIronSword, kRest, kDescend, kAscend, kMakeDiamondPickaxe,
  kMakeDiamondSword, kMakeIronArmour, kMakeDiamondArmour, kShootArrow, kMakeArrow, kCastFireball,
  kCastIceball, kPlaceTorch, kDrinkRed, kDrinkGreen, kDrinkBlue, kDrinkPink, kDrinkCyan,
  kDrinkYellow, kReadBook, kEnchantSword, kEnchantArmour, kMakeTorch, kLevelUpDexterity,
  kLevelUpStrength, kLevelUpIntelligence, kEnchantBow
};

enum Achievement : uint8_t {
  kCollectWood, kPlacedTable, kEatCow, kCollectSapling, kCollectDrink, kMadeWoodPickaxe,
  kMadeWoodSword, kPlacedPlant, kDefeatZombie, kCollectStone, kPlacedStone, kEatPlant,
  kDefeatSkeleton, kMadeStonePickaxe, kMadeStoneSword, kWakeUp, kPlacedFurnace, kCollectCoal,
  kCollectIron, kCollectDiamond, kMadeIronPickaxe, kMadeIronSword, kMadeArrow, kMadeTorch,
  kPlacedTorch, kMadeDiamondSword, kMadeIronArmour, kMadeDiamondArmour, kEnterGnomishMines,
  kEnterDungeon, kEnterSewers, kEnterVault, kEnterTrollMines, kEnterFireRealm, kEnterIceRealm,
  kEnterGraveyard, kDefeatGnomeWarrior, kDefeatGnomeArcher, kDefeatOrcSoldier, kDefeatOrcMage,
  kDefeatLizard, kDefeatKobold, kDefeatTroll, kDefeatDeepThing, kDefeatPigman,
  kDefeatFireElemental, kDefeatFrostTroll, kDefeatIceElemental, kDamageNecromancer,
  kDefeatNecromancer, kEatBat, kEatSnail, kFindBow, kFireBow, kCollectSapphire, kLearnFireball,
  kCastedFireball, kLearnIceball, kCastedIceball, kCollectRuby, kMadeDiamondPickaxe, kOpenChest,
  kDrinkPotion, kEnchantedSword, kEnchantedArmour, kDefeatKnight, kDefeatArcher
};
static_assert(kDefeatArcher + 1 == kAchievements && kEnchantBow + 1 == kActions);

// A set of block types, one bit each.
using BlockSet = uint64_t;

constexpr BlockSet block_set(std::initializer_list<Block> blocks) {
  BlockSet set = 0;
  for (const Block block : blocks) set |= BlockSet{1} << block;
  return set;
}

constexpr bool holds(BlockSet set, uint8_t block) { return set >> block & 1; }

constexpr BlockSet kSolid = block_set(
    {kStone, kTree, kCoal, kIron, kDiamond, kCraftingTable, kFurnace, kPlant, kRipePlant, kWall,
     kWallMoss, kStalagmite, kRuby, kSapphire, kChest, kFountain, kFireTree,
     kEnchantmentTableFire, kEnchantmentTableIce, kGrave, kGrave2, kGrave3, kNecromancer});
constexpr BlockSet kHoldsItem = block_set({kGrass, kSand, kPath, kFireGrass, kIceGrass});

// Where an action moves the player and what it faces then; mobs draw from these too.
constexpr Position kDirections[] = {{0, 0}, {0, -1}, {0, 1}, {-1, 0}, {1, 0}};
constexpr Position direction(int32_t index) {
  return index >= kLeft && index <= kDown ? kDirections[index] : Position{0, 0};
}

constexpr int kMonstersToClear = 8, kBossSpawnTurns = 7;

// What taking a block leaves, what it gives, and the pickaxe it takes.
struct Mining {
  Block left = kInvalid;
  int32_t Inventory::*gain = nullptr;
  int32_t pickaxe = 0;
};

constexpr auto kMining = [] {
  std::array<Mining, kBlocks> table{};
  table[kTree] = {kGrass, &Inventory::wood, 0};
  table[kFireTree] = {kFireGrass, &Inventory::wood, 0};
  table[kIceShrub] = {kIceGrass, &Inventory::wood, 0};
  table[kStone] = table[kStalagmite] = {kPath, &Inventory::stone, 1};
  table[kFurnace] = table[kCraftingTable] = {kPath, nullptr, 0};
  table[kCoal] = {kPath, &Inventory::coal, 1};
  table[kIron] = {kPath, &Inventory::iron, 2};
  table[kDiamond] = {kPath, &Inventory::diamond, 3};
  table[kSapphire] = {kPath, &Inventory::sapphire, 4};
  table[kRuby] = {kPath, &Inventory::ruby, 4};
  return table;
}();

// A tool made at a crafting table (and a furnace, where `furnace`), of a level above what one has.
struct ToolRecipe {
  int32_t Inventory::*tool = nullptr;
  int32_t level, wood, stone, coal, iron, diamond;
  bool furnace;
};

constexpr auto kTools = [] {
  std::array<ToolRecipe, kActions> table{};
  constexpr auto pickaxe = &Inventory::pickaxe, sword = &Inventory::sword;
  table[kMakeWoodPickaxe] = {pickaxe, 1, 1, 0, 0, 0, 0, false};
  table[kMakeStonePickaxe] = {pickaxe, 2, 1, 1, 0, 0, 0, false};
  table[kMakeIronPickaxe] = {pickaxe, 3, 1, 1, 1, 1, 0, true};
  table[kMakeDiamondPickaxe] = {pickaxe, 4, 1, 0, 0, 0, 3, false};
  table[kMakeWoodSword] = {sword, 1, 1, 0, 0, 0, 0, false};
  table[kMakeStoneSword] = {sword, 2, 1, 1, 0, 0, 0, false};
  table[kMakeIronSword] = {sword, 3, 1, 1, 1, 1, 0, true};
  table[kMakeDiamondSword] = {sword, 4, 1, 0, 0, 0, 2, false};
  return table;
}();

// Things made by the piece of wood and one other material, up to 99 of them.
struct PieceRecipe {
  int32_t Inventory::*piece, Inventory::*material;
  int32_t number;
};
constexpr PieceRecipe kArrowRecipe = {&Inventory::arrows, &Inventory::stone, 2};
constexpr PieceRecipe kTorchRecipe = {&Inventory::torches, &Inventory::coal, 4};

// What one has earns the achievement, however it came to be there.
struct Possession {
  Achievement achievement;
  int32_t Inventory::*owned;
  int32_t least;
};
constexpr Possession kPossessions[] = {
    {kCollectWood, &Inventory::wood, 1},           {kCollectStone, &Inventory::stone, 1},
    {kCollectCoal, &Inventory::coal, 1},           {kCollectIron, &Inventory::iron, 1},
    {kCollectDiamond, &Inventory::diamond, 1},     {kCollectRuby, &Inventory::ruby, 1},
    {kCollectSapphire, &Inventory::sapphire, 1},   {kCollectSapling, &Inventory::sapling, 1},
    {kFindBow, &Inventory::bow, 1},                {kMadeArrow, &Inventory::arrows, 1},
    {kMadeTorch, &Inventory::torches, 1},          {kMadeWoodPickaxe, &Inventory::pickaxe, 1},
    {kMadeStonePickaxe, &Inventory::pickaxe, 2},   {kMadeIronPickaxe, &Inventory::pickaxe, 3},
    {kMadeDiamondPickaxe, &Inventory::pickaxe, 4}, {kMadeWoodSword, &Inventory::sword, 1},
    {kMadeStoneSword, &Inventory::sword, 2},       {kMadeIronSword, &Inventory::sword, 3},
    {kMadeDiamondSword, &Inventory::sword, 4},
};

constexpr Achievement kEntering[kFloors] = {
    kCollectWood, kEnterDungeon, kEnterGnomishMines, kEnterSewers, kEnterVault,
    kEnterTrollMines, kEnterFireRealm, kEnterIceRealm, kEnterGraveyard};

// --- creatures ---

constexpr int kKinds = 8;
enum MobClass { kPassiveClass, kMeleeClass, kRangedClass };

struct Damage {
  float physical, fire, ice;
};

// Kinds of passive, melee and ranged creatures on each floor.
constexpr int32_t kFloorKinds[kFloors][3] = {{0, 0, 0}, {2, 2, 2}, {1, 1, 1}, {2, 3, 3}, {2, 4, 4},
                                             {1, 5, 5}, {1, 6, 6}, {1, 7, 7}, {0, 0, 0}};

// Chances in a step that a passive, melee, ranged creature comes; the last is added in the dark.
constexpr float kSpawnChance[kFloors][4] = {
    {0.1f, 0.02f, 0.05f, 0.1f}, {0.1f, 0.06f, 0.05f, 0.0f}, {0.1f, 0.06f, 0.05f, 0.0f},
    {0.1f, 0.06f, 0.05f, 0.0f}, {0.1f, 0.06f, 0.05f, 0.0f}, {0.1f, 0.06f, 0.05f, 0.0f},
    {0.1f, 0.06f, 0.05f, 0.0f}, {0.0f, 0.06f, 0.05f, 0.0f}, {0.1f, 0.06f, 0.05f, 0.0f}};

// What stops a creature, besides solid blocks.
struct Collision {
  bool ground, water, lava;
};
constexpr Collision kLand = {false, true, true}, kFlying = {false, false, false},
                    kAquatic = {true, false, true}, kAmphibian = {false, false, true};
constexpr Collision kCollision[3][kKinds] = {
    {kLand, kFlying, kLand, kLand, kLand, kLand, kLand, kLand},
    {kLand, kLand, kLand, kAmphibian, kLand, kLand, kLand, kLand},
    {kLand, kLand, kLand, kLand, kLand, kAquatic, kFlying, kFlying}};

constexpr Damage kMeleeDamage[kKinds] = {{2, 0, 0}, {4, 0, 0}, {3, 0, 0}, {5, 0, 0},
                                         {6, 0, 0}, {6, 1, 1}, {3, 5, 0}, {4, 0, 5}};
constexpr Damage kProjectileDamage[kKinds] = {{2, 0, 0}, {4, 0, 0}, {0, 3, 0}, {0, 0, 3},
                                              {5, 0, 0}, {4, 3, 3}, {3, 5, 0}, {4, 0, 5}};
constexpr float kHealth[3][kKinds] = {{3, 4, 6, 8, 0, 0, 0, 0},
                                      {5, 7, 9, 11, 12, 20, 20, 24},
                                      {3, 5, 6, 8, 12, 4, 14, 16}};
constexpr Damage kNoDefense = {0, 0, 0};
constexpr Damage kDefense[3][kKinds] = {
    {},
    {kNoDefense, kNoDefense, kNoDefense, kNoDefense, {0.5f, 0, 0}, {0.2f, 0, 0}, {0.9f, 1, 0},
     {0.9f, 0, 1}},
    {kNoDefense, kNoDefense, kNoDefense, kNoDefense, {0.5f, 0, 0}, {0, 0, 0}, {0.9f, 1, 0},
     {0.9f, 0, 1}}};
constexpr Achievement kDefeating[3][kKinds] = {
    {kEatCow, kEatBat, kEatSnail, kCollectWood, kCollectWood, kCollectWood, kCollectWood,
     kCollectWood},
    {kDefeatZombie, kDefeatGnomeWarrior, kDefeatOrcSoldier, kDefeatLizard, kDefeatKnight,
     kDefeatTroll, kDefeatPigman, kDefeatFrostTroll},
    {kDefeatSkeleton, kDefeatGnomeArcher, kDefeatOrcMage, kDefeatKobold, kDefeatArcher,
     kDefeatDeepThing, kDefeatFireElemental, kDefeatIceElemental}};

enum Projectile : int32_t {
  kArrow, kDagger, kFireball, kIceball, kArrow2, kSlimeball, kFireball2, kIceball2
};
constexpr int32_t kShooting[kKinds] = {kArrow, kArrow, kFireball, kDagger,
                                       kArrow2, kSlimeball, kFireball2, kIceball2};

}  // namespace craftax::full
