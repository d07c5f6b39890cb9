/* What `tensorport inspect --stats` prints: a table for people, JSON for programs. */
#ifndef TENSORPORT_FS_EXPORT_INSPECT_STATISTICS_PRINT_H
#define TENSORPORT_FS_EXPORT_INSPECT_STATISTICS_PRINT_H

#include <stddef.h>
#include <stdio.h>

#include "decode/value_statistics.h"
#include "fs/view/view.h"

/* A line for each tensor, or two where name and figures do not fit into `columns` (0: no limit),
 * and the totals. `statistics` [view->n_tensors]. */
void tp_statistics_print_table(const struct tp_view *view,
                               const struct tp_value_statistics *statistics, size_t columns,
                               FILE *stream);

/* One object, a line for each tensor: tensorport-inspect(1). -ENOMEM. */
int tp_statistics_print_json(const struct tp_view *view,
                             const struct tp_value_statistics *statistics, FILE *stream);

#endif
