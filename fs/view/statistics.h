/* stats.json and metrics: the counters of a mount, live. */
#ifndef TENSORPORT_FS_VIEW_STATISTICS_H
#define TENSORPORT_FS_VIEW_STATISTICS_H

#include <stddef.h>

struct tp_tree;

/* The caller frees the text. -ENOMEM. */
int tp_statistics_json(struct tp_tree *tree, char **ret_text, size_t *ret_length);

/* The same in Prometheus' text format, version 0.0.4. */
int tp_statistics_prometheus(struct tp_tree *tree, char **ret_text, size_t *ret_length);

#endif
