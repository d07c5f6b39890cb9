#include "fs/base/amount.h"

#include <stddef.h>
#include <stdio.h>

void tp_format_bytes(double bytes, char text[TP_AMOUNT_MAX])
{
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;
    while (bytes >= 999.5 && unit + 1 < sizeof units / sizeof *units) {
        bytes /= 1000;
        unit++;
    }
    snprintf(text, TP_AMOUNT_MAX, unit == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes,
             units[unit]);
}

void tp_format_seconds(double seconds, char text[TP_AMOUNT_MAX])
{
    double longest = 99 * 3600.0;
    unsigned whole = (unsigned)(seconds < longest ? seconds + 0.5 : longest);
    if (whole >= 3600)
        snprintf(text, TP_AMOUNT_MAX, "%u:%02u:%02u", whole / 3600, whole / 60 % 60, whole % 60);
    else
        snprintf(text, TP_AMOUNT_MAX, "%u:%02u", whole / 60, whole % 60);
}
