/* Preloaded into the daemon, makes the system misbehave where a test says so.
 *
 * PHI4D_TEST_CLOCK: the time of day jumps ten years ahead or back with each look at it.
 * PHI4D_TEST_PAGES: once this file exists, pages can be moved away once more and never back. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define TEN_YEARS (10L * 365 * 24 * 3600)

static long jump(void) {
    static atomic_uint looks;
    if (!getenv("PHI4D_TEST_CLOCK"))
        return 0;
    return atomic_fetch_add(&looks, 1) % 2 ? TEN_YEARS : -TEN_YEARS;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now)
        *now = precise.tv_sec;
    return precise.tv_sec;
}

void *mremap(void *old, size_t old_size, size_t new_size, int flags, ...) {
    static atomic_uint moves;
    va_list more;
    va_start(more, flags);
    void *target = flags & MREMAP_FIXED ? va_arg(more, void *) : NULL;
    va_end(more);
    const char *armed = getenv("PHI4D_TEST_PAGES");
    if (armed && access(armed, F_OK) == 0 && atomic_fetch_add(&moves, 1) > 0) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mremap, old, old_size, new_size, flags, target);
}
