// The scheduler of the emulated threads.
#include "emulator.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

// Saves the callee's registers on its stack and goes on with another stack.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.globl emulator_switch
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emulator {

unsigned char* dynamic_shared;

namespace {

constexpr size_t kStack = 64 * 1024, kShared = 48 * 1024;
enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  void* stack_pointer;
  State state;
};

std::vector<Fiber> fibers;
std::vector<unsigned char> stacks, exchanges;
alignas(64) unsigned char shared_memory[kShared];
void* scheduler;
unsigned running;
int votes, verdict;
const std::function<void()>* body;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulated kernel: %s (block %u %u %u, thread %u)\n", what, blockIdx.x,
               blockIdx.y, blockIdx.z, running);
  std::abort();
}

void wait_as(State state) {
  fibers[running].state = state;
  emulator_switch(&fibers[running].stack_pointer, scheduler);
}

void enter() {
  (*body)();
  wait_as(State::kDone);
  fail("a finished thread was resumed");
}

void resume(unsigned thread) {
  running = thread;
  threadIdx = dim3(thread, 0, 0);
  emulator_switch(&scheduler, fibers[thread].stack_pointer);
}

// Lets go what waits and may go on; says whether a thread is ready.
bool release() {
  const auto count = static_cast<unsigned>(fibers.size());
  bool ready = false, all_at_block = true, all_done = true;
  for (unsigned first = 0; first < count; first += 32) {
    unsigned waiting = 0;
    for (unsigned t = first; t < first + 32; ++t) waiting += fibers[t].state == State::kAtWarp;
    for (unsigned t = first; t < first + 32; ++t) {
      const State state = fibers[t].state;
      if (waiting == 32) fibers[t].state = State::kReady;
      ready = ready || waiting == 32;
      all_at_block = all_at_block && (state == State::kAtBlock || state == State::kDone);
      all_done = all_done && state == State::kDone;
    }
  }
  if (ready || all_done) return ready;
  if (!all_at_block) fail("some threads wait for others that will never come");
  for (auto& fiber : fibers)
    if (fiber.state == State::kAtBlock) fiber.state = State::kReady;
  verdict = votes;
  votes = 0;
  return true;
}

void run_block(bool backwards) {
  const auto count = static_cast<unsigned>(fibers.size());
  std::memset(shared_memory, 0xcd, kShared);
  for (unsigned t = 0; t < count; ++t) {
    auto** top = reinterpret_cast<void**>(stacks.data() + kStack * (t + 1)) - 2;
    *top = reinterpret_cast<void*>(&enter);
    fibers[t] = {top - 6, State::kReady};
  }
  do {
    for (unsigned i = 0; i < count; ++i) {
      const unsigned t = backwards ? count - 1 - i : i;
      if (fibers[t].state == State::kReady) resume(t);
    }
  } while (release());
}

}  // namespace

void block_barrier() { wait_as(State::kAtBlock); }

void warp_barrier() {
  const unsigned first = running / 32 * 32;
  for (unsigned t = first; t < first + 32; ++t)
    if (fibers[t].state == State::kDone) fail("a lane that others wait for has left");
  wait_as(State::kAtWarp);
}

unsigned char* exchange() { return exchanges.data() + running / 32 * 32 * 16; }

void run(dim3 grid, dim3 block, size_t shared, const std::function<void()>& thread) {
  // Both orders of threads show what a missing barrier would let slip.
  static const bool backwards = std::getenv("EMULATOR_BACKWARDS") != nullptr;
  if (block.x % 32 != 0 || block.x > 1024 || block.y * block.z != 1) fail("odd shape of a block");
  if (shared > kShared || grid.y > 65535 || grid.z > 65535 || grid.x * grid.y * grid.z == 0)
    fail("a launch that a device would refuse");
  gridDim = grid, blockDim = block, body = &thread, dynamic_shared = shared_memory;
  fibers.resize(block.x);
  stacks.resize(kStack * block.x + 64);
  exchanges.resize(16 * block.x);
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block(backwards);
}

}  // namespace emulator

int __syncthreads_or(int value) {
  using emulator::votes, emulator::verdict;
  votes |= value;
  emulator::block_barrier();
  return verdict;
}
