#include "infer/jax/floats.h"

#include "decode/codec.h"

const float *tp_floats_of(const struct tp_buffer *buffer, struct tp_scratch *scratch)
{
    if (buffer->dtype == TP_F32 && buffer->data != NULL)
        return buffer->data;
    float *floats = tp_scratch_reserve(scratch, buffer->elements, sizeof *floats);
    if (floats != NULL && buffer->elements > 0)
        tp_codecs()->convert[buffer->dtype][TP_TARGET_F32](buffer->data, floats, buffer->elements);
    return floats;
}

float *tp_floats_for(const struct tp_buffer *buffer, struct tp_scratch *scratch)
{
    if (buffer->dtype == TP_F32 && buffer->data != NULL)
        return buffer->data;
    return tp_scratch_reserve(scratch, buffer->elements, sizeof(float));
}

void tp_floats_deliver(const struct tp_buffer *buffer, const float *floats)
{
    if (buffer->dtype != TP_F32 && buffer->elements > 0)
        tp_codecs()->convert[TP_F32][TP_TARGET_BF16](floats, buffer->data, buffer->elements);
}
