/* The folder of a conversion that is not finished, and what it says about it. */
#ifndef TENSORPORT_FS_EXPORT_CONVERT_JOURNAL_H
#define TENSORPORT_FS_EXPORT_CONVERT_JOURNAL_H

#include <stdbool.h>

#include "fs/export/convert/convert.h"

struct tp_journal {
    int folder; /* the output; -1 when not open */
    int state;  /* the hidden folder, locked; -1 when there is none */
    bool made_output, made_state;
    bool resumed;  /* the folder had a journal of the same conversion */
    bool finished; /* the folder holds a finished conversion, maybe of the same: no state */
};

/* Opens or makes the output folder and the journal in it.
 *
 *     output folder       without --resume      with it
 *     missing, empty      begins                begins
 *     unfinished          refused               goes on, if options and source are the same
 *     finished            refused               `finished`: nothing is made
 *     anything else       refused               refused
 */
int tp_journal_open(const struct tp_convert_options *options, struct tp_journal *ret_journal,
                    struct tp_error *error);

/* Makes the state folder and the journal, if there are none yet. */
int tp_journal_begin(const struct tp_convert_options *options, struct tp_journal *journal,
                     struct tp_error *error);

/* The conversion is complete: the hidden folder goes. */
int tp_journal_remove(const struct tp_convert_options *options, struct tp_journal *journal,
                      struct tp_error *error);

/* Closes. When nothing was put in place, what was made for it goes again. */
void tp_journal_close(const struct tp_convert_options *options, struct tp_journal *journal);

#endif
