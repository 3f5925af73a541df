/* Kernels for two functions of the serving graph, vectorised across candidates: one candidate per lane.
 *
 * DinScores     alpha(q, k) of DIN, (B, N, T)
 * DmaeInterest  MIEU from its table, MIFU's window and cross attention, (B, N, 2 d)
 *
 * A graph that names them carries their bodies in plain ONNX operators as model-local functions: a session in
 * which this library is registered runs these kernels, any other session inlines the bodies.
 *
 * Portable C with GNU vector extensions (gcc, clang), to be compiled for the machine that runs it: lanes are as
 * many as its vector registers hold. ONNX Runtime's C API is an append-only table of functions, so its entries are
 * called by their number and no header of ONNX Runtime is needed to build.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define TILE 8 /* outputs of a matrix product that are accumulated in registers, for two columns at a time */
#elif defined(__AVX__)
#define LANES 8
#define TILE 4
#else
#define LANES 4
#define TILE 4
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))

/* ---- arithmetic on lanes ---- */

INLINE vec relu(vec x) { return (vec)((ivec)x & ~(x < 0.0f)); } /* NaN stays */
INLINE vec larger(vec a, vec b) { return (vec)(((ivec)a & (a > b)) | ((ivec)b & ~(a > b))); }

/* exp of x <= 0, relative error below 2e-7; exactly 0 far below. */
INLINE vec exp_lanes(vec x) {
  x = larger(x, (vec){0} - 87.0f);
  vec shifted = x * 1.44269504f + 12582912.0f; /* the addend leaves the nearest integer in the low bits */
  ivec power = (ivec)shifted - 0x4b400000;
  vec n = shifted - 12582912.0f;
  vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return (vec)((ivec)p + (power << 23));
}

/* out[o] (+)= sum_i weight[i][o] x[i] for two columns of x at once, TILE outputs at a time.
 * x, out: [i][2], [o][2]; weight: rows of `stride` floats. */
#define PAIR_MATVEC(x, rows, weight, stride, columns, FROM, TO)                                       \
  for (int64_t o = 0; o + TILE <= (columns); o += TILE) {                                                   \
    vec acc[TILE][2];                                                                                    \
    _Pragma("GCC unroll 8") for (int k = 0; k < TILE; k++) { FROM(acc[k], o + k); }                      \
    for (int64_t i = 0; i < (rows); i++) {                                                            \
      const float *w = (weight) + i * (stride) + o;                                                   \
      const vec x0 = (x)[2 * i], x1 = (x)[2 * i + 1];                                                 \
      _Pragma("GCC unroll 8") for (int k = 0; k < TILE; k++) { acc[k][0] += w[k] * x0; acc[k][1] += w[k] * x1; } \
    }                                                                                                 \
    _Pragma("GCC unroll 8") for (int k = 0; k < TILE; k++) { TO(acc[k], o + k); }                        \
  }                                                                                                   \
  for (int64_t o = (columns) - (columns) % TILE; o < (columns); o++) {                                     \
    vec acc[2];                                                                                       \
    FROM(acc, o);                                                                                     \
    for (int64_t i = 0; i < (rows); i++) {                                                            \
      const float w = (weight)[i * (stride) + o];                                                     \
      acc[0] += w * (x)[2 * i];                                                                       \
      acc[1] += w * (x)[2 * i + 1];                                                                   \
    }                                                                                                 \
    TO(acc, o);                                                                                       \
  }

/* LANES vectors in place: lane l of vector k and lane k of vector l change places. */
INLINE void transpose(vec a[LANES]) {
#ifdef __clang__
  vec b[LANES];
  for (int k = 0; k < LANES; k++)
    for (int l = 0; l < LANES; l++) b[k][l] = a[l][k];
  memcpy(a, b, sizeof b);
#else
  _Pragma("GCC unroll 4") for (int step = LANES / 2; step; step /= 2) {
    ivec low, high; /* of two vectors: blocks of `step` lanes of the one beside those of the other */
    _Pragma("GCC unroll 16") for (int l = 0; l < LANES; l++) {
      low[l] = l & step ? LANES + l - step : l;
      high[l] = l & step ? LANES + l : l + step;
    }
    _Pragma("GCC unroll 16") for (int k = 0; k < LANES; k++) if (!(k & step)) {
      const vec x = a[k], y = a[k + step];
      a[k] = __builtin_shuffle(x, y, low);
      a[k + step] = __builtin_shuffle(x, y, high);
    }
  }
#endif
}

INLINE vec load(const float *from) {
  vec out;
  memcpy(&out, from, sizeof out);
  return out;
}

/* columns [0, width) of up to LANES rows -> width vectors; lanes beyond the last row repeat it. */
INLINE void load_lanes(const float *rows, int64_t width, int64_t count, vec *out) {
  for (int64_t i = 0; i < width; i++)
    for (int64_t l = 0; l < LANES; l++) out[i][l] = rows[(l < count ? l : count - 1) * width + i];
}

/* ---- scratch memory: one buffer per kernel stays between runs, since fresh pages cost as much as a small run ---- */

typedef struct { size_t bytes; } Buffer; /* the first vector of the allocation; the rest is the caller's */

static Buffer *take(Buffer **spare, size_t vectors) {
  const size_t bytes = (vectors + 1) * sizeof(vec);
  Buffer *buffer = __atomic_exchange_n(spare, 0, __ATOMIC_ACQ_REL);
  if (buffer && buffer->bytes >= bytes) return buffer;
  free(buffer);
  buffer = aligned_alloc(sizeof(vec), bytes);
  if (buffer) buffer->bytes = bytes;
  return buffer;
}

static void give(Buffer **spare, Buffer *buffer) { free(__atomic_exchange_n(spare, buffer, __ATOMIC_ACQ_REL)); }

/* ---- DIN ---- */

typedef struct {
  int64_t requests, candidates, behaviours, width, hidden, hidden2;
  const float *queries, *keys, *assembled, *w2, *b2, *w3, *b3;
  float *out;
} Din;

/* assembled (d+1, (d+1) h): W_x on its diagonal, W_k - W_- in its last row, W_q + W_- in its last column. */
static void din(const Din *x, vec *q) {
  const int64_t d = x->width, h = x->hidden, t_count = x->behaviours, row = (d + 1) * h;
  vec *bias = q + d, *qk = bias + h, *first = qk + 2 * d;
  float *by_key = (float *)(first + 2 * h); /* (T, h) */
  const float *w_k = x->assembled + d * row;
  for (int64_t b = 0; b < x->requests; b++) {
    const float *keys = x->keys + b * t_count * d;
    for (int64_t t = 0; t < t_count; t++) {
      float *out = by_key + t * h;
      memset(out, 0, h * sizeof(float));
      for (int64_t i = 0; i < d; i++)
        for (int64_t o = 0; o < h; o++) out[o] += keys[t * d + i] * w_k[i * h + o];
    }
    for (int64_t n = 0; n < x->candidates; n += LANES) {
      const int64_t lanes = x->candidates - n < LANES ? x->candidates - n : LANES;
      load_lanes(x->queries + (b * x->candidates + n) * d, d, lanes, q);
      for (int64_t o = 0; o < h; o++) {
        bias[o] = (vec){0} + x->assembled[d * row + d * h + o];
        for (int64_t i = 0; i < d; i++) bias[o] += x->assembled[i * row + d * h + o] * q[i];
      }
      for (int64_t t = 0; t < t_count; t += 2) {
        const int64_t u = t + 1 < t_count ? t + 1 : t;
        for (int64_t i = 0; i < d; i++) {
          qk[2 * i] = q[i] * keys[t * d + i];
          qk[2 * i + 1] = q[i] * keys[u * d + i];
        }
        const float *k0 = by_key + t * h, *k1 = by_key + u * h;
#define FROM_KEY(acc, o) acc[0] = bias[o] + k0[o], acc[1] = bias[o] + k1[o]
#define TO_FIRST(acc, o) first[2 * (o)] = relu(acc[0]), first[2 * (o) + 1] = relu(acc[1])
        PAIR_MATVEC(qk, d, x->assembled, row + h, h, FROM_KEY, TO_FIRST)
        vec s0 = (vec){0} + x->b3[0], s1 = s0;
#define FROM_BIAS(acc, o) acc[0] = acc[1] = (vec){0} + x->b2[o]
#define TO_SCORE(acc, o) s0 += x->w3[o] * relu(acc[0]), s1 += x->w3[o] * relu(acc[1])
        PAIR_MATVEC(first, h, x->w2, x->hidden2, x->hidden2, FROM_BIAS, TO_SCORE)
        float *out = x->out + (b * x->candidates + n) * t_count;
        for (int64_t l = 0; l < lanes; l++) out[l * t_count + t] = s0[l], out[l * t_count + u] = s1[l];
      }
    }
  }
}

static size_t din_scratch(const Din *x) { return 3 * (x->width + x->hidden) + x->behaviours * x->hidden / LANES + 1; }

/* ---- DMAE ---- */

typedef struct {
  int64_t requests, candidates, behaviours, width, rows, places, radius, causal;
  const float *position, *present, *shown, *value, *place, *a, *u, *v;
  float *out;
} Dmae;

/* ReLU(G + P) of one behaviour for LANES candidates: [i] of width d. position: of the first lane, T apart. */
INLINE void token(const Dmae *x, int m, const float *position, int64_t lanes, int64_t t, vec *out) {
  const int64_t d = x->width;
  const float *place = x->place + (m * x->places + x->places - x->behaviours + t) * d;
  const float *values = x->value + m * x->rows * d;
  int64_t row[LANES];
  float inside[LANES];
  for (int64_t l = 0; l < LANES; l++) {
    const float p = position[(l < lanes ? l : lanes - 1) * x->behaviours + t];
    const int64_t cell = p >= 0.0f ? (p < (float)(x->rows - 1) ? (int64_t)p : x->rows - 2) : 0;
    inside[l] = p - (float)cell;
    row[l] = cell * d;
  }
  int64_t i = 0;
  for (; i + LANES <= d; i += LANES) {
    vec a[LANES];
    const vec here = load(place + i);
    _Pragma("GCC unroll 16") for (int l = 0; l < LANES; l++) {
      const vec left = load(values + row[l] + i), right = load(values + row[l] + d + i);
      a[l] = relu(left + inside[l] * (right - left) + here);
    }
    transpose(a);
    _Pragma("GCC unroll 16") for (int l = 0; l < LANES; l++) out[i + l] = a[l];
  }
  for (; i < d; i++) {
    for (int64_t l = 0; l < LANES; l++) {
      const float *left = values + row[l] + i;
      out[i][l] = left[0] + inside[l] * (left[d] - left[0]) + place[i];
    }
    out[i] = relu(out[i]);
  }
}

/* Behaviours t and t + 1 read their windows: z (2 rows of d) of both. e: ring of tokens, slot = t mod ring. */
INLINE void window_pair(const Dmae *x, int m, int64_t t, const float *present, const vec *e, int64_t ring,
                        vec *qe, vec *query, vec *scores, vec *z) {
  const int64_t d = x->width, count = x->behaviours, r = x->radius;
  const int64_t first = t - r > 0 ? t - r : 0, last = t + 1 + r < count ? t + 1 + r : count - 1;
  const int64_t keys = last - first + 1, u = t + 1 < count ? t + 1 : t;
  const vec *e0 = e + (t & (ring - 1)) * d, *e1 = e + (u & (ring - 1)) * d;
  for (int64_t i = 0; i < d; i++) qe[2 * i] = e0[i], qe[2 * i + 1] = e1[i];
#define FROM_ZERO(acc, o) acc[0] = acc[1] = (vec){0}
#define TO_QUERY(acc, o) query[2 * (o)] = acc[0], query[2 * (o) + 1] = acc[1]
  PAIR_MATVEC(qe, d, x->a + m * d * d, d, d, FROM_ZERO, TO_QUERY)
  for (int64_t k = 0; k < keys; k += 4) {
    const vec *key[4];
    vec acc[4][2];
    _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
      key[j] = e + (((k + j < keys ? first + k + j : last)) & (ring - 1)) * d;
      acc[j][0] = acc[j][1] = (vec){0};
    }
    for (int64_t i = 0; i < d; i++) {
      const vec q0 = query[2 * i], q1 = query[2 * i + 1];
      _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
        const vec c = key[j][i];
        acc[j][0] += q0 * c;
        acc[j][1] += q1 * c;
      }
    }
    _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) scores[2 * (k + j)] = acc[j][0], scores[2 * (k + j) + 1] = acc[j][1];
  }
  const vec never = (vec){0} - 1e30f;
  vec top0 = never, top1 = never;
  for (int64_t k = 0; k < keys; k++) {
    const int64_t at = first + k;
    if (!(present[at] > 0.0f)) scores[2 * k] = scores[2 * k + 1] = never;
    if (at > t + r || (x->causal && at > t)) scores[2 * k] = never;
    if (at < t + 1 - r || (x->causal && at > t + 1)) scores[2 * k + 1] = never;
    top0 = larger(scores[2 * k], top0);
    top1 = larger(scores[2 * k + 1], top1);
  }
  vec sum0 = {0}, sum1 = {0};
  for (int64_t k = 0; k < keys; k++) {
    sum0 += scores[2 * k] = exp_lanes(scores[2 * k] - top0);
    sum1 += scores[2 * k + 1] = exp_lanes(scores[2 * k + 1] - top1);
  }
  const vec over0 = 1.0f / sum0, over1 = 1.0f / sum1;
  vec *z0 = z, *z1 = z + d;
#define READ(width)                                                                                 \
  {                                                                                                 \
    vec acc[width][2];                                                                              \
    _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) acc[j][0] = acc[j][1] = (vec){0};       \
    for (int64_t k = 0; k < keys; k++) {                                                            \
      const vec p0 = scores[2 * k], p1 = scores[2 * k + 1];                                         \
      const vec *c = e + ((first + k) & (ring - 1)) * d + i;                                        \
      _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) { acc[j][0] += p0 * c[j]; acc[j][1] += p1 * c[j]; } \
    }                                                                                               \
    _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) { z0[i + j] = acc[j][0] * over0; z1[i + j] = acc[j][1] * over1; } \
  }
  int64_t i = 0;
  for (; i + TILE <= d; i += TILE) READ(TILE)
  for (; i < d; i++) READ(1)
}

static int64_t ring_size(const Dmae *x) {
  int64_t ring = 4;
  while (ring < 2 * x->radius + 4) ring *= 2;
  return ring;
}

static int64_t padded_behaviours(const Dmae *x) { return (x->behaviours + 3) & ~(int64_t)3; }

static size_t dmae_scratch(const Dmae *x) {
  const size_t d = x->width, padded = padded_behaviours(x);
  return 2 * padded * d + ring_size(x) * d + 9 * d + 2 * (2 * x->radius + 8) + padded;
}

static void dmae(const Dmae *x, vec *v) {
  const int64_t d = x->width, count = x->behaviours, pairs = x->requests * x->candidates;
  const int64_t ring = ring_size(x), padded = padded_behaviours(x); /* padded: of the second pass */
  vec *z[2] = {v, v + padded * d}, *e = v + 2 * padded * d, *qe = e + ring * d, *query = qe + 2 * d;
  vec *mean[2] = {query + 2 * d, query + 3 * d}, *ask = query + 4 * d, *attended = ask + d, *output = attended + d;
  vec *weight = output + d, *scores = weight + padded;
  for (int64_t b = 0; b < x->requests; b++) {
    for (int64_t n = 0; n < x->candidates; n += LANES) {
      const int64_t lanes = x->candidates - n < LANES ? x->candidates - n : LANES;
      for (int m = 0; m < 2; m++) {
        const float *present = x->present + (m * x->requests + b) * count;
        const float *shown = x->shown + m * pairs + b * x->candidates + n;
        const float *position = x->position + (m * pairs + b * x->candidates + n) * count;
        float total = 0.0f;
        int64_t made = 0;
        for (int64_t i = 0; i < d; i++) mean[m][i] = (vec){0};
        memset(z[m] + (padded - 4) * d, 0, 4 * d * sizeof(vec));
        for (int64_t t = 0; t < count; t += 2) {
          const int64_t u = t + 1 < count ? t + 1 : t;
          if (!(present[t] > 0.0f) && !(present[u] > 0.0f)) {
            memset(z[m] + t * d, 0, 2 * d * sizeof(vec));
            continue;
          }
          if (made < t - x->radius) made = t - x->radius;
          for (; made <= t + 1 + x->radius && made < count; made++)
            token(x, m, position, lanes, made, e + (made & (ring - 1)) * d);
          window_pair(x, m, t, present, e, ring, qe, query, scores, z[m] + t * d);
          const vec *z0 = z[m] + t * d, *z1 = z0 + d;
          const float w0 = present[t] > 0.0f, w1 = u > t && present[u] > 0.0f;
          total += w0 + w1;
          for (int64_t i = 0; i < d; i++) mean[m][i] += w0 * z0[i] + w1 * z1[i];
        }
        vec over;
        for (int64_t l = 0; l < LANES; l++)
          over[l] = total > 0.0f && shown[l < lanes ? l : lanes - 1] > 0.0f ? 1.0f / total : 0.0f;
        for (int64_t i = 0; i < d; i++) mean[m][i] *= over;
      }
      for (int m = 0; m < 2; m++) {
        const float *present = x->present + (m * x->requests + b) * count;
        const float *shown = x->shown + m * pairs + b * x->candidates + n;
        const float *u = x->u + m * d * d, *w = x->v + m * d * d;
        for (int64_t o = 0; o < d; o++) {
          ask[o] = (vec){0};
          for (int64_t i = 0; i < d; i++) ask[o] += u[i * d + o] * mean[1 - m][i];
        }
        vec top = (vec){0} - 1e30f, sum = {0};
        for (int64_t t = 0; t < padded; t++) {
          const vec *at = z[m] + t * d;
          vec part[4] = {{0}, {0}, {0}, {0}};
          int64_t i = 0;
          for (; i + 4 <= d; i += 4)
            _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) part[j] += ask[i + j] * at[i + j];
          for (; i < d; i++) part[0] += ask[i] * at[i];
          weight[t] = (part[0] + part[1]) + (part[2] + part[3]);
          if (t >= count || !(present[t] > 0.0f)) weight[t] = (vec){0} - 1e30f;
          top = larger(weight[t], top);
        }
        for (int64_t t = 0; t < padded; t++) {
          weight[t] = exp_lanes(weight[t] - top);
          if (t >= count || !(present[t] > 0.0f)) weight[t] = (vec){0};
          sum += weight[t];
        }
        for (int64_t i = 0; i < d; i++) attended[i] = (vec){0};
        for (int64_t t = 0; t < padded; t += 4) {
          const vec *at = z[m] + t * d, p0 = weight[t], p1 = weight[t + 1], p2 = weight[t + 2], p3 = weight[t + 3];
          for (int64_t i = 0; i < d; i++)
            attended[i] += (p0 * at[i] + p1 * at[d + i]) + (p2 * at[2 * d + i] + p3 * at[3 * d + i]);
        }
        for (int64_t o = 0; o < d; o++) {
          output[o] = (vec){0};
          for (int64_t i = 0; i < d; i++) output[o] += w[i * d + o] * attended[i];
        }
        for (int64_t l = 0; l < lanes; l++) {
          const float over = shown[l] > 0.0f && sum[l] > 0.0f ? 1.0f / sum[l] : 0.0f;
          float *out = x->out + (b * x->candidates + n + l) * 2 * d + m * d;
          for (int64_t o = 0; o < d; o++) out[o] = output[o][l] * over;
        }
      }
    }
  }
}

/* ---- ONNX Runtime's C API, by number ---- */

typedef struct { const void *(*get_api)(uint32_t version); const char *(*version)(void); } ApiBase;
typedef const void *const *Api;
enum {
  CREATE_STATUS = 0, CREATE_DOMAIN = 26, DOMAIN_ADD = 27, ADD_DOMAIN = 28, TENSOR_DATA = 51, DIMENSION_COUNT = 61,
  DIMENSIONS = 62, SHAPE_OF = 65, ATTRIBUTE_INT = 86, INPUT = 90, OUTPUT = 91, RELEASE_SHAPE = 99
};
enum { FLOAT = 1, INVALID_ARGUMENT = 2, STRUCT_VERSION = 16, API_VERSION = 16 };

typedef struct Op Op;
struct Op { /* OrtCustomOp as of version 16 */
  uint32_t version;
  void *(*create)(const Op *, Api, const void *info);
  const char *(*name)(const Op *);
  const char *(*provider)(const Op *);
  int (*input_type)(const Op *, size_t);
  size_t (*input_count)(const Op *);
  int (*output_type)(const Op *, size_t);
  size_t (*output_count)(const Op *);
  void (*compute)(void *, void *context);
  void (*destroy)(void *);
  int (*input_kind)(const Op *, size_t);
  int (*output_kind)(const Op *, size_t);
  int (*input_memory)(const Op *, size_t);
  int (*variadic_input_minimum)(const Op *);
  int (*variadic_input_same)(const Op *);
  int (*variadic_output_minimum)(const Op *);
  int (*variadic_output_same)(const Op *);
  void *(*create_v2)(const Op *, Api, const void *info, void **kernel);
  void *(*compute_v2)(void *, void *context);
  const char *own_name; /* ours, behind what ONNX Runtime reads */
  size_t own_inputs;
};

typedef struct { Api api; int64_t radius, causal; Buffer *spare; } Kernel;

static void *failure(Api api, const char *message) {
  return ((void *(*)(int, const char *))api[CREATE_STATUS])(INVALID_ARGUMENT, message);
}

/* Data and shape (padded with 1) of one input; its rank, or -1. */
static int input(Api api, const void *context, size_t index, const float **data, int64_t shape[4]) {
  const void *value = 0;
  void *info = 0;
  size_t rank = 0;
  if (((void *(*)(const void *, size_t, const void **))api[INPUT])(context, index, &value) || !value) return -1;
  if (((void *(*)(const void *, const float **))api[TENSOR_DATA])(value, data)) return -1;
  if (((void *(*)(const void *, void **))api[SHAPE_OF])(value, &info)) return -1;
  shape[0] = shape[1] = shape[2] = shape[3] = 1;
  ((void *(*)(const void *, size_t *))api[DIMENSION_COUNT])(info, &rank);
  if (rank <= 4) ((void *(*)(const void *, int64_t *, size_t))api[DIMENSIONS])(info, shape, rank);
  ((void (*)(void *))api[RELEASE_SHAPE])(info);
  return rank <= 4 ? (int)rank : -1;
}

static float *output(Api api, void *context, const int64_t *shape, size_t rank) {
  void *value = 0;
  float *data = 0;
  if (((void *(*)(void *, size_t, const int64_t *, size_t, void **))api[OUTPUT])(context, 0, shape, rank, &value)) return 0;
  if (((void *(*)(void *, float **))api[TENSOR_DATA])(value, &data)) return 0;
  return data;
}

static void *run_din(void *kernel, void *context) {
  Api api = ((Kernel *)kernel)->api;
  int64_t s[7][4];
  const float *data[7];
  for (size_t i = 0; i < 7; i++)
    if (input(api, context, i, &data[i], s[i]) < 0) return failure(api, "DinScores: an input cannot be read");
  Din x = {s[0][0], s[0][1], s[1][1], s[0][2], 0, s[3][1], data[0], data[1], data[2], data[3], data[4], data[5], data[6], 0};
  x.hidden = s[3][0];
  if (s[1][0] != x.requests || s[1][2] != x.width || s[2][0] != x.width + 1 || s[2][1] != (x.width + 1) * x.hidden ||
      s[4][0] != x.hidden2 || s[5][0] != x.hidden2 || s[5][1] != 1 || s[6][0] != 1)
    return failure(api, "DinScores: shapes do not agree");
  x.out = output(api, context, (int64_t[]){x.requests, x.candidates, x.behaviours}, 3);
  Buffer **spare = &((Kernel *)kernel)->spare, *buffer = x.out ? take(spare, din_scratch(&x)) : 0;
  if (!buffer) return failure(api, "DinScores: out of memory");
  din(&x, (vec *)buffer + 1);
  give(spare, buffer);
  return 0;
}

static void *run_dmae(void *kernel, void *context) {
  Kernel *k = kernel;
  Api api = k->api;
  int64_t s[8][4];
  const float *data[8];
  for (size_t i = 0; i < 8; i++)
    if (input(api, context, i, &data[i], s[i]) < 0) return failure(api, "DmaeInterest: an input cannot be read");
  const int64_t d = s[3][1];
  Dmae x = {s[0][1], s[0][2], s[0][3], d, s[3][0] / 2, s[4][1], k->radius, k->causal, data[0], data[1], data[2], data[3],
            data[4], data[5], data[6], data[7], 0};
  if (s[0][0] != 2 || s[1][0] != 2 || s[1][1] != x.requests || s[1][2] != x.behaviours || s[2][0] != 2 ||
      s[2][1] != x.requests || s[2][2] != x.candidates || s[4][0] != 2 || s[4][2] != d || x.rows < 2 || x.radius < 0)
    return failure(api, "DmaeInterest: shapes do not agree");
  for (int i = 5; i < 8; i++)
    if (s[i][0] != 2 || s[i][1] != d || s[i][2] != d) return failure(api, "DmaeInterest: shapes do not agree");
  if (x.behaviours > x.places) return failure(api, "DmaeInterest: more behaviours than the history length");
  x.out = output(api, context, (int64_t[]){x.requests, x.candidates, 2 * d}, 3);
  Buffer *buffer = x.out ? take(&k->spare, dmae_scratch(&x)) : 0;
  if (!buffer) return failure(api, "DmaeInterest: out of memory");
  dmae(&x, (vec *)buffer + 1);
  give(&k->spare, buffer);
  return 0;
}

static void *create(const Op *op, Api api, const void *info, void **kernel) {
  Kernel *k = calloc(1, sizeof(Kernel));
  if (!k) return failure(api, "out of memory");
  k->api = api;
  void *(*read)(const void *, const char *, int64_t *) = (void *(*)(const void *, const char *, int64_t *))api[ATTRIBUTE_INT];
  if (op->compute_v2 == run_dmae && (read(info, "radius", &k->radius) || read(info, "causal", &k->causal)))
    return free(k), failure(api, "DmaeInterest: radius or causal is missing");
  *kernel = k;
  return 0;
}

static void destroy(void *kernel) {
  free(((Kernel *)kernel)->spare);
  free(kernel);
}

static const char *name(const Op *op) { return op->own_name; }
static const char *provider(const Op *op) { return (void)op, (const char *)0; }
static int type(const Op *op, size_t i) { return (void)op, (void)i, FLOAT; }
static int zero(const Op *op, size_t i) { return (void)op, (void)i, 0; }
static int none(const Op *op) { return (void)op, 0; }
static size_t inputs(const Op *op) { return op->own_inputs; }
static size_t one(const Op *op) { return (void)op, (size_t)1; }

#define OP(label, count, run)                                                                                  \
  {STRUCT_VERSION, 0, name, provider, type, inputs, type, one, 0, destroy, zero, zero, zero, none, none, none, none, \
   create, run, label, count}
static const Op OPS[] = {OP("DinScores", 7, run_din), OP("DmaeInterest", 8, run_dmae)};

__attribute__((visibility("default"))) void *RegisterCustomOps(void *options, const ApiBase *base) {
  static void *domain; /* one for the life of the process */
  Api api = base->get_api(API_VERSION);
  if (!api) return 0; /* a runtime older than the API: no kernels, the graph's own bodies run */
  void *status = 0;
  if (!domain) {
    void *made = 0;
    status = ((void *(*)(const char *, void **))api[CREATE_DOMAIN])("repcenter", &made);
    for (size_t i = 0; !status && i < sizeof OPS / sizeof *OPS; i++)
      status = ((void *(*)(void *, const Op *))api[DOMAIN_ADD])(made, &OPS[i]);
    if (status) return status;
    domain = made;
  }
  return ((void *(*)(void *, void *))api[ADD_DOMAIN])(options, domain);
}
