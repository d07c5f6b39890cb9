/* Memory that this process takes, and what there is, as the kernel counts it. */
#ifndef TENSORPORT_INFER_CLI_MEMORY_USE_H
#define TENSORPORT_INFER_CLI_MEMORY_USE_H

#include <stdint.h>

/* The most that was seen of each; starts as zeros. */
struct tp_memory_use {
    uint64_t private_bytes;       /* its own: keys and values, activations, the tokenizer */
    uint64_t page_cache_bytes;    /* files that it maps, shared with every process: weights */
    uint64_t peak_resident_bytes; /* of both together, also when nobody looked */
};

/* Looks now. What the kernel does not tell stays as it is. */
void tp_memory_use_look(struct tp_memory_use *use);

/* Bytes that can be had without swapping; cached files count as such. UINT64_MAX if the kernel does
 * not tell. */
uint64_t tp_memory_available(void);

#endif
