/* What quantising lost, tensor by tensor: for people, for programs, and in a file. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_QUANTIZE_REPORT_H
#define TENSORPORT_FS_EXPORT_CONVERT_QUANTIZE_REPORT_H

#include <stdio.h>

#include "decode/error.h"
#include "fs/export/convert/quantized_view.h"

/* A table: a line for each tensor, and one for all of them. */
void tp_quantize_report_table(const struct tp_quantized_view *view, FILE *stream);

/* The same as lines of JSON: {"event": "quantized", "name": ..., ...}. */
void tp_quantize_report_events(const struct tp_quantized_view *view, FILE *stream);

/* Writes it as one JSON object to `path`, which appears whole or not at all. */
int tp_quantize_report_write(const struct tp_quantized_view *view, const char *path,
                             struct tp_error *error);

#endif
