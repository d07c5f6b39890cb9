#include "infer/model/rope.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* theta^(2 i / head_dim): positions a radian, of pair i. */
static float wavelength(double theta, size_t i, size_t head_dim)
{
    float exponent = (float)(2 * i) / (float)head_dim;
    return (float)pow((double)(float)theta, (double)exponent);
}

/* Long waves are divided by the factor, short ones kept; between the two a blend. */
static float llama3(const struct tp_rope_config *config, float frequency)
{
    float context = (float)config->original_context, factor = (float)config->factor;
    float low = (float)config->low_frequency_factor;
    float wave = (float)(2 * M_PI) / frequency;
    if (wave < (float)(config->original_context / config->high_frequency_factor))
        return frequency;
    if (wave > (float)(config->original_context / config->low_frequency_factor))
        return frequency / factor;
    float smooth = (context / wave - low) /
                   (float)(config->high_frequency_factor - config->low_frequency_factor);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

/* The pair, counted with a fraction, that makes `turns` turns over the original context. */
static double pair_of(const struct tp_rope_config *config, size_t head_dim, double turns)
{
    return (double)head_dim * log(config->original_context / (turns * 2 * M_PI)) /
           (2 * log(config->theta));
}

struct ramp {
    float low, width;
};

static struct ramp yarn_ramp(const struct tp_rope_config *config, size_t head_dim)
{
    double low = pair_of(config, head_dim, config->beta_fast);
    double high = pair_of(config, head_dim, config->beta_slow);
    if (config->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)head_dim - 1);
    if (low == high)
        high += 0.001; /* as the reference does */
    return (struct ramp){(float)low, (float)(high - low)};
}

static float yarn(const struct tp_rope_config *config, struct ramp ramp, float wave, size_t i)
{
    float along = fminf(fmaxf(((float)i - ramp.low) / ramp.width, 0), 1);
    float keep = 1 - along;
    return 1 / ((float)config->factor * wave) * (1 - keep) + 1 / wave * keep;
}

int tp_rope_new(const struct tp_rope_config *config, size_t head_dim, struct tp_rope *ret_rope)
{
    struct tp_rope rope = {.n_pairs = head_dim / 2, .concentration = (float)config->concentration};
    rope.inverse_frequencies = calloc(rope.n_pairs + 1, sizeof *rope.inverse_frequencies);
    if (rope.inverse_frequencies == NULL)
        return -ENOMEM;
    struct ramp ramp = {0, 1};
    if (config->kind == TP_ROPE_YARN)
        ramp = yarn_ramp(config, head_dim);
    for (size_t i = 0; i < rope.n_pairs; i++) {
        float wave = wavelength(config->theta, i, head_dim);
        float frequency = 1 / wave;
        if (config->kind == TP_ROPE_LINEAR)
            frequency /= (float)config->factor;
        else if (config->kind == TP_ROPE_LLAMA3)
            frequency = llama3(config, frequency);
        else if (config->kind == TP_ROPE_YARN)
            frequency = yarn(config, ramp, wave, i);
        rope.inverse_frequencies[i] = frequency;
    }
    *ret_rope = rope;
    return 0;
}

void tp_rope_clear(struct tp_rope *rope)
{
    free(rope->inverse_frequencies);
    *rope = (struct tp_rope){0};
}

void tp_rope_position(const struct tp_rope *rope, size_t position, float *cos_out, float *sin_out)
{
    for (size_t i = 0; i < rope->n_pairs; i++) {
        double angle = (double)((float)position * rope->inverse_frequencies[i]);
        cos_out[i] = (float)cos(angle) * rope->concentration;
        sin_out[i] = (float)sin(angle) * rope->concentration;
    }
}
