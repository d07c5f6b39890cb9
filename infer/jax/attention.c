/* sink_attention: queries at any positions of caches that are JAX's own. */
#include "infer/cpu/attention.h"

#include <errno.h>
#include <string.h>

#include "infer/jax/calls.h"
#include "infer/jax/floats.h"
#include "infer/jax/frame.h"
#include "infer/jax/handlers.h"
#include "infer/jax/process.h"

static bool is_inside(const struct tp_attention_call *call, int32_t position)
{
    return position >= 0 && (size_t)position < call->capacity;
}

/* How many queries from `i` on, of a batch's positions, follow each other. */
static size_t run_at(const struct tp_attention_call *call, const int32_t *positions, size_t i)
{
    size_t n = 1;
    while (i + n < call->n_queries && is_inside(call, positions[i + n]) &&
           (size_t)positions[i + n] == (size_t)positions[i] + n)
        n++;
    return n;
}

/* Lists the runs, and zeroes what queries outside of the cache mix. */
static size_t list_runs(const struct tp_attention_call *call, const struct tp_kv_cache *caches,
                        const float *q, const float *sinks, float *mixed,
                        struct tp_attention *attentions)
{
    size_t width = call->n_heads * call->head_size, count = 0;
    for (size_t batch = 0; batch < call->n_batches; batch++) {
        const int32_t *positions = (const int32_t *)call->positions.data + batch * call->n_queries;
        for (size_t i = 0, n; i < call->n_queries; i += n) {
            size_t row = batch * call->n_queries + i;
            n = 1;
            if (!is_inside(call, positions[i])) {
                memset(mixed + row * width, 0, width * sizeof *mixed);
                continue;
            }
            n = run_at(call, positions, i);
            attentions[count++] = (struct tp_attention){.cache = &caches[batch],
                                                        .n_heads = call->n_heads,
                                                        .first = (size_t)positions[i],
                                                        .n = n,
                                                        .window = call->window,
                                                        .scale = call->scale,
                                                        .sinks = sinks,
                                                        .queries = q + row * width,
                                                        .mixed = mixed + row * width};
        }
    }
    return count;
}

static int compute_in(struct tp_process *process, const struct tp_attention_call *call)
{
    size_t n_positions = call->n_batches * call->n_queries;
    const float *q = tp_floats_of(&call->q, &process->x), *sinks = NULL;
    float *mixed = tp_floats_for(&call->y, &process->y);
    struct tp_kv_cache *caches =
        tp_scratch_reserve(&process->lists[0], call->n_batches, sizeof *caches);
    struct tp_attention *attentions =
        tp_scratch_reserve(&process->lists[1], n_positions, sizeof *attentions);
    if (call->has_sinks)
        sinks = tp_floats_of(&call->sinks, &process->bias[0]);
    if (q == NULL || mixed == NULL || caches == NULL || attentions == NULL ||
        (call->has_sinks && sinks == NULL))
        return -ENOMEM;
    size_t bytes = call->n_batches > 0 ? call->keys.bytes / call->n_batches : 0;
    for (size_t i = 0; i < call->n_batches; i++)
        caches[i] = (struct tp_kv_cache){.bf16 = call->keys.dtype == TP_BF16,
                                         .capacity = call->capacity,
                                         .n_heads = call->n_kv_heads,
                                         .head_size = call->head_size,
                                         .keys = (uint8_t *)call->keys.data + i * bytes,
                                         .values = (uint8_t *)call->values.data + i * bytes,
                                         .plain = true};
    size_t n = list_runs(call, caches, q, sinks, mixed, attentions);
    int rc = tp_attend(&process->workspace, attentions, n);
    if (rc == 0)
        tp_floats_deliver(&call->y, mixed);
    return rc;
}

static int sink_attention(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_attention_call call;
    struct tp_process *process;
    int rc = tp_open_sink_attention(frame, &call, error);
    if (rc != 0 || call.y.elements == 0)
        return rc;
    rc = tp_process_enter(&process, error);
    if (rc != 0)
        return rc;
    rc = compute_in(process, &call);
    tp_process_leave();
    return rc;
}

struct XLA_FFI_Error *tensorport_sink_attention(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "sink_attention", sink_attention);
}
