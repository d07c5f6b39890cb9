/* The hash of the tokenizer's tables: a multiplication of 64 by 64 bits whose halves are folded
 * together, after wyhash. The tables are filled from a file that anybody may have made, so the
 * seed is chosen at random for each: nobody can prepare keys that collide. */
#ifndef TENSORPORT_INFER_TOKENIZER_HASH_H
#define TENSORPORT_INFER_TOKENIZER_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t tp_hash_mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Two words that hold all of 1 to 16 bytes; those in the middle may be in both. */
static inline void tp_hash_load(const char *bytes, size_t n, uint64_t *ret_low, uint64_t *ret_high)
{
    uint32_t low, high;
    if (n >= 8) {
        memcpy(ret_low, bytes, 8);
        memcpy(ret_high, bytes + n - 8, 8);
    } else if (n >= 4) {
        memcpy(&low, bytes, 4);
        memcpy(&high, bytes + n - 4, 4);
        *ret_low = low;
        *ret_high = high;
    } else if (n > 0) {
        *ret_low = (uint64_t)(unsigned char)bytes[0] << 16 |
                   (uint64_t)(unsigned char)bytes[n / 2] << 8 | (unsigned char)bytes[n - 1];
        *ret_high = 0;
    } else {
        *ret_low = *ret_high = 0;
    }
}

static inline uint64_t tp_hash_bytes(const char *bytes, size_t n, uint64_t seed)
{
    uint64_t low, high, state = seed ^ (n * 0x9E3779B97F4A7C15u);
    for (; n > 16; n -= 16, bytes += 16) {
        memcpy(&low, bytes, 8);
        memcpy(&high, bytes + 8, 8);
        state = tp_hash_mix(low ^ state, high ^ 0xE7037ED1A0B428DBu);
    }
    tp_hash_load(bytes, n, &low, &high);
    return tp_hash_mix(tp_hash_mix(low ^ state, high ^ 0xA0761D6478BD642Fu), 0x8EBC6AF09C88C6E3u);
}

/* A seed that nobody outside can know. */
uint64_t tp_hash_seed(void);

#endif
