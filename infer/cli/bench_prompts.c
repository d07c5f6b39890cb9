#include "infer/cli/bench_prompts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "decode/json.h"
#include "fs/base/bytes.h"
#include "infer/model/sampling.h"

enum { FILE_MAX = 1 << 26, LINES_MAX = 100000 };

void tp_bench_prompts_clear(struct tp_bench_prompts *prompts)
{
    for (size_t i = 0; i < prompts->n; i++)
        free(prompts->tokens[i]);
    free(prompts->tokens);
    free(prompts->lengths);
    *prompts = (struct tp_bench_prompts){0};
}

static int allocate(struct tp_bench_prompts *prompts, size_t n)
{
    prompts->tokens = calloc(n, sizeof *prompts->tokens);
    prompts->lengths = calloc(n, sizeof *prompts->lengths);
    return prompts->tokens == NULL || prompts->lengths == NULL ? -ENOMEM : 0;
}

/* ---- random ones ---- */

uint32_t tp_bench_random_token(uint64_t seed, size_t vocabulary, size_t text, size_t position)
{
    uint64_t bits = tp_random_bits(seed, (uint64_t)text << 32 | position);
    return (uint32_t)((double)bits * 0x1p-64 * (double)vocabulary);
}

int tp_bench_prompts_random(uint64_t seed, size_t vocabulary, size_t n, size_t length,
                            struct tp_bench_prompts *ret_prompts, struct tp_error *error)
{
    struct tp_bench_prompts prompts = {0};
    int rc = allocate(&prompts, n);
    for (; rc == 0 && prompts.n < n; prompts.n++) {
        uint32_t *tokens = calloc(length + 1, sizeof *tokens);
        if (tokens == NULL) {
            rc = -ENOMEM;
            break;
        }
        for (size_t i = 0; i < length; i++)
            tokens[i] = tp_bench_random_token(seed, vocabulary, prompts.n, i);
        prompts.tokens[prompts.n] = tokens;
        prompts.lengths[prompts.n] = length;
    }
    if (rc < 0) {
        tp_bench_prompts_clear(&prompts);
        return tp_error_set(error, rc, "no memory for %zu texts of %zu tokens", n, length);
    }
    *ret_prompts = prompts;
    return 0;
}

/* ---- of a file ---- */

struct reading {
    const struct tp_tokenizer *tokenizer;
    size_t vocabulary;
    bool json;
    struct tp_bench_prompts prompts;
    struct tp_error *error;
};

static int take_text(struct reading *reading, const char *text, size_t length)
{
    struct tp_ids ids = {0};
    int rc = tp_tokenizer_encode(reading->tokenizer, text, length, 0, &ids, reading->error);
    for (size_t i = 0; rc == 0 && i < ids.n; i++) {
        if (ids.items[i] >= reading->vocabulary)
            rc = tp_error_set(reading->error, -EINVAL,
                              "token %u is beyond the model's vocabulary of %zu", ids.items[i],
                              reading->vocabulary);
    }
    if (rc == 0 && ids.n == 0)
        rc = tp_error_set(reading->error, -EINVAL, "the prompt has no tokens");
    if (rc < 0) {
        tp_ids_clear(&ids);
        return rc;
    }
    struct tp_bench_prompts *prompts = &reading->prompts;
    prompts->tokens[prompts->n] = ids.items;
    prompts->lengths[prompts->n++] = ids.n;
    return 0;
}

/* The string of a line: alone, or in an object under "prompt" or "text". */
static int find_string(struct tp_json *json, struct tp_json_string *ret_string, bool *ret_found)
{
    enum tp_json_kind kind;
    struct tp_json_string key;
    bool first = true, more;
    *ret_found = false;
    int rc = tp_json_peek(json, &kind);
    if (rc == 0 && kind == TP_JSON_STRING) {
        *ret_found = true;
        return tp_json_string(json, ret_string);
    }
    if (rc < 0 || kind != TP_JSON_OBJECT)
        return rc;
    rc = tp_json_enter_object(json);
    while (rc == 0 && (rc = tp_json_object_next(json, &first, &key, &more)) == 0 && more) {
        bool wanted = tp_json_string_equals(&key, "prompt") || tp_json_string_equals(&key, "text");
        rc = tp_json_peek(json, &kind);
        if (rc == 0 && wanted && kind == TP_JSON_STRING && !*ret_found) {
            *ret_found = true;
            rc = tp_json_string(json, ret_string);
        } else if (rc == 0) {
            rc = tp_json_skip(json);
        }
    }
    return rc;
}

static int take_json(struct reading *reading, const char *line, size_t length)
{
    struct tp_json json;
    struct tp_json_string string = {0};
    bool found;
    tp_json_init(&json, line, length, reading->error);
    int rc = find_string(&json, &string, &found);
    if (rc == 0 && !found)
        return tp_error_set(reading->error, -EINVAL,
                            "expected a JSON string or {\"prompt\": \"...\"}, found %.*s",
                            tp_bytes_shown(line, length), line);
    if (rc == 0)
        rc = tp_json_end(&json);
    if (rc < 0)
        return rc;
    char *text = malloc(string.length + 1);
    if (text == NULL)
        return tp_error_set(reading->error, -ENOMEM, "out of memory");
    tp_json_string_copy(&string, text);
    rc = take_text(reading, text, string.length);
    free(text);
    return rc;
}

static int take_lines(struct reading *reading, const char *text, size_t length)
{
    size_t number = 1;
    for (const char *line = text, *end = text + length; line < end; number++) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (stop == NULL)
            stop = end;
        size_t n = (size_t)(stop - line);
        n -= n > 0 && line[n - 1] == '\r';
        int rc = n == 0          ? 0
                 : reading->json ? take_json(reading, line, n)
                                 : take_text(reading, line, n);
        if (rc < 0)
            return tp_error_prefix(reading->error, rc, "line %zu", number);
        line = stop + 1;
    }
    if (reading->prompts.n == 0)
        return tp_error_set(reading->error, -EINVAL, "expected prompts, found none");
    return 0;
}

static size_t count_lines(const char *text, size_t length)
{
    size_t n = 1;
    for (size_t i = 0; i < length; i++)
        n += text[i] == '\n';
    return n;
}

int tp_bench_prompts_read(const char *path, const struct tp_tokenizer *tokenizer, size_t vocabulary,
                          struct tp_bench_prompts *ret_prompts, struct tp_error *error)
{
    struct reading reading = {.tokenizer = tokenizer,
                              .vocabulary = vocabulary,
                              .json = tp_bytes_end_with(path, strlen(path), ".jsonl"),
                              .error = error};
    char *text;
    size_t length;
    /* Says the path itself. */
    int rc = tp_bytes_read_file(AT_FDCWD, path, FILE_MAX, &text, &length, error);
    if (rc < 0)
        return rc;
    size_t n = count_lines(text, length);
    if (n > LINES_MAX)
        rc = tp_error_set(error, -EFBIG, "expected at most %d lines, found %zu", LINES_MAX, n);
    else if ((rc = allocate(&reading.prompts, n)) < 0)
        tp_error_set(error, rc, "out of memory");
    else
        rc = take_lines(&reading, text, length);
    free(text);
    if (rc < 0) {
        tp_bench_prompts_clear(&reading.prompts);
        return tp_error_prefix(error, rc, "%s", path);
    }
    *ret_prompts = reading.prompts;
    return 0;
}
