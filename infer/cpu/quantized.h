/* A model whose dense matrices have been made smaller: TP_MATRIX_INT8 (matrix.h) in place of what
 * the view has. That is q, k, v, o and the head, and gate, up and down of a dense model; experts,
 * router, vectors and the embedding, of which rows are looked up, stay as they are. A token reads
 * its dense weights whole, so that decoding gains what they shrink by. */
#ifndef TENSORPORT_INFER_CPU_QUANTIZED_H
#define TENSORPORT_INFER_CPU_QUANTIZED_H

#include <stddef.h>

#include "decode/error.h"
#include "infer/cpu/workspace.h"
#include "infer/model/model.h"

/* Starts as zeros; may be cleared then, too. */
struct tp_quantized {
    struct tp_model model; /* a copy of the original, which it needs, with other matrices */
    void *memory;          /* private: where these lie */
    size_t bytes;          /* of that memory: about 1.07 for each weight */
};

/* Makes it of `model`, which must outlive it, by the workspace's threads. Beside the result it
 * needs memory for a row of floats for each thread. -ENOMEM; -EDOM when a weight is not finite,
 * with a message that names the tensor. */
int tp_quantized_init(struct tp_quantized *quantized, const struct tp_model *model,
                      struct tp_workspace *workspace, struct tp_error *error);
void tp_quantized_clear(struct tp_quantized *quantized);

#endif
