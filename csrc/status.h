/* Return codes of the C core. engine/ringwal/errors.py (of_code) holds the one map from these to
 * exceptions. */
#ifndef RW_STATUS_H
#define RW_STATUS_H

enum rw_status {
    RW_OK = 0,
    RW_PENDING = -1,   /* not yet; wait or ask again */
    RW_FULL = -2,      /* no room in the lane now */
    RW_TOO_LARGE = -3, /* never fits */
    RW_GONE = -4,      /* the engine stops, has stopped or has failed; see rw_control.state */
    RW_FAULT = -5,     /* this lane was refused by the WAL process */
    RW_BAD = -6,       /* bytes that are not what they should be */
    RW_OVERWRITTEN = -7, /* the log ring has moved on; the segments have it */
    RW_MISMATCH = -8,  /* memory of another build, engine or epoch */
    RW_IO = -9,        /* a write or sync failed; errno says how */
    RW_MAINTENANCE = -10,    /* back in Python for housekeeping */
    RW_FAILED_REQUEST = -11, /* the request's block was not written */
    RW_INTERRUPTED = -12,    /* a signal arrived; handle it and wait again */
    RW_DELETED = -13,        /* the request's stream, or the one looked at, is deleted */
};

#endif
