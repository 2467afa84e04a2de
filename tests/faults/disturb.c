/* Disturb a process at its writes, so that steps are tested against real faults without a hook in them.
 *
 * Preloaded (LD_PRELOAD) into tests/faults/stage.py. Every call that changes a file below `watched` is an event,
 * and at the event of a given number the fault happens: killed in the middle of a write, told to stop, no room
 * left, another time of day, or a folder that goes away.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { COUNT = 1, KILL, TERM, REFUSE, CLOCK, MOVE };
#define MOST_EVENTS 65536
#define MOST_FILES 4096

static int mode;                      /* what happens; 0 leaves everything alone */
static long moment;                   /* at which event, from 0 */
static long detail;                   /* REFUSE: errno; CLOCK: seconds */
static char watched[PATH_MAX];        /* folder whose changes count */
static char moved[PATH_MAX];          /* MOVE: folder that gets the suffix .away */
static atomic_long events;
static char kinds[MOST_EVENTS + 1];   /* of each event: open, write, sync, rename, unlink, mkdir, truncate */
static char open_files[MOST_FILES];   /* descriptors of files below `watched`, open for writing */
static long clock_offset;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void disturb(int what, long when, long more, const char *below, const char *away) {
    snprintf(watched, sizeof watched, "%s", below);
    snprintf(moved, sizeof moved, "%s", away);
    moment = when;
    detail = more;
    events = 0;
    mode = what;
}

const char *disturb_events(void) { return kinds; }

static int below(const char *path) {
    char whole[PATH_MAX];
    if (!mode || !path) return 0;
    if (path[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(whole, sizeof whole, "%.2000s/%.2000s", here, path);
    } else {
        snprintf(whole, sizeof whole, "%s", path);
    }
    return strncmp(whole, watched, strlen(watched)) == 0;
}

/* Count an event. Returns 1 where the call is to be refused or is to be cut short by a kill. */
static int event(char kind) {
    long number = atomic_fetch_add(&events, 1);
    if (number < MOST_EVENTS) kinds[number] = kind;
    if (mode == COUNT || number < moment) return 0;
    if (mode == REFUSE) return kind != 'u';  /* what is there can always be removed */
    if (number > moment) return 0;
    if (mode == TERM) raise(SIGTERM);
    if (mode == CLOCK) clock_offset = detail;
    if (mode == MOVE) {
        char target[PATH_MAX + 8];
        snprintf(target, sizeof target, "%s.away", moved);
        rename(moved, target);
    }
    if (mode == KILL) {
        if (kind == 'w') return 1;
        raise(SIGKILL);
    }
    return 0;
}

static int refuse(void) {
    if (mode == KILL) raise(SIGKILL);
    errno = (int)detail;
    return -1;
}

static int opened(int fd, const char *path, int flags) {
    if (fd >= 0 && fd < MOST_FILES) open_files[fd] = (flags & (O_WRONLY | O_RDWR)) && below(path);
    return fd;
}

static int is_watched(int fd) { return mode && fd >= 0 && fd < MOST_FILES && open_files[fd]; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list rest; va_start(rest, flags); mode_t bits = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0; va_end(rest); \
        if ((flags & O_CREAT) && below(path) && event('o')) return refuse(); \
        return opened(real(path, flags, bits), path, flags); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        va_list rest; va_start(rest, flags); mode_t bits = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0; va_end(rest); \
        if ((flags & O_CREAT) && folder == AT_FDCWD && below(path) && event('o')) return refuse(); \
        return opened(real(folder, path, flags, bits), path, flags); \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    REAL(int, "close", int);
    if (fd >= 0 && fd < MOST_FILES) open_files[fd] = 0;
    return real(fd);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!is_watched(fd) || !event('w')) return real(fd, bytes, count);
    if (mode == KILL || atomic_load(&events) == moment + 1) {  /* half of it still goes out */
        ssize_t done = count > 1 ? real(fd, bytes, count / 2) : 0;
        if (mode == KILL) raise(SIGKILL);
        if (done > 0) return done;
    }
    return refuse();
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return is_watched(fd) && event('s') ? refuse() : real(fd);
}

int ftruncate(int fd, off_t size) {
    REAL(int, "ftruncate", int, off_t);
    return is_watched(fd) && event('t') ? refuse() : real(fd, size);
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return below(to) && event('r') ? refuse() : real(from, to);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return below(path) && event('u') ? refuse() : real(path);
}

int mkdir(const char *path, mode_t bits) {
    REAL(int, "mkdir", const char *, mode_t);
    return below(path) && event('m') ? refuse() : real(path, bits);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int code = real(which, now);
    if (which == CLOCK_REALTIME) now->tv_sec += clock_offset;
    return code;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}

/* A file system without flock, as some network file systems are: for a whole process, by its environment. */
int flock(int fd, int what) {
    REAL(int, "flock", int, int);
    if (getenv("DISTURB_NO_FLOCK")) {
        errno = ENOLCK;
        return -1;
    }
    return real(fd, what);
}
