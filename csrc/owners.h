/* The table of owners: who numbers what it appends, so that a repeat is known as one.
 *
 * AN OWNER is claimed by name, of one stream, and has a number that no other owner of the log ever
 * has. Each claim of the name gives it another epoch. Its batches say number, epoch and the
 * sequence of their first record; sequences count its records, from 0. What is composed has, in
 * this order:
 *
 *     another stream, no row, another epoch   -> FENCED   a newer claim, or the row is forgotten
 *     all of it below the next sequence       -> REPEAT   it is in the log; nothing is written
 *     the next sequence                       -> appended, and the row moves on
 *     anything else                           -> GAP
 *
 * NO ROW MEANS FENCED, NEVER NEW. Whoever was forgotten might repeat what is in the log, and nobody
 * would know. Only a claim makes rows, with a number of their own.
 *
 * A CONSUMER is an owner, too, of one stream that it reads, with a row of its own for each of its
 * streams. Its sequence is an offset: the record at which it goes on, and a COMMIT moves that, to
 * anywhere below the stream's end. A COMMIT is judged as a batch is, but for REPEAT and GAP; its
 * frame says the offset that went before, so whoever reads the log knows whether one is missing,
 * though commits take no offset of their own. Its row is never taken for a claim: what it has read
 * would be read again. It goes when a COMMIT says so, and with its stream.
 *
 * WHO WRITES. The WAL process alone, under the compose lock: it judges by its own table and stores
 * the rows when the block is sealed, before the block's write begins. A successor takes the rows
 * over and applies the last sealed block again: applying twice changes nothing. A row is stored
 * under `turn`, odd meanwhile; a reader that finds the same even turn before and after has a row
 * of one moment.                                                                      PAIR: owner
 *
 * IN ORDER. Claims and verdicts stand in the queue of the owner's stream: who is told REPEAT, GAP
 * or an epoch is told when all that led to it is confirmed. So an answer is never about records
 * that a crash may take away. Recovery applies claims and batches in the same order (recover.h);
 * what lies behind a claim that is lost is never confirmed, so its batches go with it.
 *
 * A ROW IS FORGOTTEN when its stream is deleted, and when a claim needs a place and none is free:
 * the supervisor says whose (the longest silent one), and how newly it had seen that one append; if
 * it has appended since, the claim is refused, and the supervisor looks again. What forgets a row
 * stands in another stream's queue than what the free place leads to. So a crash may take the first
 * and not the second, which was confirmed. Recovery keeps both: it has room for more rows than it
 * was told, and of two with one name the later one is in force.
 */
#ifndef RW_OWNERS_H
#define RW_OWNERS_H

#include "atomics.h"
#include "layout.h"
#include "status.h"

#include <stdbool.h>
#include <string.h>

/* The row of the owner of that name, as sealed blocks have it. RW_OK; RW_DELETED: there is none;
 * RW_PENDING: somebody is storing it, or died in that. */
int rw_owner_look(const rw_control *c, uint32_t kind, uint32_t stream, const uint8_t *name,
                  uint32_t name_bytes, rw_checkpoint_owner *out);
/* All rows, into `rows`, which has room for max_owners; returns how many. A row that is being
 * stored may be missing. */
uint32_t rw_owners_list(const rw_control *c, rw_checkpoint_owner *rows);

/* Supervisor, before the WAL process exists. */
void rw_owner_restore(rw_control *c, uint32_t place, const rw_checkpoint_owner *row);
/* Before the first one is made: no number below was ever free to be given out again. */
void rw_set_owners_end(rw_control *c, uint32_t number);

/* WAL. `row` NULL: the place is nobody's. */
void rw_owner_store(rw_owner *to, const rw_checkpoint_owner *row);
/* The words as they are: for who knows that nobody is storing them. */
void rw_owner_copy(const rw_owner *from, rw_checkpoint_owner *out);

/* By numbers. */
void rw_owners_sort(rw_checkpoint_owner *rows, uint32_t count);

static inline bool rw_owner_is(const rw_checkpoint_owner *row, uint32_t kind, uint32_t stream,
                               const uint8_t *name, uint32_t name_bytes)
{
    return row->kind == kind && row->stream == stream && row->name_bytes == name_bytes &&
           memcmp(row->name, name, name_bytes) == 0;
}

/* Is the payload that of a CLAIM? */
static inline bool rw_claim_is_right(const uint8_t *payload, uint64_t bytes)
{
    rw_claim claim;
    if (bytes <= sizeof claim || bytes > sizeof claim + RW_STREAM_NAME_MAX)
        return false;
    memcpy(&claim, payload, sizeof claim);
    return claim.kind == RW_OWNER_PRODUCER ||
           (claim.kind == RW_OWNER_CONSUMER && claim.forgets == 0);
}

#endif
