/* The kernels that others are measured by do what they claim: all of a copy, and every product. A
 * plain program that prints TAP. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/peaks.h"

static int n_tests, n_failures;

static void check(bool holds, const char *what)
{
    printf("%sok %d - %s\n", holds ? "" : "not ", ++n_tests, what);
    n_failures += !holds;
}

static void must(int rc, const struct tp_error *error)
{
    if (rc == 0)
        return;
    printf("Bail out! %s\n", error->text);
    exit(1);
}

static void *allocate(struct tp_device *device, size_t bytes)
{
    struct tp_error error;
    void *memory = NULL;
    must(tp_device_allocate(device, bytes, &memory, &error), &error);
    return memory;
}

static void launch(struct tp_device *device, tp_kernel_fn *kernel, const void *arguments,
                   size_t bytes, unsigned blocks)
{
    struct tp_error error;
    struct tp_launch l = {.kernel = kernel,
                          .arguments = arguments,
                          .argument_bytes = bytes,
                          .grid = {blocks, 1, 1},
                          .threads = TP_PEAK_THREADS};
    must(tp_device_launch(device, &l, &error), &error);
    must(tp_device_wait(device, &error), &error);
}

/* Everything, and nothing behind it. */
static void copies(struct tp_device *device, size_t bytes, unsigned blocks)
{
    enum { BEHIND = 64 };
    struct tp_error error;
    char what[80];
    uint8_t *expected = malloc(bytes + BEHIND), *found = malloc(bytes + BEHIND);
    uint8_t *source = allocate(device, bytes + BEHIND), *target = allocate(device, bytes + BEHIND);
    for (size_t i = 0; i < bytes + BEHIND; i++)
        expected[i] = (uint8_t)(i * 2654435761u >> 13);
    must(tp_device_upload(device, source, expected, bytes + BEHIND, &error), &error);
    must(tp_device_zero(device, target, bytes + BEHIND, &error), &error);
    launch(device, tp_peak_copy, &(struct tp_peak_copy){source, target, bytes},
           sizeof(struct tp_peak_copy), blocks);
    must(tp_device_download(device, found, target, bytes + BEHIND, &error), &error);
    memset(expected + bytes, 0, BEHIND);
    snprintf(what, sizeof what, "%zu bytes are copied by %u blocks", bytes, blocks);
    check(memcmp(found, expected, bytes + BEHIND) == 0, what);
    tp_device_free(device, source);
    tp_device_free(device, target);
    free(expected);
    free(found);
}

/* Sums of twice as many steps are twice as large: BF16 products of numbers below 4 and few of them
 * are exact. */
static void multiplies(struct tp_device *device)
{
    enum { BLOCKS = 2, N = BLOCKS * TP_PEAK_THREADS };
    struct tp_error error;
    static float once[N], twice[N];
    float *sums = allocate(device, sizeof once);
    bool doubled = true;
    size_t n_other = 0;
    launch(device, tp_peak_multiply, &(struct tp_peak_multiply){1, sums},
           sizeof(struct tp_peak_multiply), BLOCKS);
    must(tp_device_download(device, once, sums, sizeof once, &error), &error);
    launch(device, tp_peak_multiply, &(struct tp_peak_multiply){2, sums},
           sizeof(struct tp_peak_multiply), BLOCKS);
    must(tp_device_download(device, twice, sums, sizeof twice, &error), &error);
    for (size_t i = 0; i < N; i++) {
        doubled &= fabsf(twice[i] - 2 * once[i]) <= 1e-4f * (fabsf(once[i]) + 1);
        n_other += once[i] != once[0] && once[i] != 0;
    }
    check(doubled, "each step multiplies once more");
    check(n_other > N / 2, "threads have numbers of their own");
    tp_device_free(device, sums);
}

static void measures(struct tp_device *device, const struct tp_device_facts *facts)
{
    struct tp_error error;
    struct tp_peaks peaks = {0};
    must(tp_peaks_of_device(device, facts, &peaks, &error), &error);
    check(peaks.copy_bandwidth > 0 && peaks.multiply_adds > 0, "both peaks are measured");
    struct tp_device_facts without = *facts;
    without.has_tiles = false;
    must(tp_peaks_of_device(device, &without, &peaks, &error), &error);
    check(peaks.copy_bandwidth > 0 && peaks.multiply_adds == 0, "no tiles, no products");
}

int main(void)
{
    struct tp_device *device;
    struct tp_device_facts facts;
    struct tp_error error;
    must(tp_device_open(&device, &facts, &error), &error);
    copies(device, 16, 1);
    copies(device, 16 * (TP_PEAK_THREADS * 4 + 1), 1);
    copies(device, 16 * 12345, 3);
    copies(device, 16 * 100, 7);
    multiplies(device);
    measures(device, &facts);
    tp_device_close(device);
    printf("1..%d\n", n_tests);
    return n_failures > 0;
}
