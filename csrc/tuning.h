/* Every number that was measured: how long somebody stays awake, how many of something are few.
 * None of them decides what is right, only what is quick; each says what was found with others.
 */
#ifndef RW_TUNING_H
#define RW_TUNING_H

/* ---------------------------------------------------------------------------- callers (lane.c) */

/* Once so many waits in a row outlasted their spin, only every so many-th still spins: waiting
 * takes long here, and the processor is better left to those that are waited for. */
#define RW_SPINS_MISSED_MAX 4u
#define RW_SPIN_RETRY       16u
#define RW_MANY_UNDER_WAY   8

/* Where writes are long (contention.h): what is many there, and how much longer than a few callers
 * those of a crowd stay awake, as they wait for each other, too. With shorter spins some of them
 * slept and some did not, which was slower than either. */
#define RW_MANY_UNDER_LONG_WRITES 256
#define RW_CONTENTION_SPINS       2

/* ---------------------------------------------------------------- contention (contention.h, .c) */

/* More than so many callers for a processor are contention. */
#define RW_CALLERS_PER_PROCESSOR 4u
/* The window in which callers are counted: long enough for one that has to wait for a processor. */
#define RW_CALLERS_WINDOW_NS 10000000u

/* Measured with 16 callers awake: writes of 90 us and more made them 1.4 to 1.6 times as fast, and
 * all alike; with writes of 30 to 50 us (simulated) they were 1.3 to 1.8 times as fast and the
 * slowest had half to three quarters of what the fastest had. */
#define RW_LONG_WRITE_NS 70000u
#define RW_SMALL_WRITE   (32u * 1024u)

/* --------------------------------------------------------------------- drain (sequencer_loop.c) */

/* How long the drain stays awake after its last progress when nothing is in flight: the next block
 * of a caller that waits for each append comes sooner. Waking the drain costs the WAL thread about
 * 4 us before every such write. */
#define RW_LULL_NS 100000u
/* So long after it has rung a bell the drain does not stay awake: an event loop is woken by a
 * descriptor, with other things to do until then, and wants the processor. */
#define RW_LOOPS_NS 10000000u
/* What is few under way: with more, throughput is what counts. */
#define RW_FEW_REQUESTS 64u
#define RW_FEW_BYTES    (128u * 1024u)

/* ------------------------------------------------------------------ WAL threads (wal_threads.c) */

/* A sentinel and idle threads look again on their own after this long; nothing relies on it. The
 * native tests make it so long that a lost wake-up hangs them. */
#ifndef RW_NAP_NS
#define RW_NAP_NS 60000000000ull
#endif

/* A write that takes longer is one that nobody should wait for. */
#define RW_SLOW_NS 20000000ull

/* How a thread that has written a block waits for the block's callers: yields for a few of them,
 * naps under contention. */
#define RW_GATHER_YIELDS 3
#define RW_GATHER_NAPS   10
#define RW_GATHER_NAP_NS 20000

/* Where a small block waits for more (wal_policy.h: LINGERING): how much of a block may be zeros
 * without a wait, a fraction of it; after how many waits in a row that brought nothing, for how
 * many blocks nobody waits, at first and at most; how often a waiting thread looks, in a wait. */
#define RW_LINGER_ZEROS      8u
#define RW_LINGERS_MISSED    4u
#define RW_LINGER_SKIP_FIRST 16u
#define RW_LINGER_SKIP_MOST  256u
#define RW_LINGER_LOOKS      8u
#define RW_LINGER_NAP_MOST   1000000u /* ns */

/* Blocks in flight into a segment that is only reserved. More do not pay, as each write there also
 * changes the file's extents. Two in flight leave no more of them than an ext4 inode holds; with
 * three the file system makes and frees a block for them, over and over. */
#define RW_RESERVED_AT_ONCE 2u

#endif
