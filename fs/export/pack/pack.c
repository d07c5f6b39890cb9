#include "fs/export/pack/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "decode/block.h"
#include "decode/packed.h"
#include "decode/safetensors.h"
#include "fs/base/bytes.h"
#include "fs/base/io.h"
#include "fs/base/workers.h"
#include "fs/checkpoint/checkpoint.h"
#include "fs/export/pack/pack_copy.h"
#include "fs/export/pack/turns.h"

/* A tensor below that many bytes goes with what is before it, whatever its width: a block of its
 * own would cost more than it saves. */
enum { SMALL_TENSOR = 4096 };

/* ---- regions ---- */

/* A complex number is two floats. */
static uint32_t width_of(enum tp_dtype dtype)
{
    return dtype == TP_C64 ? 4 : (uint32_t)tp_dtype_size(dtype);
}

/* Whether bytes of that width go with what is before them. */
static bool joins(const struct tp_packed_region *region, uint64_t length, uint32_t width)
{
    bool is_aligned = width == 0 || region->length % width == 0;
    return length < SMALL_TENSOR || (region->width == width && is_aligned);
}

/* One behind the other; `regions` has room. */
static void add_region(struct tp_packed_region *regions, size_t *n, uint64_t length, uint32_t width)
{
    if (length == 0)
        return;
    if (*n > 0 && joins(&regions[*n - 1], length, width))
        regions[*n - 1].length += length;
    else
        regions[(*n)++] = (struct tp_packed_region){.length = length, .width = width};
}

/* Parses the header. -EINVAL: the file is no safetensors file. */
static int read_header(struct tp_source *source, struct tp_safetensors *ret_header,
                       uint64_t *ret_length)
{
    uint8_t field[TP_SAFETENSORS_LENGTH_BYTES];
    uint64_t length = 0;
    if (source->size < sizeof field)
        return -EINVAL;
    int rc = tp_source_read(source, field, sizeof field, 0);
    if (rc == 0)
        rc = tp_safetensors_length(field, source->size, &length, NULL);
    if (rc < 0)
        return rc;
    char *text = malloc(length + 1);
    if (text == NULL)
        return -ENOMEM;
    rc = tp_source_read(source, text, length, sizeof field);
    if (rc == 0)
        rc = tp_safetensors_parse(text, length, source->size - sizeof field - length, ret_header,
                                  NULL);
    free(text);
    if (rc == 0)
        *ret_length = sizeof field + length;
    return rc;
}

/* The header and the tensors; or all of it as one, if it is no safetensors file: a folder may hold
 * such a thing, besides its shards. The caller frees *ret_regions. */
static int make_regions(struct tp_source *source, struct tp_packed_region **ret_regions,
                        size_t *ret_n)
{
    struct tp_safetensors header = {0};
    uint64_t length = source->size;
    int rc = read_header(source, &header, &length);
    if (rc < 0 && rc != -EINVAL)
        return rc;
    struct tp_packed_region *regions = calloc(header.n_entries + 1, sizeof *regions);
    size_t n = 0;
    if (regions == NULL) {
        tp_safetensors_clear(&header);
        return -ENOMEM;
    }
    add_region(regions, &n, length, 0);
    for (size_t i = 0; i < header.n_entries; i++)
        add_region(regions, &n, header.entries[i].end - header.entries[i].begin,
                   width_of(header.entries[i].dtype));
    tp_safetensors_clear(&header);
    *ret_regions = regions;
    *ret_n = n;
    return 0;
}

/* ---- one file ---- */

struct packing {
    struct tp_pack_run *run;
    struct tp_source source;
    struct tp_packed_layout layout;
    const char *name; /* of the packed file */
    int fd;
    struct tp_turns turns;
    XXH3_state_t *hash; /* of the bytes so far; like the next, of whose turn it is */
    uint64_t end;       /* where the next piece goes */
};

/* A thread's. */
struct room {
    struct tp_block_encoder *encoder;
    uint8_t *plain, *packed;
};

static int fail_reading(struct packing *packing, int rc)
{
    struct tp_error error;
    tp_error_set(&error, rc, "%s/%s: cannot read it, or it changed while it was read: %s",
                 packing->run->files.folder, packing->source.name, strerror(-rc));
    return tp_turns_fail(&packing->turns, rc, &error);
}

static int fail_writing(struct packing *packing, int rc)
{
    struct tp_error error;
    tp_error_set(&error, rc, "%s/%s: cannot write: %s", packing->run->options->output,
                 packing->name, strerror(-rc));
    return tp_turns_fail(&packing->turns, rc, &error);
}

/* Packs blocks [first, end), whose bytes are in room->plain; gives the number of stored bytes. */
static size_t encode_blocks(struct packing *packing, struct room *room, uint64_t first,
                            uint64_t end)
{
    size_t from = 0, to = 0;
    for (uint64_t i = first; i < end; i++) {
        struct tp_packed_block block;
        tp_packed_original(&packing->layout, i, &block);
        size_t stored = tp_block_encode(room->encoder, room->plain + from, block.length,
                                        block.width, room->packed + to);
        packing->layout.checksums[i] = tp_block_checksum(room->plain + from, block.length);
        packing->layout.lengths[i] = (uint32_t)stored;
        from += block.length;
        to += stored;
    }
    return to;
}

static int pack_piece(struct packing *packing, struct room *room, uint64_t piece)
{
    struct tp_packed_block block;
    uint64_t first = piece * TP_PACK_PIECE_BLOCKS, end = first + TP_PACK_PIECE_BLOCKS;
    if (end > packing->layout.header.n_blocks)
        end = packing->layout.header.n_blocks;
    tp_packed_original(&packing->layout, first, &block);
    uint64_t start = block.start;
    tp_packed_original(&packing->layout, end - 1, &block);
    size_t length = (size_t)(block.start + block.length - start);

    int rc = tp_source_read(&packing->source, room->plain, length, start);
    if (rc == 0)
        rc = tp_pack_run_check_stop(packing->run);
    if (rc < 0)
        return fail_reading(packing, rc);
    size_t stored = encode_blocks(packing, room, first, end);
    rc = tp_turns_wait(&packing->turns, piece);
    if (rc < 0)
        return rc;
    uint64_t offset = packing->end;
    packing->end += stored;
    XXH3_128bits_update(packing->hash, room->plain, length);
    tp_turns_pass(&packing->turns);

    rc = tp_write_at(packing->fd, room->packed, stored, offset);
    if (rc < 0)
        return fail_writing(packing, rc);
    /* Only a hint: the disk is busy from the beginning, and the flush at the end short. */
    sync_file_range(packing->fd, (off_t)offset, (off_t)stored, SYNC_FILE_RANGE_WRITE);
    tp_progress_add(packing->run->progress, length);
    return 0;
}

static int work(void *context, size_t worker)
{
    struct packing *packing = context;
    size_t bytes = (size_t)TP_PACK_PIECE_BLOCKS * TP_PACKED_BLOCK_SIZE;
    struct room room = {tp_block_encoder_new(TP_PACKED_BLOCK_SIZE), malloc(bytes), malloc(bytes)};
    int rc = 0;
    (void)worker;
    if (room.encoder == NULL || room.plain == NULL || room.packed == NULL)
        rc = fail_reading(packing, -ENOMEM);
    for (uint64_t piece; rc == 0 && tp_turns_take(&packing->turns, &piece);)
        rc = pack_piece(packing, &room, piece);
    tp_block_encoder_free(room.encoder);
    free(room.plain);
    free(room.packed);
    return rc;
}

static int write_ends(struct packing *packing)
{
    struct tp_packed_layout *layout = &packing->layout;
    size_t length = tp_packed_table_bytes(&layout->header);
    uint8_t header[TP_PACKED_HEADER_BYTES], *table = malloc(length + 1);
    if (table == NULL)
        return fail_writing(packing, -ENOMEM);
    XXH128_hash_t hash = XXH3_128bits_digest(packing->hash);
    layout->header.original_hash[0] = hash.low64;
    layout->header.original_hash[1] = hash.high64;
    tp_packed_finish(layout, table, header);
    int rc = tp_write_at(packing->fd, table, length, layout->header.table_offset);
    if (rc == 0)
        rc = tp_write_at(packing->fd, header, sizeof header, 0);
    free(table);
    if (rc < 0)
        return fail_writing(packing, rc);
    packing->run->summary.original_bytes += layout->header.original_size;
    packing->run->summary.packed_bytes += layout->header.table_offset + length;
    return 0;
}

static int pack_blocks(struct packing *packing)
{
    uint64_t n_blocks = packing->layout.header.n_blocks;
    tp_turns_init(&packing->turns, (n_blocks + TP_PACK_PIECE_BLOCKS - 1) / TP_PACK_PIECE_BLOCKS);
    XXH3_128bits_reset(packing->hash);
    packing->end = TP_PACKED_HEADER_BYTES;
    tp_workers_run(packing->run->options->workers, work, packing);
    if (packing->turns.error == 0)
        write_ends(packing);
    int rc = packing->turns.error;
    if (rc < 0)
        *packing->run->error = packing->turns.message;
    tp_turns_clear(&packing->turns);
    return rc;
}

static int plan(struct packing *packing)
{
    struct tp_packed_region *regions;
    size_t n;
    int rc = make_regions(&packing->source, &regions, &n);
    if (rc == 0)
        rc = tp_packed_plan(packing->source.size, regions, n, &packing->layout);
    return rc < 0 ? tp_pack_run_fail(packing->run, packing->source.name, rc) : 0;
}

static int pack_opened(struct packing *packing)
{
    struct tp_pack_run *run = packing->run;
    int rc = plan(packing);
    if (rc < 0)
        return rc;
    packing->hash = XXH3_createState();
    rc = packing->hash == NULL ? tp_pack_run_fail(run, packing->source.name, -ENOMEM) : 0;
    if (rc == 0)
        rc = tp_output_create(run->output, packing->name, &packing->fd, run->error);
    if (rc == 0)
        rc = pack_blocks(packing);
    if (rc == 0)
        rc = tp_output_complete(run->output, packing->fd, packing->source.modified, run->error);
    XXH3_freeState(packing->hash);
    tp_packed_clear(&packing->layout);
    return rc;
}

static int pack_file(struct tp_pack_run *run, const char *name)
{
    struct packing packing = {.run = run};
    int rc = tp_source_open(&packing.source, run->files.directory, name, NULL, run->error);
    if (rc < 0)
        return tp_error_prefix(run->error, rc, "%s", run->files.folder);
    tp_progress_item(run->progress, name, strlen(name));
    char *packed_name;
    if (asprintf(&packed_name, "%s%s", name, TP_PACKED_SUFFIX) < 0) {
        rc = tp_pack_run_fail(run, name, -ENOMEM);
    } else {
        packing.name = packed_name;
        rc = pack_opened(&packing);
        free(packed_name);
    }
    tp_source_close(&packing.source);
    run->summary.n_files += rc == 0;
    run->summary.n_packed += rc == 0;
    return rc;
}

/* ---- all files ---- */

/* Only what can be opened is packed; and nothing twice. */
static int check_input(struct tp_pack_run *run)
{
    struct tp_checkpoint *checkpoint;
    int rc = tp_checkpoint_open(run->options->input, NULL, &checkpoint, run->error);
    if (rc < 0)
        return rc;
    if (checkpoint->blocks != NULL)
        rc = tp_error_set(run->error, -EINVAL, "%s: is packed already", run->options->input);
    tp_checkpoint_close(checkpoint);
    return rc;
}

static bool is_weights(const char *name)
{
    return tp_bytes_end_with(name, strlen(name), ".safetensors");
}

static int check_files(struct tp_pack_run *run)
{
    bool any = false;
    for (size_t i = 0; i < run->files.n; i++) {
        const char *name = run->files.names[i];
        if (tp_bytes_end_with(name, strlen(name), ".safetensors" TP_PACKED_SUFFIX))
            return tp_error_set(run->error, -EINVAL, "%s/%s: is packed already", run->files.folder,
                                name);
        any |= is_weights(name);
    }
    return any ? 0
               : tp_error_set(run->error, -EINVAL,
                              "%s: expected a folder with *.safetensors files or one of them",
                              run->options->input);
}

int tp_pack(const struct tp_pack_options *options, struct tp_pack_summary *ret_summary,
            struct tp_error *error)
{
    struct tp_pack_run run = {.options = options, .files = {.directory = -1}, .error = error};
    int rc = check_input(&run);
    if (rc == 0)
        rc = tp_pack_run_start(&run, "packing");
    if (rc == 0)
        rc = check_files(&run);
    if (rc == 0)
        rc = tp_output_open(options->output, &run.output, error);
    for (size_t i = 0; rc == 0 && i < run.files.n; i++)
        rc = is_weights(run.files.names[i]) ? pack_file(&run, run.files.names[i])
                                            : tp_pack_run_copy(&run, i);
    rc = tp_pack_run_end(&run, rc);
    if (rc == 0)
        *ret_summary = run.summary;
    return rc;
}
