/* Mounts that are there already. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/export/doctor/doctor.h"
#include "fs/export/mounts/mount_probe.h"

enum { READ_AHEAD_KB = 8192, READ_AHEAD_LOW_KB = 1024 };

/* The kernel reads 128 KiB ahead in a FUSE mount unless it is told otherwise. */
static void check_read_ahead(struct tp_doctor *doctor, const struct tp_mount_entry *entry)
{
    char file[96], remedy[192];
    snprintf(file, sizeof file, "/sys/class/bdi/%u:%u/read_ahead_kb", entry->major, entry->minor);
    char *text = tp_doctor_read(doctor, file);
    if (text == NULL)
        return;
    unsigned long kilobytes = strtoul(text, NULL, 10);
    free(text);
    snprintf(remedy, sizeof remedy, "echo %d | sudo tee %s", READ_AHEAD_KB, file);
    if (kilobytes < READ_AHEAD_LOW_KB)
        tp_doctor_say(doctor, TP_FINDING_WARNING, "read-ahead", remedy,
                      "%s: %lu KiB make buffered reads slow (for good: the udev rule in "
                      "tensorport-mount(8))",
                      entry->path, kilobytes);
    else
        tp_doctor_say(doctor, TP_FINDING_OK, "read-ahead", NULL, "%s: %lu KiB", entry->path,
                      kilobytes);
}

static void judge(struct tp_doctor *doctor, const struct tp_mount_entry *entry,
                  const struct tp_mount_probe *probe)
{
    char quoted[2 * PATH_MAX], remedy[2 * PATH_MAX + 64];
    switch (probe->state) {
    case TP_MOUNT_DEAD:
        snprintf(remedy, sizeof remedy, "tensorport umount %s",
                 tp_doctor_quote(entry->path, quoted));
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "mount", remedy,
                      "%s: dead: its daemon has ended, every access fails", entry->path);
        break;
    case TP_MOUNT_STUCK:
        snprintf(remedy, sizeof remedy, "echo 1 | sudo tee /sys/fs/fuse/connections/%u/abort",
                 entry->minor);
        tp_doctor_say(doctor, TP_FINDING_PROBLEM, "mount", remedy,
                      "%s: stuck: its daemon does not answer (stopped, or its source hangs)",
                      entry->path);
        break;
    case TP_MOUNT_PRIVATE:
        tp_doctor_say(doctor, TP_FINDING_OK, "mount", NULL, "%s: of user %u, not for you to see",
                      entry->path, (unsigned)entry->user);
        break;
    case TP_MOUNT_LIVE:
        tp_doctor_say(doctor, TP_FINDING_OK, "mount", NULL, "%s: shows %s", entry->path,
                      entry->source);
        check_read_ahead(doctor, entry);
        break;
    }
}

void tp_doctor_check_mounts(struct tp_doctor *doctor, const char *path)
{
    const struct tp_mount_table *table = &doctor->table;
    const struct tp_mount_entry **entries = calloc(table->n + 1, sizeof *entries);
    struct tp_mount_probe *probes = calloc(table->n + 1, sizeof *probes);
    char(*rooms)[PATH_MAX] = calloc(table->n + 1, sizeof *rooms);
    size_t n = 0;
    bool made = entries != NULL && probes != NULL && rooms != NULL;
    for (size_t i = 0; made && i < table->n; i++) {
        const struct tp_mount_entry *entry = &table->entries[i];
        if (!tp_mounts_are_ours(entry) || (path != NULL && strcmp(path, entry->path) != 0))
            continue;
        entries[n] = entry;
        probes[n].path = tp_doctor_path(doctor, entry->path, rooms[n]);
        n++;
    }
    if (!made || tp_mount_probe(probes, n, TP_MOUNT_PROBE_MS) < 0)
        fputs("tensorport doctor: the mounts cannot be looked at: no memory or no processes left\n",
              stderr);
    else
        for (size_t i = 0; i < n; i++)
            judge(doctor, entries[i], &probes[i]);
    for (size_t i = 0; i < n; i++)
        cJSON_Delete(probes[i].statistics);
    free(entries);
    free(probes);
    free(rooms);
}
