/* Amounts as people read them. */
#ifndef TENSORPORT_FS_BASE_AMOUNT_H
#define TENSORPORT_FS_BASE_AMOUNT_H

enum { TP_AMOUNT_MAX = 32 };

/* "13.8 GB", "512 bytes" */
void tp_format_bytes(double bytes, char text[TP_AMOUNT_MAX]);

/* "1:02:03", "0:07" */
void tp_format_seconds(double seconds, char text[TP_AMOUNT_MAX]);

#endif
