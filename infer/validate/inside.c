#include "infer/validate/inside.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ---- */

static void compare_stage(const struct tp_golden_stage *stage, struct tp_difference *difference,
                          size_t layer, size_t first, const float *values, size_t rows,
                          size_t columns)
{
    const float *expected = stage->values + (layer - stage->layer) * stage->rows * stage->columns;
    for (size_t i = 0; i < rows && first + i < stage->rows; i++)
        tp_difference_add(difference, expected + (first + i) * columns, values + i * columns,
                          columns);
}

static void compare_stages(struct tp_inside *inside, const char *name, size_t layer, size_t first,
                           const float *values, size_t rows, size_t columns)
{
    const struct tp_golden_case *golden = inside->golden;
    struct tp_inside_stage *report = inside->stages;
    for (size_t i = 0; i < golden->n_stages; report += golden->stages[i++].n_layers) {
        const struct tp_golden_stage *stage = &golden->stages[i];
        if (strcmp(stage->name, name) == 0 && layer >= stage->layer &&
            layer - stage->layer < stage->n_layers)
            compare_stage(stage, &report[layer - stage->layer].difference, layer, first, values,
                          rows, columns);
    }
}

/* ---- experts ---- */

static bool keep(float **copy, const float *values, size_t n)
{
    float *larger = realloc(*copy, n * sizeof **copy + 1);
    if (larger == NULL)
        return false;
    *copy = memcpy(larger, values, n * sizeof **copy);
    return true;
}

static size_t find_number(const uint32_t *numbers, size_t k, float number)
{
    size_t i = 0;
    while (i < k && (float)numbers[i] != number)
        i++;
    return i;
}

static bool same_set(const uint32_t *expected, const float *found, size_t k)
{
    for (size_t i = 0; i < k; i++) {
        if (find_number(expected, k, found[i]) == k)
            return false;
    }
    return true;
}

/* True if each expert that should have been chosen was left out by a hair, and what was taken
 * instead got in by one. `logits` [n]: what the router gave here. */
static bool is_near(const struct tp_inside *inside, const float *logits, size_t n,
                    const uint32_t *expected, const float *found, size_t k)
{
    double squares = 0, last = INFINITY;
    for (size_t i = 0; i < n; i++)
        squares += (double)logits[i] * logits[i];
    for (size_t i = 0; i < k; i++)
        last = fmin(last, logits[(size_t)found[i]]);
    double hair = 2 * inside->near * sqrt(squares / (double)n);
    if (inside->golden->router_gap > hair)
        return false;
    for (size_t i = 0; i < k; i++) {
        bool taken = false;
        for (size_t j = 0; j < k; j++)
            taken = taken || found[j] == (float)expected[i];
        if (!taken && (expected[i] >= n || !(last - logits[expected[i]] <= hair)))
            return false;
    }
    return true;
}

static void blame(struct tp_inside *inside, size_t layer, size_t token)
{
    if (inside->has_route_elsewhere && inside->elsewhere_layer <= layer)
        return;
    inside->has_route_elsewhere = true;
    inside->elsewhere_layer = layer;
    inside->elsewhere_token = token;
}

static void compare_routes(struct tp_inside *inside, size_t layer, size_t first,
                           const float *chosen, size_t rows, size_t k)
{
    const struct tp_golden_case *golden = inside->golden;
    size_t n_experts = inside->session->config->n_experts;
    for (size_t i = 0; i < rows && first + i < golden->n_routed; i++) {
        const uint32_t *expected = golden->experts + (layer * golden->n_routed + first + i) * k;
        inside->n_routes++;
        if (same_set(expected, chosen + i * k, k))
            inside->n_routes_same++;
        else if (is_near(inside, inside->router_logits + i * n_experts, n_experts, expected,
                         chosen + i * k, k))
            inside->n_routes_near++;
        else
            blame(inside, layer, first + i);
    }
}

static void compare_shares(struct tp_inside *inside, size_t layer, size_t first,
                           const float *shares, size_t rows, size_t k)
{
    const struct tp_golden_case *golden = inside->golden;
    for (size_t i = 0; i < rows && first + i < golden->n_routed; i++) {
        size_t at = (layer * golden->n_routed + first + i) * k;
        const uint32_t *expected = golden->experts + at;
        const float *chosen = inside->chosen + i * k;
        for (size_t j = 0; j < k && same_set(expected, chosen, k); j++)
            tp_difference_add(&inside->shares,
                              golden->shares + at + find_number(expected, k, chosen[j]),
                              shares + i * k + j, 1);
    }
}

static void see_router(struct tp_inside *inside, const char *name, size_t layer, size_t first,
                       const float *values, size_t rows, size_t columns)
{
    if (strcmp(name, "router_logits") == 0) {
        inside->no_memory |= !keep(&inside->router_logits, values, rows * columns);
    } else if (strcmp(name, "router_experts") == 0) {
        inside->no_memory |= !keep(&inside->chosen, values, rows * columns);
        if (!inside->no_memory)
            compare_routes(inside, layer, first, values, rows, columns);
    } else if (strcmp(name, "router_weights") == 0 && inside->golden->shares != NULL) {
        if (!inside->no_memory)
            compare_shares(inside, layer, first, values, rows, columns);
    }
}

/* ---- both ---- */

static void see(void *context, const char *name, size_t layer, const float *values, size_t rows,
                size_t columns)
{
    struct tp_inside *inside = context;
    if (strcmp(name, "embedding") == 0)
        inside->n_step = rows;
    /* Rows of the last tokens of the step, where not all are there. */
    size_t first = inside->session->length + inside->n_step - rows;
    compare_stages(inside, name, layer, first, values, rows, columns);
    if (inside->golden->experts != NULL)
        see_router(inside, name, layer, first, values, rows, columns);
}

int tp_inside_init(struct tp_inside *inside, const struct tp_golden_case *golden,
                   struct tp_session *session, double near)
{
    *inside = (struct tp_inside){.golden = golden, .session = session, .near = near};
    inside->trace = (struct tp_trace){.see = see, .context = inside};
    for (size_t i = 0; i < golden->n_stages; i++)
        inside->n_stages += golden->stages[i].n_layers;
    inside->stages = calloc(inside->n_stages + 1, sizeof *inside->stages);
    if (inside->stages == NULL)
        return -ENOMEM;
    struct tp_inside_stage *at = inside->stages;
    for (size_t i = 0; i < golden->n_stages; i++) {
        for (size_t layer = 0; layer < golden->stages[i].n_layers; layer++)
            *at++ = (struct tp_inside_stage){.name = golden->stages[i].name,
                                             .layer = golden->stages[i].layer + layer};
    }
    session->trace = &inside->trace;
    return 0;
}

void tp_inside_fini(struct tp_inside *inside)
{
    free(inside->stages);
    free(inside->router_logits);
    free(inside->chosen);
    *inside = (struct tp_inside){0};
}
