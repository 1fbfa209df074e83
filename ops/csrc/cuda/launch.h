// What the CUDA kernels offer to torch's side: plain pointers and a stream, no torch, no CUDA types.
// Every call only launches (no synchronisation, no allocation), so it may be captured in a graph.
// Each returns a cudaError_t as int, 0 = launched.
#pragma once

#include <cstdint>

#include "../shared.h"

namespace growstage::cuda {

enum class Type : int { kFloat, kDouble, kHalf, kBFloat16 };

constexpr int64_t kMaxExperts = 1024;
constexpr int kSortBlock = 256;  // slots that one block sorts

const char* error_text(int error);

struct Route {
  const void* logits;
  const void* noise;      // of the computing type; may be null
  const void* threshold;  // one value of the computing type; only for kThreshold
  const bool* allowed;    // may be null
  void* weights;
  void* chosen;  // scores of the chosen, tokens * slots of the computing type
  int64_t* selected;
  int64_t* counts;  // zeroed by the caller
  int64_t tokens, experts, slots, capacity;
  Selector selector;
  double temperature, level;
  Type type;
};

// Choice and, where there is no capacity limit, weights and counts.
int route(const Route& call, void* stream);
// Second half under a capacity limit: drop slots that arrived too late, then weights and counts.
int limit(const Route& call, const int64_t* position, const int64_t* offsets, void* stream);
int route_backward(Type type, const void* grad, const int64_t* selected, const void* weights,
                   int64_t tokens, int64_t slots, int64_t experts, double temperature,
                   void* grad_logits, void* stream);

struct Sort {
  const int64_t* selected;
  int64_t slots, experts;
  int32_t* blocks;   // workspace, ceil(slots / kSortBlock) * experts
  int32_t* totals;   // workspace, experts
  int32_t* slot_of;  // slot of every used row
  int64_t *position, *offsets;
};

// Stable sort of slots by expert.
int sort_slots(const Sort& call, void* stream);
// Rows of x in the sorted order, 0 after the used ones.
int gather_rows(const void* x, const int32_t* slot_of, const int64_t* offsets, int64_t row_count,
                int64_t per_token, int64_t experts, int64_t row_bytes, void* rows, void* stream);
int permute_backward(Type type, const void* grad, const int64_t* position, int64_t tokens,
                     int64_t per_token, int64_t width, void* grad_x, void* stream);

// wide: weights (and their gradients) are of the computing type, else of the type of rows.
int combine(Type type, bool wide, const void* rows, const int64_t* position, const void* weights,
            int64_t tokens, int64_t per_token, int64_t width, void* y, void* stream);
// grad_rows is zeroed by the caller: rows that no slot points to keep that.
int combine_backward(Type type, bool wide, const void* grad, const void* rows,
                     const int64_t* position, const void* weights, int64_t tokens,
                     int64_t per_token, int64_t width, void* grad_rows, void* grad_weights,
                     void* stream);

// table is zeroed by the caller.
int usage(const int64_t* selected, const int64_t* domain, int64_t tokens, int64_t per_token,
          int64_t experts, int64_t domains, int64_t* table, void* stream);

// table: workspace of the computing type, (derived_count + 1) * width. Codes and places that are
// out of range count as unused.
int row_sum(Type type, const void* weight, const void* bias, const Observed& x, int64_t width,
            void* table, void* y, void* stream);

struct Lists {      // workspace: for each code the samples that have it
  int64_t chunk;    // samples that one block puts into the lists
  int32_t* counts;  // ceil(batch / chunk) * codes, zeroed by the caller
  int32_t* starts;  // codes + 1
  int32_t* samples;  // batch * slots
};
int row_sum_backward(Type type, const void* grad, const Observed& x, int64_t width,
                     const Lists& lists, void* table, void* grad_weight, void* grad_bias,
                     void* stream);

// Up to kGroup experts of one grouped product; passed by value in the kernel's parameters, so that
// pointers need no copy to the device.
constexpr int kGroup = 64;
struct Group {
  int count;
  int expert[kGroup];  // whose rows: offsets[expert] .. offsets[expert + 1]
  const void* weight[kGroup];
  const void* bias[kGroup];  // may be null
  void* out[kGroup];         // parameter gradients only
  void* out_bias[kGroup];    // may be null
  int n[kGroup], k[kGroup];  // columns of the result; depth (rows product) or rows (gradients)
};

// `gated`: a row of hidden units holds as many gates and then as many values as the expert has
// units, and unit j is act(gate j) * value j.
struct RowsProduct {  // result[r, :n] = f(a[r, :k] op(weight)) for the rows of each expert
  const void* a;      // gated and no `kept`: [gates | values] of the k units
  void* result;
  const void* kept;  // hidden units, for the activation's slope; null = none. Gated: [gates |
                     // values] of the n units, and the result becomes the gradients of both
  const int64_t* offsets;
  int64_t rows, lda, ldc, ld_kept;
  bool transposed;  // weight is [n, k], else [k, n]
  bool gated;
  Activation on_load, on_store, slope;
  bool tf32;
  Type type;
};
int rows_product(const RowsProduct& call, const Group& group, void* stream);

struct ParameterProduct {  // out[m, n] = sum over rows of a[r, m] b[r, n]; out_bias[m] = sum a[r, m]
  const void *a, *b;       // gated: b holds [gates | values] of n units
  const bool* learning;  // null = all rows
  const int64_t* offsets;
  int64_t lda, ldb;
  bool gated;
  Activation on_load_b;
  bool tf32;
  Type type;
};
int parameter_product(const ParameterProduct& call, const Group& group, void* stream);

// Zeros rows offsets[experts] .. rows of a [rows, width] matrix.
int zero_tail(Type type, void* matrix, const int64_t* offsets, int64_t experts, int64_t rows,
              int64_t width, void* stream);

}  // namespace growstage::cuda
