/* Calling a handler as XLA would: the one for CUDA, in the harness that runs kernels on the CPU,
 * and the one for the CPU, which it is held to. Memory that kernels see is the harness's: accesses
 * beside an argument or result are told. */
#ifndef TENSORPORT_TESTS_JAX_HANDLER_CALL_H
#define TENSORPORT_TESTS_JAX_HANDLER_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <xla/ffi/api/c_api.h>

#include "infer/jax/handlers.h"

struct handler_test {
    const char *name;
    void (*run)(void);
};

/* Those up to one without a name, or the one that is named. Returns what main() does: 1 if any
 * fails. The handlers for the CPU are those of tensorport-xla.so in $TP_TEST_BUILDDIR: both kinds
 * have the same names. */
int run_handler_tests(const struct handler_test *tests, int argc, char **argv);

/* The test fails unless `holds`; the first such message is told. */
void expect(bool holds, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whether there is no device. */
bool is_harness(void);

/* A text that the next call overwrites. */
const char *describe(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* XLA's, which free() ends. */
struct XLA_FFI_Error {
    XLA_FFI_Error_Code code;
    char message[512];
};
extern const XLA_FFI_Api api;

/* ---- numbers ---- */

uint32_t random_below(uint32_t n);
float random_float(void); /* -1..1 */
uint32_t bits_of(float x);
float float_of(uint32_t bits);

/* ---- arrays ---- */

enum type { F32, BF16, F16, U8, S32 };

struct array {
    enum type type;
    size_t rank;
    int64_t dims[6];
    uint8_t *data; /* of the host */
    size_t offset; /* of the device's memory, from where it is aligned */
};

size_t type_bytes(enum type type);
size_t elements_of(const struct array *array);
size_t bytes_of(const struct array *array);

/* Of the dimensions up to one that is -1; zeros. */
struct array make(enum type type, ...);
struct array filled(struct array array);                               /* with -1..1 */
struct array bytes(struct array array, uint32_t least, uint32_t most); /* drawn, both included */

/* Numbers in float32 or bfloat16; any pattern is set for F16. */
void set(struct array *array, size_t i, float x);
float get(const struct array *array, size_t i);

/* ---- calls ---- */

enum { ARRAYS_MAX = 9 };

struct call {
    const char *name;
    struct array arguments[ARRAYS_MAX], results[2];
    size_t n_arguments, n_results;
    const char *attributes[2]; /* NULL: none */
    float floats[2];           /* of "window", as a whole number */
    size_t scratch_left;
};

struct call begin(const char *name);
void add(struct call *call, struct array array);
void add_result(struct call *call, struct array array);
void free_call(struct call *call);

tp_xla_handler *handler_of(const char *name, bool cuda);

/* Its results are in the call's afterwards. */
XLA_FFI_Error *run(const struct call *call, bool cuda);

/* Within 1e-5 of the largest number, and a step of BF16's. */
bool is_near(float found, float expected, float largest, enum type type);

/* Both kinds of handlers succeed and agree; `exactly`: in every byte. Frees the call. */
void expect_same(struct call *call, bool exactly, const char *what);

/* Fails with that code, and a message that has `text`. Frees the call. */
void expect_error(struct call *call, XLA_FFI_Error_Code code, const char *text);

#endif
