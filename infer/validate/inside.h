/* What happens inside a step against what a reference saw there: a trace that compares. */
#ifndef TENSORPORT_INFER_VALIDATE_INSIDE_H
#define TENSORPORT_INFER_VALIDATE_INSIDE_H

#include <stddef.h>
#include <stdint.h>

#include "infer/backend.h"
#include "infer/engine/session.h"
#include "infer/validate/difference.h"
#include "infer/validate/goldens.h"

struct tp_inside_stage {
    const char *name; /* as struct tp_trace has it */
    size_t layer;
    struct tp_difference difference;
};

struct tp_inside {
    const struct tp_golden_case *golden;
    const struct tp_session *session;
    struct tp_trace trace; /* for the session */
    double near; /* experts whose logits differ by so much of their size: either is right */

    struct tp_inside_stage *stages; /* [n_stages]: in the order of the golden's, layer by layer */
    size_t n_stages;
    size_t n_routes, n_routes_same; /* tokens times layers, and those sent to the same experts */
    size_t n_routes_near;           /* to others, by a hair */
    bool has_route_elsewhere;       /* to others, and not by a hair: the first, by layers */
    size_t elsewhere_layer, elsewhere_token;
    struct tp_difference shares; /* weights of the experts, where they are the same */

    size_t n_step;        /* private: tokens in this step */
    float *router_logits; /* private: of this step and layer */
    float *chosen;
    bool no_memory; /* what is above is not whole */
};

/* Begins to compare what `session`, which must stay where it is, computes from its position 0 on.
 * -ENOMEM. */
int tp_inside_init(struct tp_inside *inside, const struct tp_golden_case *golden,
                   struct tp_session *session, double near);
/* The session must not be used after it with its trace. */
void tp_inside_fini(struct tp_inside *inside);

#endif
