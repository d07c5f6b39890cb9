/* How far a long command is: a bar on a terminal for people, lines of JSON for programs.
 *
 * Workers only count; a thread draws, ten times a second on a terminal and once a second for
 * programs. The bar asks the terminal for its width each time and leaves out, in this order,
 * what does not fit: the item, the bar, the time left, the rate, the bytes.
 */
#ifndef TENSORPORT_FS_BASE_PROGRESS_H
#define TENSORPORT_FS_BASE_PROGRESS_H

#include <stddef.h>
#include <stdint.h>

enum tp_progress_style {
    TP_PROGRESS_BAR,  /* on stderr; nothing if that is no terminal */
    TP_PROGRESS_JSON, /* on stdout, a line each: {"event": "progress", "bytes": ..., ...} */
    TP_PROGRESS_NONE,
};

/* The names for --progress, NULL at the end, in the order of the enum. */
extern const char *const tp_progress_names[];

struct tp_progress;

/* Starts it at 0 of `total` bytes. `verb` is shown until there is an item. NULL when nothing is to
 * be shown, or there is no memory or no thread for it: the functions below then do nothing. */
struct tp_progress *tp_progress_start(enum tp_progress_style style, const char *verb,
                                      uint64_t total);

/* More bytes are done. Thread-safe and cheap. */
void tp_progress_add(struct tp_progress *progress, uint64_t bytes);

/* What is being worked on, such as a tensor's name: any bytes. Thread-safe. */
void tp_progress_item(struct tp_progress *progress, const char *name, size_t length);

/* Ends the drawing, erases the bar and frees all. Until it is called nothing else should write to
 * the terminal. */
void tp_progress_finish(struct tp_progress *progress);

#endif
