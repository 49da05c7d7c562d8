/* THE SIDE FILE of a segment: where each stream's records are in it, so that nobody has to go
 * through the segment to find one. docs/format.md has every byte.
 *
 *   +--------+---------+--------+---------+---------+--------+------+
 *   | header | digests | epochs | streams | entries | blocks | ends |    each begins at a page
 *   +--------+---------+--------+---------+---------+--------+------+
 *
 * Everything in it can be made again from the segment, so it is believed only as far as it is
 * proven: the header and the digests of the pages when it is opened, each page when it is first
 * wanted. A page that fails is a file that is not there. What is read stays in memory of the
 * reader's own: a file that is mapped would kill its reader where the disk cannot give a page.
 *
 * Proven is not the same as possible: every number is bounded by what it counts before it is used,
 * so a file with right digests that nobody of ours wrote does no harm either. A block that a side
 * file leads to lies in its segment; what is in the block is for the reader to check, as ever.
 */
#ifndef RW_SIDEFILE_H
#define RW_SIDEFILE_H

#include "layout.h"
#include "occupancy.h"
#include "scan.h"
#include "status.h"

#define RW_SIDE_MAGIC 0x3146454449535752ull /* "RWSIDEF1" */

typedef struct rw_side_header {
    uint64_t magic;
    uint32_t format_version;
    uint32_t features;
    uint8_t uuid[16];
    uint64_t segment;
    uint64_t segment_bytes;
    uint64_t newest_ns; /* of its blocks; 0: there is none */
    uint64_t oldest_ns;
    uint32_t epochs;
    uint32_t streams;
    uint32_t entries;
    uint32_t blocks;
    uint32_t ends;
    uint32_t pad_;
    uint64_t bytes;   /* of the file */
    uint64_t digests; /* XXH3-64 of the digests, up to the end of their last page */
    uint64_t digest;  /* of all before */
} rw_side_header;

typedef struct rw_side_epoch {
    uint64_t epoch;
    uint64_t begin;
    uint64_t end;
} rw_side_epoch;

/* Records of one stream in the segment. */
typedef struct rw_side_stream {
    uint32_t number;
    uint32_t entries;
    uint32_t first_entry;
    uint32_t pad_;
    uint64_t first_offset;
    uint64_t next_offset; /* behind the last one */
    uint64_t payload_bytes;
} rw_side_stream;

/* The first record of a stream in one block. */
typedef struct rw_side_entry {
    uint32_t offset; /* less the stream's first_offset */
    uint32_t block;
} rw_side_entry;

typedef struct rw_side_block {
    uint64_t position;
    uint64_t newest_ns; /* of it and all before it in the segment */
    uint32_t length;
    uint32_t frames;
} rw_side_block;

_Static_assert(sizeof(rw_side_header) == 112, "rw_side_header");
_Static_assert(sizeof(rw_side_stream) == 40, "rw_side_stream");
_Static_assert(sizeof(rw_side_block) == 24, "rw_side_block");
_Static_assert(sizeof(rw_occupant) == 16, "ends are rows of what a segment holds");

/* ------------------------------------------------------------------------------------ reading */

typedef struct rw_side rw_side;

/* The side file of that name in the directory that is open as `at`. NULL: there is none, or it is
 * not that of this segment of this log, or its header or digests are damaged, or there is no
 * descriptor or memory for it. */
rw_side *rw_side_open(int at, const char *name, const uint8_t uuid[16], uint64_t segment,
                      uint64_t segment_bytes);
void rw_side_close(rw_side *s);
/* Its header alone, for the times of the segment. RW_OK or RW_BAD, as there is one or NULL. */
int rw_side_peek(int at, const char *name, const uint8_t uuid[16], uint64_t segment,
                 uint64_t segment_bytes, rw_side_header *out);
const rw_side_header *rw_side_header_of(const rw_side *s);
/* Bytes read so far. */
uint64_t rw_side_read(const rw_side *s);

/* Reads and proves all of it. RW_OK or RW_BAD. */
int rw_side_prove(rw_side *s);

/* All of the following: RW_OK; RW_PENDING: it has no such thing; RW_BAD: a page that is needed
 * cannot be believed, which is as if there were no file. Any number of threads may ask at once. */

/* What it has of the stream of that number. */
int rw_side_span(rw_side *s, uint32_t number, rw_side_stream *out);
/* The block with that record of that stream. */
int rw_side_find(rw_side *s, uint32_t number, uint64_t offset, rw_side_block *out);
/* The offset behind the stream's last record at the end of the segment, also of a stream without
 * any in it. PENDING: nothing of it is known up to there. */
int rw_side_end(rw_side *s, uint32_t number, uint64_t *next_offset);
/* The first block that is not older than this; all records before it are. */
int rw_side_at_time(rw_side *s, uint64_t ns, rw_side_block *out);
/* The i-th of each. */
int rw_side_block_of(rw_side *s, uint32_t i, rw_side_block *out);
int rw_side_epoch_of(rw_side *s, uint32_t i, rw_side_epoch *out);
int rw_side_stream_of(rw_side *s, uint32_t i, rw_side_stream *out);
/* All streams with records in it, as many as the header says; and all ends. Sorted. */
int rw_side_occupants(rw_side *s, rw_occupant *out);
int rw_side_ends(rw_side *s, rw_occupant *out);
/* Which blocks have a record at or behind the start offset that the checkpoint has for its stream:
 * 1 in `live`, which is all 0 and has a cell for each block; *bytes: they take so many. */
int rw_side_live(rw_side *s, const rw_checkpoint_stream *streams, uint32_t count, uint8_t *live,
                 uint64_t *bytes);

/* ------------------------------------------------------------------------------------- making */

/* Gathers what is in one segment, block by block, in log order. */
typedef struct rw_side_maker rw_side_maker;

/* NULL: no memory. */
rw_side_maker *rw_side_maker_open(void);
void rw_side_maker_close(rw_side_maker *m);
/* Begins anew. */
void rw_side_maker_clear(rw_side_maker *m);

/* Goes on through the area from walk->position; every block is checked, payloads too. Returns
 * RW_WALK_END, SHORT or BAD; FULL: no memory, or more records of one stream than a side file
 * can say. */
int rw_side_gather(const rw_area *area, rw_walk *walk, rw_side_maker *m);

/* The same through the log ring, up to `end` at most, without checksums of frames: the blocks are
 * sealed. RW_OK: walk->position is as far as it went. RW_OVERWRITTEN: the ring has not got all of
 * it; what was gathered is worth nothing. RW_FULL as above. RW_BAD: that is no block. */
int rw_side_follow(const rw_control *c, const uint8_t *ring, rw_walk *walk, uint64_t end,
                   rw_side_maker *m);

uint32_t rw_side_maker_streams(const rw_side_maker *m);
/* Memory that it takes, about. */
uint64_t rw_side_maker_bytes(const rw_side_maker *m);

/* The ends of this segment: those of the segment before, with what is gathered here, of the streams
 * that the checkpoint has. `out` has room for all; returns how many. RW_FULL: no memory. */
int64_t rw_side_fold_ends(rw_side_maker *m, const rw_occupant *before, uint32_t count,
                          const rw_checkpoint_stream *streams, uint32_t stream_count,
                          rw_occupant *out);

/* The file: its size, then its bytes, of which `out` has so many, all 0. RW_OK, or RW_FULL: no
 * memory. */
uint64_t rw_side_size(const rw_side_maker *m, uint32_t epochs, uint32_t ends);
int rw_side_render(rw_side_maker *m, const uint8_t uuid[16], uint64_t segment,
                   uint64_t segment_bytes, const rw_side_epoch *epochs, uint32_t epoch_count,
                   const rw_occupant *ends, uint32_t end_count, uint8_t *out);

/* ------------------------------------------------------------------------------- for both ends */

/* Where its sections begin. */
typedef struct rw_side_plan {
    uint64_t epochs, streams, entries, blocks, ends, bytes;
} rw_side_plan;

void rw_side_plan_of(const rw_side_header *h, rw_side_plan *out);

#endif
