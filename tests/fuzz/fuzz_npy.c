/* Any bytes as the start of an npy file: what can be read comes back from what is written. */
#include <stdlib.h>
#include <string.h>

#include "decode/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

/* Writes the header anew, reads that, and compares. */
static void check_round_trip(const struct tp_npy_header *header)
{
    struct tp_npy_header again;
    size_t length = tp_npy_header_length(header->dtype, header->shape, header->rank);
    char *text = malloc(length);
    require(text != NULL && length % 64 == 0);
    tp_npy_header_write(header->dtype, header->shape, header->rank, text);
    require(text[length - 1] == '\n');
    require(tp_npy_header_parse(text, length, &again, NULL) == 0);
    require(again.dtype == header->dtype && again.rank == header->rank && !again.fortran_order);
    require(again.data_offset == length && again.data_bytes == header->data_bytes);
    require(memcmp(again.shape, header->shape, header->rank * sizeof *header->shape) == 0);
    tp_npy_header_clear(&again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tp_error error = {""};
    struct tp_npy_header header;
    int rc = tp_npy_header_parse((const char *)data, size, &header, &error);
    require((rc == 0) == (error.text[0] == '\0'));
    if (rc == 0) {
        require(header.data_offset <= size);
        check_round_trip(&header);
        tp_npy_header_clear(&header);
    }
    return 0;
}
