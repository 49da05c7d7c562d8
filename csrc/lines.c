#include "lines.h"

/* Where output goes; `at` stays where it is when something does not fit. */
typedef struct sink {
    uint8_t *at;
    uint8_t *end;
} sink;

static bool put(sink *o, const void *bytes, uint64_t size)
{
    if ((uint64_t)(o->end - o->at) < size)
        return false;
    memcpy(o->at, bytes, size);
    o->at += size;
    return true;
}

#define PUT(o, text) put(o, text, sizeof text - 1)

static bool put_number(sink *o, uint64_t value)
{
    uint8_t digits[20], *first = digits + sizeof digits;
    do
        *--first = (uint8_t)('0' + value % 10);
    while ((value /= 10) != 0);
    return put(o, first, (uint64_t)(digits + sizeof digits - first));
}

typedef struct record {
    uint64_t offset, timestamp_ns, own_ns, size;
    const uint8_t *data;
} record;

/* ---------------------------------------------------------------------------- JSON, and UTF-8 */

enum text { TEXT_OK, TEXT_LONG, TEXT_NOT_UTF8 };

static bool put_escaped(sink *o, uint8_t c)
{
    switch (c) {
    case '"':
        return PUT(o, "\\\"");
    case '\\':
        return PUT(o, "\\\\");
    case '\n':
        return PUT(o, "\\n");
    case '\r':
        return PUT(o, "\\r");
    case '\t':
        return PUT(o, "\\t");
    case '\b':
        return PUT(o, "\\b");
    case '\f':
        return PUT(o, "\\f");
    default: {
        const char *hex = "0123456789abcdef";
        const uint8_t escape[6] = {'\\', 'u', '0', '0', (uint8_t)hex[c >> 4], (uint8_t)hex[c & 15]};
        return put(o, escape, sizeof escape);
    }
    }
}

/* Eight bytes: has none of them to be escaped or looked at? Each of the terms has the top bit of a
 * byte that is below 32, a quote, a backslash, or not ASCII; borrows can only add to them. */
static bool plain(uint64_t w)
{
    const uint64_t ones = 0x0101010101010101u, top = ones << 7;
    uint64_t quote = w ^ ones * '"', backslash = w ^ ones * '\\';
    return ((w | (w - ones * 32) | (quote - ones) | (backslash - ones)) & top) == 0;
}

/* The bytes of the character that `lead` begins, as far as it says, and the limits of the second
 * one: not longer than it has to be, no surrogate, none beyond U+10FFFF. 0: it begins none. */
static uint32_t sequence(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    *high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
}

/* One character that is not ASCII, of which at most `left` bytes are there; *size is its length. */
static enum text put_character(sink *o, const uint8_t *from, uint64_t left, uint32_t *size)
{
    uint8_t c[4], low, high;
    c[0] = from[0];
    *size = sequence(c[0], &low, &high);
    if (*size == 0 || *size > left)
        return TEXT_NOT_UTF8;
    memcpy(c + 1, from + 1, *size - 1);
    if (c[1] < low || c[1] > high)
        return TEXT_NOT_UTF8;
    for (uint32_t i = 2; i < *size; i++)
        if ((c[i] & 0xc0) != 0x80)
            return TEXT_NOT_UTF8;
    return put(o, c, *size) ? TEXT_OK : TEXT_LONG;
}

static enum text put_text(sink *o, const uint8_t *from, uint64_t size)
{
    const uint8_t *end = from + size;
    while (from != end) {
        uint64_t word;
        while (end - from >= 8 && o->end - o->at >= 8) {
            memcpy(&word, from, 8);
            if (!plain(word))
                break;
            memcpy(o->at, &word, 8);
            o->at += 8;
            from += 8;
        }
        if (from == end)
            break;
        uint8_t c;
        memcpy(&c, from, 1);
        if (c < 0x80) {
            bool fits = c < 32 || c == '"' || c == '\\' ? put_escaped(o, c) : put(o, &c, 1);
            if (!fits)
                return TEXT_LONG;
            from++;
            continue;
        }
        uint32_t length;
        enum text found = put_character(o, from, (uint64_t)(end - from), &length);
        if (found != TEXT_OK)
            return found;
        from += length;
    }
    return TEXT_OK;
}

static bool put_base64(sink *o, const uint8_t *from, uint64_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if ((uint64_t)(o->end - o->at) / 4 < (size + 2) / 3)
        return false;
    for (uint64_t i = 0; i < size; i += 3) {
        uint64_t left = size - i;
        uint32_t three = (uint32_t)from[i] << 16 | (left > 1 ? (uint32_t)from[i + 1] << 8 : 0) |
                         (left > 2 ? from[i + 2] : 0);
        o->at[0] = (uint8_t)digits[three >> 18];
        o->at[1] = (uint8_t)digits[three >> 12 & 63];
        o->at[2] = left > 1 ? (uint8_t)digits[three >> 6 & 63] : '=';
        o->at[3] = left > 2 ? (uint8_t)digits[three & 63] : '=';
        o->at += 4;
    }
    return true;
}

static bool put_json(sink *o, const record *r)
{
    if (!PUT(o, "{\"offset\": ") || !put_number(o, r->offset) ||
        !PUT(o, ", \"timestamp_ns\": ") || !put_number(o, r->timestamp_ns))
        return false;
    if (r->own_ns != RW_NO_TIME &&
        (!PUT(o, ", \"own_timestamp_ns\": ") || !put_number(o, r->own_ns)))
        return false;
    sink text = *o;
    enum text found = PUT(&text, ", \"encoding\": \"utf-8\", \"data\": \"")
                          ? put_text(&text, r->data, r->size)
                          : TEXT_LONG;
    if (found == TEXT_OK)
        *o = text;
    else if (found == TEXT_LONG || !PUT(o, ", \"encoding\": \"base64\", \"data\": \"") ||
             !put_base64(o, r->data, r->size))
        return false;
    return PUT(o, "\"}\n");
}

/* ------------------------------------------------------------------------------------ the walk */

static bool put_record(sink *o, uint32_t form, const record *r)
{
    if (form == RW_FORM_JSON)
        return put_json(o, r);
    return put(o, r->data, r->size) && (form == RW_FORM_RAW || PUT(o, "\n"));
}

static int print_frame(const uint8_t *frame, const rw_frame *r, rw_walk *s, void *into)
{
    rw_lines *out = into;
    uint32_t length;
    while (rw_walk_wants(r, s)) {
        if (rw_walk_record(frame, r, s, &length) != RW_OK)
            return RW_WALK_BAD;
        sink o = {.at = out->out + out->used, .end = out->out + out->capacity};
        const record one = {.offset = s->next_offset,
                            .timestamp_ns = r->timestamp_ns,
                            .own_ns = rw_walk_time(frame, r, s),
                            .data = frame + s->data_at,
                            .size = length};
        if (out->records_left == 0 || !put_record(&o, out->form, &one))
            return RW_WALK_FULL;
        out->used = (uint64_t)(o.at - out->out);
        out->records_left--;
        s->data_at += length;
        s->next_offset++;
    }
    return RW_WALK_ON;
}

int rw_walk_lines(const rw_area *area, rw_walk *s, rw_lines *out)
{
    return rw_walk_stream(area, s, print_frame, out);
}
