/* Any bytes as the manifest.json of a view: what is accepted keeps what its reader promises. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "infer/weights/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void check_tensor(const struct tp_manifest *manifest, size_t i)
{
    const struct tp_manifest_tensor *tensor = &manifest->tensors[i];
    uint64_t nbytes;
    require(tensor->name[tensor->name_length] == '\0');
    require(tp_manifest_find(manifest, tensor->name, tensor->name_length) == (ptrdiff_t)i);
    require(tensor->file[0] != '/' && tensor->file[0] != '\0');
    require(strcmp(tensor->file, "..") != 0 && strncmp(tensor->file, "../", 3) != 0);
    require(strstr(tensor->file, "/../") == NULL);
    require(tp_shape_bytes(tensor->shape, tensor->rank, tensor->dtype, &nbytes));
    require(nbytes == tensor->nbytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tp_error error = {""};
    struct tp_manifest manifest;
    int rc = tp_manifest_parse((const char *)data, size, &manifest, &error);
    require((rc == 0) == (error.text[0] == '\0'));
    if (rc == 0) {
        for (size_t i = 0; i < manifest.n_tensors; i++)
            check_tensor(&manifest, i);
        tp_manifest_clear(&manifest);
    }
    return 0;
}
