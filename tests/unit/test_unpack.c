/* tp_packed_verify(): what is whole has no faults, and every broken block and file is named, the
 * rest checked all the same. Packing and unpacking themselves: tests/export/test_pack.py. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "decode/packed.h"
#include "fs/export/pack/pack.h"

enum { N_BYTES = 1 << 20, FAULTS_MAX = 8, PATH_ROOM = 512 };

struct faults {
    size_t n;
    char texts[FAULTS_MAX][1024];
};

static void note(void *context, const char *file, const char *text)
{
    struct faults *faults = context;
    cr_assert_lt(faults->n, FAULTS_MAX);
    snprintf(faults->texts[faults->n++], sizeof faults->texts[0], "%s: %s", file, text);
}

/* A folder with one checkpoint file of F32 zeros and ones, and its packed twin. */
static void make(char folder[PATH_ROOM], char packed[PATH_ROOM])
{
    char header[256], path[PATH_ROOM];
    snprintf(folder, PATH_ROOM, "/tmp/tensorport-unit-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%.200s/model.safetensors", folder);
    snprintf(packed, PATH_ROOM, "%.200s/packed", folder);
    uint64_t length = (uint64_t)snprintf(
        header, sizeof header, "{\"t\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[0,%d]}}",
        N_BYTES / 4, N_BYTES);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file);
    fwrite(&length, sizeof length, 1, file);
    fwrite(header, 1, length, file);
    for (int i = 0; i < N_BYTES; i++)
        fputc(i % 4 == 3 && i % 7 == 0, file);
    cr_assert_eq(fclose(file), 0);
    struct tp_pack_options options = {path, packed, 2, TP_PROGRESS_NONE, NULL, NULL};
    struct tp_pack_summary summary;
    struct tp_error error = {""};
    cr_assert_eq(tp_pack(&options, &summary, &error), 0, "%s", error.text);
    cr_assert(summary.n_files == 1 && summary.n_packed == 1);
}

static void clean(const char *folder)
{
    char command[PATH_ROOM];
    snprintf(command, sizeof command, "rm -rf '%.200s'", folder);
    cr_assert_eq(system(command), 0);
}

static struct faults verify(const char *packed)
{
    struct tp_pack_options options = {packed, NULL, 2, TP_PROGRESS_NONE, NULL, NULL};
    struct tp_pack_summary summary;
    struct tp_error error = {""};
    struct faults faults = {0};
    int rc = tp_packed_verify(&options, note, &faults, &summary, &error);
    cr_assert_eq(rc, 0, "%s", error.text);
    return faults;
}

/* Changes a byte of the packed file. */
static void spoil(const char *packed, off_t at)
{
    char path[PATH_ROOM];
    uint8_t byte;
    snprintf(path, sizeof path, "%.300s/model.safetensors.tpk", packed);
    int fd = open(path, O_RDWR);
    cr_assert_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 0x5a;
    cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* Where the stored bytes of a block begin. */
static off_t place_of(const char *packed, uint64_t index)
{
    char path[PATH_ROOM];
    struct tp_packed_header header;
    struct tp_packed_layout layout;
    struct tp_packed_block block;
    struct stat status;
    snprintf(path, sizeof path, "%.300s/model.safetensors.tpk", packed);
    int fd = open(path, O_RDONLY);
    cr_assert_eq(fstat(fd, &status), 0);
    uint8_t *bytes = malloc((size_t)status.st_size);
    cr_assert_eq(pread(fd, bytes, (size_t)status.st_size, 0), status.st_size);
    close(fd);
    cr_assert_eq(tp_packed_parse_header(bytes, (uint64_t)status.st_size, &header, NULL), 0);
    cr_assert_eq(tp_packed_parse_table(bytes + header.table_offset, &header, &layout, NULL), 0);
    tp_packed_block(&layout, index, &block);
    tp_packed_clear(&layout);
    free(bytes);
    return (off_t)block.stored_offset;
}

Test(unpack, whole_files_have_no_faults)
{
    char folder[PATH_ROOM], packed[PATH_ROOM];
    make(folder, packed);
    cr_assert(tp_is_packed(packed) && !tp_is_packed(folder));
    cr_assert_eq(verify(packed).n, 0);
    clean(folder);
}

Test(unpack, every_corrupt_block_is_named)
{
    char folder[PATH_ROOM], packed[PATH_ROOM];
    make(folder, packed);
    spoil(packed, place_of(packed, 3));
    spoil(packed, place_of(packed, 16));
    struct faults faults = verify(packed);
    cr_assert_eq(faults.n, 2);
    cr_assert_not_null(strstr(faults.texts[0], "model.safetensors.tpk: block 3, "));
    cr_assert_not_null(strstr(faults.texts[1], "model.safetensors.tpk: block 16, "));
    clean(folder);
}

/* One fault of a file does not hide those of another. */
Test(unpack, files_that_cannot_be_opened_are_faults)
{
    char folder[PATH_ROOM], packed[PATH_ROOM], command[3 * PATH_ROOM];
    make(folder, packed);
    snprintf(command, sizeof command,
             "cp '%.300s/model.safetensors.tpk' '%.300s/z.safetensors.tpk'", packed, packed);
    cr_assert_eq(system(command), 0);
    spoil(packed, 20);
    struct faults faults = verify(packed);
    cr_assert_eq(faults.n, 1);
    cr_assert_not_null(strstr(faults.texts[0], "the packed file's header is corrupt"));
    clean(folder);
}

/* Blocks that are whole, but of another file: only the hash of all of it tells. */
Test(unpack, wrong_hash_is_a_fault)
{
    char folder[PATH_ROOM], packed[PATH_ROOM], path[PATH_ROOM];
    uint8_t header[TP_PACKED_HEADER_BYTES];
    make(folder, packed);
    spoil(packed, 24);
    snprintf(path, sizeof path, "%.300s/model.safetensors.tpk", packed);
    int fd = open(path, O_RDWR);
    cr_assert_eq(pread(fd, header, sizeof header, 0), sizeof header);
    uint64_t checksum = XXH3_64bits(header, 72);
    cr_assert_eq(pwrite(fd, &checksum, sizeof checksum, 72), sizeof checksum);
    close(fd);
    struct faults faults = verify(packed);
    cr_assert_eq(faults.n, 1);
    cr_assert_not_null(strstr(faults.texts[0], "not those of the file that was packed"));

    struct tp_pack_options options = {packed, folder, 1, TP_PROGRESS_NONE, NULL, NULL};
    char output[PATH_ROOM];
    snprintf(output, sizeof output, "%.200s/out", folder);
    options.output = output;
    struct tp_pack_summary summary;
    struct tp_error error = {""};
    cr_assert_eq(tp_unpack(&options, &summary, &error), -EIO);
    cr_assert_neq(access(output, F_OK), 0);
    clean(folder);
}

Test(unpack, nothing_to_verify_is_an_error)
{
    char folder[PATH_ROOM], packed[PATH_ROOM];
    struct tp_pack_summary summary;
    struct tp_error error = {""};
    struct faults faults = {0};
    make(folder, packed);
    snprintf(packed, sizeof packed, "%.200s/model.safetensors", folder);
    struct tp_pack_options options = {packed, NULL, 1, TP_PROGRESS_NONE, NULL, NULL};
    cr_assert_eq(tp_packed_verify(&options, note, &faults, &summary, &error), -EINVAL);
    cr_assert_neq(error.text[0], '\0');
    clean(folder);
}
