#include "infer/validate/goldens.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/bytes.h"
#include "infer/model/fields.h"
#include "infer/validate/npy_file.h"

enum { MANIFEST_BYTES_MAX = 64 << 20, CASE_NAME_MAX = 64, FILE_NAME_MAX = CASE_NAME_MAX + 32 };
#define LARGE 1e30

/* Where a case comes from. */
struct entry {
    const cJSON *about; /* in the manifest */
    char name[FILE_NAME_MAX];
    const char *root; /* of the names of its files */
    enum { ENTRY_CASE, ENTRY_GREEDY, ENTRY_INPUT } kind;
};

struct tp_goldens {
    char *path;
    int directory;
    cJSON *manifest;
    struct entry *entries;
    size_t n;
};

/* ---- the manifest ---- */

static int check_name(const char *name, struct tp_error *error)
{
    if (name == NULL || *name == '\0' || *name == '.' || strlen(name) > CASE_NAME_MAX ||
        strchr(name, '/') != NULL)
        return tp_error_set(error, -EINVAL,
                            "expected the name of a case, at most %d characters without '/', found "
                            "\"%.*s\"",
                            CASE_NAME_MAX, CASE_NAME_MAX, name != NULL ? name : "");
    return 0;
}

static void file_name(char text[FILE_NAME_MAX], const char *name, const char *what)
{
    snprintf(text, FILE_NAME_MAX, "%s.%s.npy", name, what);
}

static bool has_file(const struct tp_goldens *goldens, const char *name, const char *what)
{
    char text[FILE_NAME_MAX];
    file_name(text, name, what);
    return faccessat(goldens->directory, text, F_OK, 0) == 0;
}

static void add_entry(struct tp_goldens *goldens, const cJSON *about, const char *name, int kind)
{
    struct entry *entry = &goldens->entries[goldens->n++];
    *entry = (struct entry){.about = about, .root = name, .kind = kind};
    snprintf(entry->name, sizeof entry->name, "%s%s", name, kind == ENTRY_INPUT ? ".input" : "");
}

static int list_entries(struct tp_goldens *goldens, struct tp_error *error)
{
    const cJSON *cases = cJSON_GetObjectItemCaseSensitive(goldens->manifest, "cases");
    const cJSON *greedy = cJSON_GetObjectItemCaseSensitive(goldens->manifest, "greedy");
    const cJSON *list = cJSON_IsArray(cases) ? cases : cJSON_IsObject(greedy) ? greedy : NULL;
    const cJSON *item;
    if (list == NULL)
        return tp_error_set(error, -EINVAL,
                            "expected a list \"cases\" or an object \"greedy\": these are no "
                            "goldens of a model");
    goldens->entries = calloc((size_t)cJSON_GetArraySize(list) * 2 + 1, sizeof *goldens->entries);
    if (goldens->entries == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    cJSON_ArrayForEach(item, list)
    {
        const char *name = item->string;
        if (list == cases)
            name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "name"));
        int rc = check_name(name, error);
        if (rc < 0)
            return rc;
        add_entry(goldens, item, name, list == cases ? ENTRY_CASE : ENTRY_GREEDY);
        if (list == greedy && has_file(goldens, name, "input"))
            add_entry(goldens, item, name, ENTRY_INPUT);
    }
    return goldens->n > 0 ? 0 : tp_error_set(error, -EINVAL, "expected at least one case");
}

static int read_manifest(struct tp_goldens *goldens, struct tp_error *error)
{
    char *text;
    size_t length;
    int rc = tp_bytes_read_file(goldens->directory, "manifest.json", MANIFEST_BYTES_MAX, &text,
                                &length, error);
    if (rc < 0)
        return rc;
    rc = tp_fields_parse(text, length, &goldens->manifest, error);
    free(text);
    if (rc == 0)
        rc = list_entries(goldens, error);
    return rc == 0 ? 0 : tp_error_prefix(error, rc, "manifest.json");
}

int tp_goldens_open(const char *path, struct tp_goldens **ret_goldens, struct tp_error *error)
{
    struct tp_goldens *goldens = calloc(1, sizeof *goldens);
    int rc = 0;
    if (goldens == NULL)
        return tp_error_set(error, -ENOMEM, "out of memory");
    goldens->path = strdup(path);
    goldens->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (goldens->directory < 0)
        rc = tp_error_set(error, -errno, "%s: cannot open the goldens: %s", path, strerror(errno));
    else if (goldens->path == NULL)
        rc = tp_error_set(error, -ENOMEM, "out of memory");
    else if ((rc = read_manifest(goldens, error)) < 0)
        tp_error_prefix(error, rc, "%s", path);
    if (rc < 0)
        tp_goldens_close(goldens);
    else
        *ret_goldens = goldens;
    return rc;
}

void tp_goldens_close(struct tp_goldens *goldens)
{
    if (goldens == NULL)
        return;
    if (goldens->directory >= 0)
        close(goldens->directory);
    cJSON_Delete(goldens->manifest);
    free(goldens->entries);
    free(goldens->path);
    free(goldens);
}

static int check_size(const struct tp_fields *fields, const char *name, size_t expected)
{
    size_t found = expected;
    int rc = tp_fields_size(fields, name, 0, (size_t)1 << 52, &found);
    if (rc == 0 && found != expected)
        return tp_error_set(fields->error, -EINVAL, "%s is %zu, and the model's is %zu", name,
                            found, expected);
    return rc;
}

int tp_goldens_check(const struct tp_goldens *goldens, const struct tp_model_config *config,
                     struct tp_error *error)
{
    struct tp_fields fields = {goldens->manifest, "", error};
    size_t architecture = config->architecture;
    int rc = tp_fields_choice(&fields, "model_type", tp_architecture_names, &architecture);
    if (rc == 0 && architecture != config->architecture)
        rc = tp_error_set(error, -EINVAL, "model_type is %s, and the model's is %s",
                          tp_architecture_names[architecture],
                          tp_architecture_names[config->architecture]);
    if (rc == 0)
        rc = check_size(&fields, "layers", config->n_layers);
    if (rc == 0)
        rc = check_size(&fields, "hidden_size", config->hidden_size);
    if (rc == 0)
        rc = check_size(&fields, "vocab_size", config->vocab_size);
    return rc == 0 ? 0 : tp_error_prefix(error, rc, "%s: goldens of another model", goldens->path);
}

size_t tp_goldens_count(const struct tp_goldens *goldens)
{
    return goldens->n;
}

const char *tp_goldens_name(const struct tp_goldens *goldens, size_t i)
{
    return goldens->entries[i].name;
}

/* ---- pieces of a case ---- */

struct reading {
    const struct tp_goldens *goldens;
    const struct entry *entry;
    const struct tp_model_config *config;
    struct tp_golden_case *golden;
    struct tp_error *error;
};

static int no_memory(const struct reading *r)
{
    return tp_error_set(r->error, -ENOMEM, "out of memory");
}

static int read_floats(const struct reading *r, const char *what, size_t rank,
                       struct tp_npy_file *ret_file)
{
    char name[FILE_NAME_MAX];
    file_name(name, r->entry->root, what);
    return tp_npy_file_floats(r->goldens->directory, name, rank, ret_file, r->error);
}

static int read_numbers(const struct reading *r, const char *what, size_t rank,
                        struct tp_npy_file *ret_file)
{
    char name[FILE_NAME_MAX];
    file_name(name, r->entry->root, what);
    return tp_npy_file_numbers(r->goldens->directory, name, rank, ret_file, r->error);
}

static int refuse_shape(const struct reading *r, const char *what, const char *expected)
{
    return tp_error_set(r->error, -EINVAL,
                        "%s.%s.npy: expected %s, as this model and the case's other files have it",
                        r->entry->root, what, expected);
}

/* At least one id, each in the vocabulary. */
static int read_tokens(const struct reading *r, const char *what, struct tp_npy_file *ret_file)
{
    struct tp_npy_file file;
    int rc = read_numbers(r, what, 1, &file);
    if (rc < 0)
        return rc;
    if (file.n == 0)
        rc = refuse_shape(r, what, "at least one token");
    for (size_t i = 0; rc == 0 && i < file.n; i++) {
        if (file.numbers[i] >= r->config->vocab_size)
            rc = tp_error_set(r->error, -EINVAL,
                              "%s.%s.npy: token %u is not in the model's vocabulary of %zu",
                              r->entry->root, what, file.numbers[i], r->config->vocab_size);
    }
    if (rc < 0)
        tp_npy_file_clear(&file);
    else
        *ret_file = file;
    return rc;
}

/* The ids of a JSON list. */
static int list_tokens(const struct reading *r, const char *what, struct tp_npy_file *ret_file)
{
    struct tp_fields fields = {r->entry->about, "", r->error};
    const cJSON *list = tp_fields_find(&fields, what), *item;
    struct tp_npy_file file = {.rank = 1};
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) == 0)
        return tp_fields_refuse(&fields, what, "a list of tokens", list);
    file.numbers = calloc((size_t)cJSON_GetArraySize(list), sizeof *file.numbers);
    if (file.numbers == NULL)
        return no_memory(r);
    cJSON_ArrayForEach(item, list)
    {
        size_t token;
        int rc = tp_fields_item_size(&fields, what, item, 0, r->config->vocab_size - 1, &token);
        if (rc < 0) {
            tp_npy_file_clear(&file);
            return rc;
        }
        file.numbers[file.n++] = (uint32_t)token;
    }
    *ret_file = file;
    return 0;
}

/* The manifest's "margins", for as many of `best` as it has. */
static int list_margins(const struct reading *r)
{
    struct tp_fields fields = {r->entry->about, "", r->error};
    const cJSON *list = tp_fields_find(&fields, "margins"), *item;
    size_t i = 0;
    if (list != NULL && !cJSON_IsArray(list))
        return tp_fields_refuse(&fields, "margins", "a list of numbers", list);
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item))
            return tp_fields_refuse(&fields, "margins", "a list of numbers", item);
        if (i < r->golden->n_best)
            r->golden->margins[i++] = item->valuedouble;
    }
    return 0;
}

static void copy_tokens(uint32_t *target, const struct tp_npy_file *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++)
        target[i] = tokens->numbers[i];
}

/* Prompt and continuation become the text to be read, but for the last token. */
static int join(const struct reading *r, const struct tp_npy_file *prompt,
                const struct tp_npy_file *greedy)
{
    assert(prompt->n > 0 && greedy->n > 0);
    struct tp_golden_case *golden = r->golden;
    golden->n_tokens = prompt->n + greedy->n - 1;
    golden->n_best = greedy->n;
    golden->greedy = true;
    golden->tokens = calloc(golden->n_tokens, sizeof *golden->tokens);
    golden->best = calloc(golden->n_best, sizeof *golden->best);
    golden->margins = calloc(golden->n_best, sizeof *golden->margins);
    if (golden->tokens == NULL || golden->best == NULL || golden->margins == NULL)
        return no_memory(r);
    copy_tokens(golden->tokens, prompt, prompt->n);
    copy_tokens(golden->tokens + prompt->n, greedy, greedy->n - 1);
    copy_tokens(golden->best, greedy, greedy->n);
    return list_margins(r);
}

static int read_text(const struct reading *r,
                     int (*read)(const struct reading *, const char *, struct tp_npy_file *))
{
    struct tp_npy_file prompt = {0}, greedy = {0};
    int rc = read(r, "prompt", &prompt);
    if (rc == 0)
        rc = read(r, "greedy", &greedy);
    if (rc == 0)
        rc = join(r, &prompt, &greedy);
    tp_npy_file_clear(&prompt);
    tp_npy_file_clear(&greedy);
    return rc;
}

/* ---- what happens inside ---- */

static const struct {
    const char *file;
    const char *name; /* in a trace; NULL: the embedding, then the residual stream */
    enum { COLUMNS_HIDDEN, COLUMNS_EXPERTS } columns;
    size_t rank;
} stages[] = {
    {"residual", NULL, COLUMNS_HIDDEN, 3}, {"attention", "attention", COLUMNS_HIDDEN, 3},
    {"mlp", "mlp", COLUMNS_HIDDEN, 3},     {"router_logits", "router_logits", COLUMNS_EXPERTS, 3},
    {"norm", "norm", COLUMNS_HIDDEN, 2},
};

static void add_stage(struct tp_golden_case *golden, const char *name, size_t layer,
                      size_t n_layers, size_t rows, size_t columns, const float *values)
{
    golden->stages[golden->n_stages++] =
        (struct tp_golden_stage){name, layer, n_layers, rows, columns, values};
}

static int read_stage(const struct reading *r, size_t i)
{
    const struct tp_model_config *config = r->config;
    size_t columns = stages[i].columns == COLUMNS_HIDDEN ? config->hidden_size : config->n_experts;
    size_t n_layers = stages[i].rank == 2      ? 1
                      : stages[i].name == NULL ? config->n_layers + 1
                                               : config->n_layers;
    struct tp_npy_file file;
    int rc = read_floats(r, stages[i].file, stages[i].rank, &file);
    if (rc < 0)
        return rc;
    r->golden->memory[i] = file.floats;
    const size_t *shape = file.shape + stages[i].rank - 2;
    if (shape[0] == 0 || shape[0] > r->golden->n_tokens || shape[1] != columns ||
        (stages[i].rank == 3 && file.shape[0] != n_layers))
        return refuse_shape(r, stages[i].file, "float32 [layers, tokens of the text, columns]");
    if (stages[i].name != NULL) {
        size_t layer = stages[i].rank == 2 ? config->n_layers : 0;
        add_stage(r->golden, stages[i].name, layer, n_layers, shape[0], columns, file.floats);
        return 0;
    }
    add_stage(r->golden, "embedding", 0, 1, shape[0], columns, file.floats);
    add_stage(r->golden, "residual", 0, n_layers - 1, shape[0], columns,
              file.floats + shape[0] * columns);
    return 0;
}

static int read_routes(const struct reading *r)
{
    const struct tp_model_config *config = r->config;
    struct tp_golden_case *golden = r->golden;
    struct tp_npy_file file;
    int rc = read_numbers(r, "router_experts", 3, &file);
    if (rc < 0)
        return rc;
    golden->experts = file.numbers;
    golden->n_routed = file.shape[1];
    if (file.shape[0] != config->n_layers || file.shape[2] != config->n_experts_per_token ||
        golden->n_routed == 0 || golden->n_routed > golden->n_tokens)
        return refuse_shape(r, "router_experts", "int32 [layers, tokens of the text, k]");
    if (!has_file(r->goldens, r->entry->root, "router_weights"))
        return 0;
    size_t n = file.n;
    rc = read_floats(r, "router_weights", 3, &file);
    if (rc < 0)
        return rc;
    golden->shares = file.floats;
    if (file.n != n || file.shape[1] != golden->n_routed ||
        file.shape[2] != config->n_experts_per_token)
        return refuse_shape(r, "router_weights", "float32 [layers, tokens of the text, k]");
    return 0;
}

/* What there is of it. */
static int read_inside(const struct reading *r)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof stages / sizeof *stages; i++) {
        if (has_file(r->goldens, r->entry->root, stages[i].file))
            rc = read_stage(r, i);
    }
    if (rc == 0 && has_file(r->goldens, r->entry->root, "router_experts"))
        rc = read_routes(r);
    return rc;
}

/* ---- a case ---- */

static int read_bf16(const struct reading *r)
{
    struct tp_fields fields = {r->entry->about, "", r->error};
    const cJSON *bf16 = tp_fields_find(&fields, "bf16");
    int rc =
        tp_fields_number_from(&fields, "smallest_router_gap", 0, LARGE, &r->golden->router_gap);
    if (rc < 0 || bf16 == NULL)
        return rc;
    if (!cJSON_IsObject(bf16))
        return tp_fields_refuse(&fields, "bf16", "an object", bf16);
    struct tp_fields inner = {bf16, "bf16.", r->error};
    rc = tp_fields_number_from(&inner, "rms_diff", 0, LARGE, &r->golden->bf16_rms);
    if (rc == 0)
        rc = tp_fields_number_from(&inner, "max_abs_diff", 0, LARGE, &r->golden->bf16_largest);
    if (rc == 0)
        rc = tp_fields_size(&inner, "greedy_steps_equal", 0, r->golden->n_best,
                            &r->golden->bf16_steps);
    return rc;
}

static int read_logits(const struct reading *r)
{
    struct tp_npy_file file;
    int rc = read_floats(r, "logits", 2, &file);
    if (rc < 0)
        return rc;
    r->golden->logits = file.floats;
    r->golden->n_logits = file.shape[0];
    r->golden->first_logits = r->golden->n_tokens - r->golden->n_best;
    if (file.shape[0] > r->golden->n_best || file.shape[1] != r->config->vocab_size)
        return refuse_shape(r, "logits", "float32 [tokens of the continuation, vocabulary]");
    return 0;
}

static int read_case(const struct reading *r)
{
    int rc = read_text(r, read_tokens);
    if (rc == 0)
        rc = read_logits(r);
    if (rc == 0)
        rc = read_bf16(r);
    return rc == 0 ? read_inside(r) : rc;
}

static int read_margins(const struct reading *r)
{
    struct tp_golden_case *golden = r->golden;
    struct tp_npy_file file;
    int rc = read_floats(r, "margins", 1, &file);
    if (rc < 0)
        return rc;
    golden->margins = calloc(file.n + 1, sizeof *golden->margins);
    for (size_t i = 0; golden->margins != NULL && i < file.n; i++)
        golden->margins[i] = file.floats[i];
    size_t n = file.n;
    tp_npy_file_clear(&file);
    if (golden->margins == NULL)
        return no_memory(r);
    return n == golden->n_best ? 0 : refuse_shape(r, "margins", "float32 [tokens of the input]");
}

static int read_input(const struct reading *r)
{
    struct tp_golden_case *golden = r->golden;
    struct tp_npy_file file;
    int rc = read_tokens(r, "input", &file);
    if (rc < 0)
        return rc;
    golden->tokens = file.numbers;
    golden->n_tokens = golden->n_best = file.n;
    golden->n_logits = 1;
    golden->first_logits = file.n - 1;
    rc = read_tokens(r, "argmax", &file);
    if (rc < 0)
        return rc;
    golden->best = file.numbers;
    if (file.n != golden->n_best)
        return refuse_shape(r, "argmax", "int32 [tokens of the input]");
    rc = read_margins(r);
    if (rc == 0)
        rc = read_floats(r, "last_logits", 1, &file);
    if (rc < 0)
        return rc;
    golden->logits = file.floats;
    return file.n == r->config->vocab_size ? 0
                                           : refuse_shape(r, "last_logits", "float32 [vocabulary]");
}

static int read_greedy(const struct reading *r)
{
    return read_text(r, list_tokens);
}

int tp_goldens_read(const struct tp_goldens *goldens, size_t i,
                    const struct tp_model_config *config, struct tp_golden_case *ret_case,
                    struct tp_error *error)
{
    static int (*const readers[])(const struct reading *) = {
        [ENTRY_CASE] = read_case, [ENTRY_GREEDY] = read_greedy, [ENTRY_INPUT] = read_input};
    const struct entry *entry = &goldens->entries[i];
    struct tp_golden_case golden = {.name = strdup(entry->name)};
    struct reading reading = {goldens, entry, config, &golden, error};
    int rc = golden.name == NULL ? no_memory(&reading) : readers[entry->kind](&reading);
    if (rc < 0) {
        tp_golden_case_clear(&golden);
        return tp_error_prefix(error, rc, "%s: case %s", goldens->path, entry->name);
    }
    *ret_case = golden;
    return 0;
}

void tp_golden_case_clear(struct tp_golden_case *golden)
{
    free(golden->name);
    free(golden->tokens);
    free(golden->best);
    free(golden->margins);
    free(golden->logits);
    free(golden->experts);
    free(golden->shares);
    for (size_t i = 0; i < TP_GOLDEN_STAGES_MAX; i++)
        free(golden->memory[i]);
    *golden = (struct tp_golden_case){0};
}

/* ---- the rotary embedding ---- */

static int read_rope(const struct reading *r, struct tp_golden_rope *rope)
{
    struct tp_npy_file file;
    size_t pairs = r->config->head_dim / 2;
    int rc = read_numbers(r, "positions", 1, &file);
    if (rc < 0)
        return rc;
    rope->positions = file.numbers;
    rope->n = file.n;
    rope->n_pairs = pairs;
    rc = read_floats(r, "inv_freq", 1, &file);
    if (rc < 0)
        return rc;
    rope->inverse_frequencies = file.floats;
    if (file.n != pairs)
        return refuse_shape(r, "inv_freq", "float32 [head size / 2]");
    float **tables[] = {&rope->cosines, &rope->sines};
    for (size_t i = 0; i < 2; i++) {
        static const char *const names[] = {"cos", "sin"};
        rc = read_floats(r, names[i], 2, &file);
        if (rc < 0)
            return rc;
        *tables[i] = file.floats;
        if (file.shape[0] != rope->n || file.shape[1] != pairs)
            return refuse_shape(r, names[i], "float32 [positions, head size / 2]");
    }
    return 0;
}

int tp_goldens_read_rope(const struct tp_goldens *goldens, const struct tp_model_config *config,
                         struct tp_golden_rope *ret_rope, struct tp_error *error)
{
    struct entry entry = {.root = "rope"};
    struct tp_golden_rope rope = {0};
    struct reading reading = {goldens, &entry, config, NULL, error};
    if (!has_file(goldens, entry.root, "positions"))
        return -ENOENT;
    int rc = read_rope(&reading, &rope);
    if (rc < 0) {
        tp_golden_rope_clear(&rope);
        return tp_error_prefix(error, rc == -ENOENT ? -EINVAL : rc, "%s", goldens->path);
    }
    *ret_rope = rope;
    return 0;
}

void tp_golden_rope_clear(struct tp_golden_rope *rope)
{
    free(rope->positions);
    free(rope->inverse_frequencies);
    free(rope->cosines);
    free(rope->sines);
    *rope = (struct tp_golden_rope){0};
}
