/* Reading a log back: per-record work of recovery. No I/O, no policy: engine/ringwal/log/ reads the
 * bytes, asks, and decides.
 *
 * A recovery begins with the streams of a checkpoint and walks the blocks of one epoch from its
 * position on, in log order, in three passes:
 *
 *   PREFIX  from the checkpoint to the first place without a valid block, the cut. Every record
 *           must follow its predecessor; whatever does not is a finding, and the walk stops there.
 *   TAIL    from the cut on, as far as the caller goes. Valid blocks may follow a hole: they were
 *           in flight together. Of their records those count that are still next in their stream;
 *           the rest is dropped. A joint append counts if each of its parts does.
 *   CARRY   the tail once more, this time copying what counts into blocks of the next epoch.
 *
 * A stream's life here: unknown, then defined (in the checkpoint, or at offset 0), then its next
 * offset grows, until it is deleted; in the tail it is broken by the first frame that does not fit,
 * and takes no more. Trims and deletes are frames of no records, and count or do not as records do.
 *
 * The caller shows a window of the log and steps. It remembers its place; blocks that run past the
 * window are asked for again (`wanted`), so the caller needs a window as large as the largest block
 * and no more.
 */
#ifndef RW_RECOVER_H
#define RW_RECOVER_H

#include "layout.h"
#include "status.h"

#include <stdbool.h>

enum rw_recovery_pass { RW_RECOVERY_PREFIX = 0, RW_RECOVERY_TAIL = 1, RW_RECOVERY_CARRY = 2 };

/* Why a walk stopped. All but TORN are valid blocks that contradict what was before them. */
enum rw_recovery_finding {
    RW_RECOVERY_NOTHING = 0,
    RW_RECOVERY_TORN,      /* no valid block at this place (PREFIX only) */
    RW_RECOVERY_MISPLACED, /* kind or span does not belong here */
    RW_RECOVERY_GAP,       /* offsets are missing before this record (PREFIX only) */
    RW_RECOVERY_REPEAT,    /* this record's offset was given out already */
    RW_RECOVERY_UNKNOWN,   /* a record of a stream that was never defined (PREFIX only) */
    RW_RECOVERY_RENAMED,   /* a stream is defined again under another name */
    RW_RECOVERY_DELETED,   /* a frame of a stream behind its end */
    RW_RECOVERY_TRIM,      /* records are dropped that the stream does not have yet */
    RW_RECOVERY_NO_MEMORY, /* for the table of streams */
    RW_RECOVERY_OWNER,     /* a batch or commit that does not follow its owner (PREFIX only) */
};

enum rw_recovery_stream_state {
    RW_RECOVERY_STREAM_UNKNOWN = 0,
    RW_RECOVERY_STREAM_DEFINED = 1,
    RW_RECOVERY_STREAM_BROKEN = 2,
    RW_RECOVERY_STREAM_DELETED = 3,
};

typedef struct rw_recovery_stream {
    uint64_t next_offset;
    uint64_t cut_offset; /* next_offset at the cut */
    uint64_t start_offset;
    uint64_t payload_bytes; /* with what is carried over */
    uint64_t timestamp_ns;
    uint32_t number;
    uint32_t state;
    uint32_t cut_state;
    /* audit.c: whether a frame was met, the offset of the first one, and the block of the last */
    uint32_t seen;
    uint64_t first_offset;
    uint64_t seen_at;
    uint32_t name_bytes;
    uint8_t name[RW_STREAM_NAME_MAX];
    uint8_t settings[RW_SETTINGS_BYTES];
} rw_recovery_stream;

/* An owner (owners.h): where it is, and where it was at the cut. */
typedef struct rw_recovery_owner {
    rw_checkpoint_owner row, at_cut; /* number 0: it is not there */
} rw_recovery_owner;

/* Written here alone; callers read. */
typedef struct rw_recovery {
    uint8_t uuid[16];
    uint64_t epoch;
    uint64_t segment_bytes;
    uint32_t pass;
    uint32_t next_number; /* of a stream that the log has never had */

    uint64_t position; /* the place that is looked at next */
    uint64_t wanted;   /* bytes from there on that the next step needs */
    uint32_t finding;
    uint32_t finding_stream;
    uint32_t stream_end; /* entries of the table */

    uint64_t watermark; /* highest one in any header that is intact */
    uint64_t watermark_at;
    uint64_t valid_end;  /* end of the last valid block */
    uint64_t taken_end;  /* end of the last block with an intact header, whole or torn */
    uint64_t timestamp_ns; /* newest one in any valid block */

    uint64_t blocks, records, bytes; /* prefix; blocks valid beyond the cut too */
    uint64_t holes;                  /* stretches without a valid block and with one behind */
    uint64_t kept, dropped;          /* records beyond the cut */
    uint64_t largest_frame;          /* among those kept; of a joint append all */

    /* CARRY: byte offset of the next frame in the block at `position`, 0 if it is new */
    uint64_t resume;
    uint32_t in_hole;

    /* recover_streams.c */
    rw_recovery_stream *streams;
    uint32_t *index; /* by hash of the number: 1 + entry; 0: free */
    uint32_t places; /* of the index */

    /* recover_owners.c */
    rw_recovery_owner *owners;
    uint32_t owner_end; /* entries; a forgotten one's is used again behind the cut only */
    uint32_t owner_room;
    uint32_t owners_end; /* number of an owner that the log has never had */
    uint32_t owner_hint; /* the entry that was found last */
} rw_recovery;

/* A block of the next epoch under construction, in the caller's page-aligned memory. */
typedef struct rw_draft {
    uint8_t *base;
    uint64_t capacity;
    uint64_t position;
    uint64_t epoch;
    uint64_t used;
    uint32_t frames;
    uint32_t seed;
} rw_draft;

/* NULL and errno if there is no memory. */
rw_recovery *rw_recovery_open(const uint8_t uuid[16], uint64_t epoch, uint64_t begin,
                              uint64_t segment_bytes);
void rw_recovery_close(rw_recovery *s);
/* Before the walk: the streams of the checkpoint. RW_OK, or RW_FULL: no memory. */
int rw_recovery_seed(rw_recovery *s, const rw_checkpoint_stream *rows, uint32_t count,
                     uint32_t next_number);
/* After it: a row for every stream that lives, in order of numbers, with what is carried over
 * counted in. `rows` has room for s->stream_end of them. Returns how many. */
uint32_t rw_recovery_rows(const rw_recovery *s, rw_checkpoint_stream *rows);
/* How many those are. */
uint32_t rw_recovery_living(const rw_recovery *s);
/* Entry `i` of the table, below s->stream_end; they move when another one comes. */
const rw_recovery_stream *rw_recovery_stream_of(const rw_recovery *s, uint32_t i);
/* For recover.c: NULL: there is none; no memory. */
rw_recovery_stream *rw_recovery_find(const rw_recovery *s, uint32_t number);
rw_recovery_stream *rw_recovery_add(rw_recovery *s, uint32_t number);

/* The same of owners. */
int rw_recovery_seed_owners(rw_recovery *s, const rw_checkpoint_owner *rows, uint32_t count,
                            uint32_t owners_end);
/* `rows` has room for s->owner_end. Returns how many, in order of numbers. */
uint32_t rw_recovery_owner_rows(const rw_recovery *s, rw_checkpoint_owner *rows);
/* For recover.c. Does the batch's sequence follow its owner's last one? Then that moves on. */
bool rw_recovery_owner_follows(rw_recovery *s, const rw_frame *r);
/* Does the commit follow what went before it in its consumer's row? */
bool rw_recovery_commit_follows(rw_recovery *s, const rw_frame *r);
/* One that does. */
void rw_recovery_commit(rw_recovery *s, const rw_frame *r, uint64_t offset);
/* RW_OK, or RW_FULL: no memory. */
int rw_recovery_claim(rw_recovery *s, const rw_frame *r, const uint8_t *payload);
void rw_recovery_owners_of_deleted(rw_recovery *s, uint32_t stream);
void rw_recovery_owners_cut(rw_recovery *s);
void rw_recovery_owners_carry(rw_recovery *s);

/* Walks on through `window`, whose first byte is at s->position and of which `available` bytes may
 * be read; the window must not reach past the segment that s->position is in.
 *   RW_PENDING  show the log from s->position on, at least s->wanted bytes (less only where the
 *               segment ends)
 *   RW_OK       s->position is at the beginning of a segment that the window does not show
 *   RW_BAD      s->finding at s->position
 *   RW_FULL     CARRY: the draft has no room for the next record; replace it and step again at the
 *               same position
 * `draft` is used by CARRY only. */
int rw_recovery_step(rw_recovery *s, const uint8_t *window, uint64_t available, rw_draft *draft);

/* The cut is s->position: begins TAIL there. */
void rw_recovery_cut(rw_recovery *s);
/* Begins CARRY at the cut: streams are as they were there. */
void rw_recovery_carry(rw_recovery *s, uint64_t cut);

void rw_draft_begin(rw_draft *d, uint8_t *base, uint64_t capacity, uint64_t epoch,
                    uint64_t position);
/* Fills in the header, from `like` what is not known here (kind, span (0: the length), watermark,
 * number, timestamp_ns, what an EPOCH block says), and pads. Returns the block's length. */
uint64_t rw_draft_seal(rw_draft *d, const uint8_t uuid[16], const rw_block *like);

#endif
