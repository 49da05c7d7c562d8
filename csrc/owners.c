#include "owners.h"

#include "invariant.h"
#include "places.h"
#include "points.h"

#include <stdlib.h>
#include <string.h>

#define LOOKS 1000u /* storing takes a fraction of that, unless the one who stores is dead */
#define NAME_WORDS (sizeof(((rw_owner *)0)->name) / 8)

void rw_owner_store(rw_owner *to, const rw_checkpoint_owner *row)
{
    uint32_t turn = rw_peek32(&to->turn) | 1u; /* odd already: a predecessor died */
    rw_store32(&to->turn, turn);
    rw_fence_release(); /* PAIR: owner */
    /* Of the owner that it is about a successor finds some words old and some new, and the last
     * sealed block says all of the new ones again. Of another owner it must not find half a row:
     * whose it is comes last. */
    if (row == NULL || rw_peek32(&to->number) != row->number)
        rw_store32(&to->number, 0);
    (void)RW_POINT("l.owner.mid");
    if (row != NULL) {
        uint64_t name[NAME_WORDS] = {0};
        memcpy(name, row->name, row->name_bytes);
        for (uint32_t i = 0; i < NAME_WORDS; i++)
            rw_store64((uint64_t *)to->name + i, name[i]);
        rw_store32(&to->name_bytes, row->name_bytes);
        rw_store32(&to->kind, row->kind);
        rw_store32(&to->epoch, row->epoch);
        rw_store32(&to->stream, row->stream);
        rw_store64(&to->next_sequence, row->next_sequence);
        rw_store64(&to->last_sequence, row->last_sequence);
        rw_store64(&to->last_offset, row->last_offset);
        rw_store64(&to->composed_ns, row->timestamp_ns);
        rw_store32(&to->number, row->number);
    }
    rw_store32(&to->turn, turn + 1);
}

void rw_owner_copy(const rw_owner *from, rw_checkpoint_owner *out)
{
    *out = (rw_checkpoint_owner){
        .number = rw_peek32(&from->number),
        .kind = rw_peek32(&from->kind),
        .epoch = rw_peek32(&from->epoch),
        .stream = rw_peek32(&from->stream),
        .next_sequence = rw_peek64(&from->next_sequence),
        .last_sequence = rw_peek64(&from->last_sequence),
        .last_offset = rw_peek64(&from->last_offset),
        .timestamp_ns = rw_peek64(&from->composed_ns),
        .name_bytes = rw_peek32(&from->name_bytes),
    };
    uint64_t name[NAME_WORDS];
    for (uint32_t i = 0; i < NAME_WORDS; i++)
        name[i] = rw_peek64((const uint64_t *)from->name + i);
    if (out->name_bytes > RW_STREAM_NAME_MAX)
        out->name_bytes = RW_STREAM_NAME_MAX;
    memcpy(out->name, name, out->name_bytes);
}

/* RW_OK: a row of one moment, which may be nobody's. */
static int look(const rw_owner *from, rw_checkpoint_owner *out)
{
    for (uint32_t i = 0; i < LOOKS; i++) {
        uint32_t turn = rw_load32(&from->turn); /* PAIR: owner */
        rw_owner_copy(from, out);
        rw_fence_acquire();
        if (turn % 2 == 0 && rw_peek32(&from->turn) == turn)
            return RW_OK;
    }
    return RW_PENDING;
}

int rw_owner_look(const rw_control *c, uint32_t kind, uint32_t stream, const uint8_t *name,
                  uint32_t name_bytes, rw_checkpoint_owner *out)
{
    bool whole = true;
    for (uint32_t i = 0; i < c->max_owners; i++) {
        if (look(rw_owner_of((rw_control *)c, i), out) != RW_OK)
            whole = false;
        else if (out->number != 0 && rw_owner_is(out, kind, stream, name, name_bytes))
            return RW_OK;
    }
    return whole ? RW_DELETED : RW_PENDING;
}

uint32_t rw_owners_list(const rw_control *c, rw_checkpoint_owner *rows)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < c->max_owners; i++)
        if (look(rw_owner_of((rw_control *)c, i), &rows[count]) == RW_OK && rows[count].number != 0)
            count++;
    return count;
}

static int by_number(const void *a, const void *b)
{
    const rw_checkpoint_owner *x = a, *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

void rw_owners_sort(rw_checkpoint_owner *rows, uint32_t count)
{
    qsort(rows, count, sizeof *rows, by_number);
}

void rw_owner_restore(rw_control *c, uint32_t place, const rw_checkpoint_owner *row)
{
    RW_ASSERT(place < c->max_owners && c->state == RW_STARTING && row->number < c->owners_end);
    rw_owner_store(rw_owner_of(c, place), row);
}

void rw_set_owners_end(rw_control *c, uint32_t number)
{
    RW_ASSERT(number >= c->owners_end && c->state == RW_STARTING);
    c->owners_end = number;
}
