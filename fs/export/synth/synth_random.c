#include "fs/export/synth/synth_random.h"

#include <math.h>
#include <string.h>

enum { POOL_WORDS = 4 }; /* SeedSequence's pool: 128 bits */

/* CRC-32 of zlib and Ethernet, bit by bit: it hashes names of a few dozen bytes. */
static uint32_t crc32_of(const char *text)
{
    uint32_t crc = UINT32_MAX;
    for (; *text != '\0'; text++) {
        crc ^= (uint8_t)*text;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? UINT32_C(0xedb88320) : 0);
    }
    return ~crc;
}

static uint32_t hash_word(uint32_t word, uint32_t *constant, uint32_t factor)
{
    word ^= *constant;
    *constant *= factor;
    word *= *constant;
    return word ^ (word >> 16);
}

static uint32_t mix_words(uint32_t x, uint32_t y)
{
    uint32_t mixed = UINT32_C(0xca01f9dd) * x - UINT32_C(0x4973f715) * y;
    return mixed ^ (mixed >> 16);
}

/* SeedSequence.mix_entropy for at most POOL_WORDS words. */
static void mix_entropy(const uint32_t *entropy, size_t n, uint32_t ret_pool[POOL_WORDS])
{
    uint32_t constant = UINT32_C(0x43b0d7e5);
    for (size_t i = 0; i < POOL_WORDS; i++)
        ret_pool[i] = hash_word(i < n ? entropy[i] : 0, &constant, UINT32_C(0x931e8875));
    for (size_t from = 0; from < POOL_WORDS; from++) {
        for (size_t to = 0; to < POOL_WORDS; to++) {
            if (from != to)
                ret_pool[to] = mix_words(
                    ret_pool[to], hash_word(ret_pool[from], &constant, UINT32_C(0x931e8875)));
        }
    }
}

/* SeedSequence.generate_state(n, uint64): two words of 32 bits each, the low one first. */
static void generate_state(const uint32_t pool[POOL_WORDS], uint64_t *ret_state, size_t n)
{
    uint32_t constant = UINT32_C(0x8b51f9dd);
    for (size_t i = 0; i < 2 * n; i++) {
        uint64_t word = hash_word(pool[i % POOL_WORDS], &constant, UINT32_C(0x58f38ded));
        ret_state[i / 2] = i % 2 == 0 ? word : ret_state[i / 2] | word << 32;
    }
}

void tp_random_init(struct tp_random *random, uint64_t seed, const char *name)
{
    /* numpy writes each integer in as many 32-bit words as it needs, but at least one. */
    uint32_t entropy[3], pool[POOL_WORDS];
    size_t n = 0;
    entropy[n++] = (uint32_t)seed;
    if (seed > UINT32_MAX)
        entropy[n++] = (uint32_t)(seed >> 32);
    entropy[n++] = crc32_of(name);

    uint64_t state[3], warm_up[12];
    mix_entropy(entropy, n, pool);
    generate_state(pool, state, 3);
    *random = (struct tp_random){state[0], state[1], state[2], 1};
    tp_random_fill(random, warm_up, 12);
}

void tp_random_fill(struct tp_random *random, uint64_t *target, size_t n)
{
    uint64_t a = random->a, b = random->b, c = random->c, counter = random->counter;
    for (size_t i = 0; i < n; i++) {
        uint64_t sum = a + b + counter++;
        a = b ^ (b >> 11);
        b = c + (c << 3);
        c = (c << 24 | c >> 40) + sum;
        target[i] = sum;
    }
    *random = (struct tp_random){a, b, c, counter};
}

static double evaluate(const double coefficients[8], double x)
{
    double sum = coefficients[0];
    for (int i = 1; i < 8; i++)
        sum = sum * x + coefficients[i];
    return sum;
}

/* AS 241 (PPND16) for p in [2^-17, 1/2): the lower half, without the far tail, which begins
 * at exp(-25). */
static double normal_quantile(double p)
{
    static const double centre_above[8] = {
        2.50908092873012267270e+3, 3.34305755835881281050e+4, 6.72657709270087008530e+4,
        4.59219539315498714570e+4, 1.37316937655094611250e+4, 1.97159095030655144270e+3,
        1.33141667891784377450e+2, 3.38713287279636660800e+0,
    };
    static const double centre_below[8] = {
        5.22649527885285456100e+3, 2.87290857357219426740e+4,
        3.93078958000927106100e+4, 2.12137943015865958670e+4,
        5.39419602142475110770e+3, 6.87187007492057908300e+2,
        4.23133307016009112520e+1, 1.0,
    };
    static const double tail_above[8] = {
        7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
        1.27045825245236838258e+0, 3.64784832476320460504e+0, 5.76949722146069140550e+0,
        4.63033784615654529590e+0, 1.42343711074968357734e+0,
    };
    static const double tail_below[8] = {
        1.05075007164441684324e-9, 5.47593808499534494600e-4,
        1.51986665636164571966e-2, 1.48103976427480074590e-1,
        6.89767334985100004550e-1, 1.67638483018380384940e+0,
        2.05319162663775882187e+0, 1.0,
    };

    double q = p - 0.5;
    if (fabs(q) <= 0.425) {
        double r = 0.180625 - q * q;
        return evaluate(centre_above, r) * q / evaluate(centre_below, r);
    }
    double r = sqrt(-log(p)) - 1.6;
    return -(evaluate(tail_above, r) / evaluate(tail_below, r));
}

void tp_random_normal_table(float ret_table[TP_NORMAL_TABLE_SIZE])
{
    for (size_t i = 0; i < TP_NORMAL_TABLE_SIZE / 2; i++) {
        double quantile = normal_quantile(((double)i + 0.5) / TP_NORMAL_TABLE_SIZE);
        ret_table[i] = (float)quantile;
        ret_table[TP_NORMAL_TABLE_SIZE - 1 - i] = (float)-quantile;
    }
}

/* Root mean square of the table with this base exponent. The table holds at most five
 * neighbouring exponents, so the sum of its 256 powers of 4 is exact in any order. */
static double scale_rms(double base, double ret_exponents[TP_SCALE_TABLE_SIZE])
{
    double sum = 0;
    for (int i = 0; i < TP_SCALE_TABLE_SIZE; i++) {
        double spread = 4 * (i + 0.5) / TP_SCALE_TABLE_SIZE - 2;
        ret_exponents[i] = floor(base + spread);
        sum += ldexp(1.0, 2 * (int)ret_exponents[i]);
    }
    /* 68.5 / 8 is the mean square of the 16 E2M1 values. */
    return sqrt(68.5 / 8) * sqrt(sum / TP_SCALE_TABLE_SIZE);
}

void tp_random_scale_table(double rms, uint8_t ret_table[TP_SCALE_TABLE_SIZE])
{
    double exponents[TP_SCALE_TABLE_SIZE];
    double low = -100.0, high = 100.0;
    for (int i = 0; i < 60; i++) { /* bisection: the mean square grows with the base */
        double base = (low + high) / 2;
        if (scale_rms(base, exponents) < rms)
            low = base;
        else
            high = base;
    }
    for (size_t i = 0; i < TP_SCALE_TABLE_SIZE; i++)
        ret_table[i] = (uint8_t)(exponents[i] + 127);
}
