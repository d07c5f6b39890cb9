/* bench/blocks: how fast blocks are packed and unpacked on one core, in memory.
 *
 * BF16 with a normal distribution, 64 MiB of it, block by block as the files are; checksums are
 * part of both ways. Prints one JSON object; TENSORPORT_ISA chooses the instruction set.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "decode/block.h"
#include "decode/codec.h"
#include "decode/packed.h"

enum { BYTES = 64 << 20, BLOCK = TP_PACKED_BLOCK_SIZE, N_BLOCKS = BYTES / BLOCK, RUNS = 7 };

struct packed {
    uint8_t *bytes;
    size_t lengths[N_BLOCKS];
    uint64_t checksums[N_BLOCKS];
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static double uniform(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407;
    return ((double)(*state >> 11) + 0.5) * 0x1p-53;
}

static uint16_t to_bf16(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Box and Muller's two numbers at a time; a deviation as trained layers have. */
static void fill(uint16_t *weights, size_t n)
{
    uint64_t state = 1;
    for (size_t i = 0; i < n; i += 2) {
        double radius = 0.02 * sqrt(-2 * log(uniform(&state)));
        double angle = 6.283185307179586 * uniform(&state);
        weights[i] = to_bf16((float)(radius * cos(angle)));
        weights[i + 1] = to_bf16((float)(radius * sin(angle)));
    }
}

static size_t pack(struct tp_block_encoder *encoder, const uint8_t *plain, struct packed *packed)
{
    size_t at = 0;
    for (size_t i = 0; i < N_BLOCKS; i++) {
        packed->checksums[i] = tp_block_checksum(plain + i * BLOCK, BLOCK);
        packed->lengths[i] = tp_block_encode(encoder, plain + i * BLOCK, BLOCK, sizeof(uint16_t),
                                             packed->bytes + at);
        at += packed->lengths[i];
    }
    return at;
}

static void unpack(const struct packed *packed, uint8_t *scratch, uint8_t *plain)
{
    size_t at = 0;
    for (size_t i = 0; i < N_BLOCKS; i++) {
        if (tp_block_decode(packed->bytes + at, packed->lengths[i], sizeof(uint16_t),
                            packed->checksums[i], scratch, plain + i * BLOCK, BLOCK) < 0)
            abort();
        at += packed->lengths[i];
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(void)
{
    static struct packed packed;
    double packing[RUNS], unpacking[RUNS];
    uint8_t *plain = malloc(BYTES), *again = malloc(BYTES), *scratch = malloc(BLOCK);
    struct tp_block_encoder *encoder = tp_block_encoder_new(BLOCK);
    packed.bytes = malloc(BYTES);
    if (plain == NULL || again == NULL || scratch == NULL || encoder == NULL ||
        packed.bytes == NULL) {
        fprintf(stderr, "bench/blocks: out of memory\n");
        return 1;
    }
    fill((uint16_t *)plain, BYTES / sizeof(uint16_t));
    memset(again, 1, BYTES); /* touched, like the rest after the first round */
    memset(packed.bytes, 1, BYTES);
    size_t length = 0;
    for (int i = 0; i < RUNS; i++) {
        double start = now();
        length = pack(encoder, plain, &packed);
        double middle = now();
        unpack(&packed, scratch, again);
        unpacking[i] = now() - middle;
        packing[i] = middle - start;
    }
    if (memcmp(plain, again, BYTES) != 0)
        abort();
    qsort(packing, RUNS, sizeof *packing, compare);
    qsort(unpacking, RUNS, sizeof *unpacking, compare);
    printf("{\"isa\": \"%s\", \"pack_gb_s\": %.3f, \"unpack_gb_s\": %.3f, \"ratio\": %.4f}\n",
           tp_codecs()->name, 1e-9 * BYTES / packing[RUNS / 2], 1e-9 * BYTES / unpacking[RUNS / 2],
           (double)BYTES / (double)length);
    tp_block_encoder_free(encoder);
    free(packed.bytes);
    free(scratch);
    free(again);
    free(plain);
    return 0;
}
