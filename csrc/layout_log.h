/* What stands in the log and in checkpoints: the second half of layout.h, which has its constants,
 * includes it, and says how a word is described. docs/format.md says the same to those who have
 * the files and not this. */
#ifndef RW_LAYOUT_LOG_H
#define RW_LAYOUT_LOG_H

/* ---------------------------------------------------------- log: same bytes in ring and on disk */

enum rw_block_kind {
    RW_BLOCK_DATA = 1,
    RW_BLOCK_EPOCH = 2,
    RW_BLOCK_END = 3,
    RW_BLOCK_HOLE = 4 /* written by a salvage only: what was there could not be saved */
};

typedef struct rw_block {
    uint64_t magic; /* [constant] W > all: RW_BLOCK_MAGIC */
    uint32_t crc; /* [CRC-32C] W > all: of these 128 bytes with crc = 0 */
    uint32_t format_version; /* [constant] W > all: RW_FORMAT_VERSION */
    uint8_t uuid[16]; /* [bytes] W > all: of the log */
    uint64_t epoch; /* [number] W > all: in which it was written */
    uint64_t position; /* [log position] W > all: at which it lies */
    uint32_t length; /* [bytes] W > all: a multiple of 4096 */
    uint32_t used; /* [bytes] W > all: header and frames; the rest is zero */
    uint32_t frames; /* [count] W > all: in the block */
    uint32_t kind; /* [enum rw_block_kind] W > all: data, first of an epoch, end of a segment */
    uint64_t span; /* [bytes] W > all: log bytes covered; the next block is at position + span */
    /* [log position] W > all: every block below was persisted when this one was submitted */
    uint64_t watermark;
    uint64_t number; /* [block number] W > all: since the memory of its engine was made */
    /* [log position] S > all: EPOCH: where the epoch before ends, its cut; else 0 */
    uint64_t previous_end;
    /* [number] S > all: EPOCH: of the epoch before, 0 if this is the first; else 0 */
    uint64_t previous_epoch;
    uint64_t timestamp_ns; /* [ns, wall clock] W > all: when it was composed */
    /* [log position] S > all: EPOCH: where the epoch before begins; else 0 */
    uint64_t previous_begin;
    RW_PAD(pad0, 120, 128);
} rw_block;

/* All but BATCH are control frames, of count 0. BATCH, TRIM, DELETE, SETTINGS, CLAIM and COMMIT go
 * through their stream's queue, in order; the others belong to none. */
enum rw_frame_kind {
    RW_FRAME_BATCH = 1,
    RW_FRAME_STREAM = 2, /* definition; payload: the name */
    RW_FRAME_TRIM = 3, /* payload: u64, offset below which records are dropped */
    RW_FRAME_DELETE = 4, /* no payload; the stream's last frame */
    RW_FRAME_VERDICT = 5, /* payload: rw_verdict; what became of a request that was refused alone */
    RW_FRAME_DROP = 6, /* payload: rw_drop_row, one or more: what the engine drops by itself */
    RW_FRAME_SETTINGS = 8, /* payload: rw_settings as far as it has text: instead of those before */
    RW_FRAME_CLAIM = 9, /* payload: rw_claim and a name: an owner of the stream begins anew */
    RW_FRAME_COMMIT = 10 /* payload: u64, the offset at which a consumer goes on, or RW_FORGET */
};

/* Flag of a batch: its payload ends with a time of its own for each record, u64, ns. */
#define RW_OWN_TIMES 0x20u
/* Flag of a request only: it is appended at one offset, or refused. */
#define RW_EXPECTS 0x40u
/* JOINT APPENDS. Flag of a batch or a COMMIT that is a part of one, and not the last: the next part
 * is the next frame of the block, or the next request of the lane. The parts are of different
 * streams, in order of their places where they are requests. All of them are in the log, or none.
 */
#define RW_JOINED 0x80u
#define RW_PARTS_MAX 64u

/* Of a COMMIT: there is no such consumer any more. */
#define RW_FORGET UINT64_MAX

/* A frame: this header, the payload, zeros up to a multiple of 8. A batch of count > 1 has
 * its count lengths (u32 each) first in the payload, then the data, then own times if any. */
typedef struct rw_frame {
    /* [CRC-32C] W > all: of the header, crc and persisted 0, seeded from epoch and position */
    uint32_t crc;
    uint8_t kind; /* [enum rw_frame_kind] W > all: what it is */
    uint8_t persisted; /* [enum rw_persisted] W > W D: by CAS only, in persisted.c; not under crc */
    uint16_t slot; /* [index] W > D: of the writer */
    uint32_t payload_bytes; /* [bytes] W > all: behind this header */
    uint32_t count; /* [records] W > all: in the batch; 0 in a control frame */
    uint32_t stream; /* [stream number] W > all: that it belongs to */
    /* [bits] W > all: RW_OWN_TIMES, RW_JOINED in a batch; codec, keys, headers (docs/format.md) */
    uint32_t flags;
    /* [offset] W > all: of the first record; of a control frame: of the next one */
    uint64_t base_offset;
    uint64_t timestamp_ns; /* [ns, wall clock] W > all: of the records */
    uint64_t digest; /* [XXH3-64] W > all: of the payload */
    uint64_t ticket; /* [lane position] W > W: of the request, for a successor */
    /* [slot's generation << 32 | running number] W > D: rw_request.number */
    uint64_t number;
    uint64_t producer_id; /* [owner number] W > all: whose batch, claim, commit; 0: nobody's */
    /* [number] W > all: of its first record; of a claim: of the next one; of a commit: before it */
    uint64_t producer_sequence;
    uint32_t producer_epoch; /* [number] W > all: of the owner's claim in force */
    uint32_t place; /* [index] W > W D: where the stream's words are, in the memory of this epoch */
} rw_frame;

enum rw_verdict_reason {
    RW_VERDICT_DEAD = 1, /* the stream is deleted */
    RW_VERDICT_OFFSET = 2, /* it expects another offset; value: the stream's next one */
    RW_VERDICT_REPEAT = 3, /* it is there; value: its offset, or RW_OFFSET_UNKNOWN */
    RW_VERDICT_GAP = 4, /* sequences are missing before it; value: the owner's next one */
    RW_VERDICT_FENCED = 5, /* its owner was claimed again, or forgotten; value: its epoch, or 0 */
    RW_VERDICT_TABLE = 6, /* a claim: the table of owners is full */
    RW_VERDICT_JOINED = 7 /* another part of its joint append is refused, and says why */
};
#define RW_OFFSET_UNKNOWN (RW_ANSWER_VALUES - 1)

typedef struct rw_verdict {
    uint32_t reason; /* [enum rw_verdict_reason] W > D: why */
    uint32_t request_bytes; /* [bytes] W > W: payload of the request, for a successor */
    uint64_t value; /* [number] W > D: what belongs to the reason; else 0 */
} rw_verdict;

/* Of a CLAIM, whose name follows. */
typedef struct rw_claim {
    uint32_t kind; /* [enum rw_owner_kind] S > W all: PRODUCER, CONSUMER */
    uint32_t forgets; /* [owner number] S > W all: whose row it takes, if there is no free one; 0 */
    /* [ns, wall clock] S > W: composed_ns of that row, not taken if later; or a CONSUMER's start */
    uint64_t seen_ns;
} rw_claim;

/* Of a DROP frame, which counts when its block is released: all before is confirmed then. */
typedef struct rw_drop_row {
    uint32_t stream; /* [stream number] W > all: whose records are dropped */
    uint32_t place; /* [index] W > D: where its words are, in the memory of this epoch */
    uint64_t start_offset; /* [offset] W > all: of the first one that stays */
} rw_drop_row;

enum rw_setting { RW_SET_AGE = 1, RW_SET_BYTES = 2, RW_SET_RECORDS = 4 };

/* What a stream has of its own; what it has not said is the engine's to say. All of it, each time:
 * settings are compared and replaced, not added up. Unused text is zero. */
typedef struct rw_settings {
    uint32_t version; /* [changes] S > all: how often they were set, this time included; 0: never */
    uint16_t said; /* [enum rw_setting, bits] S > all: which limits are the stream's own */
    uint16_t text_bytes; /* [bytes] S > all: of the text */
    uint64_t age_ns; /* [ns] S > all: records that are older may go; 0: no limit, or not said */
    /* [bytes] S > all: payload beyond the newest so many may go; 0 as above */
    uint64_t payload_bytes;
    uint64_t records; /* [records] S > all: beyond the newest so many may go; 0 as above */
    /* [names] S > all: of consumers that hold it: a byte with the name's length, the name, each */
    uint8_t text[RW_SETTINGS_TEXT];
} rw_settings;

/* What a checkpoint says of one stream, as of the checkpoint's log position (docs/format.md). */
typedef struct rw_checkpoint_stream {
    uint32_t number; /* [stream number] W S > S: of the stream */
    uint16_t state; /* [enum rw_stream_state] W S > S: RW_STREAM_OPEN */
    uint16_t name_bytes; /* [bytes] W S > S: of the name */
    uint64_t next_offset; /* [offset] W S > S: of the next record */
    uint64_t start_offset; /* [offset] W S > S: records below are dropped */
    uint64_t payload_bytes; /* [bytes] W S > S: of all its batches so far */
    uint64_t timestamp_ns; /* [ns, wall clock] W S > S: of the newest one; 0: none */
    uint8_t name[RW_STREAM_NAME_MAX]; /* [bytes] W S > S: UTF-8, then zeros */
    uint8_t settings[RW_SETTINGS_BYTES]; /* [rw_settings] W S > S: all zero: never set */
} rw_checkpoint_stream;

/* The same of one owner. */
typedef struct rw_checkpoint_owner {
    uint32_t number; /* [owner number] W S > S: of the owner */
    uint32_t kind; /* [enum rw_owner_kind] W S > S: PRODUCER, CONSUMER */
    uint32_t epoch; /* [number] W S > S: of the claim in force */
    uint32_t stream; /* [stream number] W S > S: that it appends to, or reads */
    uint64_t next_sequence; /* [number] W S > S: of its next record; of a CONSUMER its offset */
    uint64_t last_sequence; /* [number] W S > S: of the first record of its newest batch */
    uint64_t last_offset; /* [offset] W S > S: of that record */
    uint64_t timestamp_ns; /* [ns, wall clock] W S > S: of its newest frame */
    uint32_t name_bytes; /* [bytes] W S > S: of the name */
    uint32_t pad_;
    uint8_t name[RW_STREAM_NAME_MAX]; /* [bytes] W S > S: UTF-8, then zeros */
} rw_checkpoint_owner;

#endif
