#include "infer/model/sampling.h"

#include <math.h>

struct counter {
    uint32_t words[4];
};

static struct counter philox_round(struct counter c, uint32_t key0, uint32_t key1)
{
    uint64_t a = (uint64_t)0xD2511F53 * c.words[0], b = (uint64_t)0xCD9E8D57 * c.words[2];
    return (struct counter){{(uint32_t)(b >> 32) ^ c.words[1] ^ key0, (uint32_t)b,
                             (uint32_t)(a >> 32) ^ c.words[3] ^ key1, (uint32_t)a}};
}

uint64_t tp_random_bits(uint64_t seed, uint64_t position)
{
    enum { ROUNDS = 10, UNUSED_BITS = 11 };
    struct counter c = {{(uint32_t)position, (uint32_t)(position >> 32), 0, 0}};
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < ROUNDS; i++) {
        c = philox_round(c, key0, key1);
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
    uint64_t bits = (uint64_t)c.words[0] << 32 | c.words[1];
    return bits >> UNUSED_BITS << UNUSED_BITS;
}

/* ceil(), without what a product of a double lacks beside a whole number of 63 bits. */
static uint64_t at_least_one(double mass)
{
    return mass > 1 ? (uint64_t)ceil(mass) : 1;
}

uint64_t tp_sampling_top_mass(double top_p, uint64_t mass)
{
    uint64_t wanted = at_least_one(top_p * (double)mass);
    return wanted < mass ? wanted : mass;
}

uint64_t tp_sampling_least_mass(double min_p)
{
    return at_least_one(min_p * (double)((uint64_t)1 << TP_MASS_BITS));
}
