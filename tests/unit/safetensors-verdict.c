/* Judges safetensors files: reads their names on standard input, one a line, and prints
 * "OK" and what was found, or "ERR" and the message, one line for each.
 *
 * After OK come the entries in their order: name in hexadecimal, dtype, shape, begin, end.
 * differential_safetensors.py compares them with the official library's. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "decode/safetensors.h"
#include "tests/unit/read_file.h"

static int parse(const struct bytes *bytes, struct tp_safetensors *ret_header,
                 struct tp_error *error)
{
    uint8_t field[TP_SAFETENSORS_LENGTH_BYTES] = {0};
    memcpy(field, bytes->data, bytes->size < sizeof field ? bytes->size : sizeof field);
    uint64_t length;
    int rc = tp_safetensors_length(field, bytes->size, &length, error);
    if (rc != 0)
        return rc;
    return tp_safetensors_parse(bytes->data + sizeof field, length,
                                bytes->size - sizeof field - length, ret_header, error);
}

static void print_entry(const struct tp_safetensors_entry *entry)
{
    printf(" ");
    for (size_t i = 0; i < entry->name_length; i++)
        printf("%02x", (unsigned char)entry->name[i]);
    printf(":%s:", tp_dtype_name(entry->dtype));
    for (size_t i = 0; i < entry->rank; i++)
        printf("%s%" PRIu64, i == 0 ? "" : ",", entry->shape[i]);
    printf(":%" PRIu64 ":%" PRIu64, entry->begin, entry->end);
}

static void judge(const char *path)
{
    struct tp_error error = {""};
    struct tp_safetensors header;
    struct bytes bytes = read_file(path);
    if (bytes.data == NULL) {
        printf("ERR cannot read %s\n", path);
    } else if (parse(&bytes, &header, &error) != 0) {
        printf("ERR %s\n", error.text);
    } else {
        printf("OK");
        for (size_t i = 0; i < header.n_entries; i++)
            print_entry(&header.entries[i]);
        printf("\n");
        tp_safetensors_clear(&header);
    }
    free(bytes.data);
    fflush(stdout);
}

int main(void)
{
    char path[4096];
    while (fgets(path, sizeof path, stdin) != NULL) {
        path[strcspn(path, "\n")] = '\0';
        judge(path);
    }
    return 0;
}
