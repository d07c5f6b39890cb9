/* `tensorport doctor`: what goes wrong on users' machines, each with the command that helps.
 *
 * A check reads what the kernel and the administrator have written down, below doctor->root, and
 * says one line: ok, warning or problem. TENSORPORT_DOCTOR_ROOT puts a folder in front of every
 * path it looks at, so that tests can show it other machines; the paths that it names are those
 * without the prefix. */
#ifndef TENSORPORT_FS_EXPORT_DOCTOR_DOCTOR_H
#define TENSORPORT_FS_EXPORT_DOCTOR_DOCTOR_H

#include <cjson/cJSON.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "decode/error.h"
#include "fs/base/mounts.h"

enum tp_finding { TP_FINDING_OK, TP_FINDING_WARNING, TP_FINDING_PROBLEM };

struct tp_doctor {
    const char *root;
    cJSON *findings; /* an array; NULL to print them as they come */
    bool is_root;    /* the user, not the folder */
    struct tp_mount_table table;
    unsigned n[TP_FINDING_PROBLEM + 1]; /* of each kind */
};

/* Says what `check` found. `remedy` is a command, or several behind each other with && or ; it is
 * NULL exactly for TP_FINDING_OK. */
void tp_doctor_say(struct tp_doctor *doctor, enum tp_finding finding, const char *check,
                   const char *remedy, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* doctor->root in front of `path`. */
const char *tp_doctor_path(const struct tp_doctor *doctor, const char *path, char room[PATH_MAX]);

/* The file's first 64 KiB as text, or NULL; the caller frees it. */
char *tp_doctor_read(const struct tp_doctor *doctor, const char *path);

/* `path` as a shell takes it, between quotes if need be. */
const char *tp_doctor_quote(const char *path, char room[2 * PATH_MAX]);

/* The groups of checks. */
void tp_doctor_check_system(struct tp_doctor *doctor);
void tp_doctor_check_program(struct tp_doctor *doctor);

/* All mounts of ours, or just the one at `path`. */
void tp_doctor_check_mounts(struct tp_doctor *doctor, const char *path);

/* A checkpoint. `mount` is the mount that shows it, or NULL. */
void tp_doctor_check_model(struct tp_doctor *doctor, const char *path,
                           const struct tp_mount_entry *mount);

/* The memory that this process may use, and what sets the limit: a file of the cgroup, or
 * /proc/meminfo. False when nothing is known. */
struct tp_memory_limit {
    uint64_t bytes;
    bool is_cgroup;
    char file[PATH_MAX];
};
bool tp_doctor_find_memory(const struct tp_doctor *doctor, struct tp_memory_limit *ret_limit);

#endif
