/* A table that fits the terminal: first paths are shortened from the left, then columns that
 * matter least are left out. Where the output is no terminal, nothing is cut. */
#ifndef TENSORPORT_FS_EXPORT_MOUNTS_COLUMNS_H
#define TENSORPORT_FS_EXPORT_MOUNTS_COLUMNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct tp_column {
    const char *title;
    bool is_path;  /* may be shortened; its end says most */
    bool is_right; /* numbers stand at the right */
    int rank;      /* the greatest is left out first; 0: never */
};

/* Prints n_rows rows of n_columns cells, row by row, UTF-8 without control characters. `width` is
 * that of the terminal, 0 for none. */
void tp_columns_print(FILE *stream, const struct tp_column *columns, size_t n_columns,
                      const char *const *cells, size_t n_rows, size_t width);

/* The width for stdout: COLUMNS in the environment, or the terminal's; 0 if it is none. */
size_t tp_columns_width(void);

#endif
