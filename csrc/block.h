/* Blocks of frames: sealed, checked, and gone through frame by frame. Pure bytes: no shared word,
 * no I/O, no state.
 *
 *   block (position P, a multiple of 4096)
 *   +----------+--------+-----------+--------+-----------+-- - - --+----------------------+
 *   | rw_block | header | payload   | header | payload   |         | zeros                |
 *   | 128      | 88     | up to 8x  | 88     | up to 8x  |         | up to 4096x          |
 *   +----------+--------+-----------+--------+-----------+-- - - --+----------------------+
 *   |<------------------------------- used ----------------------->|
 *   |<------------------------------- length --------------------------------------------->|
 *
 * A block is valid if and only if
 *   1. its header has the magic, the format version and a right CRC, 2. its uuid, epoch and
 *   position are the ones expected at that place, 3. length and span are multiples of 4096, length
 *   fits, used <= length <= span, the next position does not wrap, and
 *      `used` has room for so many frames,
 *   4. every one of its `frames` frames has a right CRC (seeded with epoch and position, so no
 *   frame of another
 *      block fits), lies inside `used`, and they end at `used`,
 *   5. every payload has the digest in its frame, and is what a frame of that kind has,
 *   6. its joint appends are whole (rw_joint_take); a HOLE, of whose frames some are lost, may have
 *   any of them.
 * Header checks are 1 to 3 (rw_block_check); a torn or stale block fails somewhere in 1 to 6
 * (rw_block_verify).
 *
 * Who goes through the frames of a block uses, by what is known of it:
 *   rw_frames         sealed by this engine, in its own memory: nothing is checked
 *   rw_frame_check    of a segment file, or of a ring that may be overwritten meanwhile: each
 *                     header is copied and checked
 *   rw_block_frames   verified before: decoded, for Python and for those who need little of a frame
 */
#ifndef RW_BLOCK_H
#define RW_BLOCK_H

#include "layout.h"
#include "frame.h"
#include "status.h"

/* What reading code needs of a frame. `at` is the byte offset of its header in the block. */
typedef struct rw_frame_info {
    uint64_t at;
    uint64_t base_offset;
    uint64_t timestamp_ns;
    uint64_t digest;
    uint64_t ticket;
    uint64_t number;
    uint32_t stream;
    uint32_t count;
    uint32_t payload_bytes;
    uint32_t place;
    uint32_t slot;
    uint32_t kind;
    uint32_t flags;
} rw_frame_info;

/* Completes the block whose frames end at like->used: zeros up to a whole page, then the header, as
 * `like` has it; magic, version, uuid, length and CRC are given here, and span 0 stands for the
 * length. Returns the length. */
uint64_t rw_block_seal(uint8_t *block, const rw_block *like, const uint8_t uuid[16]);

/* Fills crc last. `h` lies at the block's start; all other fields must be set. */
void rw_block_stamp(rw_block *h);

/* Checks 1 to 3 on the header at `block`, of which `available` bytes may be read. RW_OK or RW_BAD.
 */
int rw_block_check(const uint8_t *block, uint64_t available, const uint8_t uuid[16], uint64_t epoch,
                   uint64_t position);

/* The joint append that the frame before is a part of. Begin with zeros. */
typedef struct rw_joint {
    uint32_t parts; /* that are there; 0: that frame is a part of none, or the last one */
    uint32_t streams[RW_PARTS_MAX];
} rw_joint;

/* The next frame of the block. RW_BAD: not what may stand there by the rule of joint appends. What
 * is behind each part but the last is the next one, a batch or a commit; each is of another
 * stream, none of a producer. */
int rw_joint_take(rw_joint *j, const rw_frame *r);

/* Checks 4 to 6 on a block that passed rw_block_check and of which `length` bytes may be read.
 * RW_OK or RW_BAD. */
int rw_block_verify(const uint8_t *block);

/* First 4096-aligned place in `bytes` of `area`, whose first byte is log position `position`, with
 * a header that passes checks 1 to 3 as far as the header alone goes (a block that runs past the
 * area counts). Returns its byte offset, or `bytes` if there is none. */
uint64_t rw_block_search(const uint8_t *area, uint64_t bytes, const uint8_t uuid[16],
                         uint64_t epoch, uint64_t position);

/* Copies the frame header at byte `at` of a block whose frames end at `used`, and checks it: rule
 * 4, except for the end. RW_OK or RW_BAD. */
int rw_frame_check(const uint8_t *block, uint64_t used, uint64_t at, uint32_t seed, rw_frame *r);

/* Decodes up to `capacity` frames of a verified block, from byte offset *at on (start with
 * sizeof(rw_block)); *at moves behind the last one decoded. Returns how many. */
uint32_t rw_block_frames(const uint8_t *block, uint64_t *at, rw_frame_info *out, uint32_t capacity);

/* The `frames` frames of a block that this engine has sealed itself, whose header starts at
 * `block`. */
typedef struct rw_frames {
    uint8_t *at;
    uint32_t left;
} rw_frames;

static inline rw_frames rw_frames_of(uint8_t *block, uint32_t records)
{
    return (rw_frames){.at = block + sizeof(rw_block), .left = records};
}

/* The next one; NULL behind the last. */
static inline rw_frame *rw_frames_next(rw_frames *f)
{
    if (f->left == 0)
        return NULL;
    f->left--;
    rw_frame *r = (rw_frame *)f->at;
    f->at += rw_frame_bytes(r->payload_bytes);
    return r;
}

#endif
