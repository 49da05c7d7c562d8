/* Named points at which a test build kills, stops or delays the process. Absent from the normal
 * build. */
#ifndef RW_POINTS_H
#define RW_POINTS_H

#ifdef RINGWAL_POINTS
/* RINGWAL_POINT="name:hit:action[:argument]", action one of kill, stop, delay (argument:
 * milliseconds). Returns the errno to pretend, or 0. With RINGWAL_POINT_ONCE=FILE it happens only
 * while FILE exists, and only to the process that manages to remove it; without RINGWAL_POINT, FILE
 * holds the order. */
int rw_point(const char *name);
#define RW_POINT(name) rw_point(name)
#else
#define RW_POINT(name) (0)
#endif

#endif
