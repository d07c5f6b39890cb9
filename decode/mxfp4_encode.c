/* Which encoder goes with a type of values. */
#include "decode/mxfp4_encode.h"

tp_mxfp4_encode_fn *tp_mxfp4_encoder(const struct tp_codecs *codecs, enum tp_dtype source)
{
    for (enum tp_target target = 0; target < TP_N_TARGETS; target++) {
        if (tp_target_dtype(target) == source)
            return codecs->mxfp4_encode[target];
    }
    return NULL;
}
