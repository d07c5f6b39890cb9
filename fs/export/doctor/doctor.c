#include "fs/export/doctor/doctor.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/io.h"
#include "fs/base/json_text.h"

static const char *const finding_names[] = {"ok", "warning", "problem"};

static void add_finding(struct tp_doctor *doctor, enum tp_finding finding, const char *check,
                        const char *remedy, const char *text)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "check", check);
    cJSON_AddStringToObject(object, "status", finding_names[finding]);
    tp_json_add_text(object, "found", text, strlen(text));
    if (remedy != NULL)
        tp_json_add_text(object, "remedy", remedy, strlen(remedy));
    else
        cJSON_AddNullToObject(object, "remedy");
    cJSON_AddItemToArray(doctor->findings, object);
}

void tp_doctor_say(struct tp_doctor *doctor, enum tp_finding finding, const char *check,
                   const char *remedy, const char *format, ...)
{
    char raw[sizeof(struct tp_error)];
    struct tp_error text, command;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(raw, sizeof raw, format, arguments);
    va_end(arguments);
    doctor->n[finding]++;
    tp_error_set(&text, 0, "%s", raw);
    if (doctor->findings != NULL) {
        add_finding(doctor, finding, check, remedy, text.text);
        return;
    }
    printf("%s: %s: %s\n", finding_names[finding], check, text.text);
    if (remedy != NULL) {
        tp_error_set(&command, 0, "%s", remedy);
        printf("    %s\n", command.text);
    }
    fflush(stdout); /* the next check may take its time */
}

const char *tp_doctor_path(const struct tp_doctor *doctor, const char *path, char room[PATH_MAX])
{
    snprintf(room, PATH_MAX, "%s%s", doctor->root, path);
    return room;
}

char *tp_doctor_read(const struct tp_doctor *doctor, const char *path)
{
    enum { TEXT_MAX = 64 << 10 };
    char room[PATH_MAX];
    size_t length = 0;
    int fd = open(tp_doctor_path(doctor, path, room), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    char *text = fd < 0 ? NULL : malloc(TEXT_MAX + 1);
    if (text != NULL && tp_read_at(fd, text, TEXT_MAX, 0, &length) < 0) {
        free(text);
        text = NULL;
    }
    if (fd >= 0)
        close(fd);
    if (text != NULL)
        text[length] = '\0';
    return text;
}

const char *tp_doctor_quote(const char *path, char room[2 * PATH_MAX])
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                "_@%+=:,./-";
    size_t at = 0;
    if (path[0] != '\0' && path[0] != '-' && strspn(path, plain) == strlen(path))
        return path;
    room[at++] = '\'';
    for (; *path != '\0' && at < 2 * PATH_MAX - 8; path++) {
        if (*path == '\'')
            at = (size_t)(stpcpy(room + at, "'\\''") - room);
        else
            room[at++] = *path;
    }
    room[at++] = '\'';
    room[at] = '\0';
    return room;
}
