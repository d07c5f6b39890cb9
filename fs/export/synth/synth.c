#include "fs/export/synth/synth.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fs/export/common/json_print.h"
#include "fs/export/common/output.h"
#include "fs/export/synth/synth_plan.h"
#include "fs/export/synth/synth_weights.h"
#include "fs/export/synth/synth_words.h"

static int out_of_memory(struct tp_error *error)
{
    return tp_error_set(error, -ENOMEM, "out of memory");
}

static int add_json(struct tp_output *output, const char *name, const cJSON *tree,
                    struct tp_error *error)
{
    char *text = tree == NULL ? NULL : tp_json_print(tree);
    if (text == NULL)
        return out_of_memory(error);
    int rc = tp_output_add(output, name, text, strlen(text), error);
    free(text);
    return rc;
}

static int add_words(struct tp_output *output, const struct tp_synth_config *config,
                     struct tp_error *error)
{
    cJSON *tokenizer;
    int rc = tp_synth_words(config, &tokenizer, error);
    if (rc < 0)
        return rc;
    rc = add_json(output, "tokenizer.json", tokenizer, error);
    cJSON_Delete(tokenizer);
    return rc;
}

static int add_json_files(struct tp_output *output, const struct tp_synth_config *config,
                          const struct tp_synth_weights *weights, const struct tp_synth_plan *plan,
                          struct tp_error *error)
{
    int rc = add_json(output, "config.json", config->model, error);
    if (rc == 0)
        rc = add_json(output, "generation_config.json", config->generation, error);
    if (rc == 0 && plan->n_files > 1) {
        cJSON *index = tp_synth_plan_index(weights, plan);
        rc = add_json(output, "model.safetensors.index.json", index, error);
        cJSON_Delete(index);
    }
    return rc;
}

/* Takes the space at once, so that a full disk shows before anything is written. Where the
 * file system has no such call, writing will tell. */
static int reserve(int fd, const struct tp_synth_file *file, struct tp_error *error)
{
    int rc;
    do
        rc = fallocate(fd, 0, 0, (off_t)file->bytes) < 0 ? -errno : 0;
    while (rc == -EINTR);
    if (rc == 0 || rc == -EOPNOTSUPP || rc == -ENOSYS)
        return 0;
    return tp_error_set(error, rc, "%s: no room for its %" PRIu64 " bytes: %s", file->name,
                        file->bytes, strerror(-rc));
}

static int write_weights(const struct tp_synth_options *options,
                         const struct tp_synth_weights *weights, const struct tp_synth_plan *plan,
                         const int *fds, struct tp_error *error)
{
    int rc = 0;
    for (size_t i = 0; i < plan->n_files && rc == 0; i++)
        rc = reserve(fds[i], &plan->files[i], error);
    if (rc == 0)
        rc = tp_synth_write(weights, plan, fds, options->seed, options->report,
                            options->report_context, error);
    return rc < 0 ? tp_error_prefix(error, rc, "%s", options->output) : 0;
}

/* All names are taken and all small files made first: what is wrong with them shows before
 * gigabytes are written. */
static int write_files(struct tp_output *output, const struct tp_synth_options *options,
                       const struct tp_synth_config *config, const struct tp_synth_weights *weights,
                       const struct tp_synth_plan *plan, struct tp_error *error)
{
    int *fds = calloc(plan->n_files, sizeof *fds);
    int rc = fds == NULL ? out_of_memory(error) : 0;
    for (size_t i = 0; i < plan->n_files && rc == 0; i++)
        rc = tp_output_create(output, plan->files[i].name, &fds[i], error);
    if (rc == 0)
        rc = add_json_files(output, config, weights, plan, error);
    if (rc == 0 && options->words)
        rc = add_words(output, config, error);
    if (rc == 0 && options->tokenizer != NULL)
        rc = tp_output_copy(output, options->tokenizer, error);
    if (rc == 0)
        rc = write_weights(options, weights, plan, fds, error);
    free(fds);
    return rc < 0 ? rc : tp_output_commit(output, error);
}

static int write_folder(const struct tp_synth_options *options,
                        const struct tp_synth_config *config,
                        const struct tp_synth_weights *weights, const struct tp_synth_plan *plan,
                        struct tp_error *error)
{
    struct tp_output *output;
    int rc = tp_output_open(options->output, &output, error);
    if (rc < 0)
        return rc;
    rc = write_files(output, options, config, weights, plan, error);
    tp_output_close(output);
    return rc;
}

int tp_synth(const struct tp_synth_options *options, struct tp_synth_summary *ret_summary,
             struct tp_error *error)
{
    struct tp_synth_config config = {0};
    struct tp_synth_weights weights = {0};
    struct tp_synth_plan plan = {0};

    int rc = tp_synth_config_make(options->preset, options->arch, options->settings,
                                  options->n_settings, &config, error);
    if (rc == 0)
        rc = tp_synth_weights_make(&config, options->dtype, &weights, error);
    if (rc == 0)
        rc = tp_synth_plan(&weights, options->shards != 0 ? options->shards : config.shards,
                           config.count_from_zero, &plan, error);
    if (rc == 0)
        rc = write_folder(options, &config, &weights, &plan, error);
    if (rc == 0)
        *ret_summary = (struct tp_synth_summary){weights.n_tensors, plan.n_files, weights.bytes};
    tp_synth_plan_clear(&plan);
    tp_synth_weights_clear(&weights);
    tp_synth_config_clear(&config);
    return rc;
}
