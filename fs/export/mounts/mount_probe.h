/* Asks mounts how they are without waiting for those that do not answer: each is asked by a child
 * process, since a read from a stuck daemon cannot be given up by the one who waits for it. */
#ifndef TENSORPORT_FS_EXPORT_MOUNTS_MOUNT_PROBE_H
#define TENSORPORT_FS_EXPORT_MOUNTS_MOUNT_PROBE_H

#include <cjson/cJSON.h>
#include <stddef.h>

enum tp_mount_state {
    TP_MOUNT_LIVE,
    TP_MOUNT_DEAD,    /* its daemon has ended */
    TP_MOUNT_STUCK,   /* no answer in time */
    TP_MOUNT_PRIVATE, /* another user's, and not for us to see */
};

/* "live", "dead", ... in the order of the enum. */
extern const char *const tp_mount_state_names[];

struct tp_mount_probe {
    const char *path; /* the mount point; to be set by the caller, like `statistics` = NULL */
    enum tp_mount_state state;
    cJSON *statistics; /* stats.json of a live mount; the caller's; NULL if there is none */
};

/* Fills in n probes, all of them within `timeout_ms`. 0, or a negative errno when there are no
 * processes or descriptors for it; what is filled in by then stays the caller's. */
int tp_mount_probe(struct tp_mount_probe *probes, size_t n, int timeout_ms);
enum { TP_MOUNT_PROBE_MS = 2000 };

/* A number of the statistics, such as "cache", "hits"; 0 if it is not there. */
double tp_mount_statistic(const cJSON *statistics, const char *group, const char *name);

#endif
