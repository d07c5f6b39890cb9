/* One table names every counter; the two formats are two ways to print it. */
#include "fs/view/statistics.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "config.h"
#include "fs/base/json_text.h"
#include "fs/base/text.h"
#include "fs/checkpoint/packed.h"
#include "fs/view/tree.h"

struct counter {
    const char *group; /* object in stats.json */
    const char *name;
    bool is_gauge; /* may fall */
    uint64_t value;
    const char *help;
};

enum { N_COUNTERS_MAX = 48 };

static uint64_t uptime_seconds(const struct tp_tree *tree)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec > tree->mounted.tv_sec ? (uint64_t)(now.tv_sec - tree->mounted.tv_sec) : 0;
}

/* Those of the cache of unpacked blocks, if the checkpoint is packed. */
static size_t collect_blocks(const struct tp_checkpoint *checkpoint, struct counter *counters)
{
    struct tp_cache_counters blocks;
    if (checkpoint->blocks == NULL)
        return 0;
    tp_blocks_count(checkpoint->blocks, &blocks);
    const struct counter all[] = {
        {"blocks", "capacity_bytes", true, blocks.capacity, "Bytes of unpacked blocks to keep"},
        {"blocks", "bytes", true, blocks.bytes, "Bytes of unpacked blocks kept"},
        {"blocks", "hits", false, blocks.hits, "Unpacked blocks found ready"},
        {"blocks", "waits", false, blocks.waits, "Blocks found being unpacked"},
        {"blocks", "misses", false, blocks.misses, "Unpacked blocks not found"},
        {"blocks", "fills", false, blocks.fills, "Blocks unpacked to be kept"},
        {"blocks", "failures", false, blocks.failures, "Blocks that could not be unpacked"},
        {"blocks", "evictions", false, blocks.evictions, "Unpacked blocks that made room"},
        {"blocks", "refusals", false, blocks.refusals, "Reads that found every block in use"},
    };
    memcpy(counters, all, sizeof all);
    return sizeof all / sizeof *all;
}

static size_t collect(struct tp_tree *tree, struct counter counters[N_COUNTERS_MAX])
{
    const struct tp_activity *activity = &tree->activity;
    const struct tp_view *view = tp_tree_main_view(tree);
    struct tp_cache_counters cache = {0};
    struct tp_prefetch_counters prefetch = {0};
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    if (tree->reading.cache != NULL)
        tp_cache_count(tree->reading.cache, &cache);
    if (tree->reading.prefetcher != NULL)
        tp_prefetch_count(tree->reading.prefetcher, &prefetch);
    const struct counter all[] = {
        {"files", "tensors", true, view->n_tensors, "Tensors shown"},
        {"files", "shards", true, view->n_shards, "Shard directories shown"},
        {"files", "bytes", true, view->total_file_bytes, "Bytes of all files shown"},
        {"files", "open", true, activity->open_files, "Files open now"},
        {"requests", "lookups", false, activity->lookups, "Names looked up"},
        {"requests", "opens", false, activity->opens, "Files opened"},
        {"requests", "reads", false, activity->reads, "Read requests"},
        {"requests", "bytes_read", false, activity->bytes_read, "Bytes delivered"},
        {"requests", "read_errors", false, activity->read_errors, "Read requests that failed"},
        {"cache", "capacity_bytes", true, cache.capacity, "Bytes the cache may hold"},
        {"cache", "bytes", true, cache.bytes, "Bytes of the cache in use"},
        {"cache", "hits", false, cache.hits, "Tiles found ready"},
        {"cache", "waits", false, cache.waits, "Tiles found being filled"},
        {"cache", "misses", false, cache.misses, "Tiles not found"},
        {"cache", "fills", false, cache.fills, "Tiles filled"},
        {"cache", "failures", false, cache.failures, "Tiles that could not be filled"},
        {"cache", "evictions", false, cache.evictions, "Tiles that made room"},
        {"cache", "refusals", false, cache.refusals, "Requests that found every tile in use"},
        {"prefetch", "queued", false, prefetch.queued, "Tiles asked for in advance"},
        {"prefetch", "dropped", false, prefetch.dropped, "Not asked for: the queue was full"},
        {"prefetch", "cancelled", false, prefetch.cancelled, "Dropped because the file was closed"},
        {"process", "uptime_seconds", true, uptime_seconds(tree), "Seconds since the mount"},
        {"process", "max_rss_bytes", true, (uint64_t)usage.ru_maxrss * 1024,
         "Largest resident memory so far"},
    };
    size_t n = sizeof all / sizeof *all;
    memcpy(counters, all, sizeof all);
    return n + collect_blocks(tree->checkpoint, counters + n);
}

int tp_statistics_json(struct tp_tree *tree, char **ret_text, size_t *ret_length)
{
    struct counter counters[N_COUNTERS_MAX];
    size_t n = collect(tree, counters);
    const struct tp_view *view = tp_tree_main_view(tree);
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "version", PACKAGE_VERSION);
    tp_json_add_text(root, "source", tree->checkpoint->path, strlen(tree->checkpoint->path));
    cJSON_AddStringToObject(root, "precision", tp_precision_names[view->options.precision]);
    cJSON_AddStringToObject(root, "mxfp4", tp_mxfp4_names[view->options.packed]);
    cJSON_AddStringToObject(root, "isa", tp_codecs()->name);
    cJSON_AddStringToObject(root, "features", tree->features != NULL ? tree->features : "");
    for (size_t i = 0; i < n; i++) {
        cJSON *group = cJSON_GetObjectItem(root, counters[i].group);
        if (group == NULL)
            group = cJSON_AddObjectToObject(root, counters[i].group);
        tp_json_add_unsigned(group, counters[i].name, counters[i].value);
    }
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (text == NULL)
        return -ENOMEM;
    size_t length = strlen(text);
    text[length++] = '\n'; /* in place of the NUL */
    *ret_text = text;
    *ret_length = length;
    return 0;
}

int tp_statistics_prometheus(struct tp_tree *tree, char **ret_text, size_t *ret_length)
{
    struct counter counters[N_COUNTERS_MAX];
    size_t n = collect(tree, counters);
    struct tp_text text;
    int rc = tp_text_open(&text);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        char name[96];
        snprintf(name, sizeof name, "tensorport_%s_%s%s", counters[i].group, counters[i].name,
                 counters[i].is_gauge ? "" : "_total");
        fprintf(text.stream, "# HELP %s %s.\n# TYPE %s %s\n%s %" PRIu64 "\n", name,
                counters[i].help, name, counters[i].is_gauge ? "gauge" : "counter", name,
                counters[i].value);
    }
    return tp_text_close(&text, rc, ret_text, ret_length);
}
