/* A stream's settings: what is well formed, and the words of them in shared memory.
 *
 * ONE WRITER. A SETTINGS frame holds all of a stream's settings. The WAL process stores them when
 * it publishes the block, before the block's write begins, and a successor stores those of the last
 * sealed block again, as it does with all other words of a stream. They are several words, so
 * `settings_turn` is made odd before and even behind them; who reads it the same and even before
 * and behind has what one frame said. A writer that dies in between leaves it odd, until its
 * successor has published that block: a reader waits for that, or for the engine's end.
 *                                                                               PAIR: settings
 *
 * What is there is composed, not yet confirmed: `settings_confirmed` is the drain's, and follows
 * the frame's confirmation. A trim that is asked for because of what is there lies behind the
 * settings in the stream's queue, so nothing is trimmed by settings that a crash takes back.
 *
 * A CHECKPOINT has the settings as of its position. While its rows are filled no SETTINGS request
 * is taken from the lanes (wal_streams.c), so the words are those of the position.
 *
 * NEVER BY HALVES. Settings are replaced, not changed: the supervisor, which alone asks for them,
 * says all of them each time, with a version that grows. So to store them again does no
 * harm, and whoever waits for a version is satisfied by any later one. */
#ifndef RW_SETTINGS_H
#define RW_SETTINGS_H

#include "layout.h"
#include "status.h"

/* Is this what a SETTINGS frame holds? RW_OK or RW_BAD. */
int rw_settings_check(const uint8_t *payload, uint64_t bytes);

/* WAL; the supervisor before there is one, and in a place that is nobody's. 0 bytes: none. */
void rw_settings_store(rw_stream *s, const uint8_t *payload, uint32_t bytes);
/* Whatever the words hold: for who knows that nobody stores them, or finds out afterwards. */
void rw_settings_copy(const rw_stream *s, uint8_t out[RW_SETTINGS_BYTES]);

/* RW_OK; RW_DELETED: no such stream any more; RW_PENDING: they are being stored, ask again. */
int rw_settings_look(const rw_control *c, uint64_t handle, rw_settings *out);
/* The version that is confirmed; 0: none, or no such stream. */
uint64_t rw_settings_confirmed(const rw_control *c, uint64_t handle);

#endif
