/* The processors to compute on: one hardware thread of each physical core. */
#ifndef TENSORPORT_INFER_CPU_CORES_H
#define TENSORPORT_INFER_CPU_CORES_H

#include <sched.h>
#include <stddef.h>

/* How many physical cores this process may run on, at least 1; `ret_set`, if not NULL, gets the
 * first permitted hardware thread of each. */
size_t tp_cores(cpu_set_t *ret_set);

#endif
