/* The GPU backend, in a plugin that tpinfer opens at run time. */
#ifndef TENSORPORT_CUDA_BACKEND_H
#define TENSORPORT_CUDA_BACKEND_H

#include "infer/backend.h"

extern const struct tp_backend_kind tp_backend_cuda;

#endif
