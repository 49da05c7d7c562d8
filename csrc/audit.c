#include "audit.h"

#include "digest.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

rw_audit *rw_audit_open(const uint8_t uuid[16], uint64_t segment_bytes)
{
    rw_audit *a = calloc(1, sizeof *a);
    rw_recovery *table = rw_recovery_open(uuid, 0, 0, segment_bytes);
    if (a == NULL || table == NULL) {
        rw_recovery_close(table);
        free(a);
        return NULL;
    }
    memcpy(a->uuid, uuid, sizeof a->uuid);
    a->segment_bytes = segment_bytes;
    a->number_limit = UINT32_MAX;
    a->owners_end = 1;
    a->table = table;
    return a;
}

void rw_audit_close(rw_audit *a)
{
    if (a != NULL)
        rw_recovery_close(a->table);
    free(a);
}

void rw_audit_begin(rw_audit *a)
{
    a->at = 0;
    a->in_region = 0;
    a->number_known = 0;
    a->finding = RW_AUDIT_NOTHING;
}

uint32_t rw_audit_streams(const rw_audit *a) { return a->table->stream_end; }

const rw_recovery_stream *rw_audit_stream_of(const rw_audit *a, uint32_t i)
{
    return rw_recovery_stream_of(a->table, i);
}

const rw_recovery_stream *rw_audit_find(const rw_audit *a, uint32_t number)
{
    return rw_recovery_find(a->table, number);
}

int rw_audit_meet(rw_audit *a, const rw_checkpoint_stream *row)
{
    rw_checkpoint_stream r;
    memcpy(&r, row, sizeof r); /* the caller's bytes need not be aligned */
    rw_recovery_stream *t = rw_recovery_find(a->table, r.number);
    if (t == NULL) {
        if ((t = rw_recovery_add(a->table, r.number)) == NULL)
            return RW_FULL;
        t->first_offset = r.next_offset;
    }
    t->state = RW_RECOVERY_STREAM_DEFINED;
    t->seen = 1;
    t->seen_at = a->position;
    t->next_offset = r.next_offset;
    t->start_offset = r.start_offset;
    t->payload_bytes = r.payload_bytes;
    t->timestamp_ns = r.timestamp_ns;
    memcpy(t->settings, r.settings, sizeof t->settings);
    t->name_bytes = r.name_bytes <= RW_STREAM_NAME_MAX ? r.name_bytes : RW_STREAM_NAME_MAX;
    memcpy(t->name, r.name, t->name_bytes);
    return RW_OK;
}

typedef struct shown {
    const uint8_t *window;
    uint64_t from, available;
} shown;

/* The bytes at that log position; NULL: they have to be shown first. */
static const uint8_t *have(rw_audit *a, const shown *s, uint64_t position, uint64_t bytes)
{
    if (position >= s->from && position - s->from <= s->available &&
        bytes <= s->available - (position - s->from))
        return s->window + (position - s->from);
    a->show = position;
    a->wanted = bytes;
    return NULL;
}

static int found(rw_audit *a, uint32_t finding, uint64_t place, uint32_t stream)
{
    a->finding = finding;
    a->place = place;
    a->stream = stream;
    return RW_BAD;
}

/* ------------------------------------------------------------------------------------ one frame */

/* A stream is what its frames say; of one that began before what is there, the first of them. */
static int meet(rw_audit *a, const rw_frame *r, uint64_t place, rw_recovery_stream **out)
{
    rw_recovery_stream *t = rw_recovery_find(a->table, r->stream);
    int rc = RW_OK;
    if (t == NULL) {
        if ((t = rw_recovery_add(a->table, r->stream)) == NULL)
            return RW_FULL;
        t->state = RW_RECOVERY_STREAM_DEFINED;
    }
    *out = t;
    if (t->state == RW_RECOVERY_STREAM_DELETED)
        return found(a, RW_AUDIT_DELETED, place, r->stream);
    if (r->stream >= a->number_limit)
        rc = found(a, RW_AUDIT_EARLY, place, r->stream);
    if (r->base_offset < t->next_offset)
        return found(a, RW_AUDIT_REPEAT, place, r->stream);
    if (r->base_offset > t->next_offset) {
        a->first = t->next_offset;
        a->next = r->base_offset;
        a->since = t->seen_at;
        rc = found(a, RW_AUDIT_LOST, place, r->stream);
        if (t->seen == 0)
            t->first_offset = r->base_offset;
        t->next_offset = r->base_offset;
    }
    return rc;
}

static int trim_to(rw_audit *a, rw_recovery_stream *t, uint64_t offset, uint64_t place)
{
    if (offset > t->next_offset)
        return found(a, RW_AUDIT_TRIM, place, t->number);
    if (offset > t->start_offset)
        t->start_offset = offset;
    return RW_OK;
}

static int define(rw_audit *a, rw_recovery_stream *t, const rw_frame *r, const uint8_t *name,
                  uint64_t place)
{
    if (t->name_bytes != 0 &&
        (t->name_bytes != r->payload_bytes || memcmp(t->name, name, r->payload_bytes) != 0))
        return found(a, RW_AUDIT_RENAMED, place, r->stream);
    t->name_bytes = r->payload_bytes;
    memcpy(t->name, name, r->payload_bytes);
    return RW_OK;
}

/* `payload` is NULL where it is damaged, or where it is not looked at. */
static int take_queued(rw_audit *a, const rw_frame *r, const uint8_t *payload, uint64_t place)
{
    rw_recovery_stream *t = NULL;
    int rc = meet(a, r, place, &t);
    if (rc == RW_FULL || (rc != RW_OK && a->finding != RW_AUDIT_LOST))
        return rc;
    t->seen = 1;
    t->seen_at = a->block.position;
    t->next_offset += r->count;
    int more = RW_OK;
    if (r->kind == RW_FRAME_BATCH) {
        t->payload_bytes += r->payload_bytes;
        t->timestamp_ns = r->timestamp_ns > t->timestamp_ns ? r->timestamp_ns : t->timestamp_ns;
    } else if (r->kind == RW_FRAME_DELETE) {
        t->state = RW_RECOVERY_STREAM_DELETED;
    } else if (payload != NULL && r->kind == RW_FRAME_STREAM) {
        more = define(a, t, r, payload, place);
    } else if (payload != NULL && r->kind == RW_FRAME_SETTINGS) {
        memset(t->settings, 0, sizeof t->settings);
        memcpy(t->settings, payload, r->payload_bytes); /* checked with the frame: never longer */
    } else if (payload != NULL && r->kind == RW_FRAME_TRIM) {
        uint64_t offset;
        memcpy(&offset, payload, sizeof offset);
        more = trim_to(a, t, offset, place);
    }
    return more != RW_OK ? more : rc;
}

/* Of streams that were not met nothing is known: their records may be freed. */
static int take_drop(rw_audit *a, const rw_frame *r, const uint8_t *payload, uint64_t place)
{
    int rc = RW_OK;
    for (uint32_t at = 0; at < r->payload_bytes; at += sizeof(rw_drop_row)) {
        rw_drop_row row;
        memcpy(&row, payload + at, sizeof row);
        rw_recovery_stream *t = rw_recovery_find(a->table, row.stream);
        if (t == NULL || t->state == RW_RECOVERY_STREAM_DELETED)
            continue;
        int one = trim_to(a, t, row.start_offset, place);
        rc = one != RW_OK ? one : rc;
    }
    return rc;
}

static int take_frame(rw_audit *a, const rw_frame *r, const uint8_t *payload, uint64_t place)
{
    if (rw_frame_queued(r->kind) || r->kind == RW_FRAME_STREAM)
        return take_queued(a, r, payload, place);
    return r->kind == RW_FRAME_DROP && payload != NULL ? take_drop(a, r, payload, place) : RW_OK;
}

/* First byte of these that is not zero, or `bytes`. */
static uint64_t first_set(const uint8_t *at, uint64_t bytes)
{
    uint64_t i = 0;
    while (i < bytes && at[i] == 0)
        i++;
    return i;
}

static bool whole(const rw_frame *r, const uint8_t *payload)
{
    return r->digest == rw_xxh3(payload, r->payload_bytes) &&
           rw_frame_sort_check(r, payload) == RW_OK;
}

/* The rest of the block cannot be found: only frames say where the next one is. */
static int lose_rest(rw_audit *a, uint64_t place)
{
    a->until = a->block.position + a->block.span;
    a->position = a->until;
    a->at = 0;
    return found(a, RW_AUDIT_FRAME, place, RW_NO_STREAM);
}

/* What is missing in front of a frame with a bad payload is told first, and then the frame is met
 * once more. */
static int lose_before(rw_audit *a, const rw_frame *r, uint64_t place)
{
    if (!rw_frame_queued(r->kind) && r->kind != RW_FRAME_STREAM)
        return RW_OK;
    rw_recovery_stream *t = NULL;
    int rc = meet(a, r, place, &t);
    return rc == RW_FULL || (rc != RW_OK && a->finding == RW_AUDIT_LOST) ? rc : RW_OK;
}

static int lose_payload(rw_audit *a, const rw_frame *r, uint64_t place)
{
    int rc = take_frame(a, r, NULL, place);
    if (rc == RW_FULL)
        return rc;
    a->first = r->base_offset;
    a->next = r->base_offset + r->count;
    a->until = place + rw_frame_bytes(r->payload_bytes);
    return found(a, RW_AUDIT_PAYLOAD, place + sizeof *r, r->stream);
}

/* Of a VERDICT it is what a client said. */
static void note_owner(rw_audit *a, const rw_frame *r)
{
    if ((r->kind == RW_FRAME_BATCH || r->kind == RW_FRAME_CLAIM || r->kind == RW_FRAME_COMMIT) &&
        r->producer_id >= a->owners_end)
        a->owners_end = (uint32_t)r->producer_id + 1;
}

/* A frame has one finding, so that of a joint append waits for the end of the block. */
static void note_joint(rw_audit *a, const rw_frame *r, uint64_t place)
{
    if (a->block.kind == RW_BLOCK_HOLE)
        return;
    bool wrong = rw_joint_take(&a->joint, r) != RW_OK || (a->left == 0 && a->joint.parts != 0);
    if (wrong && a->unjoined == 0)
        a->unjoined = place;
}

static int next_frame(rw_audit *a, const shown *s)
{
    const uint64_t place = a->block.position + a->at, rest = a->block.used - a->at;
    rw_frame r;
    if (rest < sizeof r)
        return lose_rest(a, place);
    const uint8_t *at = have(a, s, place, sizeof r);
    if (at == NULL)
        return RW_PENDING;
    memcpy(&r, at, sizeof r);
    uint64_t bytes = rw_frame_bytes(r.payload_bytes);
    if (r.crc != rw_frame_crc(&r, a->seed) || bytes > rest)
        return lose_rest(a, place);
    note_owner(a, &r);
    bool look = a->deep || r.kind != RW_FRAME_BATCH;
    const uint8_t *payload = NULL;
    if (look && (at = have(a, s, place, bytes)) == NULL)
        return RW_PENDING;
    if (look)
        payload = at + sizeof r;
    const bool bad = look && !whole(&r, payload);
    int rc = bad ? lose_before(a, &r, place) : RW_OK;
    if (rc != RW_OK)
        return rc;
    a->at += bytes;
    a->left--;
    note_joint(a, &r, place);
    if (bad)
        return lose_payload(a, &r, place);
    a->frames++;
    a->records += r.count;
    rc = take_frame(a, &r, payload, place);
    if (rc == RW_OK && a->deep) {
        uint64_t end = sizeof r + r.payload_bytes;
        uint64_t set = first_set(at + end, bytes - end);
        if (set != bytes - end)
            return found(a, RW_AUDIT_PADDING, place + end + set, r.stream);
    }
    return rc;
}

/* ------------------------------------------------------------------------------------ one block */

/* Behind the last frame: zeros. */
static int leave_block(rw_audit *a, const shown *s)
{
    const rw_block *h = &a->block;
    uint64_t place = h->position + h->used, rest = h->length - h->used, set = 0;
    if (a->at != h->used) {
        a->at = h->used; /* once */
        return found(a, RW_AUDIT_USED, h->position, RW_NO_STREAM);
    }
    if (a->unjoined != 0) {
        uint64_t wrong = a->unjoined;
        a->unjoined = 0; /* once */
        a->until = h->position + h->span;
        return found(a, RW_AUDIT_JOINED, wrong, RW_NO_STREAM);
    }
    if (a->deep && rest != 0) {
        const uint8_t *at = have(a, s, place, rest);
        if (at == NULL)
            return RW_PENDING;
        set = first_set(at, rest);
    }
    a->blocks++;
    a->bytes += h->length;
    if (h->timestamp_ns > a->timestamp_ns)
        a->timestamp_ns = h->timestamp_ns;
    a->position += h->span;
    a->at = 0;
    if (a->deep && set != rest)
        return found(a, RW_AUDIT_PADDING, place + set, RW_NO_STREAM);
    return RW_OK;
}

static bool placed(const rw_audit *a, const rw_block *h)
{
    uint64_t end = (h->position / a->segment_bytes + 1) * a->segment_bytes;
    if (h->kind == RW_BLOCK_DATA)
        return h->span == h->length && h->position + h->length <= end - RW_PAGE;
    if (h->length != RW_PAGE || h->frames != 0)
        return false;
    if (h->kind == RW_BLOCK_EPOCH)
        return h->span == RW_PAGE && h->position == a->begin;
    return h->kind == RW_BLOCK_HOLE || (h->kind == RW_BLOCK_END && h->position + h->span == end);
}

static int enter_block(rw_audit *a, const rw_block *h)
{
    bool follows = !a->number_known || h->number == a->number;
    bool right = placed(a, h) && (h->position != a->begin || h->kind == RW_BLOCK_EPOCH ||
                                  h->kind == RW_BLOCK_HOLE);
    a->block = *h;
    a->at = sizeof *h;
    a->left = h->frames;
    a->joint.parts = 0;
    a->unjoined = 0;
    a->seed = rw_frame_seed(h->epoch, h->position);
    a->number = h->number + 1;
    a->number_known = h->kind != RW_BLOCK_HOLE;
    if (h->watermark > a->watermark)
        a->watermark = h->watermark;
    a->until = h->position + h->span;
    if (h->kind == RW_BLOCK_HOLE)
        return found(a, RW_AUDIT_HOLE, h->position, RW_NO_STREAM);
    if (!right)
        return found(a, RW_AUDIT_MISPLACED, h->position, RW_NO_STREAM);
    if (!follows)
        return found(a, RW_AUDIT_NUMBER, h->position, RW_NO_STREAM);
    if (h->timestamp_ns < a->timestamp_ns)
        return found(a, RW_AUDIT_TIME, h->position, RW_NO_STREAM);
    return RW_OK;
}

static int leave_region(rw_audit *a)
{
    a->in_region = 0;
    a->until = a->position;
    return found(a, RW_AUDIT_REGION, a->place, RW_NO_STREAM);
}

/* A block that is not valid may have been of any length: the next one may be in the next page. */
static int next_block(rw_audit *a, const shown *s)
{
    const uint8_t *at = have(a, s, a->position, RW_PAGE);
    if (at == NULL)
        return RW_PENDING;
    uint64_t segment_end = (a->position / a->segment_bytes + 1) * a->segment_bytes;
    uint64_t end = segment_end < a->end ? segment_end : a->end;
    rw_block h;
    memcpy(&h, at, sizeof h);
    if (rw_block_check(at, UINT64_MAX, a->uuid, a->epoch, a->position) != RW_OK ||
        h.span > end - a->position) {
        if (!a->in_region)
            a->place = a->position;
        a->in_region = 1;
        a->number_known = 0;
        a->position += RW_PAGE;
        return a->position == segment_end ? leave_region(a) : RW_OK;
    }
    return a->in_region ? leave_region(a) : enter_block(a, &h);
}

int rw_audit_step(rw_audit *a, const uint8_t *window, uint64_t from, uint64_t available)
{
    const shown s = {.window = window, .from = from, .available = available};
    int rc = RW_OK;
    a->finding = RW_AUDIT_NOTHING;
    while (rc == RW_OK && (a->at != 0 || a->position < a->end)) {
        if (a->at == 0)
            rc = next_block(a, &s);
        else
            rc = a->left != 0 ? next_frame(a, &s) : leave_block(a, &s);
    }
    return rc == RW_OK && a->in_region ? leave_region(a) : rc;
}
