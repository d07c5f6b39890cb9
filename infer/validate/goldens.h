/* A folder of goldens: what a reference implementation computed for some texts.
 *
 * manifest.json says what there is, in one of two forms.
 *
 * "cases": texts that go on greedily, NAME.prompt.npy, NAME.greedy.npy, and NAME.logits.npy: those
 * that the first tokens of the continuation were chosen from. Beside them there may be what happens
 * inside, for the prompt: NAME.residual, .attention, .mlp, .norm, .router_logits, .router_experts,
 * .router_weights; and rope.*.npy, the rotary embedding's tables.
 *
 * "greedy": the same texts without logits, inside the manifest; and for some NAME.input.npy, a text
 * that is only read, with NAME.argmax.npy and NAME.margins.npy, the likeliest token after each of
 * its tokens, and NAME.last_logits.npy. That text is a case of its own, "NAME.input". */
#ifndef TENSORPORT_INFER_VALIDATE_GOLDENS_H
#define TENSORPORT_INFER_VALIDATE_GOLDENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decode/error.h"
#include "infer/model/config.h"

struct tp_goldens;

/* Reads the manifest. Faults have a message that names the folder. */
int tp_goldens_open(const char *path, struct tp_goldens **ret_goldens, struct tp_error *error);
void tp_goldens_close(struct tp_goldens *goldens);

/* -EINVAL with a message when the manifest says that they are of another model than this. */
int tp_goldens_check(const struct tp_goldens *goldens, const struct tp_model_config *config,
                     struct tp_error *error);

size_t tp_goldens_count(const struct tp_goldens *goldens);
const char *tp_goldens_name(const struct tp_goldens *goldens, size_t i);

/* What a reference saw inside, layer by layer, for the first tokens of the text. */
struct tp_golden_stage {
    const char *name; /* as struct tp_trace has it */
    size_t layer;     /* of the first; the others follow */
    size_t n_layers, rows, columns;
    const float *values; /* [n_layers][rows][columns] */
};

enum { TP_GOLDEN_STAGES_MAX = 8 };

struct tp_golden_case {
    char *name;
    uint32_t *tokens; /* [n_tokens]: the text to be read */
    size_t n_tokens;

    /* best[i] is the likeliest token after position n_tokens - n_best + i, and margins[i] how far
     * its logit is ahead of the second's; 0 where that is not known. */
    uint32_t *best;
    double *margins; /* both [n_best], at least 1 */
    size_t n_best;
    bool greedy; /* each of `best` but the last is the next token */

    float *logits; /* [n_logits][vocabulary] after the positions from first_logits on, or NULL */
    size_t first_logits, n_logits;

    struct tp_golden_stage stages[TP_GOLDEN_STAGES_MAX];
    size_t n_stages;
    uint32_t *experts; /* [n_layers][routed][k]: those chosen, or NULL */
    float *shares;     /* the same of their weights, or NULL */
    size_t n_routed;   /* tokens */
    double router_gap; /* the closest call of all; 0 where it is not known */

    /* What the reference itself does in BF16. */
    double bf16_rms, bf16_largest;       /* of the logits' differences; 0 where it is not known */
    size_t bf16_steps;                   /* tokens of `best` that it writes, left alone */
    float *memory[TP_GOLDEN_STAGES_MAX]; /* private: of the stages */
};

/* Reads case `i` and checks it against the model: shapes, and each token below the vocabulary. */
int tp_goldens_read(const struct tp_goldens *goldens, size_t i,
                    const struct tp_model_config *config, struct tp_golden_case *ret_case,
                    struct tp_error *error);
void tp_golden_case_clear(struct tp_golden_case *golden);

/* cos and sin, concentration included, of some positions. */
struct tp_golden_rope {
    uint32_t *positions; /* [n] */
    size_t n, n_pairs;
    float *inverse_frequencies; /* [n_pairs] */
    float *cosines, *sines;     /* [n][n_pairs] */
};

/* -ENOENT when the folder has no rope.positions.npy. */
int tp_goldens_read_rope(const struct tp_goldens *goldens, const struct tp_model_config *config,
                         struct tp_golden_rope *ret_rope, struct tp_error *error);
void tp_golden_rope_clear(struct tp_golden_rope *rope);

#endif
