/* Any bytes as a safetensors file: what is accepted keeps what the header promises. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "decode/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static bool same_name(const struct tp_safetensors_entry *a, const struct tp_safetensors_entry *b)
{
    return a->name_length == b->name_length && memcmp(a->name, b->name, a->name_length) == 0;
}

/* Tensors follow one another to the end of the data, each as large as its shape says. */
static void check_entries(const struct tp_safetensors *header, uint64_t data_size)
{
    uint64_t end = 0;
    for (size_t i = 0; i < header->n_entries; i++) {
        const struct tp_safetensors_entry *entry = &header->entries[i];
        uint64_t bytes;
        require(tp_shape_bytes(entry->shape, entry->rank, entry->dtype, &bytes));
        require(entry->begin == end && entry->end >= end && entry->end - entry->begin == bytes);
        require(entry->name[entry->name_length] == '\0');
        for (size_t k = 0; k < i; k++)
            require(!same_name(entry, &header->entries[k]));
        end = entry->end;
    }
    require(end == data_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t field[TP_SAFETENSORS_LENGTH_BYTES] = {0};
    struct tp_error error = {""};
    struct tp_safetensors header;
    uint64_t length;
    if (size > 0)
        memcpy(field, data, size < sizeof field ? size : sizeof field);
    int rc = tp_safetensors_length(field, size, &length, &error);
    if (rc == 0) {
        uint64_t data_size = size - sizeof field - length;
        rc = tp_safetensors_parse((const char *)data + sizeof field, length, data_size, &header,
                                  &error);
        if (rc == 0) {
            check_entries(&header, data_size);
            tp_safetensors_clear(&header);
        }
    }
    require((rc == 0) == (error.text[0] == '\0'));
    return 0;
}
