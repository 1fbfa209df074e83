#include "full/mobs.h"

#include "full/combat.h"

namespace craftax::full {

namespace {

// The step towards the player along the axis on which it is farther away; `drawn` decides a tie.
Position towards_player(const State& state, Position from, uint32_t drawn) {
  const Position gap = state.player_position - from;
  const int32_t rows = std::abs(gap.row), columns = std::abs(gap.column);
  const auto sign = [](int32_t value) { return (value > 0) - (value < 0); };
  // On a tie the weights are p and p; Craftax takes the second where its draw passes p. On the
  // player's own place they are infinite and the first is found.
  const bool second = columns > rows || (columns == rows && rows > 0 && 1.0f - unit_interval(drawn) > 0.5f);
  return second ? Position{0, sign(gap.column)} : Position{sign(gap.row), 0};
}

// Walks one creature to `next` if it can stand there, and forgets it where the player is too far.
// Dead ones walk too, unseen.
template <int Slots>
void walk(State& state, Mobs<Slots>& mobs, int slot, Position next, Collision collision,
          bool stays) {
  const int floor = state.player_level;
  Position& own = mobs[floor].position[slot];
  bool& alive = mobs[floor].mask[slot];
  const bool can = can_stand(state, next, collision);
  if (alive) state.mob_map[floor].set(own, false);
  if (can) own = next;
  alive &= stays;
  if (alive) state.mob_map[floor].set(own, true);
}

void strike_player(State& state, float damage) {
  state.player_health -= damage;
  state.is_sleeping = state.is_resting = false;
}

void move_melee(State& state, int slot, const Draws::Hunter& drawn, const Params& params) {
  auto& mobs = state.melee_mobs;
  const int floor = state.player_level;
  const Position own = mobs[floor].position[slot];
  const int32_t away = steps_between(own, state.player_position);
  const bool boss = is_fighting_boss(state);

  Position next = own;
  int32_t& cooldown = mobs[floor].attack_cooldown[slot];
  const bool attacks = mobs[floor].mask[slot] && away == 1 && cooldown <= 0;
  if (!attacks) {
    const bool chases = (away < 10 || boss) && unit_interval(drawn.choice) < 0.75f;
    next = own + (chases ? towards_player(state, own, drawn.axis)
                         : direction(1 + drawn.direction % 4));
  }
  const int32_t type = mobs[floor].type_id[slot];
  cooldown = attacks ? 5 : cooldown - 1;
  if (attacks) {
    const float asleep = state.is_sleeping ? 3.5f : 1.0f;
    state.achievements[kWakeUp] |= state.is_sleeping;
    strike_player(state, damage_to_player(state, scaled(kMeleeDamage[type], asleep)));
  }
  const bool stays = away < params.mob_despawn_distance || boss;
  walk(state, mobs, slot, next, kCollision[kMeleeClass][type], stays);
}

void move_passive(State& state, int slot, uint32_t drawn, const Params& params) {
  auto& mobs = state.passive_mobs;
  const int floor = state.player_level;
  const Position own = mobs[floor].position[slot];
  const Position next = own + direction(1 + drawn % 8);
  const bool stays = steps_between(own, state.player_position) < params.mob_despawn_distance;
  walk(state, mobs, slot, next, kCollision[kPassiveClass][mobs[floor].type_id[slot]], stays);
}

void move_ranged(State& state, int slot, const Draws::Hunter& drawn, const Params& params) {
  auto& mobs = state.ranged_mobs;
  const int floor = state.player_level;
  const Position own = mobs[floor].position[slot];
  const int32_t away = steps_between(own, state.player_position);
  const int32_t type = mobs[floor].type_id[slot];
  const Collision collision = kCollision[kRangedClass][type];

  const bool far = away >= 6, close = away <= 3;
  // Only now and then does it mind the player; otherwise it wanders.
  const bool minds = (far || close) && unit_interval(drawn.choice) > 0.85f;
  int32_t& cooldown = mobs[floor].attack_cooldown[slot];
  const bool may_shoot = mobs[floor].mask[slot] && cooldown <= 0;

  Position towards{};
  if (minds || (may_shoot && !far)) towards = towards_player(state, own, drawn.axis);
  Position next;
  if (minds) next = close ? own - towards : own + towards;
  else next = own + direction(1 + drawn.direction % 4);

  const bool cornered = close && may_shoot && !can_stand(state, next, collision);
  const bool attacks = may_shoot && (away == 4 || away == 5 || cornered);
  if (attacks) {
    if (state.mob_projectiles[floor].alive() < kProjectiles)
      launch(state.mob_projectiles, state.mob_projectile_directions, floor, own, towards,
             kShooting[type]);
    next = own;
  }
  cooldown = attacks ? 4 : cooldown - 1;
  const bool stays = away < params.mob_despawn_distance || is_fighting_boss(state);
  walk(state, mobs, slot, next, collision, stays);
}

// Whether a projectile can be in a place: over water, but not in a wall or outside.
bool is_open(const State& state, Position place) {
  return in_bounds(place) && !is_solid(state, place);
}

void move_mob_projectile(State& state, int slot) {
  auto& projectiles = state.mob_projectiles;
  const int floor = state.player_level;
  Position& own = projectiles[floor].position[slot];
  bool& alive = projectiles[floor].mask[slot];
  const Position before = own;
  own = before + state.mob_projectile_directions[floor][slot];
  if (!alive) return;  // spent ones fly on, unseen

  const bool hits = before == state.player_position || own == state.player_position;
  const uint8_t block = block_at(state, own);
  alive = is_open(state, own) && !is_in_mob(state, own) && !hits;
  if (hits) {
    const Damage damage = kProjectileDamage[projectiles[floor].type_id[slot]];
    strike_player(state, damage_to_player(state, damage));
  }
  if (block == kFurnace || block == kCraftingTable) state.map[floor].set(own, kPath);
}

Damage player_projectile_damage(const State& state, int32_t kind) {
  Damage damage = kProjectileDamage[kind];
  if (kind == kArrow || kind == kArrow2) {
    if (state.bow_enchantment == 1) damage.fire += damage.physical / 2;
    if (state.bow_enchantment == 2) damage.ice += damage.physical / 2;
    const float dexterity = static_cast<float>(state.player_dexterity - 1);
    return scaled(damage, std::fma(0.2f, dexterity, 1.0f));
  }
  if (kind == kFireball || kind == kIceball)
    return scaled(damage, 1.0f + 0.5f * static_cast<float>(state.player_intelligence - 1));
  return damage;
}

void move_player_projectile(State& state, int slot) {
  auto& projectiles = state.player_projectiles;
  const int floor = state.player_level;
  Position& own = projectiles[floor].position[slot];
  bool& alive = projectiles[floor].mask[slot];
  const Position before = own;
  own = before + state.player_projectile_directions[floor][slot];
  if (!alive) return;

  const Damage damage = player_projectile_damage(state, projectiles[floor].type_id[slot]);
  const bool first = attack(state, before, damage, false);
  const bool second = attack(state, own, first ? Damage{0, 0, 0} : damage, false);
  alive = is_open(state, own) && !first && !second;
}

}  // namespace

void move_mobs(State& state, const Draws& draws, const Params& params) {
  for (int slot = 0; slot < kMelee; ++slot) move_melee(state, slot, draws.melee[slot], params);
  for (int slot = 0; slot < kPassive; ++slot) move_passive(state, slot, draws.passive[slot], params);
  for (int slot = 0; slot < kRanged; ++slot) move_ranged(state, slot, draws.ranged[slot], params);
  for (int slot = 0; slot < kProjectiles; ++slot) move_mob_projectile(state, slot);
  for (int slot = 0; slot < kProjectiles; ++slot) move_player_projectile(state, slot);
}

}  // namespace craftax::full
