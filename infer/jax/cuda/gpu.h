/* A call for a GPU: kernels on the stream that XLA passes, with memory that XLA lends. Nothing
 * waits for the device, so a handler knows shapes and never numbers. */
#ifndef TENSORPORT_INFER_JAX_CUDA_GPU_H
#define TENSORPORT_INFER_JAX_CUDA_GPU_H

#include "cuda/arena.h"
#include "cuda/device.h"
#include "infer/jax/frame.h"

struct tp_gpu_call {
    const struct tp_frame *frame;
    struct tp_device *device;
    const struct tp_device_facts *facts;
    struct tp_arena scratch; /* what was reserved */
    bool has_launched;
    struct tp_error *error;
    int rc; /* the first fault: nothing is launched after it */
};

/* tp_gpu_end() must follow, unless it fails. */
int tp_gpu_begin(const struct tp_frame *frame, struct tp_gpu_call *call, struct tp_error *error);

/* Gives memory back, which what was launched may still use: see tp_frame_allocate(). Returns rc. */
int tp_gpu_end(struct tp_gpu_call *call);

/* Reserves the scratch memory that `take` takes of an arena, called once to count. Once for each
 * call. Faults are in rc. */
void tp_gpu_reserve(struct tp_gpu_call *call, void (*take)(struct tp_arena *arena, void *plan),
                    void *plan);

/* One after the other, as cuda/device.h has it. */
void tp_gpu_launch(struct tp_gpu_call *call, tp_kernel_fn *kernel, const void *arguments,
                   size_t bytes, const unsigned grid[3], unsigned threads, size_t shared_bytes);

/* ---- what handlers have in common ---- */

/* Blocks of TP_ROW_THREADS threads for work that takes any grid: as many as run at once, at most.
 */
unsigned tp_gpu_blocks(const struct tp_gpu_call *call, size_t n);

/* Blocks of a stage of few tokens: as many as run at the same time, at most. */
unsigned tp_gpu_few_blocks(const struct tp_gpu_call *call, size_t n_tiles);

/* Numbers of a float32 or bfloat16 buffer, from `first` on. */
struct tp_numbers tp_gpu_numbers(const struct tp_buffer *buffer, size_t first);

/* How many parts hold its numbers: bfloat16 one, float32 three. */
uint32_t tp_gpu_parts(const struct tp_buffer *buffer);

/* The kernel's: which the first matrix of a batch is. */
struct tp_gpu_matrix tp_gpu_matrix_of(enum tp_matrix_type type, size_t rows, size_t columns,
                                      const void *values, const uint8_t *scales);

/* Whether products with it go through tensor cores. */
bool tp_gpu_uses_tiles(const struct tp_gpu_call *call, const struct tp_gpu_matrix *w);

/* Columns of n vectors, from number `first` of a buffer on. */
void tp_gpu_make_columns(struct tp_gpu_call *call, const struct tp_buffer *x, size_t first,
                         size_t n, const struct tp_columns *columns);

void tp_gpu_convert(struct tp_gpu_call *call, struct tp_numbers source, struct tp_numbers target,
                    size_t n);

/* -EINVAL where a dimension is more than kernels count. */
int tp_gpu_check_dims(const struct tp_buffer *buffer, struct tp_error *error);

#endif
