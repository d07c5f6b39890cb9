#include "fs/export/common/hashes.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct tp_hashes {
    XXH3_state_t *xxh3;
    EVP_MD_CTX *sha256;
};

struct tp_hashes *tp_hashes_new(bool xxh3, bool sha256)
{
    struct tp_hashes *hashes = calloc(1, sizeof *hashes);
    if (hashes == NULL)
        return NULL;
    if (xxh3)
        hashes->xxh3 = XXH3_createState();
    if (sha256)
        hashes->sha256 = EVP_MD_CTX_new();
    if ((xxh3 && hashes->xxh3 == NULL) ||
        (sha256 &&
         (hashes->sha256 == NULL || EVP_DigestInit_ex(hashes->sha256, EVP_sha256(), NULL) != 1))) {
        tp_hashes_free(hashes);
        return NULL;
    }
    if (xxh3)
        XXH3_128bits_reset(hashes->xxh3);
    return hashes;
}

void tp_hashes_free(struct tp_hashes *hashes)
{
    if (hashes == NULL)
        return;
    XXH3_freeState(hashes->xxh3);
    EVP_MD_CTX_free(hashes->sha256);
    free(hashes);
}

void tp_hashes_update(struct tp_hashes *hashes, const void *bytes, size_t length)
{
    if (hashes->xxh3 != NULL)
        XXH3_128bits_update(hashes->xxh3, bytes, length);
    if (hashes->sha256 != NULL)
        EVP_DigestUpdate(hashes->sha256, bytes, length);
}

void tp_hashes_finish(struct tp_hashes *hashes, struct tp_digests *ret_digests)
{
    XXH128_canonical_t canonical;
    if (hashes->xxh3 != NULL) {
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hashes->xxh3));
        memcpy(ret_digests->xxh3, canonical.digest, sizeof ret_digests->xxh3);
    }
    if (hashes->sha256 != NULL)
        EVP_DigestFinal_ex(hashes->sha256, ret_digests->sha256, NULL);
}
