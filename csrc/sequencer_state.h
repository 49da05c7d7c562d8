/* What the drain process knows; private to the files sequencer*.c. */
#ifndef RW_SEQUENCER_STATE_H
#define RW_SEQUENCER_STATE_H

#include "contention.h"
#include "sequencer.h"

/* A request that waits in its stream's queue. */
typedef struct entry {
    uint64_t position; /* log position of its frame */
    uint32_t next;     /* the stream's next request */
    uint32_t block;    /* low half of its block number */
    uint32_t part;     /* 1 + bytes from the first part of its joint append on; 0: it is no part */
} entry;

typedef struct queue { uint32_t head, tail; } queue;

typedef struct block_state {
    uint32_t remaining; /* requests of the block not confirmed yet */
    uint16_t completed; /* its persisted bytes were acted upon */
    uint16_t drops;     /* it has DROP frames, which count when it is released */
} block_state;

typedef struct client {
    rw_lane *lane;
    uint32_t generation;
    uint32_t outstanding; /* registered and not confirmed */
    uint32_t dirty;
    int bell_fd;   /* of the lane; -1: it has none */
    uint64_t rung; /* step in which it was rung last */
} client;

struct rw_sequencer {
    rw_control *c;
    uint8_t *ring;
    int inner_fd;
    queue *queues;       /* by place */
    uint64_t *advanced;  /* by place: step in which its stream last advanced */
    uint32_t *behind;    /* places whose queues go on behind a joint append, each once */
    uint8_t *is_behind;  /* by place: is it among them? */
    uint32_t behind_count;
    entry *entries;      /* ring of RW_PENDING_MAX */
    block_state *blocks; /* ring of RW_BLOCK_ENTRIES */
    client *clients;     /* by slot */
    uint32_t *dirty;     /* slots with new completions in this step */
    uint32_t dirty_count;
    uint64_t requests;   /* registered so far: the next entry */
    uint64_t waiting;    /* of those, not confirmed */
    uint64_t registered; /* blocks */
    uint64_t incomplete; /* first block whose persisted bytes were not acted upon */
    uint64_t step;
    uint64_t confirmed; /* requests, in this step */
    bool rang;          /* a bell, since the loop last looked */
    rw_callers callers;
    uint32_t membership_seen;
    uint32_t closing; /* slots that are closing and not let go of */
    uint32_t want_slot, want_generation;
    int want; /* what rw_sequencer_wants answers */
};

/* sequencer_lanes.c */
/* Is the lane of this writer attached? If its slot has moved on, nobody waits for it and that is
 * all right. */
bool rw_sequencer_knows(rw_sequencer *s, uint32_t slot, uint32_t generation);
/* Threads that tail a stream which advanced in this step, and loops. PAIR: tail, PAIR: bell */
void rw_sequencer_wake_tails(rw_sequencer *s);
/* Once per writer and batch. PAIR: wake, PAIR: bell */
void rw_sequencer_wake_writers(rw_sequencer *s);
/* New writers and tailers are attached, so that they can be woken; slots that are closing and have
 * nothing left, let go of. RW_OK or RW_MAINTENANCE. */
int rw_sequencer_check_membership(rw_sequencer *s);

#endif
