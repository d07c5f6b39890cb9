/* `tensorport mounts`: what is mounted and how it does. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/amount.h"
#include "fs/base/json_text.h"
#include "fs/base/mounts.h"
#include "fs/base/options.h"
#include "fs/export/commands.h"
#include "fs/export/mounts/columns.h"
#include "fs/export/mounts/mount_probe.h"

static const struct tp_option options[] = {
    {"json", 'j', NULL, "print a list of objects, with the mounts' own counters"},
    {NULL, 0, NULL, NULL},
};

static const struct tp_program program = {
    .name = "tensorport mounts",
    .arguments = "",
    .summary = "Lists the mounted checkpoints with their size, cache and hit rate. A mount whose\n"
               "daemon has ended is \"dead\", one that does not answer \"stuck\".",
    .options = options,
};

static const struct tp_column columns[] = {
    {"MOUNT POINT", true, false, 0}, {"SOURCE", true, false, 0},  {"STATE", false, false, 0},
    {"SIZE", false, true, 2},        {"TENSORS", false, true, 6}, {"PRECISION", false, false, 3},
    {"CACHE", false, true, 4},       {"HITS", false, true, 5},    {"UPTIME", false, true, 7},
};
enum { N_COLUMNS = sizeof columns / sizeof *columns };

/* Our lines of the table, and what the mounts say. */
struct list {
    struct tp_mount_table table;
    size_t n;
    const struct tp_mount_entry **entries;
    struct tp_mount_probe *probes;
};

static int handle_option(void *context, const struct tp_option *option, const char *value,
                         struct tp_error *error)
{
    bool *as_json = context;
    (void)option;
    (void)value;
    (void)error;
    *as_json = true;
    return 0;
}

static int make_list(struct list *list)
{
    struct tp_mount_table table;
    int rc = tp_mounts_read(TP_MOUNTS_FILE, &table);
    if (rc < 0)
        return rc;
    list->table = table;
    list->entries = calloc(list->table.n + 1, sizeof *list->entries);
    list->probes = calloc(list->table.n + 1, sizeof *list->probes);
    if (list->entries == NULL || list->probes == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < list->table.n; i++) {
        const struct tp_mount_entry *entry = &list->table.entries[i];
        if (!tp_mounts_are_ours(entry))
            continue;
        list->entries[list->n] = entry;
        list->probes[list->n++].path = entry->path;
    }
    return tp_mount_probe(list->probes, list->n, TP_MOUNT_PROBE_MS);
}

static void free_list(struct list *list)
{
    for (size_t i = 0; i < list->n; i++)
        cJSON_Delete(list->probes[i].statistics);
    free(list->probes);
    free(list->entries);
    tp_mounts_clear(&list->table);
}

/* ---- for people ---- */

/* -1 when nothing was asked for yet. */
static double hit_rate(const cJSON *statistics)
{
    double hits = tp_mount_statistic(statistics, "cache", "hits") +
                  tp_mount_statistic(statistics, "cache", "waits");
    double all = hits + tp_mount_statistic(statistics, "cache", "misses");
    return all > 0 ? hits / all : -1;
}

static char *copy_printable(const char *text)
{
    struct tp_error printable;
    tp_error_set(&printable, 0, "%s", text);
    return strdup(printable.text);
}

static char *format_cache(const cJSON *statistics)
{
    char used[TP_AMOUNT_MAX], capacity[TP_AMOUNT_MAX], *text;
    tp_format_bytes(tp_mount_statistic(statistics, "cache", "bytes"), used);
    tp_format_bytes(tp_mount_statistic(statistics, "cache", "capacity_bytes"), capacity);
    return asprintf(&text, "%s of %s", used, capacity) < 0 ? NULL : text;
}

static char *format_rate(double rate)
{
    char *text;
    return rate < 0 ? strdup("-") : asprintf(&text, "%.0f %%", 100 * rate) < 0 ? NULL : text;
}

static char *format_uptime(double seconds)
{
    char room[TP_AMOUNT_MAX], *text;
    if (seconds >= 2 * 86400.0)
        return asprintf(&text, "%.0f days", seconds / 86400) < 0 ? NULL : text;
    tp_format_seconds(seconds, room);
    return strdup(room);
}

/* One row; cells without a value are "-". */
static void fill_row(const struct tp_mount_entry *entry, const struct tp_mount_probe *probe,
                     char *cells[N_COLUMNS])
{
    const cJSON *statistics = probe->statistics;
    size_t at = 0;
    cells[at++] = copy_printable(entry->path);
    cells[at++] = copy_printable(entry->source);
    cells[at++] = strdup(tp_mount_state_names[probe->state]);
    if (statistics == NULL) {
        while (at < N_COLUMNS)
            cells[at++] = strdup("-");
        return;
    }
    char size[TP_AMOUNT_MAX];
    const cJSON *precision = cJSON_GetObjectItemCaseSensitive(statistics, "precision");
    tp_format_bytes(tp_mount_statistic(statistics, "files", "bytes"), size);
    cells[at++] = strdup(size);
    if (asprintf(&cells[at++], "%.0f", tp_mount_statistic(statistics, "files", "tensors")) < 0)
        cells[at - 1] = NULL;
    cells[at++] = copy_printable(cJSON_IsString(precision) ? precision->valuestring : "-");
    cells[at++] = format_cache(statistics);
    cells[at++] = format_rate(hit_rate(statistics));
    cells[at] = format_uptime(tp_mount_statistic(statistics, "process", "uptime_seconds"));
}

static int print_table(const struct list *list)
{
    size_t n_cells = list->n * N_COLUMNS;
    char **cells = calloc(n_cells + 1, sizeof *cells);
    int rc = cells == NULL ? -ENOMEM : 0;
    for (size_t i = 0; rc == 0 && i < list->n; i++)
        fill_row(list->entries[i], &list->probes[i], cells + i * N_COLUMNS);
    for (size_t i = 0; rc == 0 && i < n_cells; i++)
        rc = cells[i] == NULL ? -ENOMEM : 0;
    if (rc == 0 && list->n > 0)
        tp_columns_print(stdout, columns, N_COLUMNS, (const char *const *)cells, list->n,
                         tp_columns_width());
    for (size_t i = 0; cells != NULL && i < n_cells; i++)
        free(cells[i]);
    free(cells);
    return rc;
}

/* ---- for programs ---- */

static cJSON *make_object(const struct tp_mount_entry *entry, const struct tp_mount_probe *probe)
{
    cJSON *object = cJSON_CreateObject();
    const char *state = tp_mount_state_names[probe->state];
    tp_json_add_text(object, "mount_point", entry->path, strlen(entry->path));
    tp_json_add_text(object, "source", entry->source, strlen(entry->source));
    tp_json_add_text(object, "state", state, strlen(state));
    tp_json_add_unsigned(object, "user", entry->user);
    if (probe->statistics != NULL) {
        double rate = hit_rate(probe->statistics);
        if (rate >= 0)
            cJSON_AddNumberToObject(object, "hit_rate", rate);
        else
            cJSON_AddNullToObject(object, "hit_rate");
        cJSON_AddItemToObject(object, "statistics", cJSON_Duplicate(probe->statistics, true));
    }
    return object;
}

static int print_json(const struct list *list)
{
    cJSON *array = cJSON_CreateArray();
    for (size_t i = 0; i < list->n; i++)
        cJSON_AddItemToArray(array, make_object(list->entries[i], &list->probes[i]));
    char *text = cJSON_Print(array);
    cJSON_Delete(array);
    if (text == NULL)
        return -ENOMEM;
    puts(text);
    free(text);
    return 0;
}

int tp_command_mounts(int argc, char **argv)
{
    struct list list = {.n = 0};
    enum tp_options_result result;
    struct tp_error error;
    bool as_json = false;
    int n, status = 0;
    int rc =
        tp_options_parse(&program, argc, argv, handle_option, &as_json, &result, &n, &argv, &error);
    if (rc == 0 && result == TP_OPTIONS_RUN && n != 0)
        rc = tp_error_set(&error, -EINVAL, "expected no argument, found %d; see '%s --help'", n,
                          program.name);
    if (rc < 0) {
        status = 2;
    } else if (result == TP_OPTIONS_RUN) {
        rc = make_list(&list);
        if (rc == 0)
            rc = as_json ? print_json(&list) : print_table(&list);
        if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout)))
            rc = -errno;
        if (rc < 0)
            tp_error_set(&error, rc, "cannot list the mounts: %s", strerror(-rc));
        status = rc < 0 ? 1 : 0;
    }
    if (status != 0)
        fprintf(stderr, "%s: %s\n", program.name, error.text);
    free_list(&list);
    return status;
}
