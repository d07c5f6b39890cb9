/* What becomes of the tokens that a model answers: text on standard output, as soon as it is
 * certain, and nothing else there. What a model thinks goes to standard error, if it is shown.
 */
#ifndef TENSORPORT_INFER_CLI_ANSWER_TEXT_H
#define TENSORPORT_INFER_CLI_ANSWER_TEXT_H

#include <stdbool.h>

#include "infer/chat/answer.h"
#include "infer/tokenizer/stop_strings.h"

/* Starts as zeros. */
struct tp_answer_text {
    struct tp_stop_strings stops; /* strings that end the answer; the caller adds them */
    bool silent;                  /* nothing is printed: `text` and `reasoning` are collected */
    bool show_reasoning;

    struct tp_buffer text;      /* the answer so far, without what the stop strings hold back */
    struct tp_buffer reasoning; /* what was thought, and calls of tools */
    struct tp_answer *answer;   /* private; NULL: there is no tokenizer, and ids are printed */
    bool dim;                   /* private: standard error is a terminal */
    size_t n_printed;           /* private: bytes of `text` */
    size_t n_ids;               /* private */
};

/* Reads what follows a prompt of `dialogue`; NULL: there are only ids. -ENOMEM. */
int tp_answer_text_begin(struct tp_answer_text *text, const struct tp_dialogue *dialogue);
void tp_answer_text_clear(struct tp_answer_text *text);

/* The next token. `text->stops.found` says whether a stop string has come. -EIO if standard output
 * takes no more; -ENOMEM. */
int tp_answer_text_feed(struct tp_answer_text *text, uint32_t id);

/* No more tokens come: what was held back is text. Ends the line. The same errors. */
int tp_answer_text_finish(struct tp_answer_text *text);

#endif
