/* Going through a whole log and holding it against its format: what is proven, what is not, and
 * which records are missing in between. No I/O, no policy: engine/ringwal/log/ reads the bytes and
 * says what a finding means.
 *
 * An audit walks one stretch of one epoch after the other, in log order, and keeps a table of every
 * stream it meets. Unlike a recovery it does not stop: it tells a finding, and goes on behind it at
 * the next place that is proven. It goes frame by frame, so that the caller need not have a whole
 * block in memory, nor read the payloads that nobody asked to be checked.
 *
 *   shallow   headers of blocks and frames, and the payloads of control frames and definitions
 *   deep      everything: payloads of batches, too, and what has to be zeros
 */
#ifndef RW_AUDIT_H
#define RW_AUDIT_H

#include "block.h"
#include "layout.h"
#include "recover.h"
#include "status.h"

enum rw_audit_finding {
    RW_AUDIT_NOTHING = 0,
    RW_AUDIT_REGION,    /* no block that is valid here, from `place` to `until` */
    RW_AUDIT_HOLE,      /* a block that stands for what a salvage could not save, to `until` */
    RW_AUDIT_FRAME,     /* a frame's header: what is behind it in its block, to `until`, is lost */
    RW_AUDIT_PAYLOAD,   /* a frame's payload, to `until`: records first to next of `stream` */
    RW_AUDIT_PADDING,   /* bytes that are not zero: nothing is lost */
    RW_AUDIT_LOST,      /* no damage by itself: records first to next of `stream` were expected
                         * between `since` and `place` */
    RW_AUDIT_MISPLACED, /* a block that is valid, and of a kind or span that does not belong here */
    RW_AUDIT_NUMBER,    /* a block whose number does not follow the one before */
    RW_AUDIT_TIME,      /* a block whose time is before that of one in front of it */
    RW_AUDIT_USED,      /* a block whose frames do not end where it says */
    RW_AUDIT_JOINED,    /* a block with a joint append that is not what one may be */
    RW_AUDIT_EARLY,     /* a frame of a stream whose number was not given out yet */
    RW_AUDIT_REPEAT,    /* a frame at an offset that was given out before */
    RW_AUDIT_RENAMED,   /* a second definition, under another name */
    RW_AUDIT_DELETED,   /* a frame of a stream behind its end */
    RW_AUDIT_TRIM,      /* records are dropped that the stream does not have */
};

/* Written here, except for the first group, which is the caller's between two stretches. */
typedef struct rw_audit {
    uint8_t uuid[16];
    uint64_t segment_bytes;
    uint64_t epoch;
    uint64_t begin;        /* where the epoch has its first block */
    uint64_t end;          /* of the stretch */
    uint64_t position;     /* of the block that it stands at; a stretch begins there */
    uint32_t number_limit; /* frames of streams with this number or above are EARLY */
    uint32_t deep;

    uint64_t show; /* the next step needs `wanted` bytes from this log position on */
    uint64_t wanted;

    uint32_t finding;
    uint32_t stream;
    uint64_t place; /* log position of the first bad byte */
    uint64_t until;
    uint64_t first, next;
    uint64_t since;

    uint64_t blocks, frames, records, bytes; /* that are proven */
    uint64_t timestamp_ns;                   /* newest one in a valid block */
    uint64_t watermark;                      /* highest one in a block's header */
    uint32_t owners_end;                     /* no owner of a frame that was met has it, or more */

    rw_block block;      /* the one that it stands in, if at != 0 */
    uint64_t at;         /* byte in it of the next frame */
    uint32_t left;       /* frames from there on */
    rw_joint joint;      /* of the frame before */
    uint64_t unjoined;   /* log position at which one goes wrong; 0: none does */
    uint32_t in_region;  /* a place without a valid block began at `place` */
    uint64_t number;     /* of the block that comes next, if it is known */
    uint32_t number_known;
    uint32_t seed;
    rw_recovery *table; /* of streams */
} rw_audit;

/* NULL and errno if there is no memory. */
rw_audit *rw_audit_open(const uint8_t uuid[16], uint64_t segment_bytes);
void rw_audit_close(rw_audit *a);
/* Before a stretch, whose epoch, begin, position and end have been set. */
void rw_audit_begin(rw_audit *a);

/* Walks on through `window`, whose first byte is log position `from` and of which `available` bytes
 * may be read.
 *   RW_OK       the stretch is over
 *   RW_PENDING  show the log from a->show on, at least a->wanted bytes
 *   RW_BAD      a->finding; step again to go on behind it
 *   RW_FULL     no memory for the table */
int rw_audit_step(rw_audit *a, const uint8_t *window, uint64_t from, uint64_t available);

/* What a checkpoint says of a stream is what is known of it from here on. RW_OK, or RW_FULL: no
 * memory. */
int rw_audit_meet(rw_audit *a, const rw_checkpoint_stream *row);

uint32_t rw_audit_streams(const rw_audit *a);
/* Entry `i` of the table; it says what was met, not what a checkpoint knows: first_offset is that
 * of the first frame, name_bytes is 0 where no definition was met. */
const rw_recovery_stream *rw_audit_stream_of(const rw_audit *a, uint32_t i);
/* That of a number; NULL: not met. */
const rw_recovery_stream *rw_audit_find(const rw_audit *a, uint32_t number);

#endif
