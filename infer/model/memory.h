/* Memory that a model has of its own: what it converts or turns around while it is loaded. */
#ifndef TENSORPORT_INFER_MODEL_MEMORY_H
#define TENSORPORT_INFER_MODEL_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "decode/dtype.h"

struct tp_model_memory;

/* `length` bytes of any content, aligned to 64; large ones in huge pages. NULL when there is no
 * memory. They are freed with the rest: *list is NULL at first. */
void *tp_model_memory_take(struct tp_model_memory **list, size_t length);

/* Frees all. */
void tp_model_memory_free(struct tp_model_memory *list);

/* Bytes that were taken. */
uint64_t tp_model_memory_bytes(const struct tp_model_memory *list);

/* Copies `n` matrices [rows][columns] of `width` bytes an element (2 or 4) as [columns][rows], with
 * `n_workers` threads. */
void tp_transpose(const void *source, void *target, size_t n, size_t rows, size_t columns,
                  size_t width, size_t n_workers);

#endif
