#include "stream.h"

#include "invariant.h"
#include "settings.h"

#include <string.h>

int rw_stream_gone(rw_control *c, uint32_t place)
{
    const rw_stream *s = rw_stream_of(c, place);
    return rw_load32(&s->deleted) == s->number; /* with acquire: all that the drain stored before */
}

void rw_set_next_number(rw_control *c, uint32_t number)
{
    RW_ASSERT(number >= c->next_number && c->state == RW_STARTING);
    rw_store32(&c->next_number, number);
    c->numbers_end = number;
}

static void make_anew(rw_stream *s)
{
    rw_store64(&s->trimmed_offset, 0);
    rw_store64(&s->start_offset, 0);
    rw_store64(&s->next_offset, 0);
    rw_store64(&s->defined_end, 0);
    rw_store64(&s->composed_bytes, 0);
    rw_store64(&s->composed_ns, 0);
    rw_store64(&s->confirmed_offset, 0);
    rw_store64(&s->confirmed_bytes, 0);
    rw_store64(&s->last_timestamp_ns, 0);
    rw_store64(&s->settings_confirmed, 0);
    rw_settings_store(s, NULL, 0);
}

/* Name, number, state, in this order: who sees one of them sees those before it. PAIR: place */
static void hand_out(rw_control *c, uint32_t place, uint32_t number, const uint8_t *name,
                     uint32_t name_bytes)
{
    rw_stream *s = rw_stream_of(c, place);
    RW_ASSERT(name_bytes <= RW_STREAM_NAME_MAX && number != RW_NO_STREAM);
    memcpy(s->name, name, name_bytes);
    rw_store32(&s->name_bytes, name_bytes);
    rw_store32(&s->number, number);
    if (place >= c->stream_count)
        rw_store32(&c->stream_count, place + 1);
    rw_store32(&s->state, RW_STREAM_OPEN);
    if (number >= c->next_number)
        rw_store32(&c->next_number, number + 1);
}

void rw_stream_open(rw_control *c, uint32_t place, uint32_t number, const uint8_t *name,
                    uint32_t name_bytes)
{
    rw_stream *s = rw_stream_of(c, place);
    RW_ASSERT(s->state == RW_STREAM_FREE || rw_stream_gone(c, place));
    rw_store32_seq(&s->state, RW_STREAM_FREE);
    rw_store32_seq(&s->number, RW_NO_STREAM); /* PAIR: place */
    rw_fence();
    make_anew(s);
    hand_out(c, place, number, name, name_bytes);
}

void rw_stream_restore(rw_control *c, uint32_t place, const rw_checkpoint_stream *row)
{
    rw_stream *s = rw_stream_of(c, place);
    RW_ASSERT(s->state == RW_STREAM_FREE && c->state == RW_STARTING);
    s->trimmed_offset = s->start_offset = row->start_offset;
    s->next_offset = s->confirmed_offset = row->next_offset;
    s->composed_bytes = s->confirmed_bytes = row->payload_bytes;
    s->composed_ns = s->last_timestamp_ns = row->timestamp_ns;
    rw_settings settings;
    memcpy(&settings, row->settings, sizeof settings);
    s->settings_confirmed = settings.version;
    rw_settings_store(s, row->settings, sizeof row->settings);
    /* the checkpoint holds its definition: any position at or below the first block's says so */
    s->defined_end = 1;
    hand_out(c, place, row->number, row->name, row->name_bytes);
}

int rw_stream_look(const rw_control *c, uint64_t handle, rw_stream_bounds *out)
{
    const rw_stream *s = rw_stream_of((rw_control *)c, rw_handle_place(handle));
    uint32_t number = rw_handle_number(handle);
    *out = (rw_stream_bounds){0};
    if (rw_load32(&s->number) != number) /* PAIR: place */
        return RW_DELETED;
    out->confirmed_offset = rw_load64_seq(&s->confirmed_offset);
    out->start_offset = rw_load64(&s->start_offset);
    bool gone = rw_load32(&s->deleted) == number;
    rw_fence_acquire();
    return gone || rw_peek32(&s->number) != number ? RW_DELETED : RW_OK;
}

uint32_t rw_streams_living(const rw_control *c)
{
    uint32_t count = 0, places = rw_load32(&c->stream_count);
    for (uint32_t place = 0; place < places; place++) {
        const rw_stream *s = rw_stream_of((rw_control *)c, place);
        uint32_t number = rw_load32(&s->number);
        count += number != RW_NO_STREAM && rw_load32(&s->deleted) != number;
    }
    return count;
}

uint64_t rw_stream_confirmed(const rw_control *c, uint64_t handle)
{
    rw_stream_bounds seen;
    return rw_stream_look(c, handle, &seen) == RW_OK ? seen.confirmed_offset : 0;
}
