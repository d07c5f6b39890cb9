#include "fs/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <syslog.h>

#include "decode/error.h"

const char *const tp_log_level_names[] = {"error", "warning", "info", "debug", NULL};

void tp_log(const struct tp_log *log, enum tp_log_level level, const char *format, ...)
{
    static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};

    if (log == NULL || level > log->level)
        return;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    struct tp_error line;
    tp_error_set(&line, 0, "%s", text);
    if (log->to_syslog)
        syslog(priorities[level], "%s", line.text);
    else
        fprintf(stderr, "%s: %s%s\n", log->program, level == TP_LOG_WARNING ? "warning: " : "",
                line.text);
}
