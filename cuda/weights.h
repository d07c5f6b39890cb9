/* A model's weights in a device's memory. */
#ifndef TENSORPORT_CUDA_WEIGHTS_H
#define TENSORPORT_CUDA_WEIGHTS_H

#include <stdint.h>

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "infer/backend.h"
#include "infer/model/model.h"

/* As struct tp_model_layer; what the model has none of is NULL or has no values. */
struct tp_gpu_layer {
    const float *input_norm, *mlp_norm;
    struct tp_gpu_matrix q, k, v, o;
    const float *q_bias, *k_bias, *v_bias, *o_bias, *sinks;
    struct tp_gpu_matrix router;
    const float *router_bias;
    struct tp_gpu_matrix gate_up, experts_down; /* the first expert's; the others follow */
    const float *gate_up_bias, *experts_down_bias;
    struct tp_gpu_matrix gate, up, down;
    const float *gate_bias, *up_bias, *down_bias;
};

struct tp_gpu_weights {
    struct tp_gpu_matrix embedding, head;
    struct tp_gpu_layer *layers; /* [n_layers] */
    const float *final_norm;
    void *memory; /* the device's */
    uint64_t bytes;
};

/* Bytes that the weights take there. */
uint64_t tp_gpu_weights_bytes(const struct tp_model *model);

/* Copies them, in the types that they have; of the options the number of threads and who is told of
 * progress count. -ENOMEM and what a device fails with, with a message. */
int tp_gpu_weights_load(struct tp_device *device, const struct tp_model *model,
                        const struct tp_backend_options *options,
                        struct tp_gpu_weights *ret_weights, struct tp_error *error);
void tp_gpu_weights_free(struct tp_device *device, struct tp_gpu_weights *weights);

#endif
