// Damage: what a blow takes off, with float sums in the order of Craftax's compiled step.
#pragma once

#include "full/rules.h"

namespace craftax::full {

inline float total_damage(Damage damage, Damage defense) {
  return std::fma(1.0f - defense.ice, damage.ice,
                  std::fma(1.0f - defense.fire, damage.fire,
                           (1.0f - defense.physical) * damage.physical));
}

inline Damage scaled(Damage damage, float factor) {
  return {damage.physical * factor, damage.fire * factor, damage.ice * factor};
}

// What the player suffers from a blow, behind armour and its enchantments.
inline float damage_to_player(const State& state, Damage damage) {
  Damage defense = {0, 0, 0};
  for (int piece = 0; piece < 4; ++piece) {
    defense.physical += static_cast<float>(state.inventory.armour[piece]) * 0.1f;
    if (state.armour_enchantments[piece] == 1) defense.fire += 0.2f;
    if (state.armour_enchantments[piece] == 2) defense.ice += 0.2f;
  }
  return total_damage(scaled(damage, is_fighting_boss(state) ? 1.5f : 1.0f), defense);
}

// What the player's sword deals.
inline Damage player_damage(const State& state) {
  constexpr float physical[] = {1, 2, 3, 5, 8};
  const float base = physical[state.inventory.sword];
  const float by_strength = 1.0f + 0.25f * static_cast<float>(state.player_strength - 1);
  const float by_intelligence = std::fma(0.05f, static_cast<float>(state.player_intelligence - 1), 1.0f);
  const float enchanted = base * 0.5f * by_intelligence;
  return {base * by_strength, state.sword_enchantment == 1 ? enchanted : 0.0f,
          state.sword_enchantment == 2 ? enchanted : 0.0f};
}

struct Attack {
  bool hit = false, killed = false;
};

// Attacks the creatures of one class at a place. A death counts as an achievement if `counts`.
template <int Slots>
inline Attack attack_class(State& state, Mobs<Slots>& mobs, MobClass kind, Position place,
                           Damage damage, bool counts) {
  const int floor = state.player_level;
  int target = 0;
  bool hit = false;
  for (int slot = Slots; slot-- > 0;) {
    if (mobs[floor].mask[slot] && mobs[floor].position[slot] == place) target = slot, hit = true;
  }
  if (!hit) return {};
  const int32_t type = mobs[floor].type_id[target];
  mobs[floor].health[target] -= total_damage(damage, kDefense[kind][type]);
  const bool killed = !(mobs[floor].health[target] > 0);
  if (killed) {
    mobs[floor].mask[target] = false;
    if (counts) state.achievements[kDefeating[kind][type]] = true;
  }
  return {true, killed};
}

// Attacks whatever is at a place of the player's floor; a passive creature is eaten if `eats`.
inline bool attack(State& state, Position place, Damage damage, bool eats) {
  const Attack melee = attack_class(state, state.melee_mobs, kMeleeClass, place, damage, true);
  const Attack passive =
      attack_class(state, state.passive_mobs, kPassiveClass, place, damage, eats);
  if (passive.killed && eats) {
    state.player_food = std::min(max_food(state), state.player_food + 6);
    state.player_hunger = 0;
  }
  const Attack ranged = attack_class(state, state.ranged_mobs, kRangedClass, place, damage, true);
  const bool monster = melee.killed || ranged.killed;
  if (monster || passive.killed) state.mob_map[state.player_level].set(place, false);
  state.monsters_killed[state.player_level] += monster;
  return melee.hit || passive.hit || ranged.hit;
}

}  // namespace craftax::full
