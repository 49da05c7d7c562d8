/* The table of owners of a recovery (owners.h). They are few beside their batches, which come in
 * runs: the entry that was found last is looked at first. */
#include "recover.h"

#include "owners.h"

#include <stdlib.h>
#include <string.h>

static rw_recovery_owner *find(rw_recovery *s, uint64_t number)
{
    if (number == 0)
        return NULL;
    for (uint32_t i = 0; i < s->owner_end; i++) {
        uint32_t at = (s->owner_hint + i) % s->owner_end;
        if (s->owners[at].row.number == number) {
            s->owner_hint = at;
            return &s->owners[at];
        }
    }
    return NULL;
}

static rw_recovery_owner *add(rw_recovery *s)
{
    if (s->owner_end == s->owner_room) {
        uint32_t room = s->owner_room != 0 ? 2 * s->owner_room : 64;
        rw_recovery_owner *owners = realloc(s->owners, room * sizeof *owners);
        if (owners == NULL)
            return NULL;
        s->owners = owners;
        s->owner_room = room;
    }
    rw_recovery_owner *o = &s->owners[s->owner_end++];
    memset(o, 0, sizeof *o);
    return o;
}

int rw_recovery_seed_owners(rw_recovery *s, const rw_checkpoint_owner *rows, uint32_t count,
                            uint32_t owners_end)
{
    s->owners_end = owners_end;
    for (uint32_t i = 0; i < count; i++) {
        rw_recovery_owner *o = add(s);
        if (o == NULL)
            return RW_FULL;
        memcpy(&o->row, rows + i, sizeof o->row); /* the caller's bytes need not be aligned */
        if (o->row.name_bytes > RW_STREAM_NAME_MAX)
            o->row.name_bytes = RW_STREAM_NAME_MAX;
        o->at_cut = o->row;
    }
    return RW_OK;
}

bool rw_recovery_owner_follows(rw_recovery *s, const rw_frame *r)
{
    rw_recovery_owner *o = find(s, r->producer_id);
    if (o == NULL || o->row.kind != RW_OWNER_PRODUCER || o->row.stream != r->stream ||
        o->row.epoch != r->producer_epoch ||
        o->row.next_sequence != r->producer_sequence)
        return false;
    o->row.last_sequence = r->producer_sequence;
    o->row.last_offset = r->base_offset;
    o->row.next_sequence = r->producer_sequence + r->count;
    o->row.timestamp_ns = r->timestamp_ns;
    return true;
}

bool rw_recovery_commit_follows(rw_recovery *s, const rw_frame *r)
{
    const rw_recovery_owner *o = find(s, r->producer_id);
    return o != NULL && o->row.kind == RW_OWNER_CONSUMER && o->row.stream == r->stream &&
           o->row.epoch == r->producer_epoch && o->row.next_sequence == r->producer_sequence;
}

void rw_recovery_commit(rw_recovery *s, const rw_frame *r, uint64_t offset)
{
    rw_recovery_owner *o = find(s, r->producer_id);
    o->row.timestamp_ns = r->timestamp_ns;
    o->row.next_sequence = offset;
    if (offset == RW_FORGET)
        o->row.number = 0;
}

/* Whoever had the name was forgotten by a claim for another stream, which may be lost: the two were
 * in no common queue. He is forgotten all the same: his successor may have been told that he begins
 * anew. */
static void forget_namesake(rw_recovery *s, const rw_recovery_owner *new)
{
    const rw_checkpoint_owner *o = &new->row;
    for (uint32_t i = 0; i < s->owner_end; i++)
        if (s->owners + i != new &&
            rw_owner_is(&s->owners[i].row, o->kind, o->stream, o->name, o->name_bytes))
            s->owners[i].row.number = 0;
}

int rw_recovery_claim(rw_recovery *s, const rw_frame *r, const uint8_t *payload)
{
    rw_claim claim;
    memcpy(&claim, payload, sizeof claim);
    rw_recovery_owner *o = find(s, r->producer_id);
    if (o == NULL) {
        rw_recovery_owner *old = find(s, claim.forgets);
        if (old != NULL)
            old->row.number = 0;
        if ((o = add(s)) == NULL)
            return RW_FULL;
        o->row = (rw_checkpoint_owner){
            .number = (uint32_t)r->producer_id,
            .kind = claim.kind,
            .stream = r->stream,
            .next_sequence = r->producer_sequence,
            .name_bytes = r->payload_bytes - (uint32_t)sizeof claim,
        };
        memcpy(o->row.name, payload + sizeof claim, o->row.name_bytes);
        forget_namesake(s, o);
    }
    o->row.epoch = r->producer_epoch;
    o->row.timestamp_ns = r->timestamp_ns;
    if (o->row.number >= s->owners_end)
        s->owners_end = o->row.number + 1;
    return RW_OK;
}

void rw_recovery_owners_of_deleted(rw_recovery *s, uint32_t stream)
{
    for (uint32_t i = 0; i < s->owner_end; i++)
        if (s->owners[i].row.stream == stream)
            s->owners[i].row.number = 0;
}

void rw_recovery_owners_cut(rw_recovery *s)
{
    for (uint32_t i = 0; i < s->owner_end; i++)
        s->owners[i].at_cut = s->owners[i].row;
}

void rw_recovery_owners_carry(rw_recovery *s)
{
    for (uint32_t i = 0; i < s->owner_end; i++)
        s->owners[i].row = s->owners[i].at_cut;
}

uint32_t rw_recovery_owner_rows(const rw_recovery *s, rw_checkpoint_owner *rows)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->owner_end; i++)
        if (s->owners[i].row.number != 0)
            rows[count++] = s->owners[i].row;
    rw_owners_sort(rows, count);
    return count;
}
