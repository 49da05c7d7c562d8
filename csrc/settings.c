#include "settings.h"

#include "atomics.h"
#include "stream.h"

#include <stdbool.h>
#include <string.h>

#define ALL_LIMITS (RW_SET_AGE | RW_SET_BYTES | RW_SET_RECORDS)
#define WORDS      (RW_SETTINGS_BYTES / 8)
#define LOOKS      1000u /* storing takes a fraction of that, unless the one who stores is dead */

_Static_assert(offsetof(rw_stream, settings) % 8 == 0 && RW_SETTINGS_BYTES % 8 == 0, "words");
_Static_assert(offsetof(rw_settings, text) == RW_SETTINGS_HEAD, "head");

/* Names of one byte and more, which fill the text. */
static bool text_is_right(const uint8_t *text, uint32_t bytes)
{
    uint32_t at = 0;
    while (at < bytes && text[at] != 0)
        at += 1u + text[at];
    return at == bytes;
}

static bool limit_is_right(uint64_t value, uint32_t said)
{
    return value <= INT64_MAX && (value == 0 || said != 0);
}

int rw_settings_check(const uint8_t *payload, uint64_t bytes)
{
    rw_settings s = {0};
    if (bytes < RW_SETTINGS_HEAD || bytes > sizeof s)
        return RW_BAD;
    memcpy(&s, payload, bytes);
    bool right = s.version != 0 && (s.said & ~ALL_LIMITS) == 0 &&
                 s.text_bytes == bytes - RW_SETTINGS_HEAD &&
                 limit_is_right(s.age_ns, s.said & RW_SET_AGE) &&
                 limit_is_right(s.payload_bytes, s.said & RW_SET_BYTES) &&
                 limit_is_right(s.records, s.said & RW_SET_RECORDS) &&
                 text_is_right(s.text, s.text_bytes);
    return right ? RW_OK : RW_BAD;
}

void rw_settings_store(rw_stream *s, const uint8_t *payload, uint32_t bytes)
{
    uint64_t from[WORDS] = {0}, *to = (uint64_t *)s->settings;
    if (bytes != 0)
        memcpy(from, payload, bytes);
    uint32_t turn = rw_peek32(&s->settings_turn) | 1u; /* odd already: a predecessor died */
    rw_store32(&s->settings_turn, turn);
    rw_fence_release(); /* PAIR: settings */
    for (uint32_t i = 0; i < WORDS; i++)
        rw_store64(&to[i], from[i]);
    rw_store32(&s->settings_turn, turn + 1);
}

void rw_settings_copy(const rw_stream *s, uint8_t out[RW_SETTINGS_BYTES])
{
    const uint64_t *from = (const uint64_t *)s->settings;
    for (uint32_t i = 0; i < WORDS; i++) {
        uint64_t word = rw_peek64(&from[i]);
        memcpy(out + 8 * i, &word, sizeof word);
    }
}

int rw_settings_look(const rw_control *c, uint64_t handle, rw_settings *out)
{
    const rw_stream *s = rw_stream_of((rw_control *)c, rw_handle_place(handle));
    rw_stream_bounds bounds;
    for (uint32_t i = 0; i < LOOKS; i++) {
        uint32_t turn = rw_load32(&s->settings_turn); /* PAIR: settings */
        rw_settings_copy(s, (uint8_t *)out);
        rw_fence_acquire();
        bool whole = turn % 2 == 0 && rw_peek32(&s->settings_turn) == turn;
        /* behind the copy: the place is that stream's, so it was when they were read */
        if (rw_stream_look(c, handle, &bounds) != RW_OK)
            return RW_DELETED;
        if (whole)
            return RW_OK;
    }
    return RW_PENDING;
}

uint64_t rw_settings_confirmed(const rw_control *c, uint64_t handle)
{
    const rw_stream *s = rw_stream_of((rw_control *)c, rw_handle_place(handle));
    rw_stream_bounds bounds;
    uint64_t version = rw_load64(&s->settings_confirmed);
    return rw_stream_look(c, handle, &bounds) == RW_OK ? version : 0;
}
