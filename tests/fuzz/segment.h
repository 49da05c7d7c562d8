/* An input of segment.c: what a reader is told from elsewhere, then a piece of a log as it could
 * stand in segment files. */
#ifndef SEGMENT_H
#define SEGMENT_H

#include "layout.h"

#define SEGMENT_PAGES_MAX 64u

typedef struct segment_head {
    uint8_t uuid[16];
    uint64_t epoch;
    uint64_t begin; /* log position of the first byte that follows; rounded down to a page */
    uint64_t next_offset, below; /* records that are asked for */
    uint32_t stream;
    uint32_t max_streams;
    uint32_t segment_pages;
    uint32_t window_pages; /* how much is shown at once */
    uint32_t draft_pages;  /* how large a block of the next epoch is */
    uint32_t limit;        /* records, and index entries, for which there is room */
} segment_head;

#endif
