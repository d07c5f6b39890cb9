#include "infer/model/config_rope.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum { POSITIONS_MAX = INT32_MAX };
#define NUMBER_MAX 1e30 /* float32 holds what is made of it */
#define FACTOR_MIN 1e-6 /* and can tell two that differ by so much */

const char *const tp_rope_kind_names[] = {"default", "linear", "llama3", "yarn", NULL};

/* Every field that may stand there; those of another kind have no effect, as in the reference. */
static const char *const known[] = {"rope_type",
                                    "type",
                                    "rope_theta",
                                    "factor",
                                    "original_max_position_embeddings",
                                    "low_freq_factor",
                                    "high_freq_factor",
                                    "attention_factor",
                                    "beta_fast",
                                    "beta_slow",
                                    "mscale",
                                    "mscale_all_dim",
                                    "truncate",
                                    "partial_rotary_factor",
                                    "finetuned",
                                    NULL};

static int read_kind(const struct tp_fields *fields, enum tp_rope_kind *ret_kind)
{
    size_t kind = TP_ROPE_DEFAULT;
    const char *name = tp_fields_find(fields, "rope_type") != NULL ? "rope_type" : "type";
    int rc = tp_fields_choice(fields, name, tp_rope_kind_names, &kind);
    if (rc == 0)
        *ret_kind = (enum tp_rope_kind)kind;
    return rc;
}

/* Only whole heads are rotated in these architectures. */
static int check_partial(const struct tp_fields *fields)
{
    double share = 1;
    int rc = tp_fields_number(fields, "partial_rotary_factor", 0, NUMBER_MAX, &share);
    if (rc == 0 && share != 1)
        return tp_fields_refuse(fields, "partial_rotary_factor",
                                "1: part of a head is not supported",
                                tp_fields_find(fields, "partial_rotary_factor"));
    return rc;
}

/* "original_max_position_embeddings" stands in either place; the outer one counts. */
static int read_original_context(const struct tp_fields *top, const struct tp_fields *fields,
                                 double context, double *ret_positions)
{
    static const char *const name = "original_max_position_embeddings";
    size_t positions = (size_t)context;
    int rc = tp_fields_size(fields, name, 1, POSITIONS_MAX, &positions);
    if (rc == 0)
        rc = tp_fields_size(top, name, 1, POSITIONS_MAX, &positions);
    if (rc == 0)
        *ret_positions = (double)positions;
    return rc;
}

static int read_llama3(const struct tp_fields *fields, struct tp_rope_config *rope)
{
    static const char *const required[] = {"factor", "low_freq_factor", "high_freq_factor"};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof required / sizeof *required; i++)
        rc = tp_fields_require(fields, required[i]);
    if (rc == 0)
        rc =
            tp_fields_number(fields, "low_freq_factor", 0, NUMBER_MAX, &rope->low_frequency_factor);
    if (rc == 0)
        rc = tp_fields_number(fields, "high_freq_factor",
                              rope->low_frequency_factor * (1 + FACTOR_MIN), NUMBER_MAX,
                              &rope->high_frequency_factor);
    return rc;
}

/* "0.1 ln(factor) + 1", or as the fields have it. */
static double yarn_scale(double factor, double weight)
{
    return factor <= 1 ? 1 : 0.1 * weight * log(factor) + 1;
}

static int read_concentration(const struct tp_fields *fields, struct tp_rope_config *rope)
{
    double scale = 0, scale_all = 0;
    int rc = tp_fields_number_from(fields, "mscale", 0, NUMBER_MAX, &scale);
    if (rc == 0)
        rc = tp_fields_number_from(fields, "mscale_all_dim", 0, NUMBER_MAX, &scale_all);
    if (rc < 0)
        return rc;
    rope->concentration = scale > 0 && scale_all > 0 ? yarn_scale(rope->factor, scale) /
                                                           yarn_scale(rope->factor, scale_all)
                                                     : yarn_scale(rope->factor, 1);
    return tp_fields_number(fields, "attention_factor", 0, NUMBER_MAX, &rope->concentration);
}

/* A turn count of 0 stands for the default, as in the reference. */
static int read_turns(const struct tp_fields *fields, const char *name, double *turns)
{
    double found = 0;
    int rc = tp_fields_number_from(fields, name, 0, NUMBER_MAX, &found);
    if (rc == 0 && found > 0)
        *turns = found;
    return rc;
}

static int read_yarn(const struct tp_fields *fields, double context, struct tp_rope_config *rope)
{
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    rope->truncate = !tp_fields_has(fields, "truncate"); /* null is false, as in the reference */
    if (!tp_fields_has(fields, "factor"))
        return tp_fields_require(fields, "factor");
    if (tp_fields_find(fields, "factor") == NULL) /* null: what the contexts give */
        rope->factor = context / rope->original_context;
    int rc = read_turns(fields, "beta_fast", &rope->beta_fast);
    if (rc == 0)
        rc = read_turns(fields, "beta_slow", &rope->beta_slow);
    if (rc == 0 && rope->beta_fast < rope->beta_slow)
        return tp_error_set(fields->error, -EINVAL,
                            "%sbeta_fast: expected at least beta_slow (%g), found %g",
                            fields->prefix, rope->beta_slow, rope->beta_fast);
    if (rc == 0)
        rc = tp_fields_boolean(fields, "truncate", &rope->truncate);
    return rc < 0 ? rc : read_concentration(fields, rope);
}

static int read_scaling(const struct tp_fields *top, const struct tp_fields *fields, double context,
                        struct tp_rope_config *rope)
{
    int rc = tp_fields_check_known(fields, known);
    if (rc == 0)
        rc = read_kind(fields, &rope->kind);
    if (rc == 0)
        rc = check_partial(fields);
    if (rc == 0)
        rc = tp_fields_number(fields, "rope_theta", 1, NUMBER_MAX, &rope->theta);
    if (rc < 0 || rope->kind == TP_ROPE_DEFAULT)
        return rc;
    rc = tp_fields_number_from(fields, "factor", 1, NUMBER_MAX, &rope->factor);
    if (rc == 0)
        rc = read_original_context(top, fields, context, &rope->original_context);
    if (rc < 0)
        return rc;
    if (rope->kind == TP_ROPE_LLAMA3)
        return read_llama3(fields, rope);
    if (rope->kind == TP_ROPE_YARN)
        return read_yarn(fields, context, rope);
    return tp_fields_require(fields, "factor");
}

/* What a gpt_oss has without a word on it. */
static const struct tp_rope_config gpt_oss_default = {
    .kind = TP_ROPE_YARN,
    .factor = 32,
    .original_context = 4096,
    .beta_fast = 32,
    .beta_slow = 1,
    .truncate = false,
};

int tp_config_read_rope(const struct tp_fields *fields, const struct tp_model_config *config,
                        struct tp_rope_config *ret_rope)
{
    static const char *const names[] = {"rope_scaling", "rope_parameters"};
    static const char *const prefixes[] = {"rope_scaling.", "rope_parameters."};
    bool gpt_oss = config->architecture == TP_GPT_OSS;
    struct tp_rope_config rope = {.factor = 1, .theta = gpt_oss ? 150000 : 10000};
    rope.concentration = 1;
    int rc = tp_fields_number(fields, "rope_theta", 1, NUMBER_MAX, &rope.theta);
    if (rc == 0)
        rc = check_partial(fields);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < 2; i++) {
        const cJSON *item = tp_fields_find(fields, names[i]);
        if (item != NULL && !cJSON_IsObject(item))
            return tp_fields_refuse(fields, names[i], "an object or null", item);
        if (item == NULL || (i == 0 && cJSON_GetArraySize(item) == 0))
            continue;
        struct tp_fields inner = {item, prefixes[i], fields->error};
        rc = read_scaling(fields, &inner, (double)config->context, &rope);
        if (rc == 0)
            *ret_rope = rope;
        return rc;
    }
    if (gpt_oss) {
        double theta = rope.theta;
        rope = gpt_oss_default;
        rope.theta = theta;
        rope.concentration = yarn_scale(rope.factor, 1);
    }
    *ret_rope = rope;
    return 0;
}
