/* The WAL process's own table of owners (owners.h). Under the compose lock. */
#include "owners.h"

#include "frame.h"
#include "points.h"
#include "wal_state.h"

#include <stdlib.h>
#include <string.h>

#define NOWHERE UINT32_MAX

static uint32_t home_of(const rw_wal *w, uint32_t number)
{
    return number * 2654435769u & (w->owner_index_places - 1);
}

/* Only a claim or a deletion changes which rows there are. */
static void index_anew(rw_wal *w)
{
    memset(w->owner_index, 0, w->owner_index_places * sizeof *w->owner_index);
    for (uint32_t place = 0; place < w->c->max_owners; place++) {
        if (w->owners[place].row.number == 0)
            continue;
        uint32_t i = home_of(w, w->owners[place].row.number);
        while (w->owner_index[i] != 0)
            i = (i + 1) & (w->owner_index_places - 1);
        w->owner_index[i] = place + 1;
    }
}

static uint32_t place_of(const rw_wal *w, uint32_t number)
{
    uint32_t i = home_of(w, number);
    while (w->owner_index[i] != 0 && w->owners[w->owner_index[i] - 1].row.number != number)
        i = (i + 1) & (w->owner_index_places - 1);
    return w->owner_index[i] - 1; /* none: NOWHERE */
}

bool rw_wal_owners_open(rw_wal *w)
{
    uint32_t count = w->c->max_owners, places = 2;
    while (places < 2 * count)
        places *= 2;
    w->owner_index_places = places;
    w->owners = calloc(count + 1, sizeof *w->owners);
    w->owners_touched = calloc(count + 1, sizeof *w->owners_touched);
    w->owner_index = malloc(places * sizeof *w->owner_index);
    if (w->owners == NULL || w->owners_touched == NULL || w->owner_index == NULL)
        return false;
    /* What a predecessor died in storing has no number yet: the last sealed block says it again. */
    for (uint32_t place = 0; place < count; place++)
        rw_owner_copy(rw_owner_of(w->c, place), &w->owners[place].row);
    w->owners_end = w->c->owners_end;
    index_anew(w);
    return true;
}

void rw_wal_owners_close(rw_wal *w)
{
    free(w->owners);
    free(w->owners_touched);
    free(w->owner_index);
}

static void touch(rw_wal *w, uint32_t place)
{
    rw_wal_owner *o = &w->owners[place];
    if (!o->touched)
        w->owners_touched[w->owners_touched_count++] = place;
    o->touched = true;
}

static void forget(rw_wal *w, uint32_t place)
{
    w->owners[place].row.number = 0;
    touch(w, place);
}

/* -------------------------------------------------------------------------------------- batches */

/* The row of the request's owner, if it has claimed it last; else NULL, and the epoch in force. */
static const rw_checkpoint_owner *owner_of(const rw_wal *w, const rw_request *q, uint32_t kind,
                                           uint64_t *epoch)
{
    uint32_t place = place_of(w, (uint32_t)q->producer_id);
    *epoch = 0;
    if (place == NOWHERE || w->owners[place].row.stream != q->stream ||
        w->owners[place].row.kind != kind)
        return NULL;
    const rw_checkpoint_owner *o = &w->owners[place].row;
    if (o->epoch == (uint32_t)(q->producer_id >> 32))
        return o;
    *epoch = o->epoch;
    return NULL;
}

uint32_t rw_wal_owner_judge(const rw_wal *w, const rw_request *q, uint64_t *value)
{
    const rw_checkpoint_owner *o = owner_of(w, q, RW_OWNER_PRODUCER, value);
    if (o == NULL)
        return RW_VERDICT_FENCED;
    uint64_t sequence = q->producer_sequence, end = sequence + q->count;
    if (sequence == o->next_sequence)
        return 0;
    if (sequence < end && end <= o->next_sequence) {
        *value = sequence < o->last_sequence ? RW_OFFSET_UNKNOWN
                                             : o->last_offset + (sequence - o->last_sequence);
        return RW_VERDICT_REPEAT;
    }
    *value = o->next_sequence;
    return RW_VERDICT_GAP;
}

/* Said twice, it changes nothing. */
void rw_wal_owner_appended(rw_wal *w, const rw_frame *r)
{
    uint32_t place = place_of(w, (uint32_t)r->producer_id);
    if (place == NOWHERE)
        return; /* its stream is deleted in this block, too */
    rw_checkpoint_owner *o = &w->owners[place].row;
    if (r->producer_sequence + r->count < o->next_sequence)
        return;
    o->last_sequence = r->producer_sequence;
    o->last_offset = r->base_offset;
    o->next_sequence = r->producer_sequence + r->count;
    o->timestamp_ns = r->timestamp_ns;
    touch(w, place);
}

/* -------------------------------------------------------------------------------------- commits */

uint32_t rw_wal_commit_judge(const rw_wal *w, const rw_request *q, uint64_t *value)
{
    return owner_of(w, q, RW_OWNER_CONSUMER, value) != NULL ? 0 : RW_VERDICT_FENCED;
}

uint64_t rw_wal_owner_position(const rw_wal *w, uint32_t number)
{
    uint32_t place = place_of(w, number);
    return place == NOWHERE ? 0 : w->owners[place].row.next_sequence;
}

/* Said twice, it changes nothing: a successor says all of the last block again, in its order. */
void rw_wal_owner_committed(rw_wal *w, const rw_frame *r, uint64_t offset)
{
    uint32_t place = place_of(w, (uint32_t)r->producer_id);
    if (place == NOWHERE)
        return; /* its stream is deleted in this block, too, or it is forgotten */
    if (offset == RW_FORGET) {
        forget(w, place);
        index_anew(w);
        return;
    }
    w->owners[place].row.next_sequence = offset;
    w->owners[place].row.timestamp_ns = r->timestamp_ns;
    touch(w, place);
}

/* --------------------------------------------------------------------------------------- claims */

static uint32_t find(const rw_wal *w, uint32_t kind, uint32_t stream, const uint8_t *name,
                     uint32_t bytes)
{
    for (uint32_t place = 0; place < w->c->max_owners; place++) {
        const rw_checkpoint_owner *o = &w->owners[place].row;
        if (o->number != 0 && rw_owner_is(o, kind, stream, name, bytes))
            return place;
    }
    return NOWHERE;
}

static uint32_t free_place(const rw_wal *w)
{
    uint32_t place = 0;
    while (place < w->c->max_owners && w->owners[place].row.number != 0)
        place++;
    return place < w->c->max_owners ? place : NOWHERE;
}

/* Also where another place has become free meanwhile: whoever has only the log forgets it, too. */
static uint32_t forgotten_by(const rw_wal *w, const rw_claim *claim)
{
    return claim->forgets == 0 ? NOWHERE : place_of(w, claim->forgets);
}

bool rw_wal_claim_judge(const rw_wal *w, const rw_request *q, const uint8_t *payload,
                        uint64_t next_offset, rw_frame *f)
{
    rw_claim claim;
    memcpy(&claim, payload, sizeof claim);
    uint32_t bytes = q->payload_bytes - (uint32_t)sizeof claim;
    uint32_t place = find(w, claim.kind, q->stream, payload + sizeof claim, bytes);
    f->producer_id = w->owners_end;
    f->producer_epoch = 1;
    f->producer_sequence = claim.kind == RW_OWNER_CONSUMER ? claim.seen_ns : 0;
    if (f->producer_sequence > next_offset)
        f->producer_sequence = next_offset;
    if (place != NOWHERE) {
        const rw_checkpoint_owner *o = &w->owners[place].row;
        f->producer_id = o->number;
        f->producer_epoch = o->epoch + 1;
        f->producer_sequence = o->next_sequence;
        return o->epoch != UINT32_MAX;
    }
    if (w->owners_end == UINT32_MAX)
        return false; /* numbers and epochs never begin anew */
    uint32_t old = forgotten_by(w, &claim);
    if (old == NOWHERE)
        return free_place(w) != NOWHERE;
    return w->owners[old].row.kind == RW_OWNER_PRODUCER &&
           w->owners[old].row.timestamp_ns <= claim.seen_ns;
}

static void forget_indexed(rw_wal *w, uint32_t place)
{
    if (place == NOWHERE)
        return;
    forget(w, place);
    index_anew(w);
}

/* Said twice, it changes nothing: of a row that is there, the epoch only grows. A successor may
 * find the place of a row that the block makes and forgets with the row that came after it: then
 * there is no room for the first one, and no need (`over`, or a claim that was not the first). */
void rw_wal_owner_claimed(rw_wal *w, const rw_frame *r, const uint8_t *payload, bool over)
{
    rw_claim claim;
    memcpy(&claim, payload, sizeof claim);
    uint32_t number = (uint32_t)r->producer_id, place = place_of(w, number);
    if (number >= w->owners_end)
        w->owners_end = number + 1;
    if (place == NOWHERE && (over || r->producer_epoch != 1)) {
        forget_indexed(w, forgotten_by(w, &claim));
        return;
    }
    if (place == NOWHERE) {
        place = forgotten_by(w, &claim);
        if (place == NOWHERE)
            place = free_place(w);
        RW_ASSERT(place != NOWHERE);
        rw_wal_owner *o = &w->owners[place];
        o->row = (rw_checkpoint_owner){
            .number = number,
            .kind = claim.kind,
            .stream = r->stream,
            .next_sequence = r->producer_sequence,
            .name_bytes = r->payload_bytes - (uint32_t)sizeof claim,
        };
        memcpy(o->row.name, payload + sizeof claim, o->row.name_bytes);
        index_anew(w);
    }
    rw_checkpoint_owner *row = &w->owners[place].row;
    if (row->epoch < r->producer_epoch) {
        row->epoch = r->producer_epoch;
        row->timestamp_ns = r->timestamp_ns;
    }
    touch(w, place);
}

void rw_wal_owners_of_deleted(rw_wal *w, uint32_t stream)
{
    bool any = false;
    for (uint32_t place = 0; place < w->c->max_owners; place++)
        if (w->owners[place].row.number != 0 && w->owners[place].row.stream == stream) {
            forget(w, place);
            any = true;
        }
    if (any)
        index_anew(w);
}

/* ---------------------------------------------------------------------------- publish, snapshot */

void rw_wal_owners_publish(rw_wal *w)
{
    if (w->c->owners_end < w->owners_end)
        rw_store32(&w->c->owners_end, w->owners_end);
    for (uint32_t i = 0; i < w->owners_touched_count; i++) {
        rw_wal_owner *o = &w->owners[w->owners_touched[i]];
        o->touched = false;
        rw_owner_store(rw_owner_of(w->c, w->owners_touched[i]),
                       o->row.number != 0 ? &o->row : NULL);
        (void)RW_POINT("l.owner.published");
    }
    w->owners_touched_count = 0;
}

uint32_t rw_wal_owners_copy(const rw_wal *w, rw_checkpoint_owner *rows)
{
    uint32_t count = 0;
    for (uint32_t place = 0; place < w->c->max_owners; place++)
        if (w->owners[place].row.number != 0)
            rows[count++] = w->owners[place].row;
    return count;
}
