#include "sidefile.h"

#include "atomics.h"
#include "digest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIDE_AHEAD (64 << 10)

struct rw_side {
    rw_side_header header;
    rw_side_plan plan;
    uint8_t *memory; /* as the file; a page has its bytes once it is proven */
    uint32_t *proven; /* by page: 1 when its bytes are there */
    uint64_t read;
    uint64_t begin; /* log position of the segment */
    int fd;
};

void rw_side_plan_of(const rw_side_header *h, rw_side_plan *out)
{
    uint64_t epochs = rw_page_up(h->epochs * (uint64_t)sizeof(rw_side_epoch));
    uint64_t streams = rw_page_up(h->streams * (uint64_t)sizeof(rw_side_stream));
    uint64_t entries = rw_page_up(h->entries * (uint64_t)sizeof(rw_side_entry));
    uint64_t blocks = rw_page_up(h->blocks * (uint64_t)sizeof(rw_side_block));
    uint64_t ends = rw_page_up(h->ends * (uint64_t)sizeof(rw_occupant));
    uint64_t pages = (epochs + streams + entries + blocks + ends) / RW_PAGE;
    out->epochs = RW_PAGE + rw_page_up(pages * sizeof(uint64_t));
    out->streams = out->epochs + epochs;
    out->entries = out->streams + streams;
    out->blocks = out->entries + entries;
    out->ends = out->blocks + blocks;
    out->bytes = out->ends + ends;
}

static int read_all(int fd, uint8_t *into, uint64_t bytes, uint64_t at)
{
    while (bytes != 0) {
        ssize_t got = pread(fd, into, bytes, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return RW_BAD;
        into += got;
        at += (uint64_t)got;
        bytes -= (uint64_t)got;
    }
    return RW_OK;
}

static int check_header(const rw_side_header *h, const uint8_t uuid[16], uint64_t segment,
                        uint64_t segment_bytes, uint64_t size)
{
    if (h->magic != RW_SIDE_MAGIC || h->format_version != RW_FORMAT_VERSION || h->features != 0 ||
        h->digest != rw_xxh3((const uint8_t *)h, offsetof(rw_side_header, digest)))
        return RW_BAD;
    if (memcmp(h->uuid, uuid, sizeof h->uuid) != 0 || h->segment != segment ||
        h->segment_bytes != segment_bytes || h->bytes != size)
        return RW_BAD;
    rw_side_plan plan;
    rw_side_plan_of(h, &plan);
    return plan.bytes == size ? RW_OK : RW_BAD;
}

static int open_body(rw_side *s)
{
    uint64_t pages = s->plan.bytes / RW_PAGE, digests = s->plan.epochs - RW_PAGE;
    void *memory = mmap(NULL, s->plan.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
    if (memory == MAP_FAILED)
        return RW_FULL;
    s->memory = memory;
    s->proven = calloc(pages, sizeof *s->proven);
    if (s->proven == NULL)
        return RW_FULL;
    if (read_all(s->fd, s->memory + RW_PAGE, digests, RW_PAGE) != RW_OK)
        return RW_BAD;
    s->read += digests;
    return s->header.digests == rw_xxh3(s->memory + RW_PAGE, digests) ? RW_OK : RW_BAD;
}

static int open_file(int at, const char *name)
{
    return openat(at, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

static int read_header(int fd, const uint8_t uuid[16], uint64_t segment, uint64_t segment_bytes,
                       rw_side_header *out)
{
    struct stat found;
    if (fstat(fd, &found) != 0 || !S_ISREG(found.st_mode) ||
        read_all(fd, (uint8_t *)out, sizeof *out, 0) != RW_OK)
        return RW_BAD;
    return check_header(out, uuid, segment, segment_bytes, (uint64_t)found.st_size);
}

int rw_side_peek(int at, const char *name, const uint8_t uuid[16], uint64_t segment,
                 uint64_t segment_bytes, rw_side_header *out)
{
    int fd = open_file(at, name);
    if (fd < 0)
        return RW_BAD;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* nothing else of it is wanted */
    int code = read_header(fd, uuid, segment, segment_bytes, out);
    close(fd);
    return code;
}

rw_side *rw_side_open(int at, const char *name, const uint8_t uuid[16], uint64_t segment,
                      uint64_t segment_bytes)
{
    rw_side *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->fd = open_file(at, name);
    /* In one go rather than page by page, of a file that is not large: see where questions lead. */
    if (s->fd >= 0)
        (void)posix_fadvise(s->fd, 0, SIDE_AHEAD, POSIX_FADV_WILLNEED);
    if (s->fd >= 0 && read_header(s->fd, uuid, segment, segment_bytes, &s->header) == RW_OK) {
        rw_side_plan_of(&s->header, &s->plan);
        s->begin = segment * segment_bytes;
        s->read = sizeof s->header;
        if (open_body(s) == RW_OK)
            return s;
    }
    rw_side_close(s);
    return NULL;
}

void rw_side_close(rw_side *s)
{
    if (s == NULL)
        return;
    if (s->fd >= 0)
        close(s->fd);
    if (s->memory != NULL)
        munmap(s->memory, s->plan.bytes);
    free(s->proven);
    free(s);
}

const rw_side_header *rw_side_header_of(const rw_side *s) { return &s->header; }

uint64_t rw_side_read(const rw_side *s) { return rw_peek64(&s->read); }

/* ---------------------------------------------------------------------------------------- pages */

/* Reads the page to one side first, so that the memory only ever gets bytes that are proven: other
 * threads may be reading there, and what two of them store is the same. */
static int prove(rw_side *s, uint64_t page)
{
    uint8_t bytes[RW_PAGE];
    uint64_t digest;
    memcpy(&digest, s->memory + RW_PAGE + (page - s->plan.epochs / RW_PAGE) * sizeof digest,
           sizeof digest);
    if (read_all(s->fd, bytes, RW_PAGE, page * RW_PAGE) != RW_OK ||
        digest != rw_xxh3(bytes, RW_PAGE))
        return RW_BAD;
    memcpy(s->memory + page * RW_PAGE, bytes, RW_PAGE);
    rw_store32(&s->proven[page], 1); /* PAIR: side page */
    rw_count64(&s->read, RW_PAGE);
    return RW_OK;
}

/* The i-th of `count` rows of a section, copied. */
static int row(rw_side *s, uint64_t section, uint64_t i, uint64_t count, uint64_t bytes, void *out)
{
    if (i >= count)
        return RW_PENDING;
    uint64_t at = section + i * bytes;
    for (uint64_t page = at / RW_PAGE; page <= (at + bytes - 1) / RW_PAGE; page++)
        if (rw_load32(&s->proven[page]) == 0 && prove(s, page) != RW_OK) /* PAIR: side page */
            return RW_BAD;
    memcpy(out, s->memory + at, bytes);
    return RW_OK;
}

static int rows(rw_side *s, uint64_t section, uint64_t count, uint64_t bytes, uint8_t *out)
{
    for (uint64_t i = 0; i < count; i++) {
        int code = row(s, section, i, count, bytes, out + i * bytes);
        if (code != RW_OK)
            return code;
    }
    return RW_OK;
}

int rw_side_prove(rw_side *s)
{
    for (uint64_t page = s->plan.epochs / RW_PAGE; page < s->plan.bytes / RW_PAGE; page++)
        if (rw_load32(&s->proven[page]) == 0 && prove(s, page) != RW_OK)
            return RW_BAD;
    return RW_OK;
}

/* ------------------------------------------------------------------------------------ questions */

/* Rows that begin with a number and are sorted by it: the one of `number`. It cannot lie behind the
 * row `number`, and where most numbers are there lies little before it: so the search begins at
 * that end, with steps that double, and stays in a page or two. */
static int find_number(rw_side *s, uint64_t section, uint32_t count, uint64_t bytes,
                       uint32_t number, void *out)
{
    uint32_t low = 0, high = number < count ? number + 1 : count, step = 1;
    while (low < high) {
        uint32_t half = (high - low + 1) / 2, found;
        uint32_t middle = high - (step < half ? step : half);
        step = low == 0 && step < half ? 2 * step : count;
        int code = row(s, section, middle, count, bytes, out);
        if (code != RW_OK)
            return code;
        memcpy(&found, out, sizeof found);
        if (found == number)
            return RW_OK;
        if (found < number)
            low = middle + 1;
        else
            high = middle;
    }
    return RW_PENDING;
}

int rw_side_stream_of(rw_side *s, uint32_t i, rw_side_stream *out)
{
    return row(s, s->plan.streams, i, s->header.streams, sizeof *out, out);
}

int rw_side_span(rw_side *s, uint32_t number, rw_side_stream *out)
{
    return find_number(s, s->plan.streams, s->header.streams, sizeof *out, number, out);
}

int rw_side_end(rw_side *s, uint32_t number, uint64_t *next_offset)
{
    rw_occupant found;
    int code = find_number(s, s->plan.ends, s->header.ends, sizeof found, number, &found);
    if (code == RW_OK)
        *next_offset = found.end;
    return code;
}

int rw_side_epoch_of(rw_side *s, uint32_t i, rw_side_epoch *out)
{
    return row(s, s->plan.epochs, i, s->header.epochs, sizeof *out, out);
}

int rw_side_block_of(rw_side *s, uint32_t i, rw_side_block *out)
{
    int code = row(s, s->plan.blocks, i, s->header.blocks, sizeof *out, out);
    if (code != RW_OK)
        return code;
    uint64_t size = s->header.segment_bytes;
    bool within = out->position >= s->begin && out->position - s->begin < size &&
                  out->position % RW_PAGE == 0 && out->length % RW_PAGE == 0 && out->length != 0 &&
                  out->length <= size - (out->position - s->begin);
    return within ? RW_OK : RW_BAD;
}

int rw_side_find(rw_side *s, uint32_t number, uint64_t offset, rw_side_block *out)
{
    rw_side_stream span;
    int code = rw_side_span(s, number, &span);
    if (code != RW_OK)
        return code;
    if (offset < span.first_offset || offset >= span.next_offset)
        return RW_PENDING;
    rw_side_entry entry, found = {.block = UINT32_MAX};
    uint32_t low = 0, high = span.entries;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        uint64_t place = (uint64_t)span.first_entry + middle;
        if (place >= s->header.entries)
            return RW_BAD;
        code = row(s, s->plan.entries, place, s->header.entries, sizeof entry, &entry);
        if (code != RW_OK)
            return code;
        if (entry.offset <= offset - span.first_offset) {
            found = entry;
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return rw_side_block_of(s, found.block, out) == RW_OK ? RW_OK : RW_BAD;
}

int rw_side_at_time(rw_side *s, uint64_t ns, rw_side_block *out)
{
    uint32_t low = 0, high = s->header.blocks;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (rw_side_block_of(s, middle, out) != RW_OK)
            return RW_BAD;
        if (out->newest_ns < ns)
            low = middle + 1;
        else
            high = middle;
    }
    return low == s->header.blocks ? RW_PENDING : rw_side_block_of(s, low, out);
}

int rw_side_occupants(rw_side *s, rw_occupant *out)
{
    for (uint32_t i = 0; i < s->header.streams; i++) {
        rw_side_stream one;
        if (rw_side_stream_of(s, i, &one) != RW_OK)
            return RW_BAD;
        out[i] = (rw_occupant){.stream = one.number, .end = one.next_offset};
    }
    return RW_OK;
}

int rw_side_ends(rw_side *s, rw_occupant *out)
{
    return rows(s, s->plan.ends, s->header.ends, sizeof *out, (uint8_t *)out);
}

/* The blocks with a record of the stream at or behind `start`. */
static int mark_live(rw_side *s, const rw_side_stream *of, uint64_t start, uint8_t *live)
{
    for (uint32_t i = of->entries; i-- > 0;) {
        rw_side_entry entry;
        uint64_t place = (uint64_t)of->first_entry + i;
        if (row(s, s->plan.entries, place, s->header.entries, sizeof entry, &entry) != RW_OK ||
            entry.block >= s->header.blocks)
            return RW_BAD;
        live[entry.block] = 1;
        if (of->first_offset + entry.offset <= start)
            break; /* the others of this stream end before it begins */
    }
    return RW_OK;
}

int rw_side_live(rw_side *s, const rw_checkpoint_stream *streams, uint32_t count, uint8_t *live,
                 uint64_t *bytes)
{
    uint32_t known = 0;
    for (uint32_t i = 0; i < s->header.streams; i++) {
        rw_side_stream of;
        if (rw_side_stream_of(s, i, &of) != RW_OK)
            return RW_BAD;
        while (known < count && streams[known].number < of.number)
            known++;
        if (known == count)
            break;
        if (streams[known].number != of.number || streams[known].start_offset >= of.next_offset)
            continue;
        if (mark_live(s, &of, streams[known].start_offset, live) != RW_OK)
            return RW_BAD;
    }
    *bytes = 0;
    for (uint32_t i = 0; i < s->header.blocks; i++) {
        rw_side_block block;
        if (live[i] && rw_side_block_of(s, i, &block) != RW_OK)
            return RW_BAD;
        *bytes += live[i] ? block.length : 0;
    }
    return RW_OK;
}
