/* Messages to people: stderr in the foreground, syslog from the daemon. Thread-safe. */
#ifndef TENSORPORT_FS_BASE_LOG_H
#define TENSORPORT_FS_BASE_LOG_H

#include <stdbool.h>

enum tp_log_level { TP_LOG_ERROR, TP_LOG_WARNING, TP_LOG_INFO, TP_LOG_DEBUG };

/* The names for --log-level, NULL at the end, in the order of the enum. */
extern const char *const tp_log_level_names[];

struct tp_log {
    const char *program; /* prefix of every line */
    enum tp_log_level level;
    bool to_syslog; /* openlog() has been called */
};

/* One line: control characters in the arguments come out as \xNN. `log` may be NULL. */
void tp_log(const struct tp_log *log, enum tp_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
