/* The random numbers of synthetic checkpoints, bit for bit those of numpy and Python.
 *
 * Sources: SFC64 by Chris Doty-Humphrey (PractRand) as in numpy/random/src/sfc64/sfc64.h; its
 * seeding by numpy's SeedSequence (numpy/random/bit_generator.pyx, after Melissa O'Neill's
 * "Developing a seed_seq Alternative"); the normal quantiles of Python's
 * statistics.NormalDist, which is Wichura's algorithm AS 241 (Applied Statistics 37, 1988).
 *
 * A stream depends on (seed, name) only, so that tensors can be made in any order and by any
 * thread; within one stream there is no jumping ahead.
 *
 * Compile with -ffp-contract=off: a fused multiply-add rounds differently.
 */
#ifndef TENSORPORT_FS_EXPORT_SYNTH_SYNTH_RANDOM_H
#define TENSORPORT_FS_EXPORT_SYNTH_SYNTH_RANDOM_H

#include <stddef.h>
#include <stdint.h>

enum {
    TP_NORMAL_TABLE_SIZE = 1 << 16,
    TP_SCALE_TABLE_SIZE = 1 << 8,
};

struct tp_random {
    uint64_t a, b, c, counter;
};

void tp_random_init(struct tp_random *random, uint64_t seed, const char *name);

/* The next `n` numbers of 64 bits. */
void tp_random_fill(struct tp_random *random, uint64_t *target, size_t n);

/* 65536 evenly spaced quantiles of the standard normal distribution: indexed by random
 * 16-bit numbers they are normal samples. */
void tp_random_normal_table(float ret_table[TP_NORMAL_TABLE_SIZE]);

/* 256 E8M0 bytes, about five neighbouring exponents, such that random E2M1 codes with a scale
 * drawn evenly from the table have the root mean square `rms`. */
void tp_random_scale_table(double rms, uint8_t ret_table[TP_SCALE_TABLE_SIZE]);

#endif
