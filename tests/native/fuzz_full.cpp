// The full game from states drawn wider than play reaches: any floor, players and creatures at and
// beyond the edges, any block and item, projectiles anywhere.
#include "full/api.cpp"
#include "fuzz.h"

namespace {

struct Full {
  using State = craftax::full::State;
  using Task = craftax::full::Task;
  static constexpr int kActions = craftax::full::kActions;
  static constexpr int kAchievements = craftax::full::kAchievements;
  static constexpr int kDense = craftax::full::kDense, kCompact = craftax::full::kCompact;
  static constexpr auto renew = craftax_full_renew;
  static constexpr auto complete = craftax_full_complete;
  static constexpr auto observe = craftax_full_observe;

  // Flags are bytes to the driver.
  static int64_t step(State* states, int64_t count, const Key* key, uint32_t at,
                      const int32_t* actions, const Task* task, int32_t renews, float* rewards,
                      uint8_t* done, uint8_t* unlocked, float* dense, int16_t* compact) {
    return craftax_full_step(states, count, key, at, actions, task, renews, rewards,
                             reinterpret_cast<bool*>(done), reinterpret_cast<bool*>(unlocked),
                             dense, compact);
  }

  static Task task(Dice& dice) {
    Task task{};
    task.params = {dice.between(1, 100000), dice.between(1, 600), dice.between(0, 1),
                   dice.between(-1, 40),    dice.between(1, 9),   dice.once_in(3)};
    task.health = 0.1f;
    task.floor = dice.between(0, kFloors - 1);
    return task;
  }

  static void scramble(State& state, Dice& dice) {
    // The floor that the player is on is there; others may be still to be made.
    const int floor = state.player_level = dice.between(0, kFloors - 1);
    make_floor(state, floor);
    const int reach = dice.once_in(20) ? 60 : 1;
    state.player_position = {dice.between(-reach, kSide + reach), dice.between(-reach, kSide + reach)};
    state.player_direction = dice.between(0, 4);
    body(state, dice);
    belongings(state, dice);
    progress(state, dice);
    creatures(state.melee_mobs, state, dice);
    creatures(state.passive_mobs, state, dice);
    creatures(state.ranged_mobs, state, dice);
    projectiles(state.mob_projectiles, state.mob_projectile_directions, state, dice);
    projectiles(state.player_projectiles, state.player_projectile_directions, state, dice);
    for (int plant = 0; plant < kPlants; ++plant) {
      state.growing_plants_positions[plant] = near(state, dice);
      state.growing_plants_age[plant] = dice.between(0, 700);
      state.growing_plants_mask[plant] = dice.once_in(2);
    }
    for (int row = -5; row <= 5; ++row) {
      for (int column = -6; column <= 6; ++column) {
        const Position at = state.player_position + Position{row, column};
        state.map[floor].set(at, static_cast<uint8_t>(dice.between(0, kBlocks - 1)));
        state.item_map[floor].set(at, static_cast<uint8_t>(dice.once_in(4) ? dice.between(0, 4) : 0));
        state.mob_map[floor].set(at, dice.once_in(4));
      }
    }
  }

 private:
  static Position near(const State& state, Dice& dice) {
    const int reach = dice.once_in(10) ? 100 : 5;
    return state.player_position + Position{dice.between(-reach, reach), dice.between(-reach, reach)};
  }

  static void body(State& state, Dice& dice) {
    state.player_health = static_cast<float>(dice.between(-4, 28)) / 2;
    for (int32_t* need : {&state.player_food, &state.player_drink, &state.player_energy,
                          &state.player_mana})
      *need = dice.between(-2, 20);
    for (float* counter : {&state.player_recover, &state.player_hunger, &state.player_thirst,
                           &state.player_fatigue, &state.player_recover_mana})
      *counter = static_cast<float>(dice.between(-20, 40));
    for (int32_t* attribute : {&state.player_xp, &state.player_dexterity, &state.player_strength,
                               &state.player_intelligence})
      *attribute = dice.between(0, 9);
    state.is_sleeping = dice.once_in(6);
    state.is_resting = dice.once_in(6);
  }

  static void belongings(State& state, Dice& dice) {
    Inventory& own = state.inventory;
    for (int32_t* stock : {&own.wood, &own.stone, &own.coal, &own.iron, &own.diamond, &own.sapling,
                           &own.pickaxe, &own.arrows, &own.torches, &own.ruby, &own.sapphire,
                           &own.books, &own.bow})
      *stock = dice.once_in(3) ? dice.between(95, 99) : dice.between(0, 4);
    own.sword = dice.between(0, 4);
    for (int32_t& piece : own.armour) piece = dice.between(0, 2);
    for (int32_t& potion : own.potions) potion = dice.between(0, 3);
    state.sword_enchantment = dice.between(0, 2);
    state.bow_enchantment = dice.between(0, 2);
    for (int32_t& enchantment : state.armour_enchantments) enchantment = dice.between(0, 2);
    for (int32_t& effect : state.potion_mapping) effect = dice.between(0, 5);
    for (bool& spell : state.learned_spells) spell = dice.once_in(2);
  }

  static void progress(State& state, Dice& dice) {
    state.boss_progress = dice.between(-1, 9);
    state.boss_timesteps_to_spawn_this_round = dice.between(-3, 8);
    state.timestep = dice.between(0, 100000);
    state.light_level = static_cast<float>(dice.between(0, 10)) / 10;
    for (bool& achievement : state.achievements) achievement = dice.once_in(3);
    for (bool& opened : state.chests_opened) opened = dice.once_in(3);
    for (int32_t& killed : state.monsters_killed) killed = dice.between(0, 12);
    for (auto* ladders : {&state.up_ladders, &state.down_ladders})
      for (Position& ladder : *ladders) ladder = {dice.between(-1, kSide), dice.between(-1, kSide)};
  }

  template <int Slots>
  static void creatures(Mobs<Slots>& mobs, const State& state, Dice& dice) {
    for (int slot = 0; slot < Slots; ++slot) {
      const int floor = state.player_level;
      mobs[floor].position[slot] = near(state, dice);
      mobs[floor].health[slot] = static_cast<float>(dice.between(-1, 24));
      mobs[floor].mask[slot] = dice.once_in(2);
      mobs[floor].attack_cooldown[slot] = dice.between(-3, 6);
      mobs[floor].type_id[slot] = dice.between(0, kKinds - 1);
    }
  }

  static void projectiles(Mobs<kProjectiles>& mobs, Position (&ways)[kFloors][kProjectiles],
                          const State& state, Dice& dice) {
    creatures(mobs, state, dice);
    for (Position& way : ways[state.player_level]) way = {dice.between(-1, 1), dice.between(-1, 1)};
  }
};

}  // namespace

int main(int count, char** arguments) { return fuzz<Full>(count, arguments); }
