/* mxfp4_moe: tokens through the experts that somebody has chosen for them. */
#include <errno.h>
#include <string.h>

#include "decode/codec.h"
#include "infer/cpu/mixture.h"
#include "infer/jax/calls.h"
#include "infer/jax/floats.h"
#include "infer/jax/frame.h"
#include "infer/jax/handlers.h"
#include "infer/jax/process.h"

/* Tokens that go through the experts at once: it bounds the memory between the two products. What
 * comes out for a token does not depend on the others. */
enum { TOKENS_AT_ONCE = 512 };

static int reserve_mixture(struct tp_process *process, const struct tp_experts_call *call,
                           size_t n_tokens)
{
    struct tp_mixture *mixture = &process->mixture;
    struct tp_mixture_shape shape = {call->n_experts, call->n_per_token, call->hidden, call->inner};
    if (memcmp(&mixture->shape, &shape, sizeof shape) == 0 && n_tokens <= mixture->n_tokens)
        return 0;
    tp_mixture_fini(mixture);
    int rc = tp_mixture_init(&shape, n_tokens, mixture);
    if (rc != 0)
        tp_mixture_fini(mixture);
    return rc;
}

/* Expert `n_experts` is none. */
static void choose(struct tp_mixture *mixture, const struct tp_experts_call *call, size_t first,
                   size_t n)
{
    size_t k = call->n_per_token;
    const int32_t *chosen = (const int32_t *)call->chosen.data + first * k;
    const float *weights = (const float *)call->weights.data + first * k;
    for (size_t i = 0; i < n * k; i++) {
        bool here = chosen[i] >= 0 && (size_t)chosen[i] < call->n_experts;
        mixture->chosen[i] = here ? (uint32_t)chosen[i] : (uint32_t)call->n_experts;
        mixture->weights[i] = here ? weights[i] : 0;
    }
}

/* The biases [experts][n] as float32: of all experts, or of the chosen when they are fewer. */
static const float *biases_of(const struct tp_experts_call *call, const struct tp_buffer *bias,
                              struct tp_scratch *scratch)
{
    size_t n_slots = call->chosen.elements, n = bias->dims[1];
    const int32_t *chosen = call->chosen.data;
    if (bias->dtype == TP_F32 || n_slots >= call->n_experts)
        return tp_floats_of(bias, scratch);
    float *floats = tp_scratch_reserve(scratch, bias->elements, sizeof *floats);
    for (size_t i = 0; floats != NULL && i < n_slots; i++) {
        size_t e = (size_t)chosen[i];
        if (chosen[i] >= 0 && e < call->n_experts)
            tp_codecs()->convert[TP_BF16][TP_TARGET_F32]((const uint16_t *)bias->data + e * n,
                                                         floats + e * n, n);
    }
    return floats;
}

static int compute_in(struct tp_process *process, const struct tp_experts_call *call)
{
    size_t tokens = call->n_tokens, hidden = call->hidden, inner = call->inner;
    size_t n_experts = call->n_experts;
    struct tp_experts experts = {
        .gate_up = {n_experts,
                    {TP_MATRIX_MXFP4, 2 * inner, hidden, call->gate_up.data,
                     call->gate_up_scales.data}},
        .down = {n_experts,
                 {TP_MATRIX_MXFP4, hidden, inner, call->down.data, call->down_scales.data}},
        .alpha = call->alpha,
        .limit = call->limit,
    };
    const float *x = tp_floats_of(&call->x, &process->x);
    float *y = tp_floats_for(&call->y, &process->y);
    int rc =
        reserve_mixture(process, call, tokens < TOKENS_AT_ONCE ? tokens : (size_t)TOKENS_AT_ONCE);
    if (call->has_bias) {
        experts.gate_up_bias = biases_of(call, &call->gate_up_bias, &process->bias[0]);
        experts.down_bias = biases_of(call, &call->down_bias, &process->bias[1]);
        if (experts.gate_up_bias == NULL || experts.down_bias == NULL)
            rc = -ENOMEM;
    }
    if (x == NULL || y == NULL)
        rc = -ENOMEM;
    for (size_t first = 0; rc == 0 && first < tokens; first += TOKENS_AT_ONCE) {
        size_t n = tokens - first < TOKENS_AT_ONCE ? tokens - first : (size_t)TOKENS_AT_ONCE;
        choose(&process->mixture, call, first, n);
        rc = tp_mixture_apply(&process->mixture, &process->workspace, &experts, TP_ACTIVATIONS_F32,
                              x + first * hidden, n, y + first * hidden);
    }
    if (rc == 0)
        tp_floats_deliver(&call->y, y);
    return rc;
}

static int mxfp4_moe(const struct tp_frame *frame, struct tp_error *error)
{
    struct tp_experts_call call;
    struct tp_process *process;
    int rc = tp_open_mxfp4_moe(frame, &call, error);
    if (rc != 0)
        return rc;
    if (tp_experts_call_is_empty(&call)) {
        if (call.y.elements > 0)
            memset(call.y.data, 0, call.y.bytes);
        return 0;
    }
    rc = tp_process_enter(&process, error);
    if (rc != 0)
        return rc;
    rc = compute_in(process, &call);
    tp_process_leave();
    return rc;
}

struct XLA_FFI_Error *tensorport_mxfp4_moe(struct XLA_FFI_CallFrame *frame)
{
    return tp_frame_handle(frame, "mxfp4_moe", mxfp4_moe);
}
