/* kernel types */
enum { DISTIQ_BLOCK = 64 };

/* Multiplies integers; a linear layer is the case of a kernel of one and no padding, its rows along the width. */
typedef struct {
  const int8_t *weights; /* (out, kernel_h, kernel_w, in / groups); of a depthwise layer (kernel_h, kernel_w, out) */
  const int32_t *bias;   /* (out,), in steps of the accumulator */
  const float *scales;   /* (out,), of the weights */
#ifdef DISTIQ_Q31
  const int32_t *multipliers; /* (out,), of 31 bits; */
  const uint8_t *shifts;      /* (out,), to the right, behind them */
#endif
#ifdef DISTIQ_CMSIS_NN
  const int32_t *factors, *exponents; /* (out,): the same, and the shifts to the left of a fraction of 31 bits */
  const int32_t *plain_bias;          /* (out,), without the share of the zero point */
  int32_t is_depthwise;
#endif
  float rescale; /* scale of the input, over that of the output where it is of integers */
  int32_t gives_float, zero_in, zero_out, low, high;
  int32_t height, width, channels, out_height, out_width, out_channels;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
} distiq_layer;

/* The nearest integer of a value up to 2 ** 22, ties to the even one; the same wherever float32 is that of IEEE 754. */
static inline int32_t nearest(float value) {
  union { float value; int32_t bits; } magic;
  magic.value = value + 12582912.0f;
  return magic.bits - 0x4B400000;
}

static inline int32_t rounded(float value) {
  value = value < -1024.0f ? -1024.0f : value;
  return nearest(value > 1024.0f ? 1024.0f : value);
}

static inline int32_t clamped(int32_t value, int32_t low, int32_t high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

#ifdef DISTIQ_Q31
static inline int32_t shifted(int64_t product, int32_t shift) {
  product = (product + ((int64_t)1 << (shift - 1))) >> shift;
  return product < -1024 ? -1024 : product > 1024 ? 1024 : (int32_t)product;
}

static inline int32_t rescaled(int32_t value, int32_t multiplier, int32_t shift) {
  return shifted((int64_t)value * multiplier, shift);
}
#endif

/* kernel sums: types */
#ifdef __AVX2__
#include <immintrin.h>
#define DISTIQ_WIDE(from) _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(from)))

/* The last values of a row of at least 16, fewer than 16 of them new: the others become 0. */
static const int16_t distiq_last[32] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                         -1, -1, -1, -1, -1, -1 };
#define DISTIQ_LAST(value, count) _mm256_and_si256(value, _mm256_loadu_si256((const __m256i *)(distiq_last + (count))))

/* Adds up each of four registers. */
static inline void distiq_added(__m256i v0, __m256i v1, __m256i v2, __m256i v3, int32_t *sums) {
  v0 = _mm256_hadd_epi32(_mm256_hadd_epi32(v0, v1), _mm256_hadd_epi32(v2, v3));
  __m128i all = _mm_add_epi32(_mm256_castsi256_si128(v0), _mm256_extracti128_si256(v0, 1));
  _mm_storeu_si128((__m128i *)sums, all);
}
#endif

/* Sums of products of a row with four rows of weights, which lie `stride` apart. */
static inline void four_sums(const int16_t *row, const int8_t *weights, int32_t stride, int32_t depth,
                             int32_t *sums) {
  const int8_t *w0 = weights, *w1 = w0 + stride, *w2 = w1 + stride, *w3 = w2 + stride;
  int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, k = 0;
#ifdef __AVX2__ /* the same integers; compilers add up each of the four by itself */
  if (depth >= 16) {
    __m256i v0 = _mm256_setzero_si256(), v1 = v0, v2 = v0, v3 = v0;
    for (; k < depth; k += 16) {
      int32_t from = k + 16 <= depth ? k : depth - 16;
      __m256i value = _mm256_loadu_si256((const __m256i *)(row + from));
      if (from < k) value = DISTIQ_LAST(value, depth - k);
      v0 = _mm256_add_epi32(v0, _mm256_madd_epi16(value, DISTIQ_WIDE(w0 + from)));
      v1 = _mm256_add_epi32(v1, _mm256_madd_epi16(value, DISTIQ_WIDE(w1 + from)));
      v2 = _mm256_add_epi32(v2, _mm256_madd_epi16(value, DISTIQ_WIDE(w2 + from)));
      v3 = _mm256_add_epi32(v3, _mm256_madd_epi16(value, DISTIQ_WIDE(w3 + from)));
    }
    distiq_added(v0, v1, v2, v3, sums);
    return;
  }
#endif
  for (; k < depth; k++) {
    int16_t value = row[k];
    s0 += value * (int16_t)w0[k];
    s1 += value * (int16_t)w1[k];
    s2 += value * (int16_t)w2[k];
    s3 += value * (int16_t)w3[k];
  }
  sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

/* kernel layer: sums */
/* Not inlined: with AVX-512VL, GCC 12.2 would make wrong code of these loops within those of a depthwise layer. */
#ifdef __GNUC__
__attribute__((noinline))
#endif
static void finished(const distiq_layer *layer, int32_t first, int32_t count, const int32_t *restrict sums,
                     void *restrict out) {
  /* Copies: a store of bytes might change what `layer` points to, for all that a compiler knows. */
  const float *scales = layer->scales + first, rescale = layer->rescale;
  int32_t zero = layer->zero_out, low = layer->low, high = layer->high;
  if (layer->gives_float) {
    float *values = (float *)out + first;
    for (int32_t i = 0; i < count; i++) values[i] = (float)sums[i] * scales[i] * rescale;
    return;
  }
  int8_t *values = (int8_t *)out + first;
#ifdef DISTIQ_Q31
  const int32_t *multipliers = layer->multipliers + first;
  const uint8_t *shifts = layer->shifts + first;
  for (int32_t i = 0; i < count; i++)
    values[i] = (int8_t)clamped(rescaled(sums[i], multipliers[i], shifts[i]) + zero, low, high);
#else
  /* Clamped before it is rounded, which gives the same integers. */
  float least = (float)(low - zero), most = (float)(high - zero);
  for (int32_t i = 0; i < count; i++) {
    float value = (float)sums[i] * scales[i] * rescale;
    value = value < least ? least : value;
    values[i] = (int8_t)(nearest(value > most ? most : value) + zero);
  }
#endif
}

#ifdef DISTIQ_CMSIS_NN
#include "arm_nnfunctions.h"
static int64_t cmsis_memory[DISTIQ_CMSIS_NN_BYTES / 8 + 1];

/* Whether CMSIS-NN has computed a layer; it does not where a result stays float, or where it wants more memory. */
static int by_cmsis(const distiq_layer *l, const int8_t *in, void *out) {
  if (l->gives_float) return 0;
  const cmsis_nn_per_channel_quant_params quantized = { (int32_t *)l->factors, (int32_t *)l->exponents };
  const cmsis_nn_dims from = { 1, l->height, l->width, l->channels }, to = { 1, l->out_height, l->out_width, l->out_channels };
  const cmsis_nn_dims bias = { 1, 1, 1, l->out_channels };
  const cmsis_nn_tile stride = { l->stride_w, l->stride_h }, pad = { l->pad_left, l->pad_top };
  const cmsis_nn_tile dilation = { l->dilation_w, l->dilation_h };
  const cmsis_nn_activation ends = { l->low, l->high };
  const cmsis_nn_context memory = { cmsis_memory, sizeof cmsis_memory };
  if (l->is_depthwise) {
    const cmsis_nn_dw_conv_params how = { -l->zero_in, l->zero_out, 1, stride, pad, dilation, ends };
    const cmsis_nn_dims filter = { 1, l->kernel_h, l->kernel_w, l->out_channels };
    if (arm_depthwise_conv_wrapper_s8_get_buffer_size(&how, &from, &filter, &to) > (int32_t)sizeof cmsis_memory)
      return 0;
    return arm_depthwise_conv_wrapper_s8(&memory, &how, &quantized, &from, in, &filter, l->weights, &bias,
                                         l->plain_bias, &to, (int8_t *)out) == ARM_CMSIS_NN_SUCCESS;
  }
  const cmsis_nn_conv_params how = { -l->zero_in, l->zero_out, stride, pad, dilation, ends };
  const cmsis_nn_dims filter = { l->out_channels, l->kernel_h, l->kernel_w, l->channels / l->groups };
  if (arm_convolve_wrapper_s8_get_buffer_size(&how, &from, &filter, &to) > (int32_t)sizeof cmsis_memory) return 0;
  return arm_convolve_wrapper_s8(&memory, &how, &quantized, &from, in, &filter, l->weights, &bias, l->plain_bias, &to,
                                 (int8_t *)out) == ARM_CMSIS_NN_SUCCESS;
}
#define DISTIQ_BY_CMSIS(layer, in, out) if (by_cmsis(layer, in, out)) return
#else
#define DISTIQ_BY_CMSIS(layer, in, out)
#endif

/* kernel products: layer */
/* Sums of products of one row with `outs` rows of weights, in blocks. The row is of int16: compilers find the
   multiply-add of pairs for such. */
static void products(const distiq_layer *layer, int32_t first, int32_t outs, const int16_t *row, int32_t depth,
                     void *out) {
  int32_t sums[DISTIQ_BLOCK];
  for (int32_t start = 0; start < outs; start += DISTIQ_BLOCK) {
    int32_t count = outs - start < DISTIQ_BLOCK ? outs - start : DISTIQ_BLOCK;
    const int8_t *weights = layer->weights + (size_t)(first + start) * depth;
    int32_t i = 0, fours = count / 4 * 4;
    for (; i < fours; i += 4, weights += 4 * (size_t)depth) four_sums(row, weights, depth, depth, sums + i);
    for (; i < count; i++, weights += depth) {
      int32_t sum = 0;
      for (int32_t k = 0; k < depth; k++) sum += row[k] * (int16_t)weights[k];
      sums[i] = sum;
    }
    for (i = 0; i < count; i++) sums[i] += layer->bias[first + start + i];
    finished(layer, first + start, count, sums, out);
  }
}

/* kernel linear_s8: products */
#ifdef __AVX2__
/* Sums of products of two rows with four rows of weights, which are widened once for both; depth is at least 16. */
static inline void eight_sums(const int8_t *a, const int8_t *b, const int8_t *weights, int32_t depth, int32_t *sums_a,
                              int32_t *sums_b) {
  const int8_t *w0 = weights, *w1 = w0 + depth, *w2 = w1 + depth, *w3 = w2 + depth;
  __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  for (int32_t k = 0; k < depth; k += 16) {
    int32_t from = k + 16 <= depth ? k : depth - 16;
    __m256i x = DISTIQ_WIDE(a + from), y = DISTIQ_WIDE(b + from), w = DISTIQ_WIDE(w0 + from);
    if (from < k) x = DISTIQ_LAST(x, depth - k), y = DISTIQ_LAST(y, depth - k);
    a0 = _mm256_add_epi32(a0, _mm256_madd_epi16(x, w)), b0 = _mm256_add_epi32(b0, _mm256_madd_epi16(y, w));
    w = DISTIQ_WIDE(w1 + from);
    a1 = _mm256_add_epi32(a1, _mm256_madd_epi16(x, w)), b1 = _mm256_add_epi32(b1, _mm256_madd_epi16(y, w));
    w = DISTIQ_WIDE(w2 + from);
    a2 = _mm256_add_epi32(a2, _mm256_madd_epi16(x, w)), b2 = _mm256_add_epi32(b2, _mm256_madd_epi16(y, w));
    w = DISTIQ_WIDE(w3 + from);
    a3 = _mm256_add_epi32(a3, _mm256_madd_epi16(x, w)), b3 = _mm256_add_epi32(b3, _mm256_madd_epi16(y, w));
  }
  distiq_added(a0, a1, a2, a3, sums_a);
  distiq_added(b0, b1, b2, b3, sums_b);
}

/* What `products` computes, of two rows. */
static void two_products(const distiq_layer *layer, const int8_t *a, int8_t *out_a, int8_t *out_b) {
  int32_t sums_a[DISTIQ_BLOCK], sums_b[DISTIQ_BLOCK], depth = layer->channels, outs = layer->out_channels;
  const int8_t *b = a + depth;
  if (depth < 16) return; /* never; without it GCC warns of loads in front of short rows */
  for (int32_t start = 0; start < outs; start += DISTIQ_BLOCK) {
    int32_t count = outs - start < DISTIQ_BLOCK ? outs - start : DISTIQ_BLOCK, i = 0, fours = count / 4 * 4;
    const int8_t *weights = layer->weights + (size_t)start * depth;
    for (; i < fours; i += 4, weights += 4 * (size_t)depth)
      eight_sums(a, b, weights, depth, sums_a + i, sums_b + i);
    for (; i < count; i++, weights += depth) {
      int32_t of_a = 0, of_b = 0;
      for (int32_t k = 0; k < depth; k++) of_a += a[k] * weights[k], of_b += b[k] * weights[k];
      sums_a[i] = of_a, sums_b[i] = of_b;
    }
    for (i = 0; i < count; i++) sums_a[i] += layer->bias[start + i], sums_b[i] += layer->bias[start + i];
    finished(layer, start, count, sums_a, out_a);
    finished(layer, start, count, sums_b, out_b);
  }
}
#endif

static void linear_s8(const distiq_layer *layer, const int8_t *in, int16_t *wide, void *out) {
  int32_t row = 0, depth = layer->channels;
  size_t bytes = (size_t)layer->out_channels * (layer->gives_float ? sizeof(float) : 1);
  int8_t *result = (int8_t *)out;
  DISTIQ_BY_CMSIS(layer, in, out);
#ifdef __AVX2__
  for (; depth >= 16 && row + 2 <= layer->width; row += 2, in += 2 * (size_t)depth, result += 2 * bytes)
    two_products(layer, in, result, result + bytes);
#endif
  for (; row < layer->width; row++, in += depth, result += bytes) {
    for (int32_t k = 0; k < depth; k++) wide[k] = in[k];
    products(layer, 0, layer->out_channels, wide, depth, result);
  }
}

/* kernel conv_s8: products */
static void conv_s8(const distiq_layer *layer, const int8_t *in, int16_t *patch, void *out) {
  int32_t depth = layer->channels / layer->groups, outs = layer->out_channels / layer->groups;
  size_t bytes = layer->gives_float ? sizeof(float) : 1;
  int8_t *result = (int8_t *)out;
  DISTIQ_BY_CMSIS(layer, in, out);
  for (int32_t y = 0; y < layer->out_height; y++)
    for (int32_t x = 0; x < layer->out_width; x++, result += layer->out_channels * bytes)
      for (int32_t group = 0; group < layer->groups; group++) {
        int16_t *to = patch;
        for (int32_t ky = 0; ky < layer->kernel_h; ky++)
          for (int32_t kx = 0; kx < layer->kernel_w; kx++, to += depth) {
            int32_t row = y * layer->stride_h - layer->pad_top + ky * layer->dilation_h;
            int32_t column = x * layer->stride_w - layer->pad_left + kx * layer->dilation_w;
            if (row < 0 || row >= layer->height || column < 0 || column >= layer->width) {
              for (int32_t k = 0; k < depth; k++) to[k] = (int16_t)layer->zero_in;
            } else {
              const int8_t *from = in + ((size_t)row * layer->width + column) * layer->channels + group * depth;
              for (int32_t k = 0; k < depth; k++) to[k] = from[k];
            }
          }
        products(layer, group * outs, outs, patch, (int32_t)(to - patch), result);
      }
}

/* kernel depthwise_s8: layer */
static const int8_t no_weights[DISTIQ_BLOCK];

/* Adds two taps of a kernel to the sums of `count` channels. */
static inline void tapped(const int8_t *in_a, const int8_t *weights_a, const int8_t *in_b, const int8_t *weights_b,
                          int16_t zero, int32_t count, int32_t *sums) {
  int32_t i = 0;
#ifdef __AVX2__ /* products of both, added as one; unpacked halves of a register lie crosswise */
  __m256i zeros = _mm256_set1_epi16(zero);
  for (; i + 16 <= count; i += 16) {
    __m256i a = _mm256_sub_epi16(DISTIQ_WIDE(in_a + i), zeros), b = _mm256_sub_epi16(DISTIQ_WIDE(in_b + i), zeros);
    __m256i wa = DISTIQ_WIDE(weights_a + i), wb = DISTIQ_WIDE(weights_b + i);
    __m256i even = _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), _mm256_unpacklo_epi16(wa, wb));
    __m256i odd = _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), _mm256_unpackhi_epi16(wa, wb));
    __m256i *to = (__m256i *)(sums + i);
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_permute2x128_si256(even, odd, 0x20)));
    to++;
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_permute2x128_si256(even, odd, 0x31)));
  }
#endif
  for (; i < count; i++)
    sums[i] += (int16_t)(in_a[i] - zero) * weights_a[i] + (int16_t)(in_b[i] - zero) * weights_b[i];
}

static void depthwise_s8(const distiq_layer *layer, const int8_t *in, void *out) {
  int32_t sums[DISTIQ_BLOCK], channels = layer->channels;
  size_t bytes = layer->gives_float ? sizeof(float) : 1;
  int8_t *result = (int8_t *)out;
  int16_t zero = (int16_t)layer->zero_in;
  DISTIQ_BY_CMSIS(layer, in, out);
  for (int32_t y = 0; y < layer->out_height; y++)
    for (int32_t x = 0; x < layer->out_width; x++, result += channels * bytes)
      for (int32_t start = 0; start < channels; start += DISTIQ_BLOCK) {
        int32_t count = channels - start < DISTIQ_BLOCK ? channels - start : DISTIQ_BLOCK;
        const int8_t *values_before = 0, *weights_before = 0; /* of a tap that waits for the next */
        for (int32_t i = 0; i < count; i++) sums[i] = layer->bias[start + i];
        for (int32_t ky = 0; ky < layer->kernel_h; ky++) {
          int32_t row = y * layer->stride_h - layer->pad_top + ky * layer->dilation_h;
          if (row < 0 || row >= layer->height) continue;
          for (int32_t kx = 0; kx < layer->kernel_w; kx++) {
            int32_t column = x * layer->stride_w - layer->pad_left + kx * layer->dilation_w;
            if (column < 0 || column >= layer->width) continue;
            const int8_t *values = in + ((size_t)row * layer->width + column) * channels + start;
            const int8_t *weights = layer->weights + ((size_t)ky * layer->kernel_w + kx) * channels + start;
            if (values_before) {
              tapped(values_before, weights_before, values, weights, zero, count, sums);
              values_before = 0;
            } else {
              values_before = values, weights_before = weights;
            }
          }
        }
        if (values_before) tapped(values_before, weights_before, values_before, no_weights, zero, count, sums);
        finished(layer, start, count, sums, result);
      }
}

/* kernel pair: types */
/* Two tensors, the second of which is repeated where it is shorter. */
typedef struct {
  int32_t count, inner;
  float scale_a, scale_b, rescale;
#ifdef DISTIQ_Q31
  int32_t multiplier_a, multiplier_b, shift;
#endif
  int32_t zero_a, zero_b, zero_out, low, high;
} distiq_pair;

/* kernel add_s8: pair */
static void add_s8(const distiq_pair *pair, const int8_t *a, const int8_t *b, int8_t *out) {
  for (int32_t start = 0; start < pair->count; start += pair->inner)
    for (int32_t i = 0; i < pair->inner; i++) {
#ifdef DISTIQ_Q31
      int64_t sum = (int64_t)(a[start + i] - pair->zero_a) * pair->multiplier_a;
      sum += (int64_t)(b[i] - pair->zero_b) * pair->multiplier_b;
      int32_t value = (int32_t)((sum + ((int64_t)1 << (pair->shift - 1))) >> pair->shift);
#else
      float first = (float)(a[start + i] - pair->zero_a) * pair->scale_a;
      float second = (float)(b[i] - pair->zero_b) * pair->scale_b;
      int32_t value = rounded((first + second) * pair->rescale);
#endif
      out[start + i] = (int8_t)clamped(value + pair->zero_out, pair->low, pair->high);
    }
}

/* kernel mul_s8: pair */
static void mul_s8(const distiq_pair *pair, const int8_t *a, const int8_t *b, int8_t *out) {
  for (int32_t start = 0; start < pair->count; start += pair->inner)
    for (int32_t i = 0; i < pair->inner; i++) {
#ifdef DISTIQ_Q31
      int32_t product = (a[start + i] - pair->zero_a) * (b[i] - pair->zero_b);
      int32_t value = rescaled(product, pair->multiplier_a, pair->shift);
#else
      float first = (float)(a[start + i] - pair->zero_a) * pair->scale_a;
      float second = (float)(b[i] - pair->zero_b) * pair->scale_b;
      int32_t value = rounded(first * second * pair->rescale);
#endif
      out[start + i] = (int8_t)clamped(value + pair->zero_out, pair->low, pair->high);
    }
}

/* kernel table_s8: types */
/* A function of one value: what it gives for each of the 256 integers. */
typedef struct { const int8_t *table; int32_t count; } distiq_table;

static void table_s8(const distiq_table *function, const int8_t *in, int8_t *out) {
  for (int32_t i = 0; i < function->count; i++) out[i] = function->table[in[i] + 128];
}

/* kernel affine: types */
typedef struct { int32_t count; float scale, inverse; int32_t zero; } distiq_affine;

/* kernel quantize_s8: affine */
static void quantize_s8(const distiq_affine *one, const float *in, int8_t *out) {
  for (int32_t i = 0; i < one->count; i++)
    out[i] = (int8_t)clamped(rounded(in[i] * one->inverse) + one->zero, -128, 127);
}

/* kernel dequantize_s8: affine */
static void dequantize_s8(const distiq_affine *one, const int8_t *in, float *out) {
  for (int32_t i = 0; i < one->count; i++) out[i] = (float)(in[i] - one->zero) * one->scale;
}

/* kernel move: types */
/* Copies values from one order in memory to another. */
typedef struct { int32_t sizes[6], from[6], to[6], from_start, to_start; } distiq_move;

#define DISTIQ_MOVE(name, type)                                                                   \
  static void name(const distiq_move *m, const type *in, type *out) {                             \
    in += m->from_start, out += m->to_start;                                                      \
    for (int32_t a = 0; a < m->sizes[0]; a++)                                                     \
      for (int32_t b = 0; b < m->sizes[1]; b++)                                                   \
        for (int32_t c = 0; c < m->sizes[2]; c++)                                                 \
          for (int32_t d = 0; d < m->sizes[3]; d++)                                               \
            for (int32_t e = 0; e < m->sizes[4]; e++) {                                           \
              const type *source = in + a * m->from[0] + b * m->from[1] + c * m->from[2] +        \
                                   d * m->from[3] + e * m->from[4];                               \
              type *target = out + a * m->to[0] + b * m->to[1] + c * m->to[2] + d * m->to[3] +    \
                             e * m->to[4];                                                        \
              for (int32_t f = 0; f < m->sizes[5]; f++) target[f * m->to[5]] = source[f * m->from[5]]; \
            }                                                                                     \
  }

/* kernel move_s8: move */
DISTIQ_MOVE(move_s8, int8_t)

/* kernel move_f32: move */
DISTIQ_MOVE(move_f32, float)

/* kernel fill: types */
typedef struct { int32_t count; float value; } distiq_fill;

/* kernel fill_s8: fill */
static void fill_s8(const distiq_fill *one, int8_t *out) { memset(out, (int)one->value, (size_t)one->count); }

/* kernel fill_f32: fill */
static void fill_f32(const distiq_fill *one, float *out) {
  for (int32_t i = 0; i < one->count; i++) out[i] = one->value;
}

/* kernel pool: types */
/* Windows over (height, width, channels); an average divides by `divisor`, or by the values inside where that is 0. */
typedef struct {
  int32_t height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
  int32_t dilation_h, dilation_w, divisor;
  float rescale;
#ifdef DISTIQ_Q31
  int32_t multiplier, shift;
#endif
  int32_t zero_in, zero_out, low, high;
} distiq_pool;

#define DISTIQ_WINDOW(start_value, body, result)                                                       \
  for (int32_t y = 0; y < p->out_height; y++)                                                          \
    for (int32_t x = 0; x < p->out_width; x++)                                                         \
      for (int32_t channel = 0; channel < p->channels; channel++) {                                    \
        start_value;                                                                                   \
        int32_t inside = 0;                                                                            \
        for (int32_t ky = 0; ky < p->kernel_h; ky++)                                                   \
          for (int32_t kx = 0; kx < p->kernel_w; kx++) {                                               \
            int32_t row = y * p->stride_h - p->pad_top + ky * p->dilation_h;                           \
            int32_t column = x * p->stride_w - p->pad_left + kx * p->dilation_w;                       \
            if (row < 0 || row >= p->height || column < 0 || column >= p->width) continue;             \
            size_t place = ((size_t)row * p->width + column) * p->channels + channel;                  \
            inside++;                                                                                  \
            body;                                                                                      \
          }                                                                                            \
        int32_t divisor = p->divisor ? p->divisor : inside;                                            \
        (void)divisor;                                                                                 \
        out[((size_t)y * p->out_width + x) * p->channels + channel] = result;                          \
      }

/* kernel average_s8: pool */
static inline int8_t average_of(const distiq_pool *p, int32_t sum, int32_t divisor) {
#ifdef DISTIQ_Q31
  int64_t product = (int64_t)sum * p->multiplier; /* which holds a divisor that all windows share */
  int32_t value = shifted(p->divisor ? product : product / divisor, p->shift);
#else
  int32_t value = rounded((float)sum / (float)divisor * p->rescale);
#endif
  return (int8_t)clamped(value + p->zero_out, p->low, p->high);
}

static void average_s8(const distiq_pool *p, const int8_t *in, int8_t *out) {
  DISTIQ_WINDOW(int32_t sum = 0, sum += in[place] - p->zero_in, average_of(p, sum, divisor))
}

/* kernel average_f32: pool */
static void average_f32(const distiq_pool *p, const float *in, float *out) {
  DISTIQ_WINDOW(float sum = 0.0f, sum += in[place], sum / (float)divisor)
}

/* kernel maximum_s8: pool */
static void maximum_s8(const distiq_pool *p, const int8_t *in, int8_t *out) {
  DISTIQ_WINDOW(int8_t most = -128, most = in[place] > most ? in[place] : most, most)
}

/* kernel maximum_f32: pool */
static void maximum_f32(const distiq_pool *p, const float *in, float *out) {
  DISTIQ_WINDOW(float most = -3.402823466e+38f, most = in[place] > most ? in[place] : most, most)
}

/* kernel layer_f32: types */
typedef struct {
  const float *weights, *bias; /* (out, kernel_h, kernel_w, in / groups), (out,) */
  int32_t height, width, channels, out_height, out_width, out_channels;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
} distiq_layer_f32;

/* kernel linear_f32: layer_f32 */
static void linear_f32(const distiq_layer_f32 *layer, const float *in, float *out) {
  for (int32_t row = 0; row < layer->width; row++, in += layer->channels)
    for (int32_t o = 0; o < layer->out_channels; o++) {
      const float *weights = layer->weights + (size_t)o * layer->channels;
      float sum = 0.0f;
      for (int32_t k = 0; k < layer->channels; k++) sum += in[k] * weights[k];
      *out++ = sum + layer->bias[o];
    }
}

/* kernel conv_f32: layer_f32 */
static void conv_f32(const distiq_layer_f32 *layer, const float *in, float *out) {
  int32_t depth = layer->channels / layer->groups, outs = layer->out_channels / layer->groups;
  for (int32_t y = 0; y < layer->out_height; y++)
    for (int32_t x = 0; x < layer->out_width; x++)
      for (int32_t o = 0; o < layer->out_channels; o++) {
        const float *weights = layer->weights + (size_t)o * layer->kernel_h * layer->kernel_w * depth;
        float sum = 0.0f;
        for (int32_t ky = 0; ky < layer->kernel_h; ky++)
          for (int32_t kx = 0; kx < layer->kernel_w; kx++, weights += depth) {
            int32_t row = y * layer->stride_h - layer->pad_top + ky * layer->dilation_h;
            int32_t column = x * layer->stride_w - layer->pad_left + kx * layer->dilation_w;
            if (row < 0 || row >= layer->height || column < 0 || column >= layer->width) continue;
            const float *values = in + ((size_t)row * layer->width + column) * layer->channels + o / outs * depth;
            for (int32_t k = 0; k < depth; k++) sum += values[k] * weights[k];
          }
        *out++ = sum + layer->bias[o];
      }
}

/* kernel pair_f32: types */
typedef struct { int32_t count, inner; } distiq_pair_f32;
#define DISTIQ_PAIR(name, operation)                                                               \
  static void name(const distiq_pair_f32 *pair, const float *a, const float *b, float *out) {      \
    for (int32_t start = 0; start < pair->count; start += pair->inner)                             \
      for (int32_t i = 0; i < pair->inner; i++) out[start + i] = a[start + i] operation b[i];      \
  }

/* kernel add_f32: pair_f32 */
DISTIQ_PAIR(add_f32, +)

/* kernel sub_f32: pair_f32 */
DISTIQ_PAIR(sub_f32, -)

/* kernel mul_f32: pair_f32 */
DISTIQ_PAIR(mul_f32, *)

/* kernel div_f32: pair_f32 */
DISTIQ_PAIR(div_f32, /)

/* kernel exponential: types */
/* e to the power of a value, to 2 units in the last place, of sums and products alone: the same on every machine. */
static inline float exponential(float value) {
  union { float value; int32_t bits; } power;
  value = value < -87.0f ? -87.0f : value > 88.0f ? 88.0f : value;
  int32_t whole = rounded(value * 1.44269504f);
  float rest = value - (float)whole * 0.693359375f + (float)whole * 2.12194440e-4f;
  float sum = 1.9875691500e-4f;
  sum = sum * rest + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  power.bits = (whole + 127) << 23;
  return sum * power.value;
}

/* kernel logarithm: types */
/* The natural logarithm of a positive value, of sums and products alone. */
static inline float logarithm(float value) {
  union { float value; int32_t bits; } parts;
  parts.value = value < 1.17549435e-38f ? 1.17549435e-38f : value;
  int32_t power = (parts.bits >> 23) - 126;
  parts.bits = (parts.bits & 0x007FFFFF) | 0x3F000000;
  float rest = parts.value;
  if (rest < 0.707106781f) power -= 1, rest = rest + rest - 1.0f;
  else rest = rest - 1.0f;
  float square = rest * rest, sum = 7.0376836292e-2f;
  sum = sum * rest - 1.1514610310e-1f;
  sum = sum * rest + 1.1676998740e-1f;
  sum = sum * rest - 1.2420140846e-1f;
  sum = sum * rest + 1.4249322787e-1f;
  sum = sum * rest - 1.6668057665e-1f;
  sum = sum * rest + 2.0000714765e-1f;
  sum = sum * rest - 2.4999993993e-1f;
  sum = sum * rest + 3.3333331174e-1f;
  sum = sum * rest * square;
  sum = sum - (float)power * 2.12194440e-4f - 0.5f * square;
  return rest + sum + (float)power * 0.693359375f;
}

/* kernel unary: types */
typedef struct { int32_t count; float low, high; } distiq_unary;
#define DISTIQ_UNARY(name, result)                                                                 \
  static void name(const distiq_unary *f, const float *in, float *out) {                           \
    for (int32_t i = 0; i < f->count; i++) {                                                       \
      float x = in[i];                                                                             \
      out[i] = result;                                                                             \
    }                                                                                              \
  }

/* kernel clamp_f32: unary */
DISTIQ_UNARY(clamp_f32, x < f->low ? f->low : x > f->high ? f->high : x)

/* kernel leaky_f32: unary */
DISTIQ_UNARY(leaky_f32, x < 0.0f ? x * f->low : x)

/* kernel sigmoid_f32: unary exponential */
DISTIQ_UNARY(sigmoid_f32, 1.0f / (1.0f + exponential(-x)))

/* kernel silu_f32: unary exponential */
DISTIQ_UNARY(silu_f32, x / (1.0f + exponential(-x)))

/* kernel tanh_f32: unary exponential */
DISTIQ_UNARY(tanh_f32, 1.0f - 2.0f / (1.0f + exponential(x + x)))

/* kernel hardsigmoid_f32: unary */
DISTIQ_UNARY(hardsigmoid_f32, x <= -3.0f ? 0.0f : x >= 3.0f ? 1.0f : (x + 3.0f) / 6.0f)

/* kernel hardswish_f32: unary */
DISTIQ_UNARY(hardswish_f32, x <= -3.0f ? 0.0f : x >= 3.0f ? x : x * ((x + 3.0f) / 6.0f))

/* kernel exp_f32: unary exponential */
DISTIQ_UNARY(exp_f32, exponential(x))

/* kernel log_f32: unary logarithm */
DISTIQ_UNARY(log_f32, logarithm(x))

/* kernel softmax_f32: exponential logarithm */
typedef struct { int32_t rows, width, of_logarithm; } distiq_softmax;

static void softmax_f32(const distiq_softmax *s, const float *in, float *out) {
  for (int32_t row = 0; row < s->rows; row++, in += s->width, out += s->width) {
    float most = in[0], sum = 0.0f;
    for (int32_t i = 1; i < s->width; i++) most = in[i] > most ? in[i] : most;
    for (int32_t i = 0; i < s->width; i++) sum += out[i] = exponential(in[i] - most);
    for (int32_t i = 0; i < s->width; i++) out[i] = s->of_logarithm ? in[i] - most - logarithm(sum) : out[i] / sum;
  }
}

/* kernel matmul_f32: types */
/* (batch, rows, depth) by (batch, columns, depth): each row of the one with each of the other. */
typedef struct { int32_t batch, rows, depth, columns; } distiq_matmul;

static void matmul_f32(const distiq_matmul *m, const float *a, const float *b, float *out) {
  for (int32_t batch = 0; batch < m->batch; batch++, a += m->rows * m->depth, b += m->columns * m->depth)
    for (int32_t row = 0; row < m->rows; row++)
      for (int32_t column = 0; column < m->columns; column++) {
        float sum = 0.0f;
        for (int32_t k = 0; k < m->depth; k++) sum += a[row * m->depth + k] * b[column * m->depth + k];
        *out++ = sum;
      }
}

/* kernel log_mel: logarithm */
/* Logarithms of the power in bands of frequencies, frame by frame; tables of one turn, (length,). */
typedef struct {
  const float *window, *cosines, *sines, *weights;
  const int32_t *first, *start; /* of each band its lowest frequency, and where its weights begin; one more start */
  int32_t length, hop, frames, bands;
  float floor, centre, spread;
} distiq_log_mel;

/* Cooley and Tukey's transform of a length that is a power of two, in place. */
static void transformed(const distiq_log_mel *m, float *real, float *imaginary) {
  for (int32_t i = 1, j = 0; i < m->length; i++) {
    int32_t bit = m->length >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      float swapped = real[i];
      real[i] = real[j], real[j] = swapped;
    }
  }
  for (int32_t half = 1; half < m->length; half *= 2) {
    int32_t step = m->length / (2 * half);
    for (int32_t start = 0; start < m->length; start += 2 * half)
      for (int32_t k = 0; k < half; k++) {
        int32_t a = start + k, b = a + half;
        float cosine = m->cosines[k * step], sine = m->sines[k * step];
        float x = real[b] * cosine + imaginary[b] * sine, y = imaginary[b] * cosine - real[b] * sine;
        real[b] = real[a] - x, imaginary[b] = imaginary[a] - y;
        real[a] += x, imaginary[a] += y;
      }
  }
}

/* Of samples as floats, or as the integers of a microphone: 32768 is 1. */
static void log_mel(const distiq_log_mel *m, const float *in, const int16_t *pcm, float *real, float *out) {
  float *imaginary = real + m->length;
  int is_power_of_two = (m->length & (m->length - 1)) == 0;
  for (int32_t frame = 0; frame < m->frames; frame++) {
    for (int32_t t = 0, at = frame * m->hop; t < m->length; t++, at++) {
      real[t] = (pcm ? (float)pcm[at] / 32768.0f : in[at]) * m->window[t];
      imaginary[t] = 0.0f;
    }
    if (is_power_of_two) transformed(m, real, imaginary);
    for (int32_t k = 0; k <= m->length / 2; k++) {
      float x = real[k], y = imaginary[k];
      if (!is_power_of_two) {
        x = 0.0f, y = 0.0f;
        for (int32_t t = 0, turn = 0; t < m->length; t++, turn = (turn + k) % m->length)
          x += real[t] * m->cosines[turn], y += real[t] * m->sines[turn];
      }
      imaginary[k] = x * x + y * y;
    }
    for (int32_t band = 0; band < m->bands; band++) {
      const float *weights = m->weights + m->start[band], *power = imaginary + m->first[band];
      float sum = 0.0f;
      for (int32_t i = 0; i < m->start[band + 1] - m->start[band]; i++) sum += weights[i] * power[i];
      out[(size_t)band * m->frames + frame] = (logarithm(sum + m->floor) - m->centre) / m->spread;
    }
  }
}
