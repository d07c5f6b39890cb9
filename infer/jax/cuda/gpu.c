#include "infer/jax/cuda/gpu.h"

#include <errno.h>

enum { BLOCKS_PER_MULTIPROCESSOR = 4, ALIGNMENT = 16, DIM_MAX = 1 << 30 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

int tp_gpu_begin(const struct tp_frame *frame, struct tp_gpu_call *call, struct tp_error *error)
{
    void *stream = NULL;
    *call = (struct tp_gpu_call){.frame = frame, .error = error};
    int rc = tp_frame_stream(frame, &stream, error);
    return rc == 0 ? tp_device_adopt(stream, &call->device, &call->facts, error) : rc;
}

int tp_gpu_end(struct tp_gpu_call *call)
{
    if (call->scratch.memory != NULL)
        tp_frame_free(call->frame, call->scratch.memory, call->scratch.bytes);
    tp_device_release(call->device);
    return call->rc;
}

void tp_gpu_reserve(struct tp_gpu_call *call, void (*take)(struct tp_arena *arena, void *plan),
                    void *plan)
{
    struct tp_arena arena = {NULL, 0};
    void *memory = NULL;
    take(&arena, plan);
    if (call->rc == 0 && arena.bytes > 0)
        call->rc = tp_frame_allocate(call->frame, arena.bytes, &memory, call->error);
    if (call->rc != 0 || memory == NULL)
        return;
    call->scratch = (struct tp_arena){memory, arena.bytes};
    arena = (struct tp_arena){memory, 0};
    take(&arena, plan);
}

void tp_gpu_launch(struct tp_gpu_call *call, tp_kernel_fn *kernel, const void *arguments,
                   size_t bytes, const unsigned grid[3], unsigned threads, size_t shared_bytes)
{
    struct tp_launch launch = {.kernel = kernel,
                               .arguments = arguments,
                               .argument_bytes = bytes,
                               .grid = {grid[0], grid[1], grid[2]},
                               .threads = threads,
                               .shared_bytes = shared_bytes,
                               .follows = call->has_launched}; /* not what is XLA's */
    if (call->rc == 0)
        call->rc = tp_device_launch(call->device, &launch, call->error);
    call->has_launched = true;
}

unsigned tp_gpu_blocks(const struct tp_gpu_call *call, size_t n)
{
    size_t blocks = (n + TP_ROW_THREADS - 1) / TP_ROW_THREADS;
    return (unsigned)least(blocks, call->facts->n_multiprocessors * 8);
}

unsigned tp_gpu_few_blocks(const struct tp_gpu_call *call, size_t n_tiles)
{
    return (unsigned)least(n_tiles, call->facts->n_multiprocessors * BLOCKS_PER_MULTIPROCESSOR);
}

struct tp_numbers tp_gpu_numbers(const struct tp_buffer *buffer, size_t first)
{
    size_t bytes = tp_dtype_size(buffer->dtype);
    return (struct tp_numbers){(uint8_t *)buffer->data + first * bytes, buffer->dtype == TP_BF16};
}

uint32_t tp_gpu_parts(const struct tp_buffer *buffer)
{
    return buffer->dtype == TP_BF16 ? 1 : TP_PARTS_MAX;
}

struct tp_gpu_matrix tp_gpu_matrix_of(enum tp_matrix_type type, size_t rows, size_t columns,
                                      const void *values, const uint8_t *scales)
{
    return (struct tp_gpu_matrix){.values = values,
                                  .scales = scales,
                                  .type = type,
                                  .rows = (uint32_t)rows,
                                  .columns = (uint32_t)columns};
}

bool tp_gpu_uses_tiles(const struct tp_gpu_call *call, const struct tp_gpu_matrix *w)
{
    enum { BF16_IN_16_BYTES = 8 };
    bool is_aligned = (uintptr_t)w->values % ALIGNMENT == 0;
    bool fits = w->type == TP_MATRIX_MXFP4 ||
                (w->type == TP_MATRIX_BF16 && w->columns % BF16_IN_16_BYTES == 0);
    return call->facts->has_tiles && is_aligned && fits;
}

void tp_gpu_make_columns(struct tp_gpu_call *call, const struct tp_buffer *x, size_t first,
                         size_t n, const struct tp_columns *columns)
{
    const unsigned grid[3] = {(unsigned)n, 1, 1};
    struct tp_array_columns a = {.x = tp_gpu_numbers(x, first), .columns = *columns};
    tp_gpu_launch(call, tp_array_columns, &a, sizeof a, grid, TP_ROW_THREADS, 0);
}

void tp_gpu_convert(struct tp_gpu_call *call, struct tp_numbers source, struct tp_numbers target,
                    size_t n)
{
    const unsigned grid[3] = {tp_gpu_blocks(call, n), 1, 1};
    struct tp_array_convert a = {.source = source, .target = target, .n = n};
    tp_gpu_launch(call, tp_array_convert, &a, sizeof a, grid, TP_ROW_THREADS, 0);
}

int tp_gpu_check_dims(const struct tp_buffer *buffer, struct tp_error *error)
{
    for (size_t i = 0; i < buffer->rank; i++) {
        if (buffer->dims[i] > DIM_MAX)
            return tp_error_set(error, -EINVAL,
                                "%s \"%s\": expected axes of at most %d for a GPU, found %zu",
                                buffer->kind, buffer->name, DIM_MAX, buffer->dims[i]);
    }
    return 0;
}
