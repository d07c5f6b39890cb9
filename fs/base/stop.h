/* SIGINT, SIGTERM and SIGHUP, held back while files are written: partial files must not stay
 * behind when someone gives up. The work looks several times a second whether one has come,
 * cleans up, and releases the signal, which then ends the program as usual. */
#ifndef TENSORPORT_FS_BASE_STOP_H
#define TENSORPORT_FS_BASE_STOP_H

#include <signal.h>
#include <stdbool.h>

struct tp_stop {
    sigset_t held;   /* those of the three that are not ignored: nohup keeps its effect */
    sigset_t before; /* the mask to go back to */
};

/* Call before threads are started: they inherit the mask. A write beyond a limit on file sizes
 * becomes an error from here on, like a full disk. */
void tp_stop_hold(struct tp_stop *ret_stop);

/* True once a signal has come. Any thread may ask. */
bool tp_stop_is_wanted(const struct tp_stop *stop);

/* A signal that came ends the program in here. */
void tp_stop_release(const struct tp_stop *stop);

#endif
