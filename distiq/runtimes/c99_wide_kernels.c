
/* kernel wide: types */
/* Of 16-bit activations, whose zero point is 0. */
static inline int32_t wide_rounded(float value) {
  union { float value; int32_t bits; } magic;
  value = value < -131072.0f ? -131072.0f : value;
  value = value > 131072.0f ? 131072.0f : value;
  magic.value = value + 12582912.0f;
  return magic.bits - 0x4B400000;
}

#ifdef DISTIQ_Q31
/* The product of up to 46 bits and 31, in two parts. */
static inline int32_t wide_rescaled(int64_t value, int32_t multiplier, int32_t shift) {
  int64_t product = (value >> 16) * multiplier + (((value & 0xFFFF) * multiplier) >> 16);
  product = (product + ((int64_t)1 << (shift - 17))) >> (shift - 16);
  return product < -131072 ? -131072 : product > 131072 ? 131072 : (int32_t)product;
}
#endif

/* kernel wide_layer: wide */
/* Like distiq_layer, with accumulators of 64 bits. */
typedef struct {
  const int8_t *weights;
  const int64_t *bias;
  const float *scales;
#ifdef DISTIQ_Q31
  const int32_t *multipliers;
  const uint8_t *shifts;
#endif
  float rescale;
  int32_t gives_float, zero_in, zero_out, low, high;
  int32_t height, width, channels, out_height, out_width, out_channels;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
} distiq_wide_layer;

#ifdef __GNUC__
__attribute__((noinline))
#endif
static void wide_finished(const distiq_wide_layer *layer, int32_t first, int32_t count, const int64_t *restrict sums,
                          void *restrict out) {
  const float *scales = layer->scales + first, rescale = layer->rescale;
  int32_t low = layer->low, high = layer->high;
  if (layer->gives_float) {
    float *values = (float *)out + first;
    for (int32_t i = 0; i < count; i++) values[i] = (float)sums[i] * scales[i] * rescale;
    return;
  }
  int16_t *values = (int16_t *)out + first;
#ifdef DISTIQ_Q31
  const int32_t *multipliers = layer->multipliers + first;
  const uint8_t *shifts = layer->shifts + first;
  for (int32_t i = 0; i < count; i++)
    values[i] = (int16_t)clamped(wide_rescaled(sums[i], multipliers[i], shifts[i]), low, high);
#else
  for (int32_t i = 0; i < count; i++)
    values[i] = (int16_t)clamped(wide_rounded((float)sums[i] * scales[i] * rescale), low, high);
#endif
}

/* kernel wide_products: sums wide_layer */
enum { DISTIQ_PART = 256 }; /* products of 16 and 8 bits that 32 bits hold */

static void wide_products(const distiq_wide_layer *layer, int32_t first, int32_t outs, const int16_t *row,
                          int32_t depth, void *out) {
  int64_t sums[DISTIQ_BLOCK];
  for (int32_t start = 0; start < outs; start += DISTIQ_BLOCK) {
    int32_t count = outs - start < DISTIQ_BLOCK ? outs - start : DISTIQ_BLOCK;
    const int8_t *weights = layer->weights + (size_t)(first + start) * depth;
    for (int32_t i = 0; i < count; i++) sums[i] = layer->bias[first + start + i];
    for (int32_t from = 0; from < depth; from += DISTIQ_PART) {
      int32_t length = depth - from < DISTIQ_PART ? depth - from : DISTIQ_PART, i = 0;
      const int8_t *part = weights + from;
      for (; i < count / 4 * 4; i += 4, part += 4 * (size_t)depth) {
        int32_t four[4];
        four_sums(row + from, part, depth, length, four);
        for (int32_t k = 0; k < 4; k++) sums[i + k] += four[k];
      }
      for (; i < count; i++, part += depth) {
        int32_t sum = 0;
        for (int32_t k = 0; k < length; k++) sum += row[from + k] * (int16_t)part[k];
        sums[i] += sum;
      }
    }
    wide_finished(layer, first + start, count, sums, out);
  }
}

/* kernel linear_s16: wide_products */
static void linear_s16(const distiq_wide_layer *layer, const int16_t *in, void *out) {
  size_t bytes = layer->gives_float ? sizeof(float) : sizeof(int16_t);
  for (int32_t row = 0; row < layer->width; row++, in += layer->channels)
    wide_products(layer, 0, layer->out_channels, in, layer->channels,
                  (int8_t *)out + (size_t)row * layer->out_channels * bytes);
}

/* kernel conv_s16: wide_products */
static void conv_s16(const distiq_wide_layer *layer, const int16_t *in, int16_t *patch, void *out) {
  int32_t depth = layer->channels / layer->groups, outs = layer->out_channels / layer->groups;
  size_t bytes = layer->gives_float ? sizeof(float) : sizeof(int16_t);
  int8_t *result = (int8_t *)out;
  for (int32_t y = 0; y < layer->out_height; y++)
    for (int32_t x = 0; x < layer->out_width; x++, result += layer->out_channels * bytes)
      for (int32_t group = 0; group < layer->groups; group++) {
        int16_t *to = patch;
        for (int32_t ky = 0; ky < layer->kernel_h; ky++)
          for (int32_t kx = 0; kx < layer->kernel_w; kx++, to += depth) {
            int32_t row = y * layer->stride_h - layer->pad_top + ky * layer->dilation_h;
            int32_t column = x * layer->stride_w - layer->pad_left + kx * layer->dilation_w;
            if (row < 0 || row >= layer->height || column < 0 || column >= layer->width)
              memset(to, 0, (size_t)depth * sizeof *to);
            else
              memcpy(to, in + ((size_t)row * layer->width + column) * layer->channels + group * depth,
                     (size_t)depth * sizeof *to);
          }
        wide_products(layer, group * outs, outs, patch, (int32_t)(to - patch), result);
      }
}

/* kernel depthwise_s16: wide_layer */
static void depthwise_s16(const distiq_wide_layer *layer, const int16_t *in, void *out) {
  int64_t sums[DISTIQ_BLOCK];
  int32_t channels = layer->channels;
  size_t bytes = layer->gives_float ? sizeof(float) : sizeof(int16_t);
  int8_t *result = (int8_t *)out;
  for (int32_t y = 0; y < layer->out_height; y++)
    for (int32_t x = 0; x < layer->out_width; x++, result += channels * bytes)
      for (int32_t start = 0; start < channels; start += DISTIQ_BLOCK) {
        int32_t count = channels - start < DISTIQ_BLOCK ? channels - start : DISTIQ_BLOCK;
        for (int32_t i = 0; i < count; i++) sums[i] = layer->bias[start + i];
        for (int32_t ky = 0; ky < layer->kernel_h; ky++) {
          int32_t row = y * layer->stride_h - layer->pad_top + ky * layer->dilation_h;
          if (row < 0 || row >= layer->height) continue;
          for (int32_t kx = 0; kx < layer->kernel_w; kx++) {
            int32_t column = x * layer->stride_w - layer->pad_left + kx * layer->dilation_w;
            if (column < 0 || column >= layer->width) continue;
            const int16_t *values = in + ((size_t)row * layer->width + column) * channels + start;
            const int8_t *weights = layer->weights + ((size_t)ky * layer->kernel_w + kx) * channels + start;
            for (int32_t i = 0; i < count; i++) sums[i] += values[i] * (int32_t)weights[i];
          }
        }
        wide_finished(layer, start, count, sums, result);
      }
}

/* kernel add_s16: pair wide */
static void add_s16(const distiq_pair *pair, const int16_t *a, const int16_t *b, int16_t *out) {
  for (int32_t start = 0; start < pair->count; start += pair->inner)
    for (int32_t i = 0; i < pair->inner; i++) {
#ifdef DISTIQ_Q31
      int64_t sum = (int64_t)a[start + i] * pair->multiplier_a + (int64_t)b[i] * pair->multiplier_b;
      int32_t value = (int32_t)((sum + ((int64_t)1 << (pair->shift - 1))) >> pair->shift);
#else
      int32_t value = wide_rounded((a[start + i] * pair->scale_a + b[i] * pair->scale_b) * pair->rescale);
#endif
      out[start + i] = (int16_t)clamped(value, pair->low, pair->high);
    }
}

/* kernel mul_s16: pair wide */
static void mul_s16(const distiq_pair *pair, const int16_t *a, const int16_t *b, int16_t *out) {
  for (int32_t start = 0; start < pair->count; start += pair->inner)
    for (int32_t i = 0; i < pair->inner; i++) {
#ifdef DISTIQ_Q31
      int32_t value = wide_rescaled((int64_t)a[start + i] * b[i], pair->multiplier_a, pair->shift);
#else
      float first = a[start + i] * pair->scale_a, second = b[i] * pair->scale_b;
      int32_t value = wide_rounded(first * second * pair->rescale);
#endif
      out[start + i] = (int16_t)clamped(value, pair->low, pair->high);
    }
}

/* kernel requantized: wide */
typedef struct {
  int32_t count;
  float scale, inverse;
#ifdef DISTIQ_Q31
  int32_t multiplier, shift;
#endif
  int32_t zero_in, zero_out, low, high;
} distiq_requantized;

static inline int32_t requantized(const distiq_requantized *one, int32_t value) {
#ifdef DISTIQ_Q31
  value = wide_rescaled(value - one->zero_in, one->multiplier, one->shift);
#else
  value = wide_rounded((float)(value - one->zero_in) * one->scale * one->inverse);
#endif
  return clamped(value + one->zero_out, one->low, one->high);
}

/* kernel s8_to_s16: requantized */
static void s8_to_s16(const distiq_requantized *one, const int8_t *in, int16_t *out) {
  for (int32_t i = 0; i < one->count; i++) out[i] = (int16_t)requantized(one, in[i]);
}

/* kernel s16_to_s8: requantized */
static void s16_to_s8(const distiq_requantized *one, const int16_t *in, int8_t *out) {
  for (int32_t i = 0; i < one->count; i++) out[i] = (int8_t)requantized(one, in[i]);
}

/* kernel s16_to_s16: requantized */
static void s16_to_s16(const distiq_requantized *one, const int16_t *in, int16_t *out) {
  for (int32_t i = 0; i < one->count; i++) out[i] = (int16_t)requantized(one, in[i]);
}

/* kernel quantize_s16: affine wide */
static void quantize_s16(const distiq_affine *one, const float *in, int16_t *out) {
  for (int32_t i = 0; i < one->count; i++)
    out[i] = (int16_t)clamped(wide_rounded(in[i] * one->inverse) + one->zero, -32768, 32767);
}

/* kernel dequantize_s16: affine */
static void dequantize_s16(const distiq_affine *one, const int16_t *in, float *out) {
  for (int32_t i = 0; i < one->count; i++) out[i] = (float)(in[i] - one->zero) * one->scale;
}

/* kernel move_s16: move */
DISTIQ_MOVE(move_s16, int16_t)

/* kernel fill_s16: fill */
static void fill_s16(const distiq_fill *one, int16_t *out) {
  for (int32_t i = 0; i < one->count; i++) out[i] = (int16_t)one->value;
}

/* kernel average_s16: pool wide */
static inline int16_t wide_average(const distiq_pool *p, int64_t sum, int32_t divisor) {
#ifdef DISTIQ_Q31
  int32_t shift = p->shift; /* the multiplier holds a divisor that all windows share; else 16 bits of a fraction stay */
  if (!p->divisor) sum = sum * 65536 / divisor, shift += 16;
  int32_t value = wide_rescaled(sum, p->multiplier, shift);
#else
  int32_t value = wide_rounded((float)sum / (float)divisor * p->rescale);
#endif
  return (int16_t)clamped(value, p->low, p->high);
}

static void average_s16(const distiq_pool *p, const int16_t *in, int16_t *out) {
  DISTIQ_WINDOW(int64_t sum = 0, sum += in[place], wide_average(p, sum, divisor))
}

/* kernel maximum_s16: pool */
static void maximum_s16(const distiq_pool *p, const int16_t *in, int16_t *out) {
  DISTIQ_WINDOW(int16_t most = -32768, most = in[place] > most ? in[place] : most, most)
}
