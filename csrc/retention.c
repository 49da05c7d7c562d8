#include "retention.h"

#include "atomics.h"
#include "owners.h"
#include "settings.h"
#include "stream.h"

#include <stdlib.h>
#include <string.h>

static uint64_t limit_of(uint64_t own, uint64_t usual, uint32_t said) { return said ? own : usual; }

/* Where the consumers of these names (settings.h: each with its length before it) go on. */
static uint64_t held_until(const rw_control *c, uint32_t stream, const rw_settings *own)
{
    uint64_t until = UINT64_MAX;
    for (uint32_t at = 0; at < own->text_bytes; at += 1u + own->text[at]) {
        rw_checkpoint_owner row;
        if (rw_owner_look(c, RW_OWNER_CONSUMER, stream, own->text + at + 1, own->text[at], &row) !=
            RW_OK)
            return 0;
        if (row.next_sequence < until)
            until = row.next_sequence;
    }
    return until;
}

/* False: that stream keeps all it has, or there is none, or somebody is just storing its words. */
static bool look(const rw_control *c, const rw_limits *defaults, uint32_t place, rw_keeping *out)
{
    const rw_stream *s = rw_stream_of((rw_control *)c, place);
    uint32_t number = rw_load32(&s->number);
    if (number == RW_NO_STREAM || s->name[0] == '_') /* the engine's own keep what they have */
        return false;
    *out = (rw_keeping){
        .place = place,
        .number = number,
        .limits = *defaults,
        .start_offset = rw_load64(&s->start_offset),
        .confirmed_bytes = rw_load64(&s->confirmed_bytes), /* stored before the offset */
        .confirmed_offset = rw_load64(&s->confirmed_offset),
    };
    if (out->start_offset >= out->confirmed_offset)
        return false;
    rw_settings own = {0};
    if (rw_load32(&s->settings_turn) != 0 &&
        rw_settings_look(c, rw_handle(place, number), &own) != RW_OK)
        return false;
    out->limits.age_ns = limit_of(own.age_ns, defaults->age_ns, own.said & RW_SET_AGE);
    out->limits.payload_bytes =
        limit_of(own.payload_bytes, defaults->payload_bytes, own.said & RW_SET_BYTES);
    out->limits.records = limit_of(own.records, defaults->records, own.said & RW_SET_RECORDS);
    out->held = own.text_bytes != 0;
    out->until = out->held ? held_until(c, number, &own) : UINT64_MAX;
    rw_stream_bounds bounds;
    return rw_stream_look(c, rw_handle(place, number), &bounds) == RW_OK;
}

static bool limited(const rw_limits *l)
{
    return l->age_ns != 0 || l->payload_bytes != 0 || l->records != 0;
}

static int by_number(const void *a, const void *b)
{
    const rw_keeping *x = a, *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

uint32_t rw_retention_rows(const rw_control *c, const rw_limits *defaults, bool held,
                           uint32_t *place, rw_keeping *rows, uint32_t capacity)
{
    uint32_t count = 0, places = rw_load32(&c->stream_count);
    for (; *place < places && count < capacity; ++*place) {
        rw_keeping *row = &rows[count];
        if (!look(c, defaults, *place, row))
            continue;
        if (held ? row->until >= row->confirmed_offset
                 : !limited(&row->limits) || row->until <= row->start_offset)
            continue;
        uint64_t most = row->limits.records;
        if (most != 0 && row->confirmed_offset > most)
            row->before = row->confirmed_offset - most;
        count++;
    }
    qsort(rows, count, sizeof *rows, by_number);
    return count;
}

void rw_retention_expire(rw_keeping *rows, uint32_t count, uint64_t age_ns, const rw_occupant *ends,
                         uint32_t end_count)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        while (at < end_count && ends[at].stream < rows[i].number)
            at++;
        if (at == end_count)
            return;
        bool due = rows[i].limits.age_ns != 0 && rows[i].limits.age_ns <= age_ns;
        if (!due || ends[at].stream != rows[i].number)
            continue;
        uint64_t end = ends[at].end < rows[i].confirmed_offset ? ends[at].end
                                                               : rows[i].confirmed_offset;
        if (end > rows[i].before)
            rows[i].before = end;
    }
}

uint32_t rw_retention_ages(const rw_keeping *rows, uint32_t count, uint64_t *ages,
                           uint32_t capacity)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t age = rows[i].limits.age_ns;
        uint32_t at = 0;
        while (at < found && ages[at] != age)
            at++;
        if (age == 0 || at < found)
            continue;
        if (found < capacity)
            ages[found++] = age;
        else if (ages[capacity - 1] < age)
            ages[capacity - 1] = age; /* a row with a lower limit keeps more than it has to */
    }
    return found;
}

uint32_t rw_retention_due(rw_keeping *rows, uint32_t count)
{
    uint32_t due = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (rows[i].before > rows[i].until)
            rows[i].before = rows[i].until;
        if (rows[i].limits.payload_bytes != 0 || rows[i].before > rows[i].start_offset)
            rows[due++] = rows[i];
    }
    return due;
}
