/* Records as text: what the command line prints, one pass from the log to one buffer.
 *
 * The bytes may change while they are read (the log ring), so each is fetched once, what is written
 * is bounded by the buffer whatever they are, and the caller throws the output away if the ring was
 * overwritten meanwhile (PAIR: reserve_end, scan.h).
 */
#ifndef RW_LINES_H
#define RW_LINES_H

#include "scan.h"

enum rw_form {
    RW_FORM_RAW = 0,   /* the payloads, back to back */
    RW_FORM_LINES = 1, /* a newline behind each */
    /* an object a line, with the keys offset, timestamp_ns, own_timestamp_ns (if there is one),
     * encoding and data: the payload where it is UTF-8, else in base64; the very bytes that
     * Python's json gives */
    RW_FORM_JSON = 2,
};

typedef struct rw_lines {
    uint8_t *out;
    uint64_t capacity;
    uint64_t used;
    uint64_t records_left;
    uint32_t form; /* enum rw_form */
} rw_lines;

/* As rw_walk_collect, into out->out + out->used. RW_WALK_FULL also where the next record does not
 * fit: into an empty buffer, too, if it is too small for that one. */
int rw_walk_lines(const rw_area *area, rw_walk *s, rw_lines *out);

#endif
