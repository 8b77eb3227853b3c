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

/* PHI4D_TEST_FAIL: KIND:N fails the Nth call of a kind, KIND:N+ that and all after it. A file at
 * PHI4D_TEST_FAIL_HIT is made when one fails. With PHI4D_TEST_FAIL_ARMED, calls count once that file
 * exists. Kinds: thread (pthread_create), memory (mmap of a mebibyte or more), heap (malloc, calloc and
 * realloc of as much), file (what changes files below PHI4D_TEST_FAIL_BELOW: open to write, write, rename,
 * fsync). */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

static int fails(const char *kind) {
    static atomic_uint calls;
    const char *asked = getenv("PHI4D_TEST_FAIL");
    const char *armed = getenv("PHI4D_TEST_FAIL_ARMED");
    size_t length = strlen(kind);
    if (!asked || strncmp(asked, kind, length) != 0 || asked[length] != ':')
        return 0;
    if (armed && access(armed, F_OK) != 0)
        return 0;
    char *end;
    unsigned long wanted = strtoul(asked + length + 1, &end, 10);
    unsigned long call = atomic_fetch_add(&calls, 1) + 1;
    if (call != wanted && !(*end == '+' && call > wanted))
        return 0;
    const char *hit = getenv("PHI4D_TEST_FAIL_HIT");
    if (hit)
        close((int)syscall(SYS_openat, AT_FDCWD, hit, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    return 1;
}

int pthread_create(pthread_t *restrict thread, const pthread_attr_t *restrict attributes,
                   void *(*start)(void *), void *restrict argument) {
    static int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "pthread_create");
    return fails("thread") ? EAGAIN : next(thread, attributes, start, argument);
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    if (size >= 1 << 20 && fails("memory")) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, at, size, protection, flags, file, offset);
}

void *mmap64(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    return mmap(at, size, protection, flags, file, offset);
}

/* The C library's own names for them: dlsym itself allocates. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);

static int heap_fails(size_t size) {
    if (size < 1 << 20 || !fails("heap"))
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) {
    return heap_fails(size) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    size_t whole;
    if (!__builtin_mul_overflow(count, size, &whole) && heap_fails(whole))
        return NULL;
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    return heap_fails(size) ? NULL : __libc_realloc(old, size);
}

static int is_below(const char *path) {
    const char *folder = getenv("PHI4D_TEST_FAIL_BELOW");
    return folder && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_below_file(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

static int open_as(const char *path, int flags, mode_t mode) {
    if ((flags & (O_WRONLY | O_RDWR)) && is_below(path) && fails("file")) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return open_as(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return open_as(path, flags | O_LARGEFILE, mode);
}

ssize_t write(int file, const void *bytes, size_t count) {
    if (getenv("PHI4D_TEST_FAIL_BELOW") && is_below_file(file) && fails("file")) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_write, file, bytes, count);
}

int rename(const char *from, const char *to) {
    if (is_below(to) && fails("file")) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int fsync(int file) {
    if (getenv("PHI4D_TEST_FAIL_BELOW") && is_below_file(file) && fails("file")) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, file);
}
