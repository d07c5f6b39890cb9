/* Looks at every access of kernels to memory, when they are compiled to tell (-fsanitize=thread),
 * and fails the grid where a device would do what nobody meant, whatever the order was this time:
 *
 *   - accesses outside of the memory that was allocated, of the block's shared memory, and of the
 *     device; unaligned ones; reads of shared memory that the block has not written
 *   - two threads at the same place, one of them writing, with no order between them. Order is made
 *     by a barrier within a block and by __syncwarp() within a warp (shuffles make none). Between
 *     blocks: what a thread wrote before __threadfence() is seen by those that call __threadfence()
 *     after their block has seen, by an atomic on the same counter, an atomic of the writer's block
 *     that came after the fence; with a barrier where the threads are not the same.
 *   - reads, before tp_wait_for_previous(), of what a kernel wrote that may still run, and any
 *     writes then
 */
#ifndef TENSORPORT_TESTS_CUDA_WATCH_H
#define TENSORPORT_TESTS_CUDA_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Memory of the device comes and goes. */
void tp_watch_add(const void *memory, size_t bytes);
void tp_watch_remove(const void *memory);

/* All kernels so far have ended, and the stream has gone on: a copy, or a launch that waits. */
void tp_watch_settle(void);

#ifdef __cplusplus
}

/* For what harness functions do on behalf of the running thread. */
void tp_watch_read(const void *address, size_t bytes);
void tp_watch_write(const void *address, size_t bytes);
void tp_watch_atomic(const void *address);

/* Memory that is nobody's: stacks of threads, shared memory of all blocks. */
void tp_watch_set_places(const void *stacks, size_t stack_bytes, const unsigned char *shared,
                         size_t shared_stride);
#endif

#endif
