/* Exchanging rows and columns of a tile of 32 columns, the width of an MXFP4 block. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_TILE_H
#define TENSORPORT_FS_EXPORT_CONVERT_TILE_H

#include <stddef.h>

enum { TP_TILE_COLUMNS = 32 };

/* `tile` [n_rows][32], elements of 2 or 4 bytes, becomes 32 rows of n_rows elements; they begin
 * `stride` bytes apart at `target`. Any alignment, no overlap. */
void tp_tile_transpose_16(const void *tile, size_t n_rows, void *target, size_t stride);
void tp_tile_transpose_32(const void *tile, size_t n_rows, void *target, size_t stride);

#endif
